//! The directories of several stopped members of one cluster against each other: what each log says where it must say what the others do, and
//! what ledger each directory makes. A difference that every directory hides within itself (an entry that was altered under checksums that are
//! right, a snapshot of another ledger) shows here alone. It changes nothing, and leaves what one directory says by itself to its own check.
//!
//! Two logs may end differently: what a leader has proposed and no quorum taken is replaced one day. But an entry that was proposed in one term by
//! one leader at one place is the same everywhere, and what a directory knows to be committed is the same everywhere.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tidegate_cluster::{MemberError, check_member};
use tidegate_config::Settings;
use tidegate_engine::{Clock, Sealing, SystemClock};
use tidegate_persistence::{
    ChainHash, DataDirectory, Identity, LogIndex, LogPosition, NodeId, OpenError, RecordKind, RecoveredEntry, RecoveryError,
    SnapshotError, SnapshotExpectation, SnapshotInfo, SnapshotReader, StreamId, Term, snapshots,
};
use tidegate_stock::{Ledger, LedgerSum};

use crate::options::{directory_options, rules};
use crate::recovery::{SnapshotLoadError, StartProgress, load};

/// Entries of each log that are looked at together, so that memory does not grow with the logs.
const WINDOW: u64 = 65_536;

/// What the directories have in common.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Comparison {
    /// The cluster that all belong to.
    pub(crate) cluster: String,
    /// Every shard.
    pub(crate) shards: Vec<ShardLine>,
    /// Where they differ, the first of each shard and kind.
    pub(crate) differences: Vec<Difference>,
}

/// A shard.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ShardLine {
    shard: u16,
    nodes: Vec<NodeLine>,
    /// Entries that more than one log has, and that were held against each other.
    compared: u64,
    /// The newest entry up to which all say the same; none where there is none.
    agreed: Option<u64>,
    /// The hash of the ledger there; none where not every directory reaches back far enough to make one, or where they differ.
    ledger: Option<String>,
}

/// A shard in one directory.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct NodeLine {
    node: u64,
    /// The first and the last entry of its log; none where it has none.
    first: Option<u64>,
    last: Option<u64>,
    /// Up to where the directory itself knows its log to be committed: what was purged, or is in a snapshot.
    committed: u64,
}

/// Where directories differ.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    shard: u16,
    index: u64,
    /// The nodes, those that say the same together.
    nodes: Vec<Vec<u64>>,
    what: String,
}

/// Why directories were not compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompareError {
    /// One could not be opened.
    #[error("{} cannot be compared", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// They are not those of different members of one cluster.
    #[error("{0}")]
    Strangers(String),
    /// A log could not be read.
    #[error("the log of node {node} cannot be read")]
    Log {
        /// Whose.
        node: NodeId,
        /// Why.
        source: RecoveryError,
    },
    /// What a directory has promised in consensus could not be read.
    #[error("what node {node} has of its consensus cannot be read")]
    Member {
        /// Whose.
        node: NodeId,
        /// Why.
        source: MemberError,
    },
    /// The snapshots could not be listed.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// A snapshot is of no use.
    #[error("a snapshot of node {node} is of no use")]
    Snapshot {
        /// Whose.
        node: NodeId,
        /// Why.
        source: SnapshotLoadError,
    },
    /// They were compared, and differ.
    #[error("the directories differ: {0}")]
    Differ(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shard, index, nodes, what } = self;
        let groups: Vec<String> = nodes.iter().map(|group| format!("{group:?}")).collect();
        write!(formatter, "shard {shard}, entry {index}, nodes {}: {what}", groups.join(" against "))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "members of cluster {}", self.cluster)?;
        writeln!(formatter, "{:>5} {:>6} {:>12} {:>12} {:>12}", "shard", "node", "first", "last", "committed")?;
        let or_none = |index: Option<u64>| index.map_or_else(|| "-".to_owned(), |index| index.to_string());
        for line in &self.shards {
            for of in &line.nodes {
                let (first, last) = (or_none(of.first), or_none(of.last));
                writeln!(formatter, "{:>5} {:>6} {first:>12} {last:>12} {:>12}", line.shard, of.node, of.committed)?;
            }
            let ledger = line.ledger.as_deref().unwrap_or("not compared");
            writeln!(
                formatter,
                "      {} entries compared, agreed up to {}, ledger {ledger}",
                line.compared,
                or_none(line.agreed)
            )?;
        }
        match &self.differences[..] {
            [] => write!(formatter, "good: all say the same"),
            differences => differences.iter().try_for_each(|difference| write!(formatter, "\n{difference}")),
        }
    }
}

