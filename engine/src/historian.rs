//! The historian: one thread that writes what leaves the shards' memory to the history, and looks up what they need of it again. So no
//! shard ever waits for a disk. What is kept and when it may be thrown away is the shards' and the upkeep's business, not its own.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tidegate_persistence::{History, HistoryError, HistoryKey, HistoryRecord};
use tidegate_stock::{ReservationId, ReservationRecord};

use crate::codec::{CodecError, decode_record, encode_record};
use crate::inbox::Inbox;
use crate::metrics::{EngineMetrics, HistoryOperation};
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

enum Message {
    Keep(Vec<ReservationRecord>, Arc<Inbox<HistoryAnswer>>),
    Recall(ReservationId, Box<Work>, Arc<Inbox<HistoryAnswer>>),
}

/// A shard's line to the historian.
pub(crate) struct ShardHistory {
    sender: Sender<Message>,
    inbox: Arc<Inbox<HistoryAnswer>>,
}

impl ShardHistory {
    pub(crate) fn inbox(&self) -> &Inbox<HistoryAnswer> {
        &self.inbox
    }

    /// Has `records` kept.
    pub(crate) fn keep(&self, records: Vec<ReservationRecord>) {
        // The historian outlives the shards.
        drop(self.sender.send(Message::Keep(records, Arc::clone(&self.inbox))));
    }

    /// Has `id` looked up for `work`.
    pub(crate) fn recall(&self, id: ReservationId, work: Work) {
        drop(self.sender.send(Message::Recall(id, Box::new(work), Arc::clone(&self.inbox))));
    }
}

/// The running historian. It ends once it and every line to it are dropped.
pub(crate) struct Historian {
    sender: Option<Sender<Message>>,
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
        let thread = thread::Builder::new()
            .name("history".to_owned())
            .spawn(move || serve(&history, &metrics, &receiver, on_failure))
            .expect("the operating system gives a thread at start");
        Self { sender: Some(sender), thread: Some(thread) }
    }

    /// A line for a shard that hears by `inbox`.
    pub(crate) fn line(&self, inbox: Arc<Inbox<HistoryAnswer>>) -> ShardHistory {
        let sender = self.sender.clone().expect("lines are asked for before it is dropped");
        ShardHistory { sender, inbox }
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

/// Records that are written together at most: what waits, as far as the store takes it at once.
const WRITTEN_TOGETHER_MAX: usize = 4_096;

fn serve(history: &History, metrics: &EngineMetrics, messages: &Receiver<Message>, on_failure: impl FnOnce(&HistoryError)) {
    let mut on_failure = Some(on_failure);
    let mut next = messages.recv().ok();
    while let Some(message) = next.take() {
        let began = Instant::now();
        match message {
            Message::Keep(records, inbox) => {
                let mut shares = vec![(records.len(), inbox)];
                let mut records = records;
                // A write costs about as much for a few as for many.
                while let Ok(waiting) = messages.try_recv() {
                    match waiting {
                        Message::Keep(more, inbox) if records.len() + more.len() <= WRITTEN_TOGETHER_MAX => {
                            shares.push((more.len(), inbox));
                            records.extend(more);
                        }
                        other => {
                            next = Some(other);
                            break;
                        }
                    }
                }
                match keep(history, &records) {
                    Ok(()) => {
                        metrics.observe_history_write(records.len(), began.elapsed());
                        let mut ids = records.into_iter().map(|record| record.id);
                        for (count, inbox) in shares {
                            inbox.put(HistoryAnswer::Kept(ids.by_ref().take(count).collect()));
                        }
                    }
                    Err(error) => {
                        metrics.count_history_failure(HistoryOperation::Write);
                        tracing::error!(%error, records = records.len(), "the history takes nothing more; the node must stop");
                        if let Some(on_failure) = on_failure.take() {
                            on_failure(&error);
                        }
                    }
                }
            }
            Message::Recall(id, mut work, inbox) => match look_up(history, id) {
                Ok(record) => {
                    metrics.observe_history_recall(began.elapsed());
                    work.recalled = Some(Recalled { id, record });
                    inbox.put(HistoryAnswer::Recalled(*work));
                }
                Err(error) => {
                    metrics.count_history_failure(HistoryOperation::Recall);
                    tracing::error!(%error, ?id, "a reservation could not be read from the history");
                    inbox.put(HistoryAnswer::Failed(*work));
                }
            },
        }
        if next.is_none() {
            next = messages.recv().ok();
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
