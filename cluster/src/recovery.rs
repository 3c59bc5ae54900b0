//! What a node's disk holds of a shard whose log is replicated: the newest snapshot that is of use, and where consensus goes on behind it.
//!
//! A node that stands alone applies all of its log at a start. Here what lies behind the snapshot need not be committed, so it waits until the
//! quorum says so; but what was purged is committed, and consensus does not hand it out again. It is behind the snapshot only where the newest
//! one is of no use and an older one is begun with: then the log is applied up to there, and a snapshot made of that, because others can go on
//! behind what was purged only by one.

use std::ops::ControlFlow;
use std::path::PathBuf;

use tidegate_engine::copy_whole;
use tidegate_persistence::{
    DataDirectory, EntryContent, LogIndex, PayloadError, Promises, Purged, RecoveredReplica, RecoveryError, ReplicatedEntry,
    SnapshotConsensus, SnapshotError, SnapshotExpectation, SnapshotHeader, SnapshotReader, SnapshotWriter, StreamId, set_aside,
    snapshots,
};
use tidegate_stock::{Ledger, Rules};

use crate::members::{MembersError, decode_membership, encode_stored};
use crate::snapshot_files::{SnapshotFileError, load, standing_of};
use crate::state_machine::Standing;
use crate::types::{StoredMembership, log_id};

/// A shard of a member of a cluster, as the disk left it.
#[derive(Debug)]
pub struct RecoveredMember {
    /// Its ledger.
    pub ledger: Ledger,
    /// Where the ledger stands: what the shard's machine begins with.
    pub standing: Standing,
    /// Its log and what it has promised.
    pub replica: RecoveredReplica,
    /// Snapshots that were of no use. They do not count any more.
    pub set_aside: Vec<PathBuf>,
}

