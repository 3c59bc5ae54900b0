//! What callers of a member's HTTP door may see of the cluster and change about it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tidegate_api::{
    ClusterFuture, ClusterRefusal, ClusterSource, ClusterView, Decider, ForwardFailure, Leader, NodeView, ShardView,
};
use tidegate_cluster::network::{CONNECTIONS_MAX_DEFAULT, LinkError};
use tidegate_cluster::{ChangeError, GroupMember, GroupStatus, MemberChange, ShardGroup};
use tidegate_config::PeerAddress;
use tidegate_persistence::{ArchiveWriter, GroupSequence, Identity, LogPosition, NodeId, Piece, StreamId, Term};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};

use super::keeper::hear;
use super::member::{Heard, Shared};
use super::talk::{AnswerError, Question, decode_answer, decode_drained, decode_outcome};

/// Most members of a cluster.
pub(crate) const MEMBERS_MAX: usize = 16;

// Everybody has a connection for each of the four lanes.
const _: () = assert!(4 * (MEMBERS_MAX - 1) <= CONNECTIONS_MAX_DEFAULT);

/// How long a change of the members may take over all shards. Shorter than a caller waits.
const CHANGE_MAX: Duration = Duration::from_secs(8);

/// How long it is waited before a change is asked for again.
const CHANGE_AGAIN: Duration = Duration::from_millis(100);

/// For how many of the longest elections a shard may have no leader until the node says that it is not ready.
const ELECTIONS_UNREADY: u32 = 3;

/// How long it is waited before nodes are asked again what they have decided, while nobody says that it decides.
const SETTLE_AGAIN: Duration = Duration::from_millis(20);

/// A member's cluster, for its door.
pub(crate) struct MemberSource(pub(crate) Arc<Shared>);

impl ClusterSource for MemberSource {
    fn view(&self) -> ClusterView {
        self.0.view()
    }

    fn lacks_quorum(&self) -> Option<String> {
        let unready = ELECTIONS_UNREADY * Duration::from_millis(self.0.membership.times.election_ms_max);
        // When a shard was led is noted now and then; whoever decides now has decided since.
        let deciding = self.0.deciding();
        let led = self.0.led.lock();
        let mut leaderless = led.iter().map(Instant::elapsed).enumerate().filter(|(shard, _)| deciding[*shard].is_none());
        let (shard, since) = leaderless.find(|(_, since)| *since > unready)?;
        Some(format!("shard {shard} has had no leader that this node hears of for {} s", since.as_secs()))
    }

    fn decider(&self, shard: u16) -> Decider {
        let at = usize::from(shard);
        if self.0.progress.get(at).is_some_and(|progress| progress.leads()) {
            return Decider::Here;
        }
        match self.0.groups.get(at).and_then(ShardGroup::leader_and_term) {
            Some((leader, term)) if leader != self.0.node() => Decider::There(Leader { node: leader.0, term: term.0 }),
            _ => Decider::Nobody,
        }
    }

    fn forward(
        &self,
        shard: u16,
        leader: Leader,
        request: Vec<u8>,
        limit: Duration,
    ) -> ClusterFuture<Result<Vec<u8>, ForwardFailure>> {
        let member = Arc::clone(&self.0);
        // Connections belong to the cluster's runtime.
        let asking = self.0.handle.spawn(async move {
            let answer = member.forward(shard, leader, request, limit).await;
            member.metrics.count_forwarded(&answer);
            answer
        });
        let stopping = || Err(ForwardFailure::Unknown("the node is stopping".to_owned()));
        Box::pin(async move { asking.await.unwrap_or_else(|_| stopping()) })
    }

    fn settle(&self, limit: Duration) -> ClusterFuture<Result<(), String>> {
        let shared = Arc::clone(&self.0);
        // Connections belong to the cluster's runtime.
        let settling = self.0.handle.spawn(async move { shared.settle(limit).await });
        Box::pin(async move { settling.await.unwrap_or_else(|_| Err("the node is stopping".to_owned())) })
    }

