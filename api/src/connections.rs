//! Which connections are open, and who has to go when there is room for no more. Knows nothing of what is said on them.
//!
//! Nobody can be kept out by connections that wait for their client and for nothing else: where all places are taken, they make room for
//! who comes. First go those that never asked for anything, then those that did, then those that began a header and do not end it, then
//! those that have been refused and go on sending, and at last those that do not end a body or do not take an answer; among them those that
//! have been so for longest. Whoever waits for the node stays.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};
use tokio::time::Instant;

use crate::exchange::{Exchange, Phase};
use crate::workers::Workers;

/// How long a connection has its place for certain, so that one that has just come can say what it came for,
const PLACE_KEPT: Duration = Duration::from_secs(1);

/// and how long one has it while a body or an answer is on its way, which takes longer where the network is slow.
const TRANSFER_KEPT: Duration = Duration::from_secs(2);

/// The part of all places that is made free at once when none is: a look at all connections makes room for many that come.
const PLACES_PER_LOOK: usize = 128;

/// How long a warning that connections are closed for want of places stands for those that follow.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// The open connections, each with its task.
pub(crate) struct Connections {
    tasks: JoinSet<()>,
    workers: Workers,
    exchanges: HashMap<Id, Arc<Exchange>>,
    max: usize,
    warned: Option<Instant>,
}

impl Connections {
    /// None yet, no more than `max` at once, and all of them on `workers`.
    pub(crate) fn new(workers: Workers, max: usize) -> Self {
        Self { tasks: JoinSet::new(), workers, exchanges: HashMap::new(), max, warned: None }
    }

    pub(crate) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// How many more there may be.
    pub(crate) fn room(&self) -> usize {
        self.max.saturating_sub(self.len())
    }

    pub(crate) fn is_full(&self) -> bool {
        self.room() == 0
    }

    /// Has `run` serve the connection of `exchange`, on one of the threads for that.
    pub(crate) fn open(&mut self, exchange: Arc<Exchange>, run: impl Future<Output = ()> + Send + 'static) {
        let (thread, run) = self.workers.place(run);
        let task = self.tasks.spawn_on(run, thread);
        self.exchanges.insert(task.id(), exchange);
    }

    /// Waits until one has closed; pending while none is open.
    pub(crate) async fn one_closed(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => self.exchanges.remove(&id),
            Some(Err(error)) => self.exchanges.remove(&error.id()),
            None => std::future::pending().await,
        };
    }

    /// Waits until all have closed.
    pub(crate) async fn all_closed(&mut self) {
        while self.len() > 0 {
            self.one_closed().await;
        }
    }

    /// Cuts all that are left.
    pub(crate) async fn cut(&mut self) {
        self.tasks.shutdown().await;
        self.exchanges.clear();
    }

    /// Tells some that can go to go, if there are any. That they have gone is heard from [`Connections::one_closed`]; one that gets a
    /// request meanwhile stays.
    pub(crate) fn make_room(&mut self) {
        let now = Instant::now();
        let mut waiting: Vec<(u8, Instant, &Exchange)> = Vec::new();
        for exchange in self.exchanges.values() {
            let since = exchange.since();
            if let Some((turn, kept)) = turn(exchange)
                && now.saturating_duration_since(since) >= kept
            {
                waiting.push((turn, since, exchange));
            }
        }
        if waiting.is_empty() {
            return;
        }
        let count = self.max.div_ceil(PLACES_PER_LOOK).min(waiting.len());
        waiting.select_nth_unstable_by_key(count - 1, |(turn, since, _)| (*turn, *since));
        for (.., exchange) in &waiting[..count] {
            exchange.ask_to_leave();
        }
        if self.warned.is_none_or(|warned| now >= warned + WARNING_INTERVAL) {
            self.warned = Some(now);
            tracing::warn!(
                connections_max = self.max,
                "connections that wait for their client are closed, because there is room for no more"
            );
        }
    }
}

/// When a connection has to go, the lowest first, and how long it stays for certain; `None` while it waits for the node.
fn turn(exchange: &Exchange) -> Option<(u8, Duration)> {
    match exchange.phase() {
        Phase::Idle if !exchange.has_asked() => Some((0, PLACE_KEPT)),
        Phase::Idle => Some((1, PLACE_KEPT)),
        Phase::Header => Some((2, PLACE_KEPT)),
        Phase::Lingering => Some((3, PLACE_KEPT)),
        Phase::Body | Phase::Writing => Some((4, TRANSFER_KEPT)),
        Phase::Answer | Phase::Sending | Phase::Streaming => None,
    }
}
