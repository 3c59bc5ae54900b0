//! The change feed: every committed change, read from the write-ahead log, which is all there is of it. Nothing is written for it.
//!
//! Each read is a piece of work of its own, from a cursor on; nobody has to be remembered between two. The feed merges its streams by
//! time and keeps the order within each. It knows what is committed from the engine, and neither callers nor how they are shown anything.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::Mutex;
use tidegate_persistence::{
    Actor, DamageKind, Entry, GroupSequence, LogReader, ReadError, RecoveredGroup, RecoveryError, StreamId,
};
use tidegate_stock::{
    ChangeSequence, Delta, Event, Image, Life, Reason, ReservationRecord, ReservationState, ReservationView, Sku, StockId,
    StockRecord, StockState, StockView, Timestamp,
};

use crate::codec::decode_image;
use crate::cursor::{At, ChangeId, Cursor, Place};
use crate::engine::Engine;
use crate::sync::watch;

/// Fewest changes that are read of a stream at once, so that many streams do not mean many reads.
const CHUNK_MIN: usize = 16;

/// How often reading from the oldest change begins again because the oldest were given up meanwhile.
const STARTS_MAX: usize = 8;

/// For how long a reader counts that has not come back: up to twice this, in milliseconds.
const ROOM_WINDOW_MS: u64 = 5 * 60 * 1_000;

/// What a change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// A stock was opened.
    StockCreated,
    /// A stock's settings changed.
    StockChanged,
    /// A stock was given units, or lost some.
    StockAdjusted,
    /// A stock was paused.
    StockPaused,
    /// A stock is neither paused nor closed any more.
    StockReopened,
    /// A stock was closed.
    StockClosed,
    /// A stock was closed for ever.
    StockArchived,
    /// Units were reserved.
    Reserved,
    /// Reserved units were sold.
    Confirmed,
    /// Reserved units were given back.
    Released,
    /// Reserved units came back by the clock.
    Expired,
    /// Sold units came back.
    Returned,
    /// A hold was given another end.
    Extended,
}

/// What a change left behind, as it stood right after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// A reservation.
    Reservation(ReservationView),
    /// A stock.
    Stock {
        /// Its counters and settings.
        view: Box<StockView>,
        /// Its phase at the time of the change.
        state: StockState,
        /// By how many units it was adjusted and why, if it was.
        adjustment: Option<(Delta, Reason)>,
    },
}

/// One committed change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedEvent {
    /// Its name.
    pub id: ChangeId,
    /// What it did.
    pub kind: ChangeKind,
    /// To which product.
    pub sku: Sku,
    /// Its place among all changes of the product, from 1 without a gap.
    pub sku_sequence: ChangeSequence,
    /// When.
    pub at: Timestamp,
    /// By whom.
    pub actor: Actor,
    /// What came of it.
    pub changed: Changed,
    /// The place right behind it in its stream.
    after: Place,
}

/// Some of the feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedPage {
    /// Where it begins.
    pub from: Cursor,
    /// The changes behind that, oldest first.
    pub events: Vec<FeedEvent>,
    /// Where it ends.
    pub next: Cursor,
}

impl Cursor {
    /// Goes on to right behind `event`, which must be the next of the feed.
    ///
    /// # Panics
    /// When the cursor is none of a page.
    pub fn advance(&mut self, event: &FeedEvent) {
        let At::Everywhere(places) = &mut self.0 else { panic!("the cursor of a page has a place for every stream") };
        places[usize::from(event.id.stream.0)] = event.after;
    }
}

