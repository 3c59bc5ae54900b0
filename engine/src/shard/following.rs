//! What a shard does with what a quorum tells it: it leads or follows, finds its proposals committed or takes them back, and applies what others
//! decided.

use std::sync::Arc;
use std::time::Instant;

use tidegate_persistence::{Group, LogIndex, Term};
use tidegate_stock::{Event, Inverse, Timestamp};

use super::{CopyState, InFlight, OpenGroup, Reply, Role, ShardActor};
use crate::answer::{Failure, Fault};
use crate::known::KnownKeeper;
use crate::options::OnDivergence;
use crate::quorum::{Diverged, Installed, Told};
use crate::work::Outcome;

impl ShardActor {
    /// Takes what the quorum has to say, about as much as a batch in one turn. Returns whether there was anything.
    pub(super) fn hear_quorum(&mut self) -> bool {
        let Some(line) = &self.parts.quorum else { return false };
        self.told.extend(line.take());
        let mut events = 0;
        let heard = !self.told.is_empty();
        while events < self.parts.options.batch_commands_max
            && let Some(message) = self.told.pop_front()
        {
            match message.told {
                Told::Lead(term) => self.lead(term, message.number),
                Told::Follow => self.follow(),
                Told::Committed { group, is_own: true, .. } => {
                    let own = self.in_flight.front().map(|own| own.sequence);
                    assert_eq!(own, Some(group.sequence), "a group is said to be this shard's own, and is not its oldest proposal");
                    self.parts.progress.commit(group.sequence);
                    self.settle();
                    events += 1;
                }
                Told::Committed { group, index, is_own: false } => {
                    events += group.events as usize + 1;
                    if let Err(diverged) = self.follow_group(&group, index) {
                        // Nothing of the group is shown, and nothing behind it is taken in.
                        if let Some(line) = &self.parts.quorum {
                            line.diverge(diverged);
                        }
                        self.parts.progress.fail();
                        break;
                    }
                }
                Told::Prepare(prepared) => {
                    self.is_preparing = true;
                    self.prepared = Some(prepared);
                }
                Told::Install(installed) => self.install(*installed),
            }
        }
        heard
    }

    fn lead(&mut self, term: Term, number: u64) {
        self.take_back();
        self.role = Role::Leads(term);
        // What another node stamped counts: time does not run backwards with a change of leaders.
        self.newest = self.newest.max(self.parts.ledger.last_applied());
        self.parts.progress.leadership().lead(number);
        (self.groups_since_sum, self.summed_at) = (0, self.parts.clock.now().max(self.newest));
    }

    fn follow(&mut self) {
        self.parts.progress.leadership().follow();
        self.role = Role::Follows;
        self.take_back();
    }

    /// Undoes what is not committed. Whoever waits for it learns that nobody knows what becomes of it.
    fn take_back(&mut self) {
        self.settle();
        if self.open.is_none() && self.in_flight.is_empty() {
            // Nothing waits either: whatever was seen is committed.
            return;
        }
        // Before any other group can be committed under the same number, whether anything is in the one that goes or not.
        self.parts.progress.note_taken_back();
        self.taken_back += 1;
        let mut inverses: Vec<Inverse> = self.open.take().map_or_else(Vec::new, |open| open.inverses);
        while let Some(group) = self.in_flight.pop_back() {
            let newer = std::mem::replace(&mut inverses, group.inverses);
            inverses.extend(newer);
        }
        for inverse in inverses.into_iter().rev() {
            self.parts.ledger.undo(inverse);
        }
        self.proposed = self.parts.progress.committed();
        self.is_lapsing = false;
        // A filter under way may leave out whom only what is undone made unknown.
        self.known.begin_again(&self.parts.ledger);
        for waiting in std::mem::take(&mut self.waiting) {
            waiting.reply.send_unknown();
        }
        self.waiting_commands = 0;
    }

