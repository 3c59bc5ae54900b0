//! A cluster as one node of it shows it, and whether all is well. Pure.

use serde::Deserialize;

/// The cluster as one node sees it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Seen {
    pub(crate) nodes: Vec<NodeSeen>,
    pub(crate) shards: Vec<ShardSeen>,
}

/// A node of it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct NodeSeen {
    pub(crate) role: String,
    #[serde(default)]
    pub(crate) draining: bool,
}

/// A shard of it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ShardSeen {
    /// The node that decides.
    pub(crate) leader: Option<u64>,
    pub(crate) term: u64,
    pub(crate) replicas: Vec<ReplicaSeen>,
}

/// A shard on one node.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ReplicaSeen {
    pub(crate) lag: Option<u64>,
}

/// Whether `count` nodes are counted and none lacks more than `lag_max` groups.
pub(crate) fn is_whole(seen: &Seen, count: usize, lag_max: u64) -> bool {
    let voters = seen.nodes.iter().filter(|node| node.role == "voter").count();
    let has_all = |shard: &ShardSeen| {
        let is_close = |replica: &ReplicaSeen| replica.lag.is_some_and(|lag| lag <= lag_max);
        shard.leader.is_some() && shard.replicas.len() == count && shard.replicas.iter().all(is_close)
    };
    voters == count && seen.nodes.len() == count && seen.shards.iter().all(has_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_whole_when_all_are_counted_and_none_lacks_anything() {
        let seen = |nodes: &str, shard: &str| -> Seen {
            serde_json::from_str(&format!(r#"{{"nodes":[{nodes}],"shards":[{shard}]}}"#)).unwrap()
        };
        let voters = r#"{"role":"voter"},{"role":"voter"}"#;
        let whole = r#"{"leader":1,"term":2,"replicas":[{"lag":0},{"lag":5}]}"#;
        assert!(is_whole(&seen(voters, whole), 2, 5));
        assert!(!is_whole(&seen(voters, whole), 2, 4));
        assert!(!is_whole(&seen(voters, whole), 3, 5));
        assert!(!is_whole(&seen(r#"{"role":"voter"},{"role":"learner"}"#, whole), 2, 5));
        for shard in [
            r#"{"leader":null,"term":2,"replicas":[{"lag":0},{"lag":0}]}"#,
            r#"{"leader":1,"term":2,"replicas":[{"lag":0}]}"#,
            r#"{"leader":1,"term":2,"replicas":[{"lag":0},{"lag":null}]}"#,
        ] {
            assert!(!is_whole(&seen(voters, shard), 2, 5), "{shard}");
        }
    }
}