/// Why a shard cannot be recovered.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    /// The log is not what was written, or does not reach back to the newest snapshot that is of use.
    #[error(transparent)]
    Log(#[from] RecoveryError),
    /// The snapshots cannot be listed, or not be set aside.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// The members in the log are none.
    #[error("the members in {0}: {1}")]
    Members(StreamId, #[source] MembersError),
}

/// Recovers `shard` of `directory`, with a ledger of these rules whose tables are seeded with `seed`. What snapshots that were never finished
/// left must be removed before ([`tidegate_persistence::remove_unfinished`]). Waits for the disk.
///
/// Snapshots that are of no use are told, and set aside once that has succeeded without them. Where none is left that reaches what was purged and
/// that others can go on behind, which is so too for what a node alone has made, one is made.
///
/// # Errors
/// When the log is damaged, or lacks what lies between the newest snapshot that is of use and what was purged.
pub fn recover_member(directory: &DataDirectory, shard: u16, rules: Rules, seed: u64) -> Result<RecoveredMember, MemberError> {
    let (stream, identity) = (StreamId::log(shard), directory.identity());
    let mut useless = Vec::new();
    let (mut found, mut reaches) = (None, LogIndex(0));
    for kept in snapshots(directory.path(), stream)? {
        let reader = SnapshotReader::open(&kept.path, &SnapshotExpectation::new(identity, stream));
        let loaded = reader.map_err(SnapshotFileError::from).and_then(|reader| load(reader, rules, seed));
        match loaded.and_then(|(header, ledger)| Ok((standing_of(&header, identity)?, header.consensus.is_some(), ledger))) {
            Ok((standing, is_for_others, ledger)) => {
                reaches = if is_for_others { standing.position.index } else { LogIndex(0) };
                found = Some((standing, ledger));
                break;
            }
            Err(error) => {
                tracing::error!(%error, %stream, "a snapshot is of no use; an older one or the log's beginning is tried");
                useless.push(kept.path);
            }
        }
    }
    let begin = found.as_ref().map(|(standing, _)| Purged { leader: standing.leader, position: standing.position });
    let replica = directory.recover_replica(shard, begin.filter(|_| begins_later(directory, stream)))?;
    let (standing, ledger) = found.unwrap_or_else(|| (Standing::genesis(), Ledger::new(rules, seed)));
    let mut recovered = RecoveredMember { ledger, standing, replica, set_aside: Vec::new() };
    let purged = replica.promises.base().index;
    if let Promises { purged: Some(purged), .. } = replica.promises
        && purged.position.index > recovered.standing.position.index
    {
        apply_purged(directory, stream, &mut recovered, purged)?;
    }
    for path in useless {
        recovered.set_aside.push(set_aside(&path)?);
    }
    if reaches < purged {
        make_snapshot(directory, stream, &mut recovered)?;
    }
    Ok(recovered)
}

/// Whether the beginning of the log of `stream` is gone. One that is there from its beginning says the most itself.
fn begins_later(directory: &DataDirectory, stream: StreamId) -> bool {
    let oldest = directory.segments().into_iter().filter_map(|segment| segment.first.get(&stream).map(|(index, _)| *index)).min();
    oldest.is_some_and(|oldest| oldest > LogIndex(1))
}

/// Reads the log of `shard` of `directory` and what it has promised, as a member that starts there would, and changes nothing. Of snapshots only
/// the headers are read. Waits for the disk.
///
/// # Errors
/// When the log is damaged, or lacks what lies between the newest snapshot that is of use and what was purged.
pub fn check_member(directory: &DataDirectory, shard: u16) -> Result<RecoveredReplica, MemberError> {
    let (stream, identity) = (StreamId::log(shard), directory.identity());
    let mut begin = None;
    if begins_later(directory, stream) {
        for kept in snapshots(directory.path(), stream)? {
            // What is wrong with a snapshot is for whoever reads it whole.
            let Ok(reader) = SnapshotReader::open(&kept.path, &SnapshotExpectation::new(identity, stream)) else { continue };
            if let Ok(Standing { position, leader, .. }) = standing_of(reader.header(), identity) {
                begin = Some(Purged { leader, position });
                break;
            }
        }
    }
    Ok(directory.recover_replica(shard, begin)?)
}

/// Makes a snapshot of what was recovered, where it stands. Durable at return.
fn make_snapshot(directory: &DataDirectory, stream: StreamId, recovered: &mut RecoveredMember) -> Result<(), MemberError> {
    let RecoveredMember { ledger, standing: Standing { position, leader, membership }, .. } = recovered;
    let members = encode_stored(membership).map_err(|error| MemberError::Members(stream, error))?;
    let consensus = Some(SnapshotConsensus { leader: *leader, members });
    let header = SnapshotHeader { consensus, ..SnapshotHeader::new(directory.identity(), stream, *position) };
    // Nobody else uses the disk yet.
    let mut file = SnapshotWriter::create(directory.path(), &header, u64::MAX)?;
    copy_whole(ledger, |block| file.block(&block.bytes, block.items))?;
    let made = file.finish()?;
    tracing::info!(%stream, path = %made.path.display(), "made a snapshot of what was purged, because none was of use");
    Ok(())
}

/// Applies what lies between where `recovered` stands and what was purged.
fn apply_purged(
    directory: &DataDirectory,
    stream: StreamId,
    recovered: &mut RecoveredMember,
    purged: Purged,
) -> Result<(), MemberError> {
    let RecoveredMember { ledger, standing, .. } = recovered;
    let start = (standing.position.index > LogIndex(0)).then_some(standing.position);
    directory.replay_from(stream, start.as_ref(), |group| {
        if group.index > purged.position.index {
            return Ok(());
        }
        let mut events = 0;
        for entry in group.entries()? {
            let entry = entry?;
            // It is committed.
            drop(ledger.apply(&entry.event, entry.at));
            ledger.compare(&entry.event).map_err(|(logged, own)| PayloadError::Sum { logged, own })?;
            events += 1;
        }
        ledger.tidy(group.time, 2 * events);
        Ok(())
    })?;
    let mut members = Ok(None);
    directory.read_entries(stream, standing.position.index.next(), |entry| {
        if entry.index > purged.position.index {
            return Ok(ControlFlow::Break(()));
        }
        let ReplicatedEntry { index, term, leader, content } = ReplicatedEntry::read(entry)?;
        if let EntryContent::Membership(bytes) = content {
            let of = log_id(term, leader, index);
            members = decode_membership(&bytes).map(|members| Some(StoredMembership::new(Some(of), members)));
        }
        Ok(if members.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if let Some(members) = members.map_err(|error| MemberError::Members(stream, error))? {
        standing.membership = members;
    }
    (standing.position, standing.leader) = (purged.position, purged.leader);
    Ok(())
}
