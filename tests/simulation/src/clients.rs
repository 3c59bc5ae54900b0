//! The clients: each buys, pays, gives back and looks, one call after the other, of whichever node it picks, and asks again with the same key where
//! nobody knows. A call that was cut off or took too long is unknown, never undone.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use tidegate_engine::{Answer, Content, Failure, Submission, partition_of};
use tidegate_persistence::{ActorName, NodeId};
use tidegate_stock::{
    Allotment, Command, Delta, HoldSeconds, IdempotencyKey, Quantity, Reason, Rejection, ReservationId, ReservationView, Sku,
    StockTerms, UserId,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::Cluster;
use crate::defect::Defect;
use crate::evidence::{Call, Outcome, Viewed};
use crate::world::note;

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Attempts of one change, unless it must be known in the end.
const ATTEMPTS_MAX: usize = 5;

/// Pause between two calls of a client, in microseconds.
const THINKS_US: (u64, u64) = (2_000, 400_000);

/// What is sold: product and units.
pub(crate) const STOCKS: [(&str, u64); 2] = [("lamp", 24), ("desk", 9)];

/// How long a hold lasts.
const HOLD_SECONDS: u64 = 3;

pub(crate) fn sku(name: &str) -> Sku {
    Sku::new(name).expect("a legal name")
}

pub(crate) fn create(name: &str, units: u64) -> Command {
    let hold_seconds = HoldSeconds::new(HOLD_SECONDS).expect("in bounds");
    Command::CreateStock {
        partition: partition_of(&sku(name)),
        sku: sku(name),
        quantity: Allotment::new(units).expect("in bounds"),
        terms: StockTerms {
            per_user_limit: Some(Quantity::new(2).expect("in bounds")),
            hold_seconds,
            hold_seconds_max: hold_seconds.default_max(),
            opens_at: None,
            closes_at: None,
        },
    }
}

/// One change, with the key that all its attempts have.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) command: Command,
}

/// A client.
pub(crate) struct Client {
    pub(crate) number: u64,
    pub(crate) cluster: Arc<Cluster>,
    changes: u64,
    /// Whom it asked last with success.
    favourite: Option<NodeId>,
    /// What it has reserved, as it last heard.
    own: Vec<ReservationView>,
    /// What it asked for and was answered.
    answered: Vec<Change>,
}

impl Client {
    pub(crate) fn new(number: u64, cluster: Arc<Cluster>) -> Self {
        Self { number, cluster, changes: 0, favourite: None, own: Vec::new(), answered: Vec::new() }
    }

    /// Goes on until `end`.
    pub(crate) async fn run(mut self, end: Instant) {
        let world = Arc::clone(&self.cluster.world);
        while Instant::now() < end {
            sleep(world.delay(THINKS_US.0, THINKS_US.1)).await;
            let what = world.draw(|random| random.random_range(0..100));
            match what {
                0..45 => self.reserve().await,
                45..62 => self.change_own(|reservation| Command::Confirm { reservation, quantity: None }).await,
                62..70 => self.change_own(|reservation| Command::Release { reservation, quantity: None }).await,
                70..74 => self.change_own(|reservation| Command::Return { reservation, quantity: Some(Quantity::ONE) }).await,
                74..76 => self.adjust().await,
                76..86 => self.repeat().await,
                86..93 => self.read().await,
                _ => self.view().await,
            }
        }
    }

    fn next_key(&mut self) -> String {
        self.changes += 1;
        format!("c{}-{}", self.number, self.changes)
    }

    async fn reserve(&mut self) {
        let key = self.next_key();
        let world = Arc::clone(&self.cluster.world);
        let (name, units, own_name) = world.draw(|random| {
            let (name, _) = STOCKS[usize::from(random.random_range(0..4) == 0)];
            (name, random.random_range(1..=2), random.random_range(0..3) > 0)
        });
        // Some come back, and meet the limit of a user.
        let user = if own_name { format!("buyer-{key}") } else { format!("buyer-{}", self.number) };
        let command = Command::Reserve {
            sku: sku(name),
            user: UserId::new(&user).expect("a legal name"),
            quantity: Quantity::new(units).expect("in bounds"),
            hold_seconds: None,
            reference: None,
        };
        self.change(Change { key, command }, ATTEMPTS_MAX).await;
    }