/// Why the feed could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// What follows the cursor is no longer retained.
    #[error("the change feed reaches back to group {} of stream {}, and the cursor stands before it, at {}", .oldest.0, .stream.0, .group.0)]
    Expired {
        /// In which stream.
        stream: StreamId,
        /// The group that comes next at the cursor.
        group: GroupSequence,
        /// The first that may.
        oldest: GroupSequence,
        /// The time of the oldest change of all streams that is retained, if it is known.
        oldest_time: Option<Timestamp>,
    },
    /// The cursor stands where nothing has been yet.
    #[error("the cursor stands at group {} of stream {}, which ends at {}", .group.0, .stream.0, .committed.0)]
    Ahead {
        /// In which stream.
        stream: StreamId,
        /// The group that comes next at the cursor.
        group: GroupSequence,
        /// The newest that there is.
        committed: GroupSequence,
    },
    /// The cursor stands behind more changes than its group has.
    #[error("the cursor stands behind change {done} of group {} of stream {}, which has {changes}", .group.0, .stream.0)]
    Beyond {
        /// In which stream.
        stream: StreamId,
        /// The group.
        group: GroupSequence,
        /// The changes that the cursor counts.
        done: u32,
        /// Those that there are.
        changes: u32,
    },
    /// The cursor is of a feed with other streams.
    #[error("the cursor is of {given} streams where there are {streams}")]
    Foreign {
        /// How many it is of, or one more than the number of the one that it is of.
        given: usize,
        /// How many there are.
        streams: usize,
    },
    /// The log has stopped.
    #[error("the log has stopped")]
    Stopped,
    /// The log could not be read.
    #[error("the log could not be read")]
    Log(#[source] ReadError),
    /// A change cannot be shown.
    #[error("group {} of stream {} cannot be shown: {reason}", .group.0, .stream.0)]
    Unreadable {
        /// In which stream.
        stream: StreamId,
        /// Its group.
        group: GroupSequence,
        /// What is wrong with it.
        reason: String,
    },
}

/// What the feed says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedStatus {
    /// How old the oldest retained change is, in milliseconds, roughly; `None` where there is none, or the log does not tell.
    pub oldest_age_ms: Option<u64>,
    /// How many groups of its stream the slowest of the readers stands in front of the oldest that is retained, of those that came with
    /// a cursor in the last five to ten minutes; `None` when none did. A stream of which a reader has everything counts only when it has
    /// everything of all.
    pub room_groups: Option<u64>,
}

/// Reads the change feed. Clones share it; any thread may use it.
#[derive(Clone)]
pub struct Feed {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Engine,
    log: LogReader,
    room: Mutex<Room>,
}

impl Feed {
    /// The feed of `engine`'s changes, whose groups `log` reads.
    pub fn new(engine: Engine, log: LogReader) -> Self {
        Self { inner: Arc::new(Inner { engine, log, room: Mutex::default() }) }
    }

    /// Up to `limit` committed changes behind `after`, or from the oldest retained on. Fewer only when there are no more right now.
    ///
    /// Blocks for the disk. Holds one group and about twice `limit` changes in memory at most, with many streams 16 for each.
    ///
    /// # Errors
    /// See [`FeedError`]. What is damaged in the log is found only where it is read.
    pub fn read(&self, after: Option<&Cursor>, limit: usize) -> Result<FeedPage, FeedError> {
        let streams = self.inner.engine.streams();
        let mut sources = Vec::with_capacity(streams.len());
        for stream in &streams {
            sources.push(self.source(*stream, after, streams.len())?);
        }
        if after.is_some() {
            self.observe_room(&sources)?;
        }
        let chunk = (limit / sources.len().max(1)).max(CHUNK_MIN).min(limit);
        for source in &mut sources {
            self.fill(source, chunk)?;
        }
        let from = cursor(sources.iter().map(|source| source.delivered));
        let mut events = Vec::with_capacity(limit.min(CHUNK_MIN * sources.len()));
        while events.len() < limit {
            let oldest = sources.iter_mut().filter(|source| !source.read.is_empty()).min_by_key(|source| source.read[0].at);
            let Some(source) = oldest else { break };
            let Some(event) = source.read.pop_front() else { break };
            source.delivered = event.after;
            events.push(event);
            if source.read.is_empty() && events.len() < limit {
                self.fill(source, chunk)?;
            }
        }
        let next = cursor(sources.iter().map(|source| source.delivered));
        Ok(FeedPage { from, events, next })
    }

