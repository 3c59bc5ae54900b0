//! One run: a cluster is made, lives through its seed's faults under its clients' calls, is left in peace, and must then come to rest with every
//! answer known.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::ServerState;
use parking_lot::Mutex;
use rand::Rng;
use rand::seq::IndexedRandom;
use tidegate_cluster::Member;
use tidegate_persistence::NodeId;
use tidegate_stock::Command;
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};

use crate::clients::{Change, Client, STOCKS, create, sku};
use crate::disk::Platter;
use crate::evidence::{Fed, Image, Outcome, Viewed};
use crate::faults;
use crate::network::Network;
use crate::node::{Node, Site};
use crate::snapshots::copy;
use crate::world::{World, note};

/// How long the faults go on.
const FAULTS_LAST: Duration = Duration::from_secs(10);

/// How long a cluster that is left in peace may take until it has come to rest.
const REST_MAX: Duration = Duration::from_secs(30);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// Attempts of one change that must be known in the end.
const LAST_ATTEMPTS_MAX: usize = 60;

/// Members of a cluster that nodes join and leave.
const VOTERS_MIN: usize = 3;
const VOTERS_MAX: usize = 5;

/// How long a change of the members is waited for.
const CHANGE_MAX: Duration = Duration::from_secs(3);

/// All nodes of a run, and what is around them.
pub(crate) struct Cluster {
    pub(crate) world: Arc<World>,
    pub(crate) network: Network,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sites: BTreeMap<NodeId, Site>,
    running: BTreeMap<NodeId, Node>,
    /// Between its start and its running.
    starting: BTreeSet<NodeId>,
    /// Nodes that are members no more, and do not come back.
    gone: BTreeSet<NodeId>,
    last: u64,
}

