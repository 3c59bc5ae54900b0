//! The historian: one thread that writes what leaves the shards' memory to the history, and looks up what they need of it again. So no
//! shard ever waits for a disk. What is kept and when it may be thrown away is the shards' and the upkeep's business, not its own.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tidegate_persistence::{History, HistoryError, HistoryKey, HistoryRecord};
use tidegate_stock::{ReservationId, ReservationRecord};

use crate::codec::{CodecError, decode_record, encode_record};
use crate::inbox::Inbox;
use crate::metrics::{EngineMetrics, HistoryOperation};
use crate::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use crate::work::{Recalled, Work};

/// Why the history gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] HistoryError),
    /// What it holds is no reservation.
    #[error(transparent)]
    Record(#[from] CodecError),
}

/// Looks a reservation up. May wait for the disk.
pub(crate) fn look_up(history: &History, id: ReservationId) -> Result<Option<ReservationRecord>, ArchiveError> {
    let found = history.get(HistoryKey { stock: id.stock, sequence: id.sequence })?;
    Ok(found.map(|bytes| decode_record(&bytes)).transpose()?)
}

/// What a shard hears from the history.
pub(crate) enum HistoryAnswer {
    /// These are kept.
    Kept(Vec<ReservationId>),
    /// Here is the work again, with what was found.
    Recalled(Work),
    /// The history could not be read for this work.
    Failed(Work),
}

/// Reservations of one shard that are to be kept.
pub(crate) struct Leaving {
    records: Vec<ReservationRecord>,
    is_pressed: bool,
    inbox: Arc<Inbox<HistoryAnswer>>,
}

/// What a shard has for the historian.
pub(crate) enum Message {
    Keep(Leaving),
    Recall(ReservationId, Box<Work>, Arc<Inbox<HistoryAnswer>>),
}

/// A shard's line to the historian.
pub(crate) struct ShardHistory {
    sender: Sender<Message>,
    inbox: Arc<Inbox<HistoryAnswer>>,
    /// What the historian keeps; `None` where it is none.
    store: Option<Arc<History>>,
}

impl ShardHistory {
    pub(crate) fn inbox(&self) -> &Inbox<HistoryAnswer> {
        &self.inbox
    }

    /// Has `records` kept: in its own time, or as fast as can be where memory is pressed for room.
    pub(crate) fn keep(&self, records: Vec<ReservationRecord>, is_pressed: bool) {
        // The historian outlives the shards.
        drop(self.sender.send(Message::Keep(Leaving { records, is_pressed, inbox: Arc::clone(&self.inbox) })));
    }

    /// Looks `id` up at once, and waits for the disk.
    pub(crate) fn look_up_now(&self, id: ReservationId) -> Result<Option<ReservationRecord>, ArchiveError> {
        self.store.as_deref().map_or(Ok(None), |store| look_up(store, id))
    }

    /// Has `id` looked up for `work`.
    pub(crate) fn recall(&self, id: ReservationId, work: Work) {
        drop(self.sender.send(Message::Recall(id, Box::new(work), Arc::clone(&self.inbox))));
    }
}

/// A line whose other end is not the historian's.
#[cfg(test)]
pub(crate) fn line_to(inbox: Arc<Inbox<HistoryAnswer>>) -> (ShardHistory, Receiver<Message>) {
    let (sender, receiver) = mpsc::channel();
    (ShardHistory { sender, inbox, store: None }, receiver)
}

/// The running historian. It ends once it and every line to it are dropped.
pub(crate) struct Historian {
    sender: Option<Sender<Message>>,
    store: Arc<History>,
    thread: Option<JoinHandle<()>>,
}

impl Historian {
    /// Starts it on `history`. `on_failure` is called, at most once, when the history takes nothing more: the node must stop, because
    /// what should leave memory cannot.
    ///
    /// # Panics
    /// When the operating system gives no thread.
    pub(crate) fn start(
        history: Arc<History>,
        metrics: Arc<EngineMetrics>,
        on_failure: impl FnOnce(&HistoryError) + Send + 'static,
    ) -> Self {
        let (sender, receiver) = mpsc::channel();
        let store = Arc::clone(&history);
        let thread = thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || {
                let (leaving, next_write_at, on_failure) = (VecDeque::new(), Instant::now(), Some(on_failure));
                Serving { history, metrics, leaving, next_write_at, on_failure }.run(&receiver);
            })
            .expect("the operating system gives a thread at start");
        Self { sender: Some(sender), store, thread: Some(thread) }
    }

    /// A line for a shard that hears by `inbox`.
    pub(crate) fn line(&self, inbox: Arc<Inbox<HistoryAnswer>>) -> ShardHistory {
        let sender = self.sender.clone().expect("lines are asked for before it is dropped");
        ShardHistory { sender, inbox, store: Some(Arc::clone(&self.store)) }
    }
}

