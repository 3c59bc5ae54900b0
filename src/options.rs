//! Settings handed over to the rooms: each in the room's own words and types.

use tidegate_api::HttpOptions;
use tidegate_config::{Count, Durability as DurabilitySetting, EngineSettings, HttpSettings, LogSettings, RulesSettings, Settings};
use tidegate_engine::EngineOptions;
use tidegate_persistence::{DirectoryOptions, Durability, IdentityExpectation, WalOptions};
use tidegate_stock::{Rules, Timestamp};

/// The machine's limits.
pub(crate) fn engine_options(settings: &EngineSettings) -> EngineOptions {
    EngineOptions {
        ring_slots: to_usize(settings.ring_slots),
        batch_commands_max: to_usize(settings.batch_commands_max),
        group_events_max: to_u32(settings.group_events_max),
        group_bytes_max: to_usize(settings.group_bytes_max),
        groups_in_flight_max: to_usize(settings.groups_in_flight_max),
    }
}

/// The rules that every ledger of the node has.
pub(crate) fn rules(settings: &RulesSettings) -> Rules {
    Rules {
        idempotency_seconds: to_u32(settings.idempotency_seconds),
        idempotency_keys_max: to_usize(settings.idempotency_keys_max),
    }
}

/// How the log is kept.
pub(crate) fn wal_options(settings: &LogSettings) -> WalOptions {
    let durability = match settings.durability {
        DurabilitySetting::PowerLoss => Durability::PowerLoss,
        DurabilitySetting::ProcessCrash => Durability::ProcessCrash,
        DurabilitySetting::None => Durability::None,
    };
    WalOptions { durability, disk_free_bytes_min: Some(settings.disk_free_bytes_min), ..WalOptions::default() }
}

/// How the data directory is opened, and what it must say of itself: its shards, where a number of them is set.
pub(crate) fn directory_options(settings: &Settings, now: Timestamp) -> DirectoryOptions {
    let shards = match settings.node.shards {
        Count::Automatic => None,
        Count::Fixed(shards) => Some(to_u16(shards)),
    };
    DirectoryOptions {
        identity: IdentityExpectation { shards, ..IdentityExpectation::default() },
        cache_bytes: settings.log.cache_bytes,
        idempotency_seconds: Some(rules(&settings.rules).idempotency_seconds),
        ..DirectoryOptions::new(now)
    }
}

/// The door's limits.
pub(crate) fn http_options(settings: &HttpSettings) -> HttpOptions {
    HttpOptions {
        connections_max: to_usize(settings.connections_max),
        header_bytes_max: to_usize(settings.header_bytes_max),
        body_bytes_max: to_usize(settings.body_bytes_max),
        header_seconds_max: settings.header_seconds_max,
        body_seconds_max: settings.body_seconds_max,
        idle_seconds_max: settings.idle_seconds_max,
        answer_seconds_max: settings.answer_seconds_max,
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).expect("the setting's bounds fit a machine word")
}

fn to_u32(number: u64) -> u32 {
    u32::try_from(number).expect("the setting's bounds fit 32 bits")
}

fn to_u16(number: u64) -> u16 {
    u16::try_from(number).expect("the setting's bounds fit 16 bits")
}

#[cfg(test)]
mod tests {
    use tidegate_config::{EVENT_BYTES_MAX, LAPSE_BYTES_MAX};
    use tidegate_persistence::{Actor, ActorName, GroupBuilder, GroupSequence};
    use tidegate_stock::limits::{ALLOTTED_MAX, HOLD_SECONDS_MAX, IDENTIFIER_CHARACTERS_MAX, LAPSE_RESERVATIONS_MAX, QUANTITY_MAX};
    use tidegate_stock::{
        Allotment, Event, Fingerprint, GrantSequence, HoldSeconds, Idempotency, Partition, Quantity, Reference, ReservationId, Sku,
        StockId, StockNumber, StockTerms, UserId,
    };

    use super::*;

    #[test]
    fn the_defaults_are_the_rooms_own() {
        let settings = Settings::default();
        assert_eq!(engine_options(&settings.engine), EngineOptions::default());
        assert_eq!(http_options(&settings.http), HttpOptions::default());
        let now = Timestamp::from_unix_ms(1);
        let remembered = Some(86_400);
        assert_eq!(
            directory_options(&settings, now),
            DirectoryOptions { idempotency_seconds: remembered, ..DirectoryOptions::new(now) }
        );
        let wal = wal_options(&settings.log);
        assert_eq!(wal.durability, WalOptions::default().durability);
        assert_eq!(wal.disk_free_bytes_min, Some(tidegate_persistence::wal::DISK_FREE_BYTES_MIN_DEFAULT));
    }