    async fn change_own(&mut self, command: impl FnOnce(ReservationId) -> Command) {
        let Some(view) = self.cluster.world.draw(|random| self.own.choose(random).cloned()) else { return };
        let key = self.next_key();
        self.change(Change { key, command: command(view.id) }, ATTEMPTS_MAX).await;
    }

    async fn adjust(&mut self) {
        let key = self.next_key();
        let delta = self.cluster.world.draw(|random| if random.random_range(0..2) == 0 { -1 } else { 2 });
        let (name, _) = STOCKS[0];
        let (delta, reason) = (Delta::new(delta).expect("in bounds"), Reason::new("counted again").expect("legal"));
        self.change(Change { key, command: Command::AdjustStock { sku: sku(name), delta, reason } }, ATTEMPTS_MAX).await;
    }

    /// Asks again for what was answered already.
    async fn repeat(&mut self) {
        let Some(change) = self.cluster.world.draw(|random| self.answered.choose(random).cloned()) else { return };
        self.cluster.world.count("repeats of what was answered");
        self.change(change, 2).await;
    }

    async fn read(&mut self) {
        let Some(view) = self.cluster.world.draw(|random| self.own.choose(random).cloned()) else { return };
        let node = self.pick();
        self.call(node, None, &Command::ReadReservation { reservation: view.id }).await;
    }

    /// Looks at a stock, as the node itself shows it.
    async fn view(&mut self) {
        let node = self.pick();
        let world = &self.cluster.world;
        let Some(delay) = self.cluster.network.pass_client() else { return };
        sleep(delay).await;
        let Some(node) = self.cluster.node(node) else { return };
        let (name, _) = world.draw(|random| *STOCKS.choose(random).expect("there are some"));
        if let Some(answer) = node.engine.stock(&sku(name)) {
            let seen = Viewed { node: node.life.node, view: answer.view, as_of: answer.as_of.group, at_ms: world.trace.now_ms() };
            world.evidence.lock().viewed.push(seen);
        }
    }

    /// Whom to ask.
    fn pick(&self) -> NodeId {
        let is_true = self.cluster.world.happens(70);
        match self.favourite.filter(|_| is_true) {
            Some(node) => node,
            None => self.cluster.any_node(),
        }
    }

    /// Asks for `change` until it is known, at most `attempts` times. Says whether it is.
    pub(crate) async fn change(&mut self, change: Change, attempts: usize) -> bool {
        for attempt in 0..attempts {
            let node = self.pick();
            match self.call(node, Some(&change.key), &change.command).await {
                Outcome::Unknown => {
                    self.favourite = None;
                    // Some give up, and never know.
                    if attempts == ATTEMPTS_MAX && self.cluster.world.happens(15) {
                        return false;
                    }
                }
                Outcome::Refused => {
                    self.favourite = None;
                    sleep(self.cluster.world.delay(5_000, 120_000) * u32::try_from(attempt + 1).unwrap_or(1)).await;
                }
                Outcome::Reservation(view) => {
                    self.favourite = Some(node);
                    self.own.retain(|own| own.id != view.id);
                    self.own.push(*view);
                    self.answered.push(change);
                    return true;
                }
                Outcome::Stock | Outcome::Rejected(_) => {
                    self.favourite = Some(node);
                    return true;
                }
            }
        }
        false
    }