    fn remove(&self, node: u64) -> ClusterFuture<Result<(), ClusterRefusal>> {
        let shared = Arc::clone(&self.0);
        on_cluster(&self.0, async move { shared.remove(NodeId(node)).await })
    }

    fn drain(&self, node: u64, drains: bool) -> ClusterFuture<Result<(), ClusterRefusal>> {
        let shared = Arc::clone(&self.0);
        on_cluster(&self.0, async move { shared.drain(NodeId(node), drains).await })
    }

    fn add(&self, node: Option<u64>, address: String) -> ClusterFuture<Result<Vec<u8>, ClusterRefusal>> {
        let shared = Arc::clone(&self.0);
        on_cluster(&self.0, async move { shared.add(node, address).await })
    }
}

/// Does `work` on the cluster's own runtime, to its end, whether it is waited for or not.
fn on_cluster<T: Send + 'static>(
    shared: &Shared,
    work: impl Future<Output = Result<T, ClusterRefusal>> + Send + 'static,
) -> ClusterFuture<Result<T, ClusterRefusal>> {
    let working = shared.handle.spawn(work);
    Box::pin(async { working.await.unwrap_or_else(|_| Err(ClusterRefusal::Unknown("the node is stopping".to_owned()))) })
}

impl Shared {
    async fn forward(&self, shard: u16, leader: Leader, request: Vec<u8>, limit: Duration) -> Result<Vec<u8>, ForwardFailure> {
        let (node, term) = (NodeId(leader.node), Term(leader.term));
        let address = self.groups.get(usize::from(shard)).and_then(|group| group.address(node));
        let Some(address) = address else { return Err(ForwardFailure::NotSent(format!("node {node} is no member"))) };
        let answer =
            self.links.ask(node, &address, Question::Request { shard, term, request }.encode(), limit).await.map_err(|error| {
                match error {
                    LinkError::Unreachable(..) | LinkError::TooLong(_) => ForwardFailure::NotSent(error.to_string()),
                    LinkError::Lost(..) | LinkError::Slow(_) => ForwardFailure::Unknown(error.to_string()),
                }
            })?;
        decode_answer(&answer).map_err(|error| match error {
            AnswerError::Refused(why) => ForwardFailure::NotSent(why),
            AnswerError::Unreadable(why) => ForwardFailure::Unknown(why),
        })
    }

    /// Is done when this node shows everything that any node had acknowledged before the call. Fails after `limit`, with what is missing.
    async fn settle(self: &Arc<Self>, limit: Duration) -> Result<(), String> {
        let (called, until) = (Instant::now(), tokio::time::Instant::now() + limit);
        // Before the looks at what is shown, so that none is missed that comes behind one.
        let mut changes = self.engine.changes();
        let needed = loop {
            let needed: Vec<Option<GroupSequence>> = (0..self.groups.len()).map(|shard| self.acknowledged(shard, called)).collect();
            let Some(unknown) = needed.iter().position(Option::is_none) else { break needed };
            let deciders =
                self.groups.iter().zip(&needed).filter(|(_, needed)| needed.is_none()).filter_map(|(group, _)| group.leader());
            let asked: BTreeSet<NodeId> = deciders.filter(|decider| *decider != self.node()).collect();
            let mut asking = JoinSet::new();
            for node in asked {
                let shared = Arc::clone(self);
                asking.spawn(async move { hear(&shared, node).await });
            }
            let answered = async {
                while asking.join_next().await.is_some() {}
                if self.acknowledged(unknown, called).is_none() {
                    sleep(SETTLE_AGAIN).await;
                }
            };
            if timeout_at(until, answered).await.is_err() {
                return Err(format!("no node is known that decides for shard {unknown}"));
            }
        };
        let is_shown = |(stream, needed): (StreamId, &Option<GroupSequence>)| self.engine.shown(stream) >= *needed;
        while !self.engine.streams().into_iter().zip(&needed).all(is_shown) {
            match timeout_at(until, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err("the node is stopping".to_owned()),
                Err(_) => return Err("this node is behind those that decide".to_owned()),
            }
        }
        Ok(())
    }