    #[test]
    fn the_bounds_of_groups_and_shards_are_the_rooms_own() {
        assert_eq!(tidegate_config::GROUP_PAYLOAD_BYTES_MAX, tidegate_persistence::GROUP_BYTES_MAX as u64);
        let shards = |shards: u16| Settings::load(None, [], [("node.shards", &*shards.to_string())]);
        assert!(shards(tidegate_persistence::PARTITIONS).is_ok() && shards(tidegate_persistence::PARTITIONS + 1).is_err());
    }

    #[test]
    fn every_durability_is_handed_over_under_its_own_name() {
        for name in ["power_loss", "process_crash", "none"] {
            let settings = Settings::load(None, [], [("log.durability", name)]).unwrap();
            assert_eq!(wal_options(&settings.log).durability.to_string(), name);
        }
    }

    #[test]
    fn the_rooms_take_the_smallest_and_the_largest_of_every_setting() {
        let engine = ["ring_slots", "batch_commands_max", "group_events_max", "group_bytes_max", "groups_in_flight_max"];
        let http = [
            "connections_max",
            "header_bytes_max",
            "body_bytes_max",
            "header_seconds_max",
            "body_seconds_max",
            "idle_seconds_max",
            "answer_seconds_max",
        ];
        let keys: Vec<String> =
            engine.iter().map(|name| format!("engine.{name}")).chain(http.iter().map(|name| format!("http.{name}"))).collect();
        for values in [
            ["64", "1", "1", "1", "1", "1", "1024", "1024", "1", "1", "1", "1"],
            ["1048576", "8192", "1000000", "8323072", "1024", "1000000", "1048576", "67108864", "3600", "3600", "3600", "3600"],
        ] {
            let flags = keys.iter().zip(values).map(|(key, value)| (key.as_str(), value));
            let settings = Settings::load(None, [], flags).unwrap();
            assert_eq!(engine_options(&settings.engine).check(), Ok(()));
            assert_eq!(http_options(&settings.http).check(), Ok(()));
        }
    }

    /// What `event` adds to a group in which nothing has its actor's name yet.
    fn bytes_of(event: &Event) -> u64 {
        let mut group = GroupBuilder::new(GroupSequence(1), Timestamp::from_unix_ms(0));
        let empty = group.bytes();
        let actor = Actor::Key(ActorName::new(&"k".repeat(IDENTIFIER_CHARACTERS_MAX)).unwrap());
        group.push(event, &actor, Timestamp::from_unix_ms(u64::MAX));
        (group.bytes() - empty) as u64
    }

    #[test]
    fn the_largest_events_are_within_what_settings_count_them_as() {
        let longest = "x".repeat(IDENTIFIER_CHARACTERS_MAX);
        let stock = StockId { partition: Partition(u16::MAX), number: StockNumber(u32::MAX) };
        let sequence = GrantSequence(u64::MAX);
        let quantity = Quantity::new(u64::from(QUANTITY_MAX)).unwrap();
        let hold = HoldSeconds::new(u64::from(HOLD_SECONDS_MAX)).unwrap();
        let end = Timestamp::from_unix_ms(u64::MAX);
        let reserved = Event::Reserved {
            stock,
            sequence,
            user: UserId::new(&longest).unwrap(),
            quantity,
            expires_at: end,
            reference: Some(Reference::new(&longest).unwrap()),
            idempotency: Some(Idempotency { key: Fingerprint(u128::MAX), request: Fingerprint(u128::MAX) }),
        };
        let terms = StockTerms {
            per_user_limit: Some(quantity),
            hold_seconds: hold,
            hold_seconds_max: hold,
            opens_at: Some(end),
            closes_at: Some(end),
        };
        let created =
            Event::StockCreated { stock, sku: Sku::new(&longest).unwrap(), quantity: Allotment::new(ALLOTTED_MAX).unwrap(), terms };
        let expired = Event::Expired { reservations: vec![ReservationId { stock, sequence }; LAPSE_RESERVATIONS_MAX] };
        assert!(bytes_of(&reserved) <= EVENT_BYTES_MAX && bytes_of(&created) <= EVENT_BYTES_MAX);
        assert!(bytes_of(&expired) <= LAPSE_BYTES_MAX);
    }
}
