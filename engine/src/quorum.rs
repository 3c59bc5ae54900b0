//! The port to a log that a quorum keeps: what such a log tells a shard, beside taking what it proposes.
//!
//! Only one node's shard decides at a time, and only while the log says so. Groups of whoever decides come to the shards of all nodes in one
//! order; a shard finds its own proposals among them. What it decided ahead of them is taken back where they turn out otherwise.

use std::fmt;
use std::future::pending;
use std::sync::Arc;

use tidegate_persistence::{Group, GroupSequence, LogIndex, Term};
use tidegate_stock::{Ledger, LedgerSum};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::commit::CommitProgress;
use crate::inbox::Inbox;
use crate::leadership::Leadership;
use crate::sync::oneshot;

/// Groups that wait for a shard at most before the log waits for the shard.
const GROUPS_WAITING_MAX: usize = 64;

/// What a log tells its shard. Order counts.
pub enum Told {
    /// Decide, from now on and in this term. Every group that is committed has been told, and no other will become so unless it is proposed in
    /// answer to this.
    Lead(Term),
    /// Decide no longer. What is proposed and has not been told as committed may become so or not.
    Follow,
    /// The next group is committed.
    Committed {
        /// The group.
        group: Arc<Group>,
        /// Its place in the log.
        index: LogIndex,
        /// Whether the shard itself proposed it since it was last told to lead. Such groups are told in the order proposed.
        is_own: bool,
    },
    /// Hand nothing more to the history until a ledger is installed, and say when nothing is on its way there any more. What the old ledger
    /// lets go of must not take the place of what comes with the new one.
    Prepare(oneshot::Sender<()>),
    /// Take this for all that is known.
    Install(Box<Installed>),
}

/// A ledger that takes the place of a shard's.
pub struct Installed {
    /// The ledger.
    pub ledger: Ledger,
    /// The newest group in it.
    pub at: GroupSequence,
}

impl fmt::Debug for Told {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lead(term) => formatter.debug_tuple("Lead").field(term).finish(),
            Self::Follow => formatter.write_str("Follow"),
            Self::Committed { group, is_own, .. } => {
                formatter.debug_struct("Committed").field("sequence", &group.sequence).field("is_own", is_own).finish()
            }
            Self::Prepare(_) => formatter.write_str("Prepare"),
            Self::Install(installed) => formatter.debug_struct("Install").field("at", &installed.at).finish_non_exhaustive(),
        }
    }
}

/// A sum in the log that is not that of the shard's ledger: this node's ledger, or that of the node that decided, is not what the log makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diverged {
    /// The entry with the sum.
    pub index: LogIndex,
    /// The group that it is.
    pub sequence: GroupSequence,
    /// What the log says: the sum of the ledger of whoever decided.
    pub logged: LedgerSum,
    /// The sum of this node's ledger.
    pub own: LedgerSum,
}

/// Something told, and its room in the line.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) told: Told,
    /// Of an order to lead or to follow which it is; 0 of anything else.
    pub(crate) number: u64,
    _room: Option<OwnedSemaphorePermit>,
}

/// Room for a group in a shard's line.
#[derive(Debug)]
pub struct Room(OwnedSemaphorePermit);

/// The log's end of the line to a shard.
#[derive(Debug, Clone)]
pub struct QuorumVoice {
    inbox: Arc<Inbox<Message>>,
    room: Arc<Semaphore>,
    leadership: Arc<Leadership>,
    diverged: watch::Receiver<Option<Diverged>>,
}

/// The shard's end.
#[derive(Debug)]
pub struct QuorumLine {
    inbox: Arc<Inbox<Message>>,
    room: Arc<Semaphore>,
    diverged: watch::Sender<Option<Diverged>>,
}

impl Drop for QuorumLine {
    fn drop(&mut self) {
        // In this order: whoever puts something in behind the last look finds the room closed.
        self.room.close();
        drop(self.inbox.take());
    }
}

/// A line to the shard whose watermark `progress` is.
pub fn quorum_line(progress: &CommitProgress) -> (QuorumVoice, QuorumLine) {
    let inbox = Inbox::new(Arc::clone(progress.wake()));
    let room = Arc::new(Semaphore::new(GROUPS_WAITING_MAX));
    let (diverged, told) = watch::channel(None);
    let leadership = Arc::clone(progress.leadership());
    let voice = QuorumVoice { inbox: Arc::clone(&inbox), room: Arc::clone(&room), leadership, diverged: told };
    (voice, QuorumLine { inbox, room, diverged })
}

impl QuorumVoice {
    /// Waits until the shard has room for another group; for ever once the shard is gone.
    pub async fn room(&self) -> Room {
        match Arc::clone(&self.room).acquire_owned().await {
            Ok(permit) => Room(permit),
            Err(_) => pending().await,
        }
    }

    /// Until when the shard may decide if it hears no more of its quorum, should it lead: until then no other node can have been elected.
    /// `None` for a node that is its own quorum. To be said before the shard is told to lead, and whenever it is known to be later.
    pub fn set_lease(&self, end: Option<Instant>) {
        self.leadership.lease().set(end);
    }

    /// Nothing more is read here, and nothing new is taken to be decided, until a lease is set anew. At return it is so. What was taken before is
    /// decided and answered as far as it can be.
    pub fn give_up_lease(&self) {
        self.leadership.lease().give_up();
    }

    /// Tells the shard of a committed group at `index` of the log, for which there is `room`. Does not wait.
    pub fn tell_committed(&self, room: Room, group: Arc<Group>, index: LogIndex, is_own: bool) {
        self.inbox.put(Message { told: Told::Committed { group, index, is_own }, number: 0, _room: Some(room.0) });
    }

    /// Waits until the shard has stopped because its ledger differs; for ever where it never does.
    pub async fn stopped_by_divergence(&self) {
        if self.diverged.clone().wait_for(Option::is_some).await.is_err() {
            pending::<()>().await;
        }
    }

    /// Why the shard has stopped, if its ledger differs: known before anything else tells that the shard is gone.
    pub fn divergence(&self) -> Option<Diverged> {
        *self.diverged.borrow()
    }

    /// Waits until the shard hands nothing more to the history, which it does not until a ledger is installed: what comes with that ledger
    /// can then be put there. False when the shard is gone.
    pub async fn prepare_install(&self) -> bool {
        let (is_quiet, quiet) = oneshot::channel();
        self.tell(Told::Prepare(is_quiet));
        !self.room.is_closed() && quiet.await.is_ok()
    }

    /// Tells the shard anything else, which is seldom. Does not wait. From the moment on at which it is told to follow nothing more is read
    /// here, and nothing new is taken to be decided, until the shard has come to where it is told to lead again. Only one thread at a time tells it
    /// to lead or to follow.
    pub fn tell(&self, told: Told) {
        let number = if matches!(told, Told::Lead(_) | Told::Follow) { self.leadership.tell() } else { 0 };
        self.inbox.put(Message { told, number, _room: None });
    }
}

impl QuorumLine {
    pub(crate) fn has_items(&self) -> bool {
        self.inbox.has_items()
    }

    /// The shard stops here.
    pub(crate) fn diverge(&self, diverged: Diverged) {
        self.diverged.send_replace(Some(diverged));
    }

    pub(crate) fn take(&self) -> Vec<Message> {
        self.inbox.take()
    }
}