    /// Whether `cursor` stands behind what is committed here, as one can that another member of the cluster gave. Reads nothing from the disk.
    pub fn is_ahead(&self, cursor: &Cursor) -> bool {
        // One of a stream that is not here is no place at all, which whoever reads from it is told.
        let is_ahead = |stream, place: &Place| self.inner.engine.committed(stream).is_some_and(|newest| place.is_ahead(newest));
        match &cursor.0 {
            At::Everywhere(places) => (0..).zip(places).any(|(stream, place)| is_ahead(StreamId(stream), place)),
            At::InOne(stream, place) => is_ahead(*stream, place),
        }
    }

    /// Hears of every commit from now on, several of them as one.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.inner.engine.changes()
    }

    /// The text that callers know `event`'s reservation by; `None` when it is about a stock.
    pub fn seal(&self, event: &FeedEvent) -> Option<String> {
        match &event.changed {
            Changed::Reservation(view) => Some(self.inner.engine.seal(view.id)),
            Changed::Stock { .. } => None,
        }
    }

    /// What the feed says of itself. Reads nothing from the disk.
    pub fn status(&self) -> FeedStatus {
        let now = self.inner.engine.now();
        let oldest = self.inner.log.size().ok().and_then(|size| size.oldest_time);
        FeedStatus {
            oldest_age_ms: oldest.map(|oldest| now.unix_ms().saturating_sub(oldest.unix_ms())),
            room_groups: self.inner.room.lock().least(now),
        }
    }

    /// A stream at the place that `after` has for it.
    fn source(&self, stream: StreamId, after: Option<&Cursor>, streams: usize) -> Result<Source, FeedError> {
        let committed = self.inner.engine.committed(stream).unwrap_or_default();
        let place = match after.map(|cursor| &cursor.0) {
            None => None,
            Some(At::Everywhere(places)) if places.len() != streams => {
                return Err(FeedError::Foreign { given: places.len(), streams });
            }
            Some(At::Everywhere(places)) => Some(places[usize::from(stream.0)]),
            Some(At::InOne(of, _)) if usize::from(of.0) >= streams => {
                return Err(FeedError::Foreign { given: usize::from(of.0) + 1, streams });
            }
            Some(At::InOne(of, place)) => (*of == stream).then_some(*place),
        };
        let starts = place.is_none();
        let place = match place {
            None => Place::before(self.oldest(stream)?.unwrap_or_else(|| committed.next())),
            Some(place) => {
                if place.is_ahead(committed) {
                    return Err(FeedError::Ahead { stream, group: place.group, committed });
                }
                place
            }
        };
        Ok(Source { stream, committed, starts, place, delivered: place, read: VecDeque::new() })
    }

    /// Reads up to `count` changes of a stream of which none are left. Its end is what is committed, or a stock whose name is not shown
    /// yet, because the shard is just about to publish it.
    fn fill(&self, source: &mut Source, count: usize) -> Result<(), FeedError> {
        for _ in 0..STARTS_MAX {
            if source.place.group > source.committed {
                return Ok(());
            }
            let (stream, from, up_to) = (source.stream, source.place.group, source.committed);
            let mut failed = None;
            let result = self.inner.log.read_groups(stream, from, up_to, |group| match self.take(source, group, count) {
                Ok(flow) => flow,
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            });
            if let Some(error) = failed {
                return Err(error);
            }
            match result {
                Ok(()) => {
                    if source.read.is_empty() {
                        source.delivered = source.place;
                    }
                    return Ok(());
                }
                Err(ReadError::Stopped) => return Err(FeedError::Stopped),
                Err(ReadError::Log(RecoveryError::Damage(damage)))
                    if self.inner.engine.is_replicated() && matches!(damage.what, DamageKind::EndsBelowCommitted { .. }) =>
                {
                    // A quorum has more than was written here. What is here is all that there is right now.
                    source.committed = GroupSequence(source.place.group.0 - 1);
                    if source.read.is_empty() {
                        source.delivered = source.place;
                    }
                    return Ok(());
                }
                Err(ReadError::Compacted { from, oldest, .. }) => {
                    let oldest = oldest.map_or_else(|| self.oldest(stream), |oldest| Ok(Some(oldest)))?;
                    let oldest = oldest.filter(|oldest| *oldest > from).unwrap_or_else(|| source.committed.next());
                    if !source.starts && !mutant!(FeedHidesGap) {
                        let oldest_time = self.inner.log.size().ok().and_then(|size| size.oldest_time);
                        return Err(FeedError::Expired { stream, group: from, oldest, oldest_time });
                    }
                    source.place = Place::before(oldest);
                    source.delivered = source.place;
                }
                Err(error) => return Err(FeedError::Log(error)),
            }
        }
        Err(FeedError::Expired {
            stream: source.stream,
            group: source.place.group,
            oldest: source.committed.next(),
            oldest_time: None,
        })
    }

    /// Takes what is new of `group`, as far as there is room. Continues when there is room for more.
    fn take(&self, source: &mut Source, group: &RecoveredGroup<'_>, count: usize) -> Result<ControlFlow<()>, FeedError> {
        let unreadable = |reason: String| FeedError::Unreadable { stream: group.stream, group: group.sequence, reason };
        let done = if source.place.group == group.sequence { source.place.done } else { 0 };
        // What is read is from the oldest on: nothing before it can be asked for any more.
        source.starts = false;
        let mut changes = 0;
        for entry in group.entries().map_err(|error| unreadable(error.to_string()))? {
            let entry = entry.map_err(|error| unreadable(error.to_string()))?;
            let image = decode_image(entry.image).map_err(|error| unreadable(error.to_string()))?;
            let found =
                found(&entry, image).ok_or_else(|| unreadable("an event and its image do not belong together".to_owned()))?;
            let first = changes + 1;
            changes += u32::try_from(found.len()).unwrap_or(u32::MAX);
            for (change, found) in (first..).zip(found) {
                if change <= done {
                    continue;
                }
                if source.read.len() >= count {
                    if let Some(last) = source.read.back_mut().filter(|_| mutant!(FeedLosesAtPageBorder)) {
                        last.after.done += 1;
                    }
                    return Ok(ControlFlow::Break(()));
                }
                let Some(event) = self.event(&entry, ChangeId { stream: group.stream, group: group.sequence, change }, found)
                else {
                    source.committed = GroupSequence(0);
                    return Ok(ControlFlow::Break(()));
                };
                source.place = event.after;
                source.read.push_back(event);
            }
        }
        if done > changes {
            return Err(FeedError::Beyond { stream: group.stream, group: group.sequence, done, changes });
        }
        source.place = Place::before(group.sequence.next());
        if let Some(last) = source.read.back_mut().filter(|last| last.id.group == group.sequence) {
            last.after = source.place;
        }
        Ok(if source.read.len() < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    }

    /// A change as it is shown; `None` while its stock has no name yet.
    fn event(&self, entry: &Entry<'_>, id: ChangeId, found: Found) -> Option<FeedEvent> {
        let (sku, changed) = match found.subject {
            Subject::Reservation(record) => {
                let sku = self.inner.engine.sku_of(record.id.stock)?;
                (sku.clone(), Changed::Reservation(record.view(&sku)))
            }
            Subject::Granted(stock) => {
                let sku = self.inner.engine.sku_of(stock)?;
                (sku.clone(), Changed::Reservation(granted(entry, &sku)?))
            }
            Subject::Stock(record) => {
                let view = view(*record);
                let adjustment = match &entry.event {
                    Event::StockAdjusted { delta, reason, .. } => Some((*delta, reason.clone())),
                    _ => None,
                };
                (view.sku.clone(), Changed::Stock { state: view.state(entry.at), view: Box::new(view), adjustment })
            }
        };
        Some(FeedEvent {
            id,
            kind: found.kind,
            sku,
            sku_sequence: found.change,
            at: entry.at,
            actor: entry.actor.clone(),
            changed,
            after: Place { group: id.group, done: id.change },
        })
    }

    /// The oldest group of `stream` that is retained.
    fn oldest(&self, stream: StreamId) -> Result<Option<GroupSequence>, FeedError> {
        match self.inner.log.oldest(stream) {
            Ok(oldest) => Ok(oldest.map(|(_, sequence)| sequence.max(GroupSequence(1)))),
            Err(ReadError::Stopped) => Err(FeedError::Stopped),
            Err(error) => Err(FeedError::Log(error)),
        }
    }

    /// Notes how far a reader at the places of `sources` is from losing something.
    fn observe_room(&self, sources: &[Source]) -> Result<(), FeedError> {
        let (mut behind, mut through): (Option<u64>, Option<u64>) = (None, None);
        for source in sources {
            let Some(oldest) = self.oldest(source.stream)? else { continue };
            let room = source.place.group.0.saturating_sub(oldest.0);
            if source.place.group <= source.committed {
                behind = Some(behind.map_or(room, |least| least.min(room)));
            } else {
                through = through.max(Some(room));
            }
        }
        if let Some(room) = behind.or(through) {
            self.inner.room.lock().observe(room, self.inner.engine.now());
        }
        Ok(())
    }
}