impl Cluster {
    fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(Self { network: Network::new(Arc::clone(&world)), world, state: Mutex::default() })
    }

    /// The nodes that there are, dead or alive.
    pub(crate) fn sites(&self) -> Vec<NodeId> {
        let state = self.state.lock();
        state.sites.keys().copied().filter(|node| !state.gone.contains(node)).collect()
    }

    /// Node `node`, if it is alive.
    pub(crate) fn node(&self, node: NodeId) -> Option<Node> {
        self.state.lock().running.get(&node).cloned()
    }

    fn running(&self) -> Vec<Node> {
        self.state.lock().running.values().cloned().collect()
    }

    pub(crate) fn any_node(&self) -> NodeId {
        let nodes = self.sites();
        self.world.draw(|random| nodes.choose(random).copied()).unwrap_or(NodeId(1))
    }

    pub(crate) fn platter(&self, node: NodeId) -> Platter {
        self.state.lock().sites.entry(node).or_default().platter.clone()
    }

    pub(crate) fn jump(&self, node: NodeId, by_ms: i64) {
        self.state.lock().sites.entry(node).or_default().clock.jump(by_ms);
    }

    /// A node that takes itself for the leader.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let leads = |node: &Node| node.metrics().state == ServerState::Leader;
        self.running().iter().filter(|node| leads(node)).max_by_key(|node| node.metrics().current_term).map(|node| node.life.node)
    }

    /// Makes room for one node more, and returns its number.
    fn build(&self) -> NodeId {
        let state = &mut *self.state.lock();
        state.last += 1;
        let node = NodeId(state.last);
        let site = Site::default();
        site.clock.jump(self.world.draw(|random| random.random_range(-300..=300)));
        state.sites.insert(node, site);
        node
    }

    /// Starts `node`, unless it runs or has gone for good.
    pub(crate) async fn start(&self, node: NodeId) {
        let mut site = {
            let state = &mut *self.state.lock();
            if state.running.contains_key(&node) || state.gone.contains(&node) || !state.starting.insert(node) {
                return;
            }
            state.sites.get(&node).cloned().unwrap_or_default()
        };
        let started = Node::start(&self.world, &self.network, node, &mut site).await;
        let state = &mut *self.state.lock();
        state.starting.remove(&node);
        state.sites.insert(node, site);
        match started {
            Ok(started) => drop(state.running.insert(node, started)),
            Err(what) => self.world.find("a node starts again", format!("node {node} does not: {what}")),
        }
    }

    /// Crashes `node`. Says whether it ran.
    pub(crate) fn crash(&self, node: NodeId) -> bool {
        let running = self.state.lock().running.remove(&node);
        if let Some(running) = &running {
            note!(self.world, "node {node} crashes");
            running.crash(&self.network);
        }
        running.is_some()
    }

    fn voters(&self) -> BTreeSet<NodeId> {
        let leader = self.leader().and_then(|leader| self.node(leader));
        leader.map(|leader| leader.metrics().membership_config.voter_ids().collect()).unwrap_or_default()
    }

    /// A new node joins, and is counted once it has the log.
    pub(crate) async fn join(&self) {
        if self.sites().len() >= VOTERS_MAX {
            return;
        }
        let node = self.build();
        self.world.count("nodes joining");
        note!(self.world, "node {node} joins");
        self.start(node).await;
        let add = ChangeMembers::AddNodes(BTreeMap::from([(node, Member::new(format!("node-{node}")))]));
        if self.change(add, true).await {
            let only = BTreeSet::from([node]);
            for _ in 0..20 {
                if self.has_log(node) && self.change(ChangeMembers::AddVoterIds(only.clone()), true).await {
                    self.world.count("nodes joined");
                    return;
                }
                sleep(LOOK).await;
            }
        }
    }

    /// Whether `node` has nearly all of the leader's log.
    fn has_log(&self, node: NodeId) -> bool {
        let leader = self.leader().and_then(|leader| self.node(leader));
        let (Some(leader), Some(node)) = (leader, self.node(node)) else { return false };
        node.metrics().last_applied.map(|id| id.index + 20) >= leader.metrics().last_applied.map(|id| id.index)
    }

    /// `node` leaves, if a majority of the others is there.
    pub(crate) async fn leave(&self, node: NodeId) {
        let voters = self.voters();
        let others = voters.iter().filter(|voter| **voter != node && self.node(**voter).is_some()).count();
        if !voters.contains(&node) || voters.len() <= VOTERS_MIN || others * 2 < voters.len() {
            return;
        }
        self.world.count("nodes leaving");
        note!(self.world, "node {node} leaves");
        if self.change(ChangeMembers::RemoveVoters(BTreeSet::from([node])), false).await {
            self.world.count("nodes left");
            self.state.lock().gone.insert(node);
            self.crash(node);
        }
    }

    async fn change(&self, change: ChangeMembers<NodeId, Member>, retain: bool) -> bool {
        let Some(leader) = self.leader().and_then(|leader| self.node(leader)) else { return false };
        let members = leader.metrics().membership_config;
        // One that was left between its two steps is finished first, as a node's keeper does: behind another, a leader that was to leave is no
        // member any more and has a step to go, which openraft's debug assertions forbid.
        let is_between = members.membership().get_joint_config().len() > 1;
        let (change, retain) = if is_between { (ChangeMembers::AddVoterIds(BTreeSet::new()), false) } else { (change, retain) };
        if members.membership().get_node(&leader.life.node).is_none() {
            // It crashed over its own leaving, and was elected once more.
            self.world.count("leaders that are no members");
            if let Some(voter) = members.voter_ids().next() {
                leader.hand_over(voter).await;
            }
            return false;
        }
        let changed = timeout(CHANGE_MAX, leader.raft.change_membership(change.clone(), retain)).await;
        let is_changed = matches!(changed, Ok(Ok(_))) && !is_between;
        note!(self.world, "{change:?}: {}", if is_changed { "done" } else { "not done, or unknown" });
        is_changed
    }

    /// Makes the cluster of its first nodes, and opens the stocks.
    async fn begin(self: &Arc<Self>) -> bool {
        let size = if self.world.happens(25) { 5 } else { 3 };
        let nodes: Vec<NodeId> = (0..size).map(|_| self.build()).collect();
        for node in &nodes {
            self.start(*node).await;
        }
        let members: BTreeMap<NodeId, Member> = nodes.iter().map(|node| (*node, Member::new(format!("node-{node}")))).collect();
        let Some(first) = self.node(nodes[0]) else { return false };
        if let Err(error) = first.raft.initialize(members).await {
            self.world.find("a cluster begins", format!("it does not: {error}"));
            return false;
        }
        let mut owner = Client::new(0, Arc::clone(self));
        for (name, units) in STOCKS {
            let change = Change { key: format!("create-{name}"), command: create(name, units) };
            if !owner.change(change, LAST_ATTEMPTS_MAX).await {
                self.world.find("a cluster begins", format!("nobody opens the stock of {name}"));
                return false;
            }
        }
        true
    }

    /// Mends everything, and has every node start that is to be there.
    async fn mend(&self) {
        note!(self.world, "everything is mended");
        self.network.heal_all();
        let sites = self.sites();
        for node in &sites {
            self.platter(*node).set_slow(false);
            self.start(*node).await;
        }
    }

    /// Waits until all members have applied all that is in the log of each. A change of the members that was left half done is finished.
    async fn rest(&self) -> bool {
        let end = Instant::now() + REST_MAX;
        while Instant::now() < end {
            sleep(LOOK).await;
            let Some(leader) = self.leader().and_then(|leader| self.node(leader)) else { continue };
            let metrics = leader.metrics();
            if metrics.membership_config.membership().get_joint_config().len() > 1 {
                self.change(ChangeMembers::AddVoterIds(BTreeSet::new()), false).await;
                continue;
            }
            let voters: BTreeSet<NodeId> = metrics.membership_config.voter_ids().collect();
            let members: Vec<Node> = self.running().into_iter().filter(|node| voters.contains(&node.life.node)).collect();
            let is_at_rest = |node: &Node| {
                let its = node.metrics();
                its.last_applied == metrics.last_applied
                    && its.last_applied.map(|id| id.index) == its.last_log_index
                    && node.progress.committed() == leader.progress.committed()
            };
            // Nobody leads for good whose clock is off while a majority agrees.
            let is_to_lead = !leader.yields.load(Ordering::Relaxed);
            if members.len() == voters.len() && is_to_lead && leader.progress.leads() && members.iter().all(is_at_rest) {
                return true;
            }
        }
        let stands: Vec<String> = self
            .running()
            .iter()
            .map(|node| {
                let its = node.metrics();
                format!(
                    "node {} {:?} term {} log {:?} applied {:?} group {} leads {}",
                    node.life.node,
                    its.state,
                    its.current_term,
                    its.last_log_index,
                    its.last_applied.map(|id| id.index),
                    node.progress.committed(),
                    node.progress.leads()
                )
            })
            .collect();
        self.world.find("the cluster comes to rest", format!("it has not after {REST_MAX:?}: {}", stands.join("; ")));
        false
    }

    /// Asks again for whatever nobody knows, and reads whatever is there.
    async fn know_all(self: &Arc<Self>) {
        let (mut unknown, mut reservations) = (BTreeMap::new(), BTreeSet::new());
        for call in &self.world.evidence.lock().calls {
            match (&call.key, &call.outcome) {
                (Some(key), Outcome::Unknown | Outcome::Refused) => {
                    unknown.insert(key.clone(), call.command.clone());
                }
                (Some(key), _) => {
                    unknown.remove(key);
                }
                (None, _) => {}
            }
            if let Outcome::Reservation(view) = &call.outcome {
                reservations.insert(view.id);
            }
        }
        let mut last = Client::new(u64::MAX, Arc::clone(self));
        for (key, command) in unknown {
            self.world.count("asked again in the end");
            let change = Change { key: key.clone(), command };
            if !last.change(change, LAST_ATTEMPTS_MAX).await {
                self.world.find("every answer is known in the end", format!("what became of {key} is not"));
                return;
            }
        }
        for reservation in reservations {
            if let Some(leader) = self.leader() {
                last.call(leader, None, &Command::ReadReservation { reservation }).await;
            }
        }
    }

    /// Looks at everything that every member has.
    async fn look(&self) {
        let voters = self.voters();
        for node in self.running() {
            let id = node.life.node;
            if !voters.contains(&id) {
                continue;
            }
            match copy(&node.engine, false).await {
                Ok(image) => {
                    let (at, items) = (image.at, image.sorted());
                    self.world.evidence.lock().images.push(Image { node: id, at, items });
                }
                Err(given_up) => self.world.find("a ledger can be looked at", format!("that of node {id}: {given_up}")),
            }
            for (name, _) in STOCKS {
                if let Some(answer) = node.engine.stock(&sku(name)) {
                    let at_ms = self.world.trace.now_ms();
                    let seen = Viewed { node: id, view: answer.view, as_of: answer.as_of.group, at_ms };
                    self.world.evidence.lock().viewed.push(seen);
                }
            }
            match node.feed() {
                Ok(events) => self.world.evidence.lock().feeds.push(Fed { node: id, events }),
                Err(error) => self.world.find("a feed can be read", format!("that of node {id}: {error}")),
            }
        }
    }
}

/// Lives through one run, from its beginning to its end.
pub(crate) async fn live(world: Arc<World>) {
    let cluster = Cluster::new(Arc::clone(&world));
    if !cluster.begin().await {
        return;
    }
    let end = Instant::now() + FAULTS_LAST;
    let clients = world.draw(|random| random.random_range(2..=6));
    let mut living = vec![spawn_local(faults::run(Arc::clone(&cluster), end))];
    living.extend((1..=clients).map(|number| spawn_local(Client::new(number, Arc::clone(&cluster)).run(end))));
    for task in living {
        if task.await.is_err() {
            world.find("the simulation goes on", "one of its tasks ended by a panic".to_owned());
        }
    }
    cluster.mend().await;
    if cluster.rest().await {
        cluster.know_all().await;
        if cluster.rest().await {
            cluster.look().await;
        }
    }
}
