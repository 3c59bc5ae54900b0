//! What a reopened log must show: the groups that were written, bit for bit and in order, and the ledger that they make.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_persistence::recovery::replay;
use tidegate_persistence::{ChainHash, LogStore, RecoveredGroup, RecoveredStream, RecoveryError, RecoveryProgress, StreamId};
use tidegate_stock::{Auditor, CopyProgress, Ledger, SnapshotItem};

use super::session::{Noted, count};
use super::store::Change;
use super::workload::{History, Made, RULES};

/// Pieces of a copy at a time.
const COPY_LOOKS: usize = 4_096;

/// Where the predecessor stands in a value.
const PREDECESSOR: std::ops::Range<usize> = 27..43;

/// What became of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// It was read to its end, and holds so many groups.
    Whole(RecoveredStream),
    /// Damage was named.
    Damaged(String),
    /// The disk failed, and that was said.
    Unread(String),
}

/// What a recovery gave.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    pub(crate) streams: BTreeMap<StreamId, Found>,
    /// Groups that were handed out and are not what was written.
    pub(crate) served_wrong: Vec<String>,
}

impl Recovered {
    /// Reads every stream of `expected` with the real recovery. `written` are the changes as they were made.
    pub(crate) fn read(store: &dyn LogStore, expected: &History, noted: &Noted, written: &Chains) -> Self {
        let mut recovered = Self::default();
        for (stream, made) in &expected.0 {
            let mut read = Reading { stream: *stream, made, written, chain: ChainHash::GENESIS, groups: 0, wrong: Vec::new() };
            let progress = RecoveryProgress::default();
            let end = replay(store, *stream, None, noted.get(stream).copied(), &progress, &mut |group| {
                read.group(group);
                Ok(())
            });
            let found = match end {
                Ok(end) => {
                    read.end(&end);
                    Found::Whole(end)
                }
                Err(RecoveryError::Damage(damage)) => Found::Damaged(damage.to_string()),
                Err(RecoveryError::Store(error)) => Found::Unread(error.to_string()),
            };
            recovered.served_wrong.append(&mut read.wrong);
            recovered.streams.insert(*stream, found);
        }
        recovered
    }

    /// How many groups each stream holds, where all are whole.
    pub(crate) fn counts(&self) -> Option<BTreeMap<StreamId, usize>> {
        let count = |(stream, found): (&StreamId, &Found)| match found {
            Found::Whole(end) => Some((*stream, count(end.last_sequence.0))),
            Found::Damaged(_) | Found::Unread(_) => None,
        };
        self.streams.iter().map(count).collect()
    }

    /// Where each stream ends, where all are whole.
    pub(crate) fn tails(&self) -> Vec<RecoveredStream> {
        let tail = |found: &Found| match found {
            Found::Whole(end) => Some(*end),
            Found::Damaged(_) | Found::Unread(_) => None,
        };
        self.streams.values().filter_map(tail).collect()
    }
}

/// The predecessors that the values which were written carry, by stream and entry: read from their bytes, not by the log's own code.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chains(BTreeMap<(StreamId, u64), BTreeSet<[u8; 16]>>);

impl Chains {
    pub(crate) fn of(changes: &[Change]) -> Self {
        let mut chains = Self::default();
        for change in changes {
            let (Some(key), Some(value)) = (tidegate_persistence::RecordKey::decode(&change.key), &change.value) else { continue };
            if let Some(Ok(predecessor)) = value.get(PREDECESSOR).map(TryInto::try_into) {
                chains.0.entry((key.stream, key.index.0)).or_default().insert(predecessor);
            }
        }
        chains
    }
}

/// A stream that is being read.
struct Reading<'a> {
    stream: StreamId,
    made: &'a [std::sync::Arc<Made>],
    written: &'a Chains,
    chain: ChainHash,
    groups: usize,
    wrong: Vec<String>,
}