    /// The newest group of `shard` that whoever decides for it had committed at some moment since `called`; `None` while nobody has said so.
    fn acknowledged(&self, shard: usize, called: Instant) -> Option<GroupSequence> {
        if self.progress[shard].leads() {
            return Some(self.progress[shard].committed());
        }
        let heard = self.heard.lock();
        let recent = heard.values().filter(|heard| heard.at >= called).filter_map(|heard| heard.standing.shards.get(shard));
        recent.filter(|standing| standing.leads).map(|standing| GroupSequence(standing.committed)).max()
    }

    fn view(&self) -> ClusterView {
        let (statuses, deciding) = (self.statuses(), self.deciding());
        let (clocks, voters, differ) = (self.clocks(), self.voters(), self.settings_differ());
        let heard = self.heard.lock();
        let lately = |node: NodeId| heard.get(&node).filter(|heard| heard.is_recent());
        let mut nodes: BTreeMap<NodeId, NodeView> = BTreeMap::new();
        for member in statuses.iter().flat_map(|status| &status.members) {
            let (of, is_here) = (lately(member.node), member.node == self.node());
            let known = nodes.entry(member.node).or_insert_with(|| NodeView {
                node: member.node.0,
                address: member.address.clone(),
                is_voter: true,
                is_draining: if is_here { self.is_to_lead_nothing() } else { of.is_some_and(|of| of.standing.is_draining) },
                heard_ms: if is_here { Some(0) } else { of.map(|of| millis(of.at.elapsed())) },
                clock_ahead_ms: if is_here { Some(0) } else { of.map(|of| of.clock.ahead_ms) },
                clock_error_ms: if is_here { Some(0) } else { of.map(|of| of.clock.error_ms) },
                is_clock_off: clocks.is_off(member.node, &voters),
                settings_differ: differ.get(&member.node).cloned().unwrap_or_default(),
            });
            known.is_voter &= member.is_voter;
        }
        let shards = (0_u16..).zip(&statuses).zip(&self.progress).map(|((shard, status), progress)| {
            let at = usize::from(shard);
            let applied = |node: NodeId| {
                if node == self.node() {
                    return Some(progress.committed().0);
                }
                lately(node)?.standing.shards.get(at).map(|standing| standing.committed)
            };
            let replicas: Vec<_> = status.members.iter().map(|member| (member.node.0, applied(member.node))).collect();
            let committed = replicas.iter().filter_map(|(_, applied)| *applied).max().unwrap_or(0);
            ShardView { shard, leader: deciding[at].map(|leader| leader.0), term: status.term.0, committed, replicas }
        });
        let shards = shards.collect();
        ClusterView { cluster: self.identity.cluster.clone(), node: self.node().0, nodes: nodes.into_values().collect(), shards }
    }

    /// Makes the node at `address` a member of every shard.
    async fn add(&self, node: Option<u64>, address: String) -> Result<Vec<u8>, ClusterRefusal> {
        let Some(address) = PeerAddress::new(&address) else {
            let what = format!("`address` is {address:?} where a name or an IP address with a port is needed");
            return Err(ClusterRefusal::Invalid(what));
        };
        let address = address.to_string();
        let mut members: BTreeMap<NodeId, String> = self.others();
        members.insert(self.node(), self.membership.advertise.clone());
        let known = members.iter().find(|(_, known)| **known == address).map(|(node, _)| *node);
        let statuses = self.statuses();
        let given = numbers_given(&statuses, |_| true);
        let node = match (node.map(NodeId), known) {
            (Some(node), Some(known)) if node != known => {
                return Err(ClusterRefusal::Exists(format!("{address} is node {known} of this cluster, and not {node}")));
            }
            (Some(node), _) | (None, Some(node)) => node,
            (None, None) => NodeId(given + 1),
        };
        // A voter that comes back with nothing has forgotten how it voted.
        let is_voter = |status: &GroupStatus| status.members.iter().any(|member| member.node == node && member.is_voter);
        if (node == self.node() || statuses.iter().any(is_voter)) && !mutant!(NodeNumberReused) {
            let what = format!(
                "node {node} is counted in this cluster already, and has its data directory; where that is lost, the node leaves for good, \
                 and another joins under another number"
            );
            return Err(ClusterRefusal::Exists(what));
        }
        // Who has left may still be started, by mistake, and be taken for whoever has its number.
        if !members.contains_key(&node) && node.0 <= given {
            let what = format!("number {node} has been given, and numbers are given once: the next is {}", given + 1);
            return Err(ClusterRefusal::Exists(what));
        }
        if !members.contains_key(&node) && members.len() >= MEMBERS_MAX {
            let what = format!("the cluster has {} members, and {MEMBERS_MAX} are allowed", members.len());
            return Err(ClusterRefusal::Invalid(what));
        }
        if members.contains_key(&node) {
            // It begins anew. Whoever leads would otherwise take a log that is gone again for damage.
            self.change_all(&MemberChange::Remove(node)).await?;
        }
        self.change_all(&MemberChange::Add(node, address.clone())).await?;
        tracing::info!(node = node.0, address, "a node has joined the cluster");
        self.directory_of(node).map_err(|error| ClusterRefusal::Unknown(error.to_string()))
    }

