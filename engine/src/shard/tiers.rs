//! What a shard has to do with the history: letting go of what is over, and waiting for what it needs again. The disk side is the
//! historian's.

use tidegate_stock::{NeedsRecord, Timestamp};

use super::{Reply, ShardActor};
use crate::answer::Refusal;
use crate::historian::HistoryAnswer;
use crate::work::{Job, Recalled, Work};

/// Reservations that are sent to the history in one turn at most, and twice as many as leave memory in one, so that its length stays
/// bounded.
const LEAVING_MAX: usize = 256;

/// Resolved reservations more than should be in memory, while the history may take them in its own time. A mass lapse of a million is
/// digested so without anybody noticing; under a load that goes on the memory is bounded all the same.
const EXCESS_AT_EASE_MAX: usize = 2_000_000;

/// Reservations that are on their way to the history at once at most.
const LEAVING_IN_FLIGHT_MAX: usize = 32 * LEAVING_MAX;

impl ShardActor {
    /// Takes what the history has to say. Returns whether it had anything.
    pub(super) fn hear_history(&mut self) -> bool {
        let Some(history) = &self.parts.history else { return false };
        let answers = history.inbox().take();
        let heard = !answers.is_empty();
        for answer in answers {
            match answer {
                HistoryAnswer::Kept(ids) => self.kept.extend(ids),
                HistoryAnswer::Recalled(mut work) => {
                    self.aside -= 1;
                    if self.outdated > 0 {
                        // Answers come in the order of the questions. This one is asked again.
                        self.outdated -= 1;
                        work.recalled = None;
                    } else {
                        self.recalled += 1;
                    }
                    self.backlog.push_front(work);
                }
                HistoryAnswer::Failed(work) => {
                    self.aside -= 1;
                    self.outdated = self.outdated.saturating_sub(1);
                    self.fail_work(work, Refusal::HistoryFailed);
                }
            }
        }
        heard
    }

    /// Lets what the history keeps leave memory, and hands the oldest resolved reservations to the history where there are more in memory
    /// than there should be: a bounded number of each. Returns whether there were any.
    pub(super) fn let_leave(&mut self) -> bool {
        let left = self.let_leave_some();
        if self.leaving == 0
            && let Some(prepared) = self.prepared.take()
        {
            // Whoever asked may be gone.
            let _ = prepared.send(());
        }
        left
    }

    fn let_leave_some(&mut self) -> bool {
        let Some(history) = &self.parts.history else { return false };
        let left = if self.recalled == 0 { self.kept.len().min(2 * LEAVING_MAX) } else { 0 };
        self.leaving -= left;
        for id in self.kept.drain(..left) {
            self.parts.ledger.has_left(id);
        }
        // Units that are due come back first: a mass lapse needs the processors and the disk for itself.
        if self.is_lapsing || self.is_preparing {
            return left > 0;
        }
        let kept = self.parts.options.resolved_in_memory_max;
        let excess = self.parts.ledger.resolved_count().saturating_sub(kept);
        // Few together are dear; but a small allowance must not be exceeded by much.
        if excess < LEAVING_MAX.min(kept / 8).max(1) || self.leaving + LEAVING_MAX > LEAVING_IN_FLIGHT_MAX {
            return left > 0;
        }
        let records = self.parts.ledger.take_leaving(self.leaving_before(), excess.min(LEAVING_MAX));
        if records.is_empty() {
            return left > 0;
        }
        self.leaving += records.len();
        let ledger = &self.parts.ledger;
        let is_pressed =
            excess > EXCESS_AT_EASE_MAX || ledger.reservation_count() > ledger.rules().reservations_in_memory_max / 4 * 3;
        history.keep(records, is_pressed);
        true
    }

    /// Has `needed` looked up in the history, and does the work when it is there.
    pub(super) fn set_aside(&mut self, work: Work, NeedsRecord(needed): NeedsRecord) {
        let recalls_max = self.parts.options.recalls_in_flight_max;
        match &self.parts.history {
            // Nothing ever left memory, so it is not there either.
            None => {
                let recalled = Some(Box::new(Recalled { id: needed, record: None }));
                self.recalled += 1;
                self.backlog.push_front(Work { recalled, ..work });
            }
            Some(_) if self.aside >= recalls_max => self.fail_work(work, Refusal::RecallsFull { recalls_max }),
            Some(history) => {
                self.aside += 1;
                history.recall(needed, work);
            }
        }
    }

    /// What was held back behind work of `batch` that is done now comes next, in its order.
    pub(super) fn let_go(&mut self, batch: u64) {
        for work in self.held.remove(&batch).into_iter().flatten().rev() {
            self.held_commands -= work.commands();
            self.backlog.push_front(work);
        }
    }

    /// Refuses the command that stopped a piece of work; what else there is of it goes on.
    fn fail_work(&mut self, work: Work, refusal: Refusal) {
        self.parts.metrics.count_refusal(refusal);
        match work.job {
            Job::One { reply, .. } => self.wait(1, Reply::One(reply, Err(refusal.into()))),
            Job::Many(mut many) => {
                many.requests.pop_front();
                many.outcomes.push(Err(refusal.into()));
                // What it needs next is not known yet; and it must not be held behind itself.
                self.let_go(many.batch);
                if many.requests.is_empty() {
                    self.wait(many.outcomes.len(), Reply::Many(many.reply, many.outcomes));
                } else {
                    self.backlog.push_front(Work { job: Job::Many(many), recalled: None });
                }
            }
            Job::List { .. } => unreachable!("a list is never set aside"),
        }
    }

    /// A time before which everything is committed.
    pub(super) fn leaving_before(&self) -> Timestamp {
        match (self.in_flight.front(), &self.open) {
            (None, None) => Timestamp::from_unix_ms(u64::MAX),
            _ if mutant!(LeavesUncommitted) => Timestamp::from_unix_ms(u64::MAX),
            _ => self.committed_time(),
        }
    }
}