/// Compares the directories at `paths`, at least two, which no node may be using.
///
/// # Errors
/// When they cannot be compared. That they differ is in what comes back.
pub(crate) fn compare(paths: &[PathBuf], settings: &Settings) -> Result<Comparison, CompareError> {
    let mut options = directory_options(settings, SystemClock.now());
    options.identity.shards = None;
    options.idempotency_seconds = None;
    let open = |path: &PathBuf| {
        DataDirectory::open_existing(path, &options).map_err(|source| CompareError::Open { path: path.clone(), source })
    };
    let directories = paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let identities: Vec<&Identity> = directories.iter().map(DataDirectory::identity).collect();
    check_identities(&identities, paths)?;
    let mut comparison = Comparison { cluster: identities[0].cluster.clone(), shards: Vec::new(), differences: Vec::new() };
    for shard in 0..identities[0].shards {
        let replicas = directories.iter().map(|directory| Replica::look(directory, shard)).collect::<Result<Vec<_>, _>>()?;
        let (line, differences) = compare_shard(shard, &replicas, settings)?;
        comparison.shards.push(line);
        comparison.differences.extend(differences);
    }
    Ok(comparison)
}

fn check_identities(identities: &[&Identity], paths: &[PathBuf]) -> Result<(), CompareError> {
    let (first, path) = (identities[0], paths[0].display());
    for (place, (identity, other)) in identities.iter().zip(paths).enumerate().skip(1) {
        let strangers = |what: String| Err(CompareError::Strangers(format!("{path} and {}: {what}", other.display())));
        if identity.cluster != first.cluster {
            return strangers(format!("they are of different clusters, {} and {}", first.cluster, identity.cluster));
        }
        if identity.shards != first.shards {
            return strangers(format!("one has {} shards, the other {}", first.shards, identity.shards));
        }
        if identity.secret != first.secret {
            return strangers("they have different secrets, so one was not made by the other's cluster".to_owned());
        }
        if let Some(twin) = identities[..place].iter().position(|known| known.node == identity.node) {
            let what = format!("{} and {} are both of node {}", paths[twin].display(), other.display(), identity.node);
            return Err(CompareError::Strangers(what));
        }
    }
    Ok(())
}

/// A shard in one directory.
struct Replica<'a> {
    directory: &'a DataDirectory,
    stream: StreamId,
    node: NodeId,
    first: Option<LogIndex>,
    last: Option<LogIndex>,
    committed: LogIndex,
    /// Newest first.
    snapshots: Vec<(PathBuf, LogPosition)>,
}