    /// Asks `node` once.
    pub(crate) async fn call(&self, node: NodeId, key: Option<&str>, command: &Command) -> Outcome {
        let world = &self.cluster.world;
        let began_ms = world.trace.now_ms();
        let submission = Submission {
            command: command.clone(),
            key: key.map(|key| IdempotencyKey::new(key).expect("a legal key")),
            actor: ActorName::new("simulation").expect("a legal name"),
        };
        let (sender, answer) = oneshot::channel();
        let cluster = Arc::clone(&self.cluster);
        // It goes on by itself, whether the client waits or not.
        tokio::spawn(async move {
            let Some(there) = cluster.network.pass_client() else { return sleep(PATIENCE).await };
            sleep(there).await;
            let Some(outcome) = ask(&cluster, node, submission).await else { return sleep(PATIENCE).await };
            let Some(back) = cluster.network.pass_client() else { return sleep(PATIENCE).await };
            sleep(back).await;
            drop(sender.send(outcome));
        });
        let outcome = timeout(PATIENCE, answer).await.ok().and_then(Result::ok).unwrap_or(Outcome::Unknown);
        let ended_ms = world.trace.now_ms();
        note!(
            world,
            "client {} asks node {node} {} {}: {}",
            self.number,
            key.unwrap_or("-"),
            Short(command),
            ShortOutcome(&outcome)
        );
        let call =
            Call { key: key.map(str::to_owned), command: command.clone(), node, began_ms, ended_ms, outcome: outcome.clone() };
        world.evidence.lock().calls.push(call);
        outcome
    }
}

/// What node `node` answers; nothing once it dies over it.
async fn ask(cluster: &Cluster, node: NodeId, submission: Submission) -> Option<Outcome> {
    let Some(node) = cluster.node(node) else { return Some(Outcome::Refused) };
    let read = match &submission.command {
        Command::ReadReservation { reservation } => Some(*reservation),
        _ => None,
    };
    let result = match node.engine.try_submit(submission) {
        Ok(pending) => pending.await,
        Err(refusal) => Err(refusal.into()),
    };
    if !node.life.is_alive() {
        return None;
    }
    Some(match result {
        Ok(Answer { content: Content::Reservation(view), .. }) => Outcome::Reservation(Box::new(view)),
        Ok(Answer { content: Content::Stock(_), .. }) => Outcome::Stock,
        Err(Failure::Rejection(rejection)) => Outcome::Rejected(rejection),
        Err(Failure::Fault(_)) => Outcome::Unknown,
        Err(Failure::Refusal(_)) => match read.filter(|_| cluster.world.has(Defect::ServeDeposed)) {
            Some(reservation) => serve_deposed(&node, reservation).await?,
            None => Outcome::Refused,
        },
    })
}

/// The defect: what the node has of a reservation, whoever decides.
async fn serve_deposed(node: &crate::node::Node, reservation: ReservationId) -> Option<Outcome> {
    let image = crate::snapshots::copy(&node.engine, true).await.ok()?;
    let found = image.ledger().ok()?.reservation(reservation);
    Some(found.map_or(Outcome::Rejected(Rejection::UnknownReservation), |view| Outcome::Reservation(Box::new(view))))
}

/// A command in a few words.
struct Short<'a>(&'a Command);

impl std::fmt::Display for Short<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Command::CreateStock { sku, .. } => write!(formatter, "create {sku}"),
            Command::Reserve { sku, user, quantity, .. } => write!(formatter, "reserve {} {sku} for {user}", quantity.units()),
            Command::Confirm { reservation, .. } => write!(formatter, "confirm {}", ShortId(*reservation)),
            Command::Release { reservation, .. } => write!(formatter, "release {}", ShortId(*reservation)),
            Command::Return { reservation, .. } => write!(formatter, "return {}", ShortId(*reservation)),
            Command::ReadReservation { reservation } => write!(formatter, "read {}", ShortId(*reservation)),
            Command::AdjustStock { sku, delta, .. } => write!(formatter, "adjust {sku} by {}", delta.units()),
            other => write!(formatter, "{other:?}"),
        }
    }
}

struct ShortId(ReservationId);

impl std::fmt::Display for ShortId {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{}", self.0.stock.partition.0, self.0.sequence.0)
    }
}

struct ShortOutcome<'a>(&'a Outcome);

impl std::fmt::Display for ShortOutcome<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Outcome::Reservation(view) => write!(
                formatter,
                "{} is {:?} ({} reserved, {} confirmed)",
                ShortId(view.id),
                view.state,
                view.reserved,
                view.confirmed
            ),
            Outcome::Stock => formatter.write_str("done"),
            Outcome::Rejected(rejection) => write!(formatter, "no, {rejection}"),
            Outcome::Refused => formatter.write_str("refused"),
            Outcome::Unknown => formatter.write_str("unknown"),
        }
    }
}
