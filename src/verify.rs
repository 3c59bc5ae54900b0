//! `tidegate verify`: reads a whole data directory offline and says whether what happened keeps what was promised.
//!
//! Three readers look at every event and share no code: the log's own checks (checksums, order, chain, durable position), the auditor
//! with its plain books, and a fresh ledger as a node would build it. A log whose beginning was given back is read from its oldest
//! snapshot on, after a look at the checksums and the chain of what is still there before it. Every snapshot must say what the log says at
//! its place, and everything in the history must be readable. It owns the report, and never changes the log.

pub(crate) mod members;

use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;
use tidegate_cluster::{MemberError, check_member};
use tidegate_config::Settings;
use tidegate_engine::{ArchiveError, Clock, Router, Sealing, ShardNumber, SystemClock, decode_image, decode_record, partition_of};
use tidegate_persistence::{
    DIVERGENCE_FILE, DataDirectory, Entry, GroupSequence, History, IDENTITY_FILE, LogIndex, LogPosition, OpenError, PayloadError,
    RecoveredGroup, RecoveredStream, RecoveryError, SnapshotError, StreamId, noted_divergence, snapshots,
};
use tidegate_stock::{AuditSummary, AuditedStock, Auditor, Event, Ledger, LedgerSum, Loader, StockView};

use crate::node::HISTORY_FOLDER;
use crate::options::{directory_options, history_options, rules};
use crate::parallel;
use crate::recovery::{SnapshotLoadError, StartProgress, load, read_items};

/// What a good directory holds.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// Every stock, by sku.
    pub(crate) stocks: Vec<StockLine>,
    /// Shards, and so logs.
    pub(crate) shards: u16,
    /// Groups in all logs.
    pub(crate) groups: u64,
    /// Events in them.
    pub(crate) events: u64,
    /// Reservations granted.
    pub(crate) grants: u64,
    /// Units granted.
    pub(crate) granted_units: u64,
    /// Units sold.
    pub(crate) confirmed_units: u64,
    /// Units that callers gave back.
    pub(crate) released_units: u64,
    /// Units that the clock took back.
    pub(crate) expired_units: u64,
    /// Units that came back after they were sold.
    pub(crate) returned_units: u64,
    /// Snapshots, each of which says what the log says at its place.
    pub(crate) snapshots: u64,
    /// Reservations that are in the history.
    pub(crate) in_history: u64,
    /// Parts of groups that were being written when a node died. They were never acknowledged, and a node drops them.
    pub(crate) unfinished_parts: u64,
    /// How long reading took.
    pub(crate) elapsed_ms: u64,
}

/// One stock as the log leaves it.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct StockLine {
    sku: String,
    allotted: u64,
    available: u64,
    reserved: u64,
    sold: u64,
    grants: u64,
}

/// Where something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    /// The stream of the log; a shard's log has the shard's number.
    stream: u16,
    /// The entry of the stream, from 1.
    index: u64,
    /// The part of the entry, from 0; there when the entry cannot be read.
    part: Option<u16>,
    /// The group that the entry is; not there when the entry cannot be read.
    group: Option<u64>,
    /// The event of the group, from 1; not there when it is not about one.
    event: Option<u64>,
}