/// One stream on its way into a page.
struct Source {
    stream: StreamId,
    /// The end of what may be shown.
    committed: GroupSequence,
    /// Whether it begins wherever the log does, and has not begun.
    starts: bool,
    /// Up to where it was read.
    place: Place,
    /// Up to where it is in the page.
    delivered: Place,
    /// What was read and is not in the page yet.
    read: VecDeque<FeedEvent>,
}

fn cursor(places: impl Iterator<Item = Place>) -> Cursor {
    Cursor(At::Everywhere(places.collect()))
}

/// A change in an entry of the log, before its product's name is known.
struct Found {
    kind: ChangeKind,
    change: ChangeSequence,
    subject: Subject,
}

enum Subject {
    /// A grant, of which the event says everything.
    Granted(StockId),
    Reservation(ReservationRecord),
    Stock(Box<StockRecord>),
}

/// The changes of an entry, in order; `None` when `image` is no such event's.
fn found(entry: &Entry<'_>, image: Image) -> Option<Vec<Found>> {
    let kind = match &entry.event {
        Event::StockCreated { .. } => ChangeKind::StockCreated,
        Event::StockChanged { .. } => ChangeKind::StockChanged,
        Event::StockAdjusted { .. } => ChangeKind::StockAdjusted,
        Event::StockPaused { .. } => ChangeKind::StockPaused,
        Event::StockReopened { .. } => ChangeKind::StockReopened,
        Event::StockClosed { .. } => ChangeKind::StockClosed,
        Event::StockArchived { .. } => ChangeKind::StockArchived,
        Event::Reserved { .. } => ChangeKind::Reserved,
        Event::Confirmed { .. } => ChangeKind::Confirmed,
        Event::Released { .. } => ChangeKind::Released,
        Event::Expired { .. } => ChangeKind::Expired,
        Event::Returned { .. } => ChangeKind::Returned,
        Event::Extended { .. } => ChangeKind::Extended,
        Event::Recalled { .. } | Event::Summed { .. } => return matches!(image, Image::Nothing).then(Vec::new),
    };
    match (&entry.event, image) {
        (Event::Reserved { stock, .. }, Image::Granted { change }) => {
            Some(vec![Found { kind, change, subject: Subject::Granted(*stock) }])
        }
        (
            Event::Confirmed { reservation, .. }
            | Event::Released { reservation, .. }
            | Event::Returned { reservation, .. }
            | Event::Extended { reservation, .. },
            Image::Reservation { change, record },
        ) if record.id == *reservation => Some(vec![Found { kind, change, subject: Subject::Reservation(record) }]),
        (Event::Expired { reservations }, Image::Lapsed(lapsed)) if reservations.len() == lapsed.len() => {
            Some(lapsed.into_iter().map(|(change, record)| Found { kind, change, subject: Subject::Reservation(record) }).collect())
        }
        (
            Event::StockCreated { stock, .. }
            | Event::StockChanged { stock, .. }
            | Event::StockAdjusted { stock, .. }
            | Event::StockPaused { stock }
            | Event::StockReopened { stock }
            | Event::StockClosed { stock }
            | Event::StockArchived { stock },
            Image::Stock(record),
        ) if record.id == *stock => Some(vec![Found { kind, change: record.changes, subject: Subject::Stock(record) }]),
        _ => None,
    }
}

