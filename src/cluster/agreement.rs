//! What a member does about others with whom it does not agree: about the time, and about settings that all should have alike.
//!
//! A node whose clock is off leads nothing that another can lead, and stands for no election meanwhile; what "off" is, and why no shard is left
//! without a leader by it, stands with [`Clocks`]. Nor does one that is to lead nothing for other reasons ([`Shared::leaves_to_others`]). What
//! others are to lead and do not, either of them leads all the same ([`Shared::is_orphaned`]).
//!
//! Settings that differ are told, in the log, in `GET /v1/cluster` and as a metric, and nothing else comes of them: nodes that differ come to the
//! same ledger from one log, because whoever follows only applies, and a change of a setting goes from node to node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tidegate_cluster::{Clocks, GroupStatus};
use tidegate_persistence::NodeId;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::keeper::is_close;
use super::member::{Heard, Shared};

/// How often it is looked whether this node agrees with the others.
const LOOK: Duration = Duration::from_millis(500);

/// Looks in a row at which this node's clock must be off until it does anything about it: what was heard of the others is of different moments
/// while a clock is being set.
const LOOKS_BEFORE: u32 = 3;

/// Looks again and again whether this node agrees with the others.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut off_for = vec![0_u32; shared.groups.len()];
    let mut told = Told::default();
    loop {
        look.tick().await;
        let clocks = shared.clocks();
        told.clocks(&shared, &clocks);
        told.settings(&shared);
        let mut giving_up = JoinSet::new();
        for (shard, off_for) in off_for.iter_mut().enumerate() {
            let status = shared.groups[shard].status();
            let must_yield = clocks.must_yield(&status.voters());
            *off_for = if must_yield { off_for.saturating_add(1) } else { 0 };
            let is_sure = *off_for >= LOOKS_BEFORE;
            let yields = is_sure || shared.leaves_to_others(&status);
            shared.groups[shard].stand_for_election(!yields || shared.is_orphaned(shard));
            if let Some(next) = to_whom(&shared, &status, &clocks).filter(|_| is_sure) {
                tracing::warn!(shard, to = next.0, "this node's clock is off: it gives up the shard");
                giving_up.spawn(Arc::clone(&shared).hand_over_one(shard, vec![next]));
            }
        }
        while giving_up.join_next().await.is_some() {}
    }
}

/// The node that is to lead a shard in place of this one, if this one leads it, as `status` says: one whose clock is not off, there and close
/// behind.
fn to_whom(shared: &Shared, status: &GroupStatus, clocks: &Clocks) -> Option<NodeId> {
    if status.leader != Some(shared.node()) {
        return None;
    }
    let voters = status.voters();
    let able = shared.able_to_lead(status).into_iter().filter(|member| !clocks.is_off(member.node, &voters));
    able.filter(|member| is_close(member, status.last)).max_by_key(|member| member.matched).map(|member| member.node)
}

/// What has been told, so that it is told once.
#[derive(Default)]
struct Told {
    off: BTreeSet<NodeId>,
    differ: BTreeMap<NodeId, Vec<String>>,
}

impl Told {
    fn clocks(&mut self, shared: &Shared, clocks: &Clocks) {
        let voters = shared.voters();
        let nodes = shared.others().into_keys().chain([shared.node()]);
        let off: BTreeSet<NodeId> = nodes.filter(|node| clocks.is_off(*node, &voters)).collect();
        let bound = shared.clock_skew_ms_max;
        for node in off.difference(&self.off) {
            if *node == shared.node() {
                tracing::error!(
                    clock_skew_ms_max = bound,
                    "this node's clock is off from those of most others: it leads nothing that another can lead; look at its time service"
                );
            } else {
                let ahead_ms = shared.heard.lock().get(node).map(|heard| heard.clock.ahead_ms);
                tracing::warn!(
                    node = node.0,
                    ahead_ms,
                    clock_skew_ms_max = bound,
                    "a node's clock is off from those of most others"
                );
            }
        }
        for node in self.off.difference(&off) {
            tracing::info!(node = node.0, "a node's clock is not off any more, or it is silent");
        }
        self.off = off;
    }

    fn settings(&mut self, shared: &Shared) {
        let differ = shared.settings_differ();
        for (node, names) in differ.iter().filter(|(node, names)| self.differ.get(node) != Some(names)) {
            if names.is_empty() {
                if self.differ.contains_key(node) {
                    tracing::info!(node = node.0, "a node has the settings again that all should have alike");
                }
            } else {
                tracing::warn!(
                    node = node.0,
                    settings = names.join(", "),
                    "a node has other values of settings that all should have alike: what is promised by them changes with whoever leads"
                );
            }
        }
        self.differ.extend(differ);
    }
}

impl Shared {
    /// The members that are counted for a quorum of any shard.
    pub(super) fn voters(&self) -> Vec<NodeId> {
        let voters: BTreeSet<NodeId> = self.statuses().iter().flat_map(GroupStatus::voters).collect();
        voters.into_iter().collect()
    }

    /// By node, of those that were heard of lately: the settings that all should have alike and that it has otherwise than this one.
    pub(super) fn settings_differ(&self) -> BTreeMap<NodeId, Vec<String>> {
        let heard = self.heard.lock();
        let recent = heard.iter().filter(|(_, heard)| heard.is_recent());
        recent.map(|(node, Heard { standing, .. })| (*node, differing(&self.settings, &standing.settings))).collect()
    }
}

/// The names of what `own` and `other` both have, and have otherwise. What one of two versions does not know is none of them.
fn differing(own: &BTreeMap<String, u64>, other: &BTreeMap<String, u64>) -> Vec<String> {
    own.iter().filter(|(name, value)| other.get(*name).is_some_and(|other| other != *value)).map(|(name, _)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_differ_that_both_have_and_have_otherwise() {
        let settings = |pairs: &[(&str, u64)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        let own = settings(&[("a", 1), ("b", 2), ("c", 3)]);
        assert_eq!(differing(&own, &own), Vec::<String>::new());
        assert_eq!(differing(&own, &settings(&[("a", 1), ("b", 3), ("d", 4)])), ["b"]);
        assert_eq!(differing(&own, &settings(&[("a", 7), ("c", 7)])), ["a", "c"]);
        // A node of a version that tells nothing.
        assert_eq!(differing(&own, &settings(&[])), Vec::<String>::new());
    }
}
