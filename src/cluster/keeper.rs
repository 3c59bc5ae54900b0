//! What keeps a member in touch with the others, and the members as they should be: whoever has joined is counted once it has the log, and
//! a change that was left half done is finished. And what keeps leaders spread over the nodes, and off one that is to be stopped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_cluster::{ChangeError, ClockMeasure, GroupMember, MemberChange};
use tidegate_persistence::{LogIndex, NodeId};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::member::{Heard, Shared};
use super::talk::{Question, decode_standing};

/// How often the others are asked how they stand, once this node has caught up, and before.
const LISTEN: Duration = Duration::from_millis(500);
const LISTEN_EAGERLY: Duration = Duration::from_millis(100);

/// How long the answer is waited for. Short of [`super::member::HEARD_MAX`], so that one that is silent does not make the others old.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// How often it is looked whether the members are as they should be.
const TEND: Duration = Duration::from_millis(500);

/// How often it is looked whether this node leads more than its share. Seldom, so that all nodes have heard what the last change came to.
const SPREAD: Duration = Duration::from_secs(3);

/// How often it is looked whether this node is to lead nothing, and then whether it has been elected again.
const SPREAD_DRAINING: Duration = Duration::from_millis(500);

/// Entries that a node may lack that has joined and is counted from then on, or that is to lead.
const CLOSE_BEHIND_MAX: u64 = 1_000;

/// How long a change of the members is waited for.
const CHANGE_MAX: Duration = Duration::from_secs(10);

/// Asks all others how they stand, again and again.
pub(super) async fn listen(shared: Arc<Shared>) {
    loop {
        hear_all(&shared).await;
        note_leaders(&shared);
        if !*shared.caught_up.borrow() && shared.lacks().is_none() {
            shared.caught_up.send_replace(true);
        }
        sleep(if *shared.caught_up.borrow() { LISTEN } else { LISTEN_EAGERLY }).await;
    }
}

async fn hear_all(shared: &Arc<Shared>) {
    let mut asking = JoinSet::new();
    let others = shared.others();
    shared.heard.lock().retain(|node, _| others.contains_key(node));
    for node in others.into_keys() {
        let shared = Arc::clone(shared);
        asking.spawn(async move { hear(&shared, node).await });
    }
    while asking.join_next().await.is_some() {}
}

/// Asks another member how it stands. Whether it has said so.
pub(super) async fn hear(shared: &Shared, node: NodeId) -> bool {
    let Some(address) = shared.others().remove(&node) else { return false };
    let (asked, asked_at) = (Instant::now(), shared.clock.now().unix_ms());
    let answer = shared.links.ask(node, &address, Question::Standing.encode(), ANSWER_MAX).await;
    match answer.map_err(|error| error.to_string()).and_then(|answer| decode_standing(&answer)) {
        Ok(standing) => {
            let took_ms = u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX);
            let clock = ClockMeasure::of(asked_at, took_ms, standing.unix_ms);
            shared.heard.lock().insert(node, Heard { at: asked, standing, clock });
            true
        }
        // The links say in the log what is wrong with a connection.
        Err(why) => {
            tracing::debug!(node = node.0, why, "a node does not say how it stands");
            false
        }
    }
}

fn note_leaders(shared: &Shared) {
    let deciding = shared.deciding();
    shared.metrics.note_leaders(&deciding, &shared.statuses());
    let mut led = shared.led.lock();
    for (led, _) in led.iter_mut().zip(deciding).filter(|(_, deciding)| deciding.is_some()) {
        *led = Instant::now();
    }
}

/// Looks again and again whether the cluster knows where this node is, and whether the members of the shards that it decides for are as they
/// should be.
pub(super) async fn tend(shared: Arc<Shared>) {
    let mut look = interval(TEND);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        shared.move_here().await;
        for (shard, group) in shared.groups.iter().enumerate() {
            if !shared.progress[shard].leads() {
                continue;
            }
            let status = group.status();
            let change = if status.is_changing {
                Some(MemberChange::Finish)
            } else {
                let is_ready = |member: &&GroupMember| is_ready(&shared, member, status.last);
                status.members.iter().find(is_ready).map(|member| MemberChange::Promote(member.node))
            };
            let Some(change) = change else { continue };
            match timeout(CHANGE_MAX, group.change(change.clone())).await {
                Ok(Ok(())) => tracing::info!(shard, ?change, "the members have changed"),
                // It is looked at again.
                Ok(Err(ChangeError::NotLeader(_) | ChangeError::UnderWay)) | Err(_) => {}
                Ok(Err(error)) => tracing::warn!(shard, ?change, %error, "the members could not be changed"),
            }
        }
    }
}

/// Whether a member is to be counted from now on: it has nearly all of the log, which ends at `last`, and is there.
fn is_ready(shared: &Shared, member: &GroupMember, last: LogIndex) -> bool {
    let is_there = shared.heard.lock().get(&member.node).is_some_and(Heard::is_recent);
    !member.is_voter && is_there && is_close(member, last)
}

/// Whether a member, as the one sees it that leads, has nearly all of a log that ends at `last`. Whoever lags behind would have a shard's callers
/// wait until it has everything.
pub(super) fn is_close(member: &GroupMember, last: LogIndex) -> bool {
    // At 0 it has told this leader of nothing yet.
    member.matched.is_some_and(|matched| matched.0 > 0 && matched.0 + CLOSE_BEHIND_MAX >= last.0)
}

/// Looks again and again whether another node should lead a shard that this one leads: any, while this one is drained or its disk has too
/// little free space; else one that has two less than this one.
pub(super) async fn spread(shared: Arc<Shared>) {
    let mut spread_at = Instant::now();
    loop {
        sleep(SPREAD_DRAINING).await;
        if shared.is_to_lead_nothing() {
            shared.hand_over().await;
            continue;
        }
        if spread_at.elapsed() < SPREAD {
            continue;
        }
        spread_at = Instant::now();
        let deciding = shared.deciding();
        let led = |node: NodeId| deciding.iter().filter(|decider| **decider == Some(node)).count();
        let here = led(shared.node());
        let fewest = deciding.iter().enumerate().filter(|(_, decider)| **decider == Some(shared.node())).find_map(|(shard, _)| {
            let status = shared.groups[shard].status();
            let able = shared.able_to_lead(&status).into_iter().filter(|member| is_close(member, status.last));
            let fewest = able.map(|member| (led(member.node), member.node)).min()?;
            (fewest.0 + 2 <= here).then_some((shard, fewest.1))
        });
        // While a shard has no leader nobody knows who has how many.
        if let Some((shard, next)) = fewest.filter(|_| deciding.iter().all(Option::is_some)) {
            Arc::clone(&shared).hand_over_one(shard, vec![next]).await;
        }
    }
}