    /// Takes `node` out of every shard.
    async fn remove(&self, node: NodeId) -> Result<(), ClusterRefusal> {
        let statuses = self.statuses();
        let members = || statuses.iter().flat_map(|status| &status.members);
        if !members().any(|member| member.node == node) {
            return Err(ClusterRefusal::NoMember(format!("node {node} is no member of this cluster")));
        }
        for status in &statuses {
            let stays = |member: &&GroupMember| member.is_voter && member.node != node;
            let (voters, there) = {
                let heard = self.heard.lock();
                let is_there = |of: NodeId| of == self.node() || heard.get(&of).is_some_and(Heard::is_recent);
                let voters = status.members.iter().filter(stays);
                (voters.clone().count(), voters.filter(|member| is_there(member.node)).count())
            };
            if voters == 0 {
                return Err(ClusterRefusal::Invalid(format!("`node` is {node}, without which nobody is counted")));
            }
            // Begun without one, the change would wait between its two steps for whoever is away.
            if 2 * there <= voters {
                let what = format!("of the {voters} nodes that would be counted without node {node} this one hears of {there}");
                return Err(ClusterRefusal::NoQuorum(what));
            }
        }
        let given = numbers_given(&statuses, |_| true);
        if numbers_given(&statuses, |member| member != node) < given {
            let stays = members().map(|member| member.node).filter(|member| *member != node).min();
            let stays = stays.ok_or_else(|| ClusterRefusal::Invalid(format!("`node` is {node}, which is the only member")))?;
            self.change_all(&MemberChange::Note(stays, given)).await?;
        }
        self.change_all(&MemberChange::Remove(node)).await?;
        tracing::info!(node = node.0, "a node has left the cluster");
        Ok(())
    }

    /// Tells the other nodes where this one is, if it has been started at another address than before.
    pub(super) async fn move_here(&self) {
        let address = &self.membership.advertise;
        let statuses = self.statuses();
        let known = statuses.iter().flat_map(|status| &status.members).filter(|member| member.node == self.node());
        let Some(before) = known.map(|member| &member.address).find(|known| *known != address) else { return };
        match self.change_all(&MemberChange::Move(self.node(), address.clone())).await {
            Ok(()) => tracing::info!(before, address, "the cluster knows this node at its new address"),
            // It is tried again.
            Err(refusal) => tracing::warn!(before, address, ?refusal, "the cluster does not know this node's new address yet"),
        }
    }

    /// Has this node lead nothing from now on, if it `drains`, or again what it gets. Gives what it leads still.
    pub(super) async fn drain_here(self: &Arc<Self>, drains: bool) -> Vec<u16> {
        self.is_draining.store(drains, Ordering::Release);
        if !drains {
            return Vec::new();
        }
        self.hand_over().await;
        self.led_here()
    }

