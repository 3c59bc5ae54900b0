//! The settings that the members of a cluster should have alike, as members tell each other: by name, with a number. What a member does about a
//! difference is its own business.

use std::collections::BTreeMap;

use crate::settings::{ClusterSettings, RulesSettings, Settings};

impl Settings {
    /// The settings with a number that should be the same on all members of a cluster, by name.
    pub fn same_across_cluster(&self) -> BTreeMap<String, u64> {
        let RulesSettings {
            idempotency_seconds,
            idempotency_keys_max,
            retention_seconds,
            reservations_in_memory_max,
            users_in_memory_max,
        } = &self.rules;
        let ClusterSettings { heartbeat_ms, election_ms_min, election_ms_max, clock_skew_ms_max, .. } = &self.cluster;
        [
            ("rules.idempotency_seconds", idempotency_seconds),
            ("rules.idempotency_keys_max", idempotency_keys_max),
            ("rules.retention_seconds", retention_seconds),
            ("rules.reservations_in_memory_max", reservations_in_memory_max),
            ("rules.users_in_memory_max", users_in_memory_max),
            ("cluster.heartbeat_ms", heartbeat_ms),
            ("cluster.election_ms_min", election_ms_min),
            ("cluster.election_ms_max", election_ms_max),
            ("cluster.clock_skew_ms_max", clock_skew_ms_max),
        ]
        .map(|(name, value)| (name.to_owned(), *value))
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_tells_what_its_file_says_under_the_names_that_the_file_has() {
        let flags = [("rules.idempotency_seconds", "60"), ("cluster.clock_skew_ms_max", "77")];
        let settings = Settings::load(None, [], flags).expect("the settings are good");
        let told = settings.same_across_cluster();
        assert_eq!((told["rules.idempotency_seconds"], told["cluster.clock_skew_ms_max"]), (60, 77));
        for name in told.keys() {
            // A name that no setting has would be refused.
            Settings::load(None, [], [(name.as_str(), "1000")])
                .map(drop)
                .or_else(|error| {
                    let said = error.to_string();
                    if said.contains("1000") { Ok(()) } else { Err(said) }
                })
                .expect("it is the name of a setting");
        }
    }
}