impl Drop for Historian {
    fn drop(&mut self) {
        self.sender = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the history's thread ended by a panic");
        }
    }
}

/// Records that are written together at most: a write costs about as much for a few as for many, but a long one takes a processor and the
/// disk from everybody else.
const WRITTEN_TOGETHER_MAX: usize = 1_024;

/// The same while memory is pressed for room.
const WRITTEN_TOGETHER_PRESSED_MAX: usize = 4_096;

/// How many times as long as a write took nothing more is written, unless memory is pressed for room: those who buy go first.
const REST: u32 = 3;

/// Messages between two writes at most, so that look-ups do not keep what leaves in memory for ever.
const MESSAGES_BETWEEN_WRITES_MAX: usize = 256;

/// The historian's own thread.
struct Serving<F> {
    history: Arc<History>,
    metrics: Arc<EngineMetrics>,
    /// What is to be written, in order.
    leaving: VecDeque<Leaving>,
    /// When the next write may be.
    next_write_at: Instant,
    on_failure: Option<F>,
}

impl<F: FnOnce(&HistoryError)> Serving<F> {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let mut taken = 0;
            while taken < MESSAGES_BETWEEN_WRITES_MAX {
                match self.next(messages) {
                    Ok(Message::Keep(leaving)) => self.leaving.push_back(leaving),
                    Ok(Message::Recall(id, work, inbox)) => self.recall(id, *work, &inbox),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => {
                        while !self.leaving.is_empty() {
                            self.write();
                        }
                        return;
                    }
                }
                taken += 1;
            }
            self.write();
        }
    }

    /// The next message; a time-out when it is time to write.
    fn next(&self, messages: &Receiver<Message>) -> Result<Message, RecvTimeoutError> {
        if self.leaving.is_empty() {
            return messages.recv().map_err(|_| RecvTimeoutError::Disconnected);
        }
        let is_pressed = self.leaving.iter().any(|leaving| leaving.is_pressed);
        let wait = self.next_write_at.saturating_duration_since(Instant::now());
        messages.recv_timeout(if is_pressed { Duration::ZERO } else { wait })
    }

    fn write(&mut self) {
        let is_pressed = self.leaving.iter().any(|leaving| leaving.is_pressed);
        let together_max = if is_pressed { WRITTEN_TOGETHER_PRESSED_MAX } else { WRITTEN_TOGETHER_MAX };
        let (mut records, mut shares) = (Vec::new(), Vec::new());
        while let Some(Leaving { records: more, inbox, .. }) =
            self.leaving.pop_front_if(|next| records.is_empty() || records.len() + next.records.len() <= together_max)
        {
            shares.push((more.len(), inbox));
            records.extend(more);
        }
        if records.is_empty() {
            return;
        }
        let began = Instant::now();
        match keep(&self.history, &records) {
            Ok(()) => {
                let elapsed = began.elapsed();
                self.metrics.observe_history_write(records.len(), elapsed);
                self.next_write_at = Instant::now() + REST * elapsed;
                let mut ids = records.into_iter().map(|record| record.id);
                for (count, inbox) in shares {
                    inbox.put(HistoryAnswer::Kept(ids.by_ref().take(count).collect()));
                }
            }
            Err(error) => {
                self.metrics.count_history_failure(HistoryOperation::Write);
                tracing::error!(%error, records = records.len(), "the history takes nothing more; the node must stop");
                if let Some(on_failure) = self.on_failure.take() {
                    on_failure(&error);
                }
            }
        }
    }

    fn recall(&self, id: ReservationId, mut work: Work, inbox: &Inbox<HistoryAnswer>) {
        let began = Instant::now();
        match look_up(&self.history, id) {
            Ok(record) => {
                self.metrics.observe_history_recall(began.elapsed());
                work.recalled = Some(Box::new(Recalled { id, record }));
                inbox.put(HistoryAnswer::Recalled(work));
            }
            Err(error) => {
                self.metrics.count_history_failure(HistoryOperation::Recall);
                tracing::error!(%error, ?id, "a reservation could not be read from the history");
                inbox.put(HistoryAnswer::Failed(work));
            }
        }
    }
}

fn keep(history: &History, records: &[ReservationRecord]) -> Result<(), HistoryError> {
    let values: Vec<Vec<u8>> = records.iter().map(encode_record).collect();
    let records: Vec<HistoryRecord<'_>> = records
        .iter()
        .zip(&values)
        .map(|(record, value)| HistoryRecord {
            key: HistoryKey { stock: record.id.stock, sequence: record.id.sequence },
            user: record.user.as_str(),
            resolved_at: record.resolved_at.unwrap_or(record.reserved_at),
            value,
        })
        .collect();
    history.put(&records)
}