/// A reservation as it was granted.
fn granted(entry: &Entry<'_>, sku: &Sku) -> Option<ReservationView> {
    let Event::Reserved { stock, sequence, user, quantity, expires_at, reference, .. } = &entry.event else { return None };
    Some(ReservationView {
        id: tidegate_stock::ReservationId { stock: *stock, sequence: *sequence },
        sku: sku.clone(),
        user: user.clone(),
        quantity: *quantity,
        reserved: quantity.units(),
        confirmed: 0,
        released: 0,
        returned: 0,
        state: ReservationState::Reserved,
        reference: reference.clone(),
        reserved_at: entry.at,
        expires_at: *expires_at,
        resolved_at: None,
    })
}

fn view(record: StockRecord) -> StockView {
    StockView {
        id: record.id,
        sku: record.sku,
        allotted: record.allotted,
        available: record.available,
        reserved: record.reserved,
        sold: record.sold,
        terms: record.terms,
        life: Life { is_paused: record.is_paused, is_closed: record.is_closed, is_archived: record.is_archived },
        revision: record.revision,
    }
}

/// The least room of the readers seen in this window and in the one before.
#[derive(Debug, Default)]
struct Room {
    began: Timestamp,
    this: Option<u64>,
    last: Option<u64>,
}

impl Room {
    fn observe(&mut self, room: u64, now: Timestamp) {
        self.turn(now);
        self.this = Some(self.this.map_or(room, |least| least.min(room)));
    }