impl<'a> Replica<'a> {
    fn look(directory: &'a DataDirectory, shard: u16) -> Result<Self, CompareError> {
        let (stream, node) = (StreamId::log(shard), directory.identity().node);
        let segments = directory.segments();
        let first = segments.iter().filter_map(|segment| segment.first.get(&stream)).map(|(index, _)| *index).min();
        let expected = SnapshotExpectation::new(directory.identity(), stream);
        let position = |snapshot: SnapshotInfo| {
            let position = SnapshotReader::open(&snapshot.path, &expected)?.header().position;
            Ok((snapshot.path, position))
        };
        let snapshots: Vec<_> =
            snapshots(directory.path(), stream)?.into_iter().map(position).collect::<Result<_, SnapshotError>>()?;
        let streams = directory.streams().map_err(|source| CompareError::Open { path: directory.path().to_owned(), source })?;
        let mut committed = snapshots.first().map_or(LogIndex(0), |(_, newest)| newest.index);
        if streams.contains(&StreamId::votes(shard)) {
            let replica = check_member(directory, shard).map_err(|source| CompareError::Member { node, source })?;
            committed = committed.max(replica.promises.base().index);
        }
        // What ends the last segment is not told by its description: an unfinished group may stand there.
        let mut last = None;
        let newest = segments.iter().filter_map(|segment| segment.last.get(&stream)).map(|(index, _)| *index).max();
        let read = directory.read_entries(stream, newest.unwrap_or(LogIndex(1)), |entry| {
            last = Some(entry.index);
            Ok(ControlFlow::Continue(()))
        });
        read.map_err(|source| CompareError::Log { node, source })?;
        let last = last.or(newest).filter(|_| first.is_some());
        Ok(Self { directory, stream, node, first, last, committed, snapshots })
    }

    fn line(&self) -> NodeLine {
        let number = |index: Option<LogIndex>| index.map(|index| index.0);
        NodeLine { node: self.node.0, first: number(self.first), last: number(self.last), committed: self.committed.0 }
    }

    /// Where all that the directory has of the shard ends.
    fn end(&self) -> LogIndex {
        self.last.unwrap_or_default().max(self.committed)
    }

    /// Its entries from `from` on, as many as are looked at together.
    fn window(&self, from: u64) -> Result<BTreeMap<u64, Said>, CompareError> {
        let mut window = BTreeMap::new();
        if self.last.is_none_or(|last| last.0 < from) {
            return Ok(window);
        }
        let begin = LogIndex(from).max(self.first.unwrap_or_default());
        let read = self.directory.read_entries(self.stream, begin, |entry| {
            if entry.index.0 >= from + WINDOW {
                return Ok(ControlFlow::Break(()));
            }
            window.insert(entry.index.0, Said::of(entry));
            Ok(ControlFlow::Continue(()))
        });
        read.map_err(|source| CompareError::Log { node: self.node, source })?;
        Ok(window)
    }

    /// The chain and the sum of the ledger that the directory makes at entry `at`: of its newest snapshot that is not behind it, and the log from
    /// there on. `None` where it does not reach back far enough; an error in words where no ledger can be made.
    fn ledger_at(&self, at: LogIndex, settings: &Settings) -> Result<Option<Made>, CompareError> {
        let (rules, identity) = (rules(&settings.rules), self.directory.identity());
        let seed = Sealing::new(identity.secret.bytes()).table_seed();
        let snapshot = self.snapshots.iter().find(|(_, position)| position.index <= at);
        let (position, mut ledger) = match snapshot {
            Some((path, _)) => load(path, identity, self.stream, rules, seed, &StartProgress::default())
                .map_err(|source| CompareError::Snapshot { node: self.node, source })?,
            None if self.first == Some(LogIndex(1)) || at == LogIndex(0) => (LogPosition::GENESIS, Ledger::new(rules, seed)),
            None => return Ok(None),
        };
        if position.index < at && self.first.is_none_or(|first| first > position.index.next()) {
            return Ok(None);
        }
        let mut chain = position.chain;
        let applied = catch_unwind(AssertUnwindSafe(|| {
            self.directory.read_entries(self.stream, position.index.next(), |entry| {
                if entry.index > at {
                    return Ok(ControlFlow::Break(()));
                }
                chain = entry.chain;
                if let Some(group) = entry.group() {
                    for event in group.entries()? {
                        let event = event?;
                        drop(ledger.apply(&event.event, event.at));
                    }
                    ledger.tidy(group.time, usize::MAX);
                }
                Ok(ControlFlow::Continue(()))
            })
        }));
        match applied {
            Ok(read) => read.map_err(|source| CompareError::Log { node: self.node, source })?,
            Err(_) => return Ok(Some(Err("its ledger does not take what its log says".to_owned()))),
        }
        Ok(Some(Ok((chain, ledger.sum()))))
    }
}