impl Reading<'_> {
    fn group(&mut self, group: &RecoveredGroup<'_>) {
        let place = self.groups;
        self.groups += 1;
        let mut wrong = |what: String| self.wrong.push(format!("{}: group {} {what}", self.stream, place + 1));
        if group.stream != self.stream || count(group.sequence.0) != place + 1 || count(group.index.0) != place + 1 {
            wrong(format!("was handed out as group {} at entry {} of {}", group.sequence, group.index, group.stream));
        }
        match self.made.get(place) {
            None => wrong("was never written".to_owned()),
            Some(made) if made.group.payload != group.payload => wrong("is not what was written".to_owned()),
            Some(made) if made.group.time != group.time => wrong("has another time".to_owned()),
            Some(_) => {}
        }
        if group.predecessor != self.chain {
            wrong("does not continue the one before it".to_owned());
        }
        let is_written = self.written.0.get(&(self.stream, group.index.0)).is_some_and(|set| set.contains(&group.predecessor.0));
        if !is_written {
            wrong("has a predecessor that was never written".to_owned());
        }
        self.chain = group.chain;
    }

    fn end(&mut self, end: &RecoveredStream) {
        if count(end.last_sequence.0) != self.groups || count(end.last_index.0) != self.groups || end.last_chain != self.chain {
            self.wrong.push(format!("{}: {} groups were handed out, and it says {end:?}", self.stream, self.groups));
        }
    }
}

/// Ledgers that were compared once; the same groups make the same ledger.
#[derive(Debug, Default)]
pub(crate) struct Ledgers {
    compared: BTreeSet<(StreamId, usize)>,
}

impl Ledgers {
    /// How many were compared.
    pub(crate) fn compared(&self) -> usize {
        self.compared.len()
    }

    /// Replays what `store` holds of each stream into a ledger, and compares that with one made of the events as they were decided. Only
    /// for logs whose groups were found to be what was written.
    pub(crate) fn compare(
        &mut self,
        store: &dyn LogStore,
        expected: &History,
        counts: &BTreeMap<StreamId, usize>,
    ) -> Result<(), String> {
        for (stream, groups) in counts {
            if self.compared.insert((*stream, *groups)) {
                compare(store, *stream, &expected.0[stream][..*groups]).map_err(|what| format!("{stream}: {what}"))?;
            }
        }
        Ok(())
    }
}

fn compare(store: &dyn LogStore, stream: StreamId, made: &[std::sync::Arc<Made>]) -> Result<(), String> {
    let (mut replayed, mut decided) = (Ledger::new(RULES, 1), Ledger::new(RULES, 1));
    let mut auditor = Auditor::new(RULES.idempotency_seconds, 1);
    let mut found = Ok(());
    let end = replay(store, stream, None, None, &RecoveryProgress::default(), &mut |group| {
        for entry in group.entries()? {
            let entry = entry?;
            if let Err(finding) = auditor.observe(&entry.event, entry.at) {
                found = Err(format!("the auditor objects: {finding}"));
            }
            if found.is_ok() {
                drop(replayed.apply(&entry.event, entry.at));
            }
        }
        Ok(())
    });
    end.map_err(|error| error.to_string())?;
    found?;
    for (event, at) in made.iter().flat_map(|made| &made.events) {
        drop(decided.apply(event, *at));
    }
    for stock in replayed.stocks() {
        if stock.available + stock.reserved + stock.sold != stock.allotted {
            return Err(format!("conservation is broken: {stock:?}"));
        }
    }
    for audited in auditor.finish().stocks {
        let Some(stock) = replayed.stock(audited.stock) else { return Err(format!("{} is not there", audited.sku)) };
        if (audited.allotted, audited.available, audited.reserved, audited.sold)
            != (stock.allotted, stock.available, stock.reserved, stock.sold)
        {
            return Err(format!("the auditor counts {audited:?} where the ledger has {stock:?}"));
        }
    }
    if copy(&mut replayed) != copy(&mut decided) {
        return Err(format!("the ledger of {} groups is not the one that was decided", made.len()));
    }
    Ok(())
}

/// Everything that a ledger holds.
fn copy(ledger: &mut Ledger) -> Vec<SnapshotItem> {
    let mut items = Vec::new();
    ledger.begin_copy();
    while ledger.copy_slice(COPY_LOOKS, |item| items.push(item)) == CopyProgress::More {}
    items
}