    /// The same of `node`.
    async fn drain(self: &Arc<Self>, node: NodeId, drains: bool) -> Result<(), ClusterRefusal> {
        let led = if node == self.node() {
            self.drain_here(drains).await
        } else {
            let others = self.others();
            let Some(address) = others.get(&node) else {
                return Err(ClusterRefusal::NoMember(format!("node {node} is no member of this cluster")));
            };
            let answer = self.links.ask(node, address, Question::Drain(drains).encode(), CHANGE_MAX).await;
            let answer = answer.map_err(|error| error.to_string()).and_then(|answer| decode_drained(&answer));
            let led = answer.map_err(|why| ClusterRefusal::Unknown(format!("node {node}: {why}")))?;
            // So that this node shows it as it is now.
            hear(self, node).await;
            led
        };
        match led.as_slice() {
            [] => Ok(()),
            led => {
                let what = format!("node {node} still leads shards {led:?}: nobody else is there that could; it goes on trying");
                Err(ClusterRefusal::NoQuorum(what))
            }
        }
    }

    /// Makes `change` in every shard, one after the other: the first decides between two who want the same.
    async fn change_all(&self, change: &MemberChange) -> Result<(), ClusterRefusal> {
        let end = Instant::now() + CHANGE_MAX;
        for shard in 0..self.identity.shards {
            self.change(shard, change, end).await?;
        }
        Ok(())
    }

    /// Makes `change` in one shard, wherever it is led, and asks again until `end`: doing it twice is doing it once.
    async fn change(&self, shard: u16, change: &MemberChange, end: Instant) -> Result<(), ClusterRefusal> {
        let group = &self.groups[usize::from(shard)];
        let mut last = format!("shard {shard} has no leader");
        loop {
            let status = group.status();
            let changed = match status.leader {
                None => Err(ChangeError::NotLeader(None)),
                Some(leader) if leader == self.node() => {
                    let changing = timeout_at(end.into(), group.change(change.clone())).await;
                    changing.unwrap_or_else(|_| Err(ChangeError::Unknown("no quorum has taken it".to_owned())))
                }
                Some(leader) => match status.members.iter().find(|member| member.node == leader) {
                    None => Err(ChangeError::NotLeader(None)),
                    Some(to) => {
                        let (question, limit) =
                            (Question::Change(shard, change.clone()), end.saturating_duration_since(Instant::now()));
                        let answer = self.links.ask(leader, &to.address, question.encode(), limit).await;
                        answer.map_err(|error| ChangeError::Unknown(error.to_string())).and_then(|answer| decode_outcome(&answer))
                    }
                },
            };
            match changed {
                Ok(()) => return Ok(()),
                Err(ChangeError::Impossible(why)) => return Err(ClusterRefusal::Exists(why)),
                Err(error) => last = format!("shard {shard}: {error}"),
            }
            if Instant::now() + CHANGE_AGAIN >= end {
                let what = format!("{last}; what was done so far stays, and the same may be asked again");
                return Err(ClusterRefusal::NoQuorum(what));
            }
            sleep(CHANGE_AGAIN).await;
        }
    }

    /// What the data directory of member `node` is made of, before it has anything of the log.
    fn directory_of(&self, node: NodeId) -> io::Result<Vec<u8>> {
        let identity = Identity { node, ..self.identity.clone() };
        let starts = (0..identity.shards).map(|shard| (StreamId::log(shard), LogPosition::GENESIS)).collect();
        let mut archive = ArchiveWriter::new(Vec::new())?;
        archive.put(&Piece::Begin { identity, history_range_seconds: self.history_range_seconds })?;
        archive.put(&Piece::Logs(starts))?;
        archive.finish()
    }
}

/// The highest number that has been given to a member, as far as those members know that `counts` lets in.
fn numbers_given(statuses: &[GroupStatus], counts: impl Fn(NodeId) -> bool) -> u64 {
    let members = statuses.iter().flat_map(|status| &status.members).filter(|member| counts(member.node));
    members.map(|member| member.node.0.max(member.numbers_given)).max().unwrap_or(0)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
