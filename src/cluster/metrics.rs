//! Metrics of a member: who decides for each shard and for how long nobody has, how far its log has come, what the other nodes say of themselves,
//! and what became of requests that were sent on to them. A node that stands alone shows none of them.
//!
//! Labels are numbers of shards and of nodes, and nothing that names anybody.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};
use tidegate_api::ForwardFailure;
use tidegate_cluster::{ClockMeasure, GroupStatus};
use tidegate_persistence::{NodeId, Term};

use super::member::Shared;
use crate::upkeep_metrics::signed;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShardLabel {
    shard: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabel {
    node: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// What a member counts, and where the rest is read from when it is asked for.
#[derive(Debug, Default)]
pub(crate) struct ClusterMetrics {
    /// Requests sent on that another node answered, whatever it said.
    answered: Counter,
    /// Those that never left this node, or that the other did not take: nothing changed.
    not_sent: Counter,
    /// Those without an answer: they may have happened.
    unknown: Counter,
    /// By shard.
    leaders: Mutex<Vec<SeenLeader>>,
    /// The member, once it runs. It may go before its metrics do.
    member: OnceLock<Watched>,
}

/// Who was last seen to decide for a shard, in which term, and how often that was somebody else than before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct SeenLeader {
    last: Option<(NodeId, Term)>,
    changes: u64,
}

#[derive(Debug)]
struct Watched {
    shared: Weak<Shared>,
    since: Instant,
}

impl SeenLeader {
    /// The same node in another term has been voted for anew, and counts as a change; that nobody decides counts when somebody does again.
    fn see(&mut self, leader: Option<NodeId>, term: Term) {
        let Some(leader) = leader else { return };
        if self.last.is_some_and(|last| last != (leader, term)) {
            self.changes += 1;
        }
        self.last = Some((leader, term));
    }
}

impl ClusterMetrics {
    /// Adds every metric to `registry`, under the prefix that it carries.
    pub(crate) fn register(self: &Arc<Self>, registry: &mut Registry) {
        registry.register_collector(Box::new(Shown(Arc::clone(self))));
    }

    /// From now on `shared` is told of.
    pub(super) fn watch(&self, shared: &Arc<Shared>) {
        // A node is one member.
        let _ = self.member.set(Watched { shared: Arc::downgrade(shared), since: Instant::now() });
    }

    /// Counts what became of a request that was to be sent on.
    pub(super) fn count_forwarded<T>(&self, outcome: &Result<T, ForwardFailure>) {
        match outcome {
            Ok(_) => &self.answered,
            Err(ForwardFailure::NotSent(_)) => &self.not_sent,
            Err(ForwardFailure::Unknown(_)) => &self.unknown,
        }
        .inc();
    }

    /// Notes who decides for each shard at the moment.
    pub(super) fn note_leaders(&self, deciding: &[Option<NodeId>], statuses: &[GroupStatus]) {
        let mut leaders = self.leaders.lock();
        leaders.resize(deciding.len(), SeenLeader::default());
        for ((seen, leader), status) in leaders.iter_mut().zip(deciding).zip(statuses) {
            seen.see(*leader, status.term);
        }
    }
}

/// The metrics in a registry.
#[derive(Debug)]
struct Shown(Arc<ClusterMetrics>);

/// A shard as it is shown.
struct ShardRow {
    label: ShardLabel,
    status: GroupStatus,
    leads: bool,
    leaderless: Duration,
    lag: Option<u64>,
    changes: u64,
}

/// What a gauge shows of a shard, if there is something to show.
type ReadGauge = fn(&ShardRow) -> Option<u64>;

/// Another node as it is shown.
struct NodeRow {
    label: NodeLabel,
    heard: Duration,
    clock: Option<ClockMeasure>,
    is_clock_off: bool,
    settings_differ: Option<u64>,
}

impl Shown {
    fn shards(&self, shared: &Shared) -> Vec<ShardRow> {
        let (statuses, deciding) = (shared.statuses(), shared.deciding());
        let (led, heard, leaders) = (shared.led.lock().clone(), shared.heard.lock(), self.0.leaders.lock());
        let row = |(at, status): (usize, GroupStatus)| {
            let progress = &shared.progress[at];
            let own = progress.committed().0;
            let of_leader = deciding[at].and_then(|leader| {
                if leader == shared.node() { Some(own) } else { Some(heard.get(&leader)?.standing.shards.get(at)?.committed) }
            });
            ShardRow {
                label: ShardLabel { shard: u32::try_from(at).unwrap_or(u32::MAX) },
                leads: progress.leads(),
                // It is noted now and then; whoever decides now has decided since.
                leaderless: if deciding[at].is_some() { Duration::ZERO } else { led[at].elapsed() },
                lag: of_leader.map(|leader| leader.saturating_sub(own)),
                changes: leaders.get(at).map_or(0, |seen| seen.changes),
                status,
            }
        };
        statuses.into_iter().enumerate().map(row).collect()
    }

    fn nodes(shared: &Shared, since: Instant) -> Vec<NodeRow> {
        let others = shared.others();
        let (clocks, voters, differ) = (shared.clocks(), shared.voters(), shared.settings_differ());
        let heard = shared.heard.lock();
        let row = |node: &NodeId| {
            let heard = heard.get(node);
            NodeRow {
                label: NodeLabel { node: node.0 },
                // Whoever was never heard has been silent since this node is a member that runs.
                heard: heard.map_or_else(|| since.elapsed(), |heard| heard.at.elapsed()),
                clock: heard.filter(|heard| heard.is_recent()).map(|heard| heard.clock),
                is_clock_off: clocks.is_off(*node, &voters),
                settings_differ: differ.get(node).map(|names| names.len() as u64),
            }
        };
        others.keys().map(row).collect()
    }
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(watched) = self.0.member.get() else { return Ok(()) };
        let Some(shared) = watched.shared.upgrade() else { return Ok(()) };
        let shards = self.shards(&shared);
        let gauges: [(&str, &str, ReadGauge); 8] = [
            ("cluster_leads", "1 while this node decides for the shard.", |row| Some(u64::from(row.leads))),
            ("cluster_term", "Term of the shard's consensus.", |row| Some(row.status.term.0)),
            ("cluster_last_index", "End of the shard's log on this node.", |row| Some(row.status.last.0)),
            ("cluster_committed_index", "Entry up to which the shard's log is committed.", |row| Some(row.status.committed.0)),
            ("cluster_applied_index", "Entry up to which this node has applied it.", |row| Some(row.status.applied.0)),
            ("cluster_lag_groups", "Groups that this node lacks of whoever decides.", |row| row.lag),
            ("cluster_members", "Nodes that have the shard's log.", |row| Some(row.status.members.len() as u64)),
            ("cluster_voters", "Nodes that are counted for the shard's majority.", |row| {
                Some(row.status.members.iter().filter(|member| member.is_voter).count() as u64)
            }),
        ];
        for (name, help, read) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for row in &shards {
                if let Some(value) = read(row) {
                    ConstGauge::new(signed(value)).encode(family.encode_family(&row.label)?)?;
                }
            }
        }
        let help = "How long nobody has decided for the shard, as far as this node hears.";
        let mut family = encoder.encode_descriptor("cluster_leaderless", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for row in &shards {
            ConstGauge::new(row.leaderless.as_secs_f64()).encode(family.encode_family(&row.label)?)?;
        }
        let help = "Times that somebody else was seen to decide for the shard, or in another term.";
        let mut family = encoder.encode_descriptor("cluster_leader_changes", help, None, MetricType::Counter)?;
        for row in &shards {
            ConstCounter::new(row.changes).encode(family.encode_family(&row.label)?)?;
        }

        let nodes = Self::nodes(&shared, watched.since);
        let help = "How long ago another node last said how it stands.";
        let mut family = encoder.encode_descriptor("cluster_heard", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for row in &nodes {
            ConstGauge::new(row.heard.as_secs_f64()).encode(family.encode_family(&row.label)?)?;
        }
        let help = "How far the clock of another node is ahead of this node's.";
        let mut family = encoder.encode_descriptor("cluster_clock_skew", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for row in &nodes {
            if let Some(clock) = row.clock {
                ConstGauge::new(seconds(clock.ahead_ms)).encode(family.encode_family(&row.label)?)?;
            }
        }
        let help = "By how much that may be wrong at most.";
        let mut family = encoder.encode_descriptor("cluster_clock_error", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for row in &nodes {
            if let Some(clock) = row.clock {
                ConstGauge::new(seconds(i64::try_from(clock.error_ms).unwrap_or(i64::MAX)))
                    .encode(family.encode_family(&row.label)?)?;
            }
        }
        let help = "1 while the clock of another node is further from those of most others than cluster.clock_skew_ms_max.";
        let mut family = encoder.encode_descriptor("cluster_clock_off", help, None, MetricType::Gauge)?;
        for row in &nodes {
            ConstGauge::new(i64::from(row.is_clock_off)).encode(family.encode_family(&row.label)?)?;
        }
        let help = "Settings that all nodes should have alike and that another node has otherwise than this one.";
        let mut family = encoder.encode_descriptor("cluster_settings_differ", help, None, MetricType::Gauge)?;
        for row in &nodes {
            if let Some(differ) = row.settings_differ {
                ConstGauge::new(signed(differ)).encode(family.encode_family(&row.label)?)?;
            }
        }

        let help = "Requests sent on to the node that decides, by what became of them.";
        let mut family = encoder.encode_descriptor("cluster_forwarded_requests", help, None, MetricType::Counter)?;
        let counters = [("answered", &self.0.answered), ("not_sent", &self.0.not_sent), ("unknown", &self.0.unknown)];
        for (outcome, counter) in counters {
            counter.encode(family.encode_family(&OutcomeLabel { outcome })?)?;
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a difference of clocks that a float does not hold is none that matters to the millisecond"
)]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn a_change_is_another_leader_or_another_term_and_not_that_there_is_none() {
        let mut seen = SeenLeader::default();
        for (leader, term, changes) in [
            (None, 0, 0),
            // The first one is no change.
            (Some(1), 1, 0),
            (Some(1), 1, 0),
            (None, 2, 0),
            (Some(2), 3, 1),
            (Some(2), 3, 1),
            (None, 3, 1),
            (Some(2), 3, 1),
            (Some(2), 4, 2),
            (Some(1), 5, 3),
        ] {
            seen.see(leader.map(NodeId), Term(term));
            assert_eq!(seen.changes, changes, "{leader:?} in term {term}");
        }
    }

    #[test]
    fn a_node_that_is_no_member_shows_nothing() {
        let metrics = Arc::new(ClusterMetrics::default());
        let mut registry = Registry::default();
        metrics.register(&mut registry);
        metrics.count_forwarded(&Ok(()));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert_eq!(text, "# EOF\n");
    }

    #[test]
    fn every_outcome_of_a_request_that_was_sent_on_is_counted_apart() {
        let metrics = ClusterMetrics::default();
        let why = || "why".to_owned();
        metrics.count_forwarded(&Ok(()));
        metrics.count_forwarded::<()>(&Err(ForwardFailure::NotSent(why())));
        for _ in 0..2 {
            metrics.count_forwarded::<()>(&Err(ForwardFailure::Unknown(why())));
        }
        assert_eq!((metrics.answered.get(), metrics.not_sent.get(), metrics.unknown.get()), (1, 1, 2));
    }
}