    fn least(&mut self, now: Timestamp) -> Option<u64> {
        self.turn(now);
        self.this.into_iter().chain(self.last).min()
    }

    /// Begins another window when this one is over, also when the clock was set back.
    fn turn(&mut self, now: Timestamp) {
        let elapsed = now.unix_ms().checked_sub(self.began.unix_ms());
        if elapsed.is_some_and(|elapsed| elapsed < ROOM_WINDOW_MS) {
            return;
        }
        let is_next = elapsed.is_none_or(|elapsed| elapsed < 2 * ROOM_WINDOW_MS);
        self.last = self.this.take().filter(|_| is_next);
        self.began = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_counts_for_the_window_and_the_next() {
        let at = |minutes: u64| Timestamp::from_unix_ms(1_800_000_000_000 + minutes * 60_000);
        let mut room = Room::default();
        assert_eq!(room.least(at(0)), None);
        room.observe(7, at(1));
        room.observe(3, at(2));
        room.observe(9, at(3));
        assert_eq!(room.least(at(4)), Some(3));
        room.observe(5, at(6));
        assert_eq!(room.least(at(9)), Some(3));
        assert_eq!(room.least(at(11)), Some(5));
        assert_eq!(room.least(at(30)), None);
        room.observe(4, at(31));
        // The clock is set back.
        assert_eq!(room.least(at(1)), Some(4));
        assert_eq!(room.least(at(7)), None);
    }
}