/// What a log says at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    term: Term,
    leader: NodeId,
    kind: RecordKind,
    /// Of a group it stands for all that the group holds.
    chain: ChainHash,
    /// Of anything else, all of it.
    payload: Vec<u8>,
}

impl Said {
    fn of(entry: &RecoveredEntry<'_>) -> Self {
        let kind = entry.header.kind;
        let payload = if kind == RecordKind::Group { Vec::new() } else { entry.payload.to_vec() };
        Self { term: entry.header.term, leader: entry.header.leader, kind, chain: entry.chain, payload }
    }
}

/// How what directories say at one place differs where it may not, if it does. Each with whether it knows the entry to be committed.
fn differ(said: &[(NodeId, bool, &Said)]) -> Option<(Vec<Vec<u64>>, String)> {
    let proposer = |said: &Said| (said.term, said.leader);
    let nodes_by = |same: &dyn Fn(&Said, &Said) -> bool, of: &[&(NodeId, bool, &Said)]| {
        let mut groups: Vec<(&Said, Vec<u64>)> = Vec::new();
        for (node, _, said) in of.iter().copied() {
            match groups.iter_mut().find(|(known, _)| same(known, said)) {
                Some((_, nodes)) => nodes.push(node.0),
                None => groups.push((said, vec![node.0])),
            }
        }
        groups.into_iter().map(|(_, nodes)| nodes).collect::<Vec<_>>()
    };
    for (_, _, one) in said {
        let same: Vec<_> = said.iter().filter(|(_, _, other)| proposer(other) == proposer(one)).collect();
        let groups = nodes_by(&|left, right| left == right, &same);
        if groups.len() > 1 {
            let what = format!("what node {} proposed there in term {} is not the same", one.leader, one.term);
            return Some((groups, what));
        }
    }
    let committed: Vec<_> = said.iter().filter(|(_, is_committed, _)| *is_committed).collect();
    let groups = nodes_by(&|left, right| left == right, &committed);
    (groups.len() > 1).then(|| (groups, "entries of different terms or leaders are committed there".to_owned()))
}

fn compare_shard(shard: u16, replicas: &[Replica<'_>], settings: &Settings) -> Result<(ShardLine, Vec<Difference>), CompareError> {
    let mut differences = Vec::new();
    let (mut compared, mut agreed) = (0, None);
    let end = replicas.iter().map(Replica::end).min().unwrap_or_default();
    let mut from = replicas.iter().filter_map(|replica| replica.first).min().unwrap_or(LogIndex(1)).0;
    let last = replicas.iter().filter_map(|replica| replica.last).max().unwrap_or_default().0;
    'windows: while from <= last {
        let windows = replicas.iter().map(|replica| replica.window(from)).collect::<Result<Vec<_>, _>>()?;
        for index in from..=last.min(from + WINDOW - 1) {
            let said: Vec<_> = replicas
                .iter()
                .zip(&windows)
                .filter_map(|(replica, window)| Some((replica.node, index <= replica.committed.0, window.get(&index)?)))
                .collect();
            compared += u64::from(said.len() > 1);
            if let Some((nodes, what)) = differ(&said) {
                differences.push(Difference { shard, index, nodes, what });
                break 'windows;
            }
            if index <= end.0 && said.windows(2).all(|pair| pair[0].2 == pair[1].2) {
                agreed = Some(index);
            }
        }
        from += WINDOW;
    }
    // A log that was given up for a snapshot says nothing more of what is before that.
    let at = LogIndex(agreed.unwrap_or(0)).max(if differences.is_empty() && last <= end.0 { end } else { LogIndex(0) });
    let mut made = Vec::new();
    for replica in replicas {
        made.push(replica.ledger_at(at, settings)?.map(|made| (replica.node, made)));
    }
    let mut ledger = None;
    if let Some(made) = made.into_iter().collect::<Option<Vec<_>>>() {
        match differ_in_ledger(&made) {
            Some((nodes, what)) => differences.push(Difference { shard, index: at.0, nodes, what }),
            None => ledger = made.into_iter().next().and_then(|(_, made)| Some(format!("{:016x}", made.ok()?.1.hash))),
        }
    }
    let nodes = replicas.iter().map(Replica::line).collect();
    Ok((ShardLine { shard, nodes, compared, agreed: (at.0 > 0).then_some(at.0), ledger }, differences))
}