/// Why a directory is not good, or why nobody can say.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    /// It could not be opened, or is damaged as a whole.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The operating system failed; the log may be good.
    #[error("the log cannot be read")]
    Unreadable(#[source] RecoveryError),
    /// A snapshot is of no use.
    #[error("snapshot {} is of no use", path.display())]
    Snapshot {
        /// Its file.
        path: PathBuf,
        /// Why.
        source: SnapshotLoadError,
    },
    /// A snapshot says otherwise than the log.
    #[error("{what} ({place})")]
    Contradiction {
        /// Its file.
        path: PathBuf,
        /// Up to where the log was read.
        place: Place,
        /// What each of them says.
        what: String,
    },
    /// The snapshots could not be listed.
    #[error(transparent)]
    Snapshots(#[from] SnapshotError),
    /// What the directory has of a member of a cluster cannot be read.
    #[error(transparent)]
    Member(MemberError),
    /// The history cannot be read.
    #[error("the history in {} cannot be read", path.display())]
    History {
        /// The history's directory.
        path: PathBuf,
        /// Why.
        source: ArchiveError,
    },
    /// The node stopped because its ledger was not that of the node that decided.
    #[error("{what}, and the node stopped")]
    Diverged {
        /// The file that says so.
        path: PathBuf,
        /// What it says.
        what: String,
    },
    /// The log is damaged, or holds what must never happen.
    #[error("{what} ({place})")]
    Finding {
        /// Where.
        place: Place,
        /// What.
        what: String,
    },
}

impl VerifyError {
    /// The file or folder that this is about; `None` where it is an entry of the log. `directory` is what was verified.
    pub(crate) fn path(&self, directory: &Path) -> Option<PathBuf> {
        let path = match self {
            Self::Finding { .. } => return None,
            Self::Open(OpenError::IdentityMismatch { .. } | OpenError::Format { .. }) => directory.join(IDENTITY_FILE),
            Self::Open(
                OpenError::Damaged { place: path, .. }
                | OpenError::InUse { path }
                | OpenError::NotFound { path }
                | OpenError::Io { path, .. },
            )
            | Self::Snapshot { path, .. }
            | Self::Contradiction { path, .. }
            | Self::Diverged { path, .. }
            | Self::Snapshots(
                SnapshotError::Damaged { path, .. } | SnapshotError::Mismatch { path, .. } | SnapshotError::Io { path, .. },
            )
            | Self::History { path, .. } => path.clone(),
            Self::Unreadable(_) | Self::Member(_) => directory.join("log"),
        };
        Some(path)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "stream {}, entry {}", self.stream, self.index)?;
        if let Some(part) = self.part {
            write!(formatter, ", part {part}")?;
        }
        if let Some(group) = self.group {
            write!(formatter, ", group {group}")?;
        }
        if let Some(event) = self.event {
            write!(formatter, ", event {event}")?;
        }
        Ok(())
    }
}

