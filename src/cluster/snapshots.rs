//! The snapshots of a member, for the upkeep that makes them: what stands in front of them that other members need, and who is told of them.

use std::sync::Arc;
use std::time::Duration;

use tidegate_cluster::SnapshotFileError;
use tidegate_persistence::{GroupSequence, SnapshotHeader, StreamId};

use super::member::Shared;
use super::talk::Question;

/// How long it is waited for another node to make a group.
const MARK_MAX: Duration = Duration::from_secs(1);

/// What the upkeep asks of the member whose snapshots it makes.
pub(crate) struct MemberSnapshots(pub(super) Arc<Shared>);

impl MemberSnapshots {
    /// The header of a snapshot of all of `stream` up to group `at`, which is committed; `None` for 0. Waits for the disk.
    ///
    /// # Errors
    /// As [`tidegate_cluster::SnapshotFiles::header`].
    pub(crate) fn header(&self, stream: StreamId, at: GroupSequence) -> Result<Option<SnapshotHeader>, SnapshotFileError> {
        let of = &self.0.snapshots[usize::from(stream.shard())];
        of.files.header(&of.memberships, at)
    }

    /// How often snapshots of other nodes were taken, over all shards; `None` while one is. See [`tidegate_cluster::SnapshotFiles::installs`].
    pub(crate) fn installs(&self) -> Option<u64> {
        self.0.snapshots.iter().map(|of| of.files.installs()).sum()
    }

    /// Consensus hears that `stream` has a new snapshot, and hands its log on from there.
    pub(crate) async fn note(&self, stream: StreamId) {
        if let Err(error) = self.0.groups[usize::from(stream.shard())].note_snapshot().await {
            tracing::warn!(%stream, %error, "consensus does not hear of the new snapshot");
        }
    }

    /// Has the shard of `stream` make a group, of nothing if there is nothing to be in it, wherever it is decided. Whether it was made here;
    /// otherwise it comes later, or not at all.
    pub(crate) async fn mark(&self, stream: StreamId) -> bool {
        let shard = usize::from(stream.shard());
        if self.0.progress[shard].leads() {
            return self.0.engine.mark_log(stream).await.is_ok();
        }
        let group = &self.0.groups[shard];
        let leader = group.leader().and_then(|leader| Some((leader, group.address(leader)?)));
        let Some((leader, address)) = leader else { return false };
        let member = Arc::clone(&self.0);
        let question = Question::Mark(stream.shard()).encode();
        // Connections belong to the cluster's runtime.
        let asking = self.0.handle.spawn(async move { member.links.ask(leader, &address, question, MARK_MAX).await });
        if let Ok(Err(error)) = asking.await {
            tracing::debug!(%stream, leader = leader.0, %error, "the leader was not asked for a group");
        }
        false
    }
}