/// The chain and the sum of a ledger, or why there is none.
type Made = Result<(ChainHash, LedgerSum), String>;

/// How ledgers of one place differ, if they do.
fn differ_in_ledger(made: &[(NodeId, Made)]) -> Option<(Vec<Vec<u64>>, String)> {
    let mut groups: Vec<(&Made, Vec<u64>)> = Vec::new();
    for (node, made) in made {
        match groups.iter_mut().find(|(known, _)| *known == made) {
            Some((_, nodes)) => nodes.push(node.0),
            None => groups.push((made, vec![node.0])),
        }
    }
    let told = groups.iter().map(|(made, nodes)| match made {
        Ok((_, sum)) => format!("{nodes:?} come to {sum}"),
        Err(what) => format!("{nodes:?}: {what}"),
    });
    let what = format!("the ledgers differ that the directories make: {}", told.collect::<Vec<_>>().join(", "));
    let is_good = groups.len() == 1 && groups[0].0.is_ok();
    (!is_good).then(|| (groups.iter().map(|(_, nodes)| nodes.clone()).collect(), what))
}

/// The error that a comparison with differences is.
pub(crate) fn verdict(comparison: &Comparison) -> Result<(), CompareError> {
    match &comparison.differences[..] {
        [] => Ok(()),
        differences => {
            let told: Vec<String> = differences.iter().map(ToString::to_string).collect();
            Err(CompareError::Differ(told.join("; ")))
        }
    }
}

/// The directory that `error` is about, if it is about one.
pub(crate) fn place(error: &CompareError) -> Option<&Path> {
    match error {
        CompareError::Open { path, .. } => Some(path),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(term: u64, leader: u64, chain: u8) -> Said {
        Said {
            term: Term(term),
            leader: NodeId(leader),
            kind: RecordKind::Group,
            chain: ChainHash([chain; 16]),
            payload: Vec::new(),
        }
    }

    fn told(of: &[(u64, bool, Said)]) -> Option<Vec<Vec<u64>>> {
        let of: Vec<_> = of.iter().map(|(node, is_committed, said)| (NodeId(*node), *is_committed, said)).collect();
        differ(&of).map(|(nodes, _)| nodes)
    }

    #[test]
    fn what_one_leader_proposed_in_one_term_is_the_same_everywhere() {
        let good = said(3, 1, 7);
        assert_eq!(told(&[(1, true, good.clone()), (2, true, good.clone()), (3, false, good.clone())]), None);
        let altered = said(3, 1, 8);
        assert_eq!(
            told(&[(1, false, good.clone()), (2, false, altered.clone()), (3, false, good.clone())]),
            Some(vec![vec![1, 3], vec![2]])
        );
        let blank = Said { kind: RecordKind::Blank, ..good.clone() };
        assert_eq!(told(&[(1, false, good.clone()), (2, false, blank.clone())]), Some(vec![vec![1], vec![2]]));
        let members = |payload: &[u8]| Said { kind: RecordKind::Membership, payload: payload.to_vec(), ..good.clone() };
        assert_eq!(told(&[(1, true, members(b"a")), (2, true, members(b"b"))]), Some(vec![vec![1], vec![2]]));
    }

    #[test]
    fn what_was_never_committed_may_differ_and_what_was_may_not() {
        let (old, new) = (said(3, 1, 7), said(4, 2, 9));
        assert_eq!(told(&[(1, false, old.clone()), (2, true, new.clone()), (3, true, new.clone())]), None);
        assert_eq!(told(&[(1, true, old.clone()), (2, true, new.clone()), (3, false, new.clone())]), Some(vec![vec![1], vec![2]]));
        assert_eq!(told(&[(1, true, old)]), None);
    }
}