    /// Applies a group that another node decided, at `index` of the log.
    ///
    /// # Errors
    /// When the group says what its decider's ledger came to, and this one comes to something else.
    fn follow_group(&mut self, group: &Arc<Group>, index: LogIndex) -> Result<(), Diverged> {
        self.take_back();
        assert_eq!(group.sequence, self.proposed.next(), "a committed group does not follow the one before it");
        let mut touched = OpenGroup::new(group.sequence, group.time);
        // It came through the log, whose checksums it has passed: if it cannot be read, whoever wrote it has another format.
        let entries: Result<Vec<_>, _> = group.entries().and_then(Iterator::collect);
        let entries = entries.unwrap_or_else(|error| panic!("committed group {} cannot be read: {error}", group.sequence));
        for entry in entries {
            self.recall_what_was_decided_alone(&entry.event, entry.at);
            self.known.note(&entry.event);
            // What is committed is never taken back.
            drop(self.parts.ledger.apply(&entry.event, entry.at));
            if let Event::Summed { sum } = entry.event {
                let own = self.parts.ledger.sum();
                self.compare(Diverged { index, sequence: group.sequence, logged: sum, own })?;
            }
            touched.touch_all(&entry.event);
            self.newest = self.newest.max(entry.at);
            if let Event::Expired { reservations } = &entry.event {
                self.parts.metrics.count_lapsed(reservations.len());
            }
        }
        self.proposed = group.sequence;
        let views = touched.views(&self.parts.ledger);
        let next_lapse = self.parts.ledger.next_lapse();
        let in_flight = InFlight {
            sequence: group.sequence,
            time: group.time,
            proposed_at: Instant::now(),
            views,
            next_lapse,
            inverses: Vec::new(),
        };
        self.in_flight.push_back(in_flight);
        self.parts.progress.commit(group.sequence);
        self.settle();
        Ok(())
    }

    fn compare(&self, compared: Diverged) -> Result<(), Diverged> {
        let Diverged { index, logged, own, .. } = compared;
        let is_same = logged == own || mutant!(SumNotCompared);
        self.parts.metrics.count_sum(is_same);
        if is_same {
            return Ok(());
        }
        if self.parts.options.on_divergence == OnDivergence::Stop {
            return Err(compared);
        }
        let shard = self.parts.number.0;
        tracing::error!(
            shard, %index, %logged, %own,
            "the ledger is not that of the node that decided; it goes on because cluster.on_divergence is warn"
        );
        Ok(())
    }

    /// A node that stood alone logged no record of what was still in its memory and has left this one's. Such groups are the beginning of some
    /// logs, and read by whoever joins late; so the shard may wait for the disk here, as nowhere else.
    fn recall_what_was_decided_alone(&mut self, event: &Event, at: Timestamp) {
        let Event::Returned { reservation, .. } = event else { return };
        if self.parts.ledger.reservation(*reservation).is_some() {
            return;
        }
        let found = self.parts.history.as_ref().map(|history| history.look_up_now(*reservation));
        match found {
            Some(Ok(Some(record))) => drop(self.parts.ledger.apply(&Event::Recalled { record: Box::new(record) }, at)),
            found => panic!(
                "{reservation:?}, which another node has changed, is neither in memory nor in the history: {:?}",
                found.map(|found| found.map(drop))
            ),
        }
    }

    /// Goes on with another ledger, which knows more than this shard's.
    fn install(&mut self, installed: Installed) {
        self.take_back();
        let Installed { ledger, at } = installed;
        let stream = self.parts.number.stream();
        self.parts.ledger = ledger;
        self.copy = CopyState::None;
        self.is_preparing = false;
        // What was looked up for the old ledger may have been changed before the new one, whose records are in the history by now.
        self.outdated = self.aside;
        for work in &mut self.backlog {
            work.recalled = None;
        }
        self.recalled = 0;
        self.newest = self.newest.max(self.parts.ledger.last_applied());
        self.proposed = at;
        let shared = Arc::clone(&self.parts.known);
        self.known = KnownKeeper::new(shared, self.parts.options.known_filter_bytes_max, &self.parts.ledger, at);
        self.parts.progress.commit(at);
        self.parts.published.expect_lapse(stream, self.parts.ledger.next_lapse());
        self.parts.published.publish(self.parts.ledger.stocks(), stream, at);
        self.parts.published.show_lapse(stream, self.parts.ledger.next_lapse());
        self.parts.published.show_up_to(stream, at);
        self.parts.changes.tell();
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests;

/// What was decided and not refused may have happened.
pub(super) fn make_unknown(outcomes: &mut [Outcome]) {
    for outcome in outcomes.iter_mut().filter(|outcome| !matches!(outcome, Err(Failure::Refusal(_)))) {
        *outcome = Err(Fault::OutcomeUnknown.into());
    }
}

impl Reply {
    /// Tells whoever waits that nobody knows. A look at a list simply ends.
    fn send_unknown(self) {
        match self {
            Self::One(reply, mut outcome) => {
                make_unknown(std::slice::from_mut(&mut outcome));
                drop(reply.send(outcome));
            }
            Self::Many(reply, mut outcomes) => {
                make_unknown(&mut outcomes);
                drop(reply.send(outcomes));
            }
            Self::List(..) => {}
        }
    }
}
