//! What goes through a ring: work for a shard, with whoever waits for its answer.

use std::collections::VecDeque;

use tidegate_persistence::ActorName;
use tidegate_stock::{GrantSequence, Ledger, Listed, Recall, Request, ReservationId, ReservationRecord, StockId, UserId};

use crate::answer::{Answer, Failure};
use crate::sync::oneshot;
use crate::under_way::UnderWay;

/// Most commands of a batch that go through the ring as one piece of work.
pub const WORK_COMMANDS_MAX: usize = 64;

/// A command's end.
pub(crate) type Outcome = Result<Answer, Failure>;

/// A piece of work.
pub(crate) struct Work {
    pub(crate) job: Job,
    /// What was found of the reservation that the work was set aside for. Boxed, because most work never is set aside and all of it moves.
    pub(crate) recalled: Option<Box<Recalled>>,
}

/// What the history said of a reservation.
pub(crate) struct Recalled {
    pub(crate) id: ReservationId,
    pub(crate) record: Option<ReservationRecord>,
}

impl Recalled {
    pub(crate) fn of(recalled: Option<&Self>) -> Recall<'_> {
        match recalled {
            None => Recall::NotTried,
            Some(Self { id, record: None }) => Recall::Missing(*id),
            Some(Self { record: Some(record), .. }) => Recall::Found(record),
        }
    }
}

/// What is to be done.
pub(crate) enum Job {
    /// Decide one command.
    One { request: Request, actor: ActorName, under_way: Option<UnderWay>, reply: oneshot::Sender<Outcome> },
    /// Decide commands of a batch, in order.
    Many(Box<Many>),
    /// Look at a stock's reservations in memory.
    List { query: ListQuery, reply: oneshot::Sender<Listed> },
}

/// Some neighbouring commands of a batch.
pub(crate) struct Many {
    /// Which batch, so that its later work waits where its earlier work was set aside.
    pub(crate) batch: u64,
    /// Who asks.
    pub(crate) actor: ActorName,
    /// What is still to be decided.
    pub(crate) requests: VecDeque<Request>,
    /// What came of the others.
    pub(crate) outcomes: Vec<Outcome>,
    /// How often the shard had taken back what was not committed when those came about.
    pub(crate) taken_back: u64,
    /// Those of them that are keyed reservations.
    pub(crate) under_way: Vec<UnderWay>,
    pub(crate) reply: oneshot::Sender<Vec<Outcome>>,
}

/// One look at the reservations of a stock.
pub(crate) struct ListQuery {
    pub(crate) stock: StockId,
    pub(crate) before: GrantSequence,
    pub(crate) user: Option<UserId>,
    pub(crate) looks_max: usize,
}

impl Work {
    /// Reads what deciding it will read.
    pub(crate) fn look_ahead(&self, ledger: &Ledger) {
        match &self.job {
            Job::One { request, .. } => ledger.look_ahead(request),
            Job::Many(many) => many.requests.iter().for_each(|request| ledger.look_ahead(request)),
            Job::List { .. } => {}
        }
    }

    /// How many commands it stands for.
    pub(crate) fn commands(&self) -> usize {
        match &self.job {
            Job::One { .. } | Job::List { .. } => 1,
            Job::Many(many) => many.requests.len(),
        }
    }
}