/// Reads everything in the directory at `path`, which no node may be using, and never makes one. `settings` say how long keys were
/// remembered and how much memory the store may take.
///
/// # Errors
/// On the first finding of the first stream that has any.
pub(crate) fn verify(path: &Path, settings: &Settings) -> Result<Report, VerifyError> {
    let started_at = Instant::now();
    let mut options = directory_options(settings, SystemClock.now());
    // Whatever is set for nodes: what the directory says of itself counts here, and nothing will be appended.
    options.identity.shards = None;
    options.idempotency_seconds = None;
    let directory = DataDirectory::open_existing(path, &options)?;
    let shards = directory.identity().shards;
    let mut streams = directory.streams()?;
    streams.extend((0..shards).map(|shard| ShardNumber(shard).stream()));
    streams.sort_unstable();
    streams.dedup();
    let votes: Vec<StreamId>;
    (votes, streams) = streams.into_iter().partition(|stream| *stream == StreamId::votes(stream.shard()));
    // Of a member of a cluster: what it has promised, and that its log continues it.
    for replica in parallel::map(&votes, |votes| check_member(&directory, votes.shard())) {
        replica.map_err(|error| match error {
            MemberError::Log(error) => damage(error),
            error => VerifyError::Member(error),
        })?;
    }
    let read = parallel::map(&streams, |stream| read_stream(&directory, *stream, settings));
    let mut report = Report {
        stocks: Vec::new(),
        shards,
        groups: 0,
        events: 0,
        grants: 0,
        granted_units: 0,
        confirmed_units: 0,
        released_units: 0,
        expired_units: 0,
        returned_units: 0,
        snapshots: 0,
        in_history: 0,
        unfinished_parts: 0,
        elapsed_ms: 0,
    };
    for stream in read {
        let (tail, summary, snapshots) = stream?;
        report.add(&tail, summary);
        report.snapshots += snapshots;
    }
    let noted = noted_divergence(path).map_err(|source| OpenError::Io { path: path.join(DIVERGENCE_FILE), source })?;
    if let Some((path, what)) = noted {
        return Err(VerifyError::Diverged { path, what });
    }
    report.in_history = count_history(&path.join(HISTORY_FOLDER), settings)?;
    report.stocks.sort_unstable();
    report.elapsed_ms = u64::try_from(started_at.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

impl Report {
    fn add(&mut self, tail: &RecoveredStream, summary: AuditSummary) {
        self.groups += tail.groups;
        self.events += tail.events;
        self.unfinished_parts += u64::from(tail.discarded_tail_parts);
        self.grants += summary.grants;
        self.granted_units += summary.granted_units;
        self.confirmed_units += summary.confirmed_units;
        self.released_units += summary.released_units;
        self.expired_units += summary.expired_units;
        self.returned_units += summary.returned_units;
        self.stocks.extend(summary.stocks.into_iter().map(|stock| StockLine {
            sku: stock.sku.to_string(),
            allotted: stock.allotted,
            available: stock.available,
            reserved: stock.reserved,
            sold: stock.sold,
            grants: stock.grants,
        }));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sku_width = self.stocks.iter().map(|stock| stock.sku.len()).max().unwrap_or(0).max("sku".len());
        writeln!(
            formatter,
            "{:sku_width$} {:>13} {:>13} {:>13} {:>13} {:>13}",
            "sku", "allotted", "available", "reserved", "sold", "grants"
        )?;
        for StockLine { sku, allotted, available, reserved, sold, grants } in &self.stocks {
            writeln!(formatter, "{sku:sku_width$} {allotted:>13} {available:>13} {reserved:>13} {sold:>13} {grants:>13}")?;
        }
        writeln!(
            formatter,
            "\nunits: {} granted, {} sold, {} released, {} expired, {} returned",
            self.granted_units, self.confirmed_units, self.released_units, self.expired_units, self.returned_units
        )?;
        writeln!(formatter, "tiers: {} snapshots, {} reservations in the history", self.snapshots, self.in_history)?;
        if self.unfinished_parts > 0 {
            writeln!(formatter, "unfinished: {} parts of groups that were never acknowledged", self.unfinished_parts)?;
        }
        write!(
            formatter,
            "good: {} stocks, {} grants, {} events in {} groups of {} shards, read in {} ms",
            self.stocks.len(),
            self.grants,
            self.events,
            self.groups,
            self.shards,
            self.elapsed_ms
        )
    }
}

/// Everything that looks at one stream.
struct Reader {
    stream: StreamId,
    router: Router,
    auditor: Auditor,
    ledger: Ledger,
    /// The first finding; nothing behind it is looked at by the books.
    finding: Option<VerifyError>,
    /// Snapshots whose place is still to come, oldest first.
    claims: VecDeque<SnapshotClaim>,
}

/// What a snapshot says, for the place of the log at which it was made.
struct SnapshotClaim {
    path: PathBuf,
    position: LogPosition,
    stocks: Vec<StockView>,
    open_holds: u64,
    sum: LedgerSum,
}

impl SnapshotClaim {
    fn is_of_no_group(&self) -> String {
        format!("{} is of group {}, which the log does not hold", self.path.display(), self.position.sequence)
    }
}

fn read_stream(
    directory: &DataDirectory,
    stream: StreamId,
    settings: &Settings,
) -> Result<(RecoveredStream, AuditSummary, u64), VerifyError> {
    let rules = rules(&settings.rules);
    let seed = Sealing::new(directory.identity().secret.bytes()).table_seed();
    let identity = directory.identity();
    let mut claims = Vec::new();
    // Oldest first, as the log comes past them.
    for snapshot in snapshots(directory.path(), stream)?.into_iter().rev() {
        let loaded = load(&snapshot.path, identity, stream, rules, seed, &StartProgress::default());
        let (position, mut ledger) = loaded.map_err(|source| VerifyError::Snapshot { path: snapshot.path.clone(), source })?;
        let (stocks, open_holds, sum) = (ledger.stocks().collect(), ledger.open_holds(), ledger.sum());
        claims.push(SnapshotClaim { path: snapshot.path, position, stocks, open_holds, sum });
    }
    let mut reader = Reader {
        stream,
        router: Router::new(identity.shards),
        auditor: Auditor::new(identity.idempotency_seconds_min, seed),
        ledger: Ledger::new(rules, seed),
        finding: None,
        claims: VecDeque::new(),
    };
    let oldest = directory.segments().iter().filter_map(|segment| segment.first.get(&stream)).map(|(index, _)| *index).min();
    let begins_later = oldest.is_some_and(|oldest| oldest > LogIndex(1)) || (oldest.is_none() && !claims.is_empty());
    let mut start = None;
    if let Some(first) = claims.first().filter(|_| begins_later) {
        // What was given back can be told by nobody; what is there before the snapshot must at least hold together.
        if oldest.is_some() {
            directory.check_from_oldest(stream, |_| Ok(())).map_err(damage)?;
        }
        let mut loader = Loader::new(rules, seed);
        let auditor = &mut reader.auditor;
        let mut finding = None;
        let of_no_use = |source| VerifyError::Snapshot { path: first.path.clone(), source };
        let read = read_items(&first.path, identity, stream, |item| {
            finding = finding.take().or_else(|| auditor.load(&item).err());
            Ok(loader.add(item)?)
        });
        read.map_err(of_no_use)?;
        if let Some(finding) = finding {
            let (path, place) = (first.path.clone(), reader.place(&first.position));
            return Err(VerifyError::Contradiction { what: format!("{}: {finding}", path.display()), path, place });
        }
        reader.ledger = loader.finish().map_err(|error| of_no_use(error.into()))?;
        start = Some(first.position);
    }
    let looked_at = claims.len() as u64;
    reader.claims = claims.into_iter().filter(|claim| start.is_none_or(|start| claim.position.index > start.index)).collect();
    let end = directory.replay_from(stream, start.as_ref(), |group| reader.group(group));
    // A finding of the books is from before the place at which reading stopped.
    if let Some(finding) = reader.finding {
        return Err(finding);
    }
    let tail = end.map_err(damage)?;
    let end = Place { stream: stream.0, index: tail.last_index.0, part: None, group: Some(tail.last_sequence.0), event: None };
    if let Some(claim) = reader.claims.front() {
        return Err(VerifyError::Contradiction { path: claim.path.clone(), place: end, what: claim.is_of_no_group() });
    }
    let summary = reader.auditor.finish();
    match compare(&summary, &reader.ledger) {
        Some(what) => Err(VerifyError::Finding { place: end, what }),
        None => Ok((tail, summary, looked_at)),
    }
}

fn damage(error: RecoveryError) -> VerifyError {
    match error {
        RecoveryError::Damage(damage) => VerifyError::Finding {
            place: Place { stream: damage.stream.0, index: damage.index.0, part: Some(damage.part), group: None, event: None },
            what: format!("the log is damaged: {}", damage.what),
        },
        error @ RecoveryError::Store(_) => VerifyError::Unreadable(error),
    }
}

/// Reads everything in the history, and says how many reservations that is.
fn count_history(path: &Path, settings: &Settings) -> Result<u64, VerifyError> {
    if !path.exists() {
        return Ok(0);
    }
    let unreadable = |source| VerifyError::History { path: path.to_owned(), source };
    let history = History::open(path, &history_options(settings)).map_err(|error| unreadable(error.into()))?;
    let (mut count, mut no_record) = (0, None);
    history
        .for_each(&mut |_, record| match decode_record(record.value) {
            Ok(_) => {
                count += 1;
                ControlFlow::Continue(())
            }
            Err(error) => {
                no_record = Some(error);
                ControlFlow::Break(())
            }
        })
        .map_err(|error| unreadable(error.into()))?;
    no_record.map_or(Ok(count), |error| Err(unreadable(error.into())))
}

impl Reader {
    fn group(&mut self, group: &RecoveredGroup<'_>) -> Result<(), PayloadError> {
        if self.finding.is_some() {
            return Ok(());
        }
        let mut event = 0;
        // The ledger asserts what it believes; here that is a finding like any other.
        let looked_at = catch_unwind(AssertUnwindSafe(|| {
            for entry in group.entries()? {
                event += 1;
                if let Some(what) = self.event(&entry?) {
                    return Ok(Some(what));
                }
            }
            Ok(None)
        }));
        let what = looked_at.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Ok(Some(format!("the ledger does not take it: {}", text.unwrap_or("no message"))))
        })?;
        let place =
            Place { stream: group.stream.0, index: group.index.0, part: None, group: Some(group.sequence.0), event: Some(event) };
        self.finding = match what {
            Some(what) => Some(VerifyError::Finding { place, what }),
            None => self.claim(group.sequence).map(|(path, what)| VerifyError::Contradiction { path, place, what }),
        };
        self.ledger.tidy(group.time, usize::try_from(2 * event).unwrap_or(usize::MAX));
        Ok(())
    }

    /// What a snapshot of this group says otherwise than the log, and its file, if there is one and it does.
    fn claim(&mut self, group: GroupSequence) -> Option<(PathBuf, String)> {
        let claim = self.claims.pop_front_if(|claim| claim.position.sequence <= group)?;
        self.contradiction(&claim, group).map(|what| (claim.path, what))
    }

    fn contradiction(&mut self, claim: &SnapshotClaim, group: GroupSequence) -> Option<String> {
        let path = claim.path.display();
        if claim.position.sequence < group {
            return Some(claim.is_of_no_group());
        }
        if claim.open_holds != self.ledger.open_holds() {
            return Some(format!("{path} has {} open reservations, the log {}", claim.open_holds, self.ledger.open_holds()));
        }
        let differs = |stock: &&StockView| self.ledger.stock(stock.id).as_ref() != Some(*stock);
        let is_short = claim.stocks.len() != self.ledger.stock_count();
        match claim.stocks.iter().find(differs) {
            Some(stock) => Some(format!("{path} says {stock:?}, the log {:?}", self.ledger.stock(stock.id))),
            None if is_short => Some(format!("{path} has {} stocks, the log {}", claim.stocks.len(), self.ledger.stock_count())),
            None => {
                let own = self.ledger.sum();
                (claim.sum != own)
                    .then(|| format!("{path} makes a ledger that comes to {}, the log one that comes to {own}", claim.sum))
            }
        }
    }

    const fn place(&self, position: &LogPosition) -> Place {
        Place { stream: self.stream.0, index: position.index.0, part: None, group: Some(position.sequence.0), event: None }
    }

    fn event(&mut self, entry: &Entry<'_>) -> Option<String> {
        if let Event::StockCreated { stock, sku, .. } = &entry.event {
            let partition = partition_of(sku);
            if stock.partition != partition {
                return Some(format!("{sku} is in partition {} and belongs to {}", stock.partition.0, partition.0));
            }
            if self.router.shard_of(partition).map(ShardNumber::stream) != Some(self.stream) {
                return Some(format!("{sku} of partition {} is in another shard's log", partition.0));
            }
        }
        if let Err(finding) = self.auditor.observe(&entry.event, entry.at) {
            return Some(finding.to_string());
        }
        let image = match decode_image(entry.image) {
            Ok(image) => image,
            Err(error) => return Some(format!("its image is unreadable: {error}")),
        };
        if let Err(finding) = self.auditor.check_image(&entry.event, &image) {
            return Some(finding.to_string());
        }
        drop(self.ledger.apply(&entry.event, entry.at));
        let compared = self.ledger.compare(&entry.event);
        compared.err().map(|(logged, own)| PayloadError::Sum { logged, own }.to_string())
    }
}

/// How the auditor's books and the ledger differ, if they do.
fn compare(summary: &AuditSummary, ledger: &Ledger) -> Option<String> {
    let (stocks, reservations) = (ledger.stocks().count(), ledger.reservation_count() as u64);
    if stocks != summary.stocks.len() || reservations != summary.reservations {
        let (audited, known) = (summary.stocks.len(), summary.reservations);
        return Some(format!("the ledger has {stocks} stocks and {reservations} reservations, the books {audited} and {known}"));
    }
    summary.stocks.iter().find_map(|stock| match ledger.stock(stock.stock) {
        Some(view) if is_same(stock, &view) => None,
        view => Some(format!("the ledger and the books differ: {view:?}, {stock:?}")),
    })
}

fn is_same(stock: &AuditedStock, view: &StockView) -> bool {
    let audited = (&stock.sku, stock.allotted, stock.available, stock.reserved, stock.sold);
    audited == (&view.sku, view.allotted, view.available, view.reserved, view.sold)
}
