//! Settings handed over to the rooms: each in the room's own words and types.

use std::time::Duration;

use tidegate_api::{AccessOptions, CertificateFiles, HttpOptions};
use tidegate_config::{
    Count, Durability as DurabilitySetting, LogSettings, OnDivergence as OnDivergenceSetting, RulesSettings, Settings,
};
use tidegate_engine::{EngineOptions, OnDivergence};
use tidegate_persistence::{DirectoryOptions, Durability, HistoryOptions, IdentityExpectation, WalOptions};
use tidegate_stock::{Rules, Timestamp};

use crate::parallel;
use crate::upkeep::UpkeepOptions;

/// The machine's limits.
pub(crate) fn engine_options(settings: &Settings) -> EngineOptions {
    let Settings { engine, cluster, .. } = settings;
    EngineOptions {
        ring_slots: to_usize(engine.ring_slots),
        batch_commands_max: to_usize(engine.batch_commands_max),
        group_events_max: to_u32(engine.group_events_max),
        group_bytes_max: to_usize(engine.group_bytes_max),
        groups_in_flight_max: to_usize(engine.groups_in_flight_max),
        resolved_in_memory_max: to_usize(engine.resolved_in_memory_max),
        recalls_in_flight_max: to_usize(engine.recalls_in_flight_max),
        known_filter_bytes_max: to_usize(engine.known_filter_bytes_max),
        sum_groups: to_u32(cluster.sum_groups),
        sum_seconds: to_u32(cluster.sum_seconds),
        on_divergence: match cluster.on_divergence {
            OnDivergenceSetting::Stop => OnDivergence::Stop,
            OnDivergenceSetting::Warn => OnDivergence::Warn,
        },
    }
}

/// The rules that every ledger of the node has.
pub(crate) fn rules(settings: &RulesSettings) -> Rules {
    Rules {
        idempotency_seconds: to_u32(settings.idempotency_seconds),
        idempotency_keys_max: to_usize(settings.idempotency_keys_max),
        retention_seconds: to_u32(settings.retention_seconds),
        reservations_in_memory_max: to_usize(settings.reservations_in_memory_max),
        users_in_memory_max: to_usize(settings.users_in_memory_max),
    }
}

/// How the history is opened.
pub(crate) fn history_options(settings: &Settings) -> HistoryOptions {
    // Whole ranges of time are dropped: an eighth of the retention is what a record may stay beyond it.
    let range_seconds = to_u32(settings.rules.retention_seconds.div_ceil(8));
    HistoryOptions { cache_bytes: settings.history.cache_bytes, range_seconds, ..HistoryOptions::default() }
}

/// When snapshots are made and what is kept how long.
pub(crate) fn upkeep_options(settings: &Settings) -> UpkeepOptions {
    UpkeepOptions {
        snapshot_log_bytes: settings.snapshots.log_bytes,
        snapshot_interval: Duration::from_secs(settings.snapshots.interval_seconds),
        snapshot_bytes_per_second: settings.snapshots.bytes_per_second_max,
        disk_free_bytes_min: settings.log.disk_free_bytes_min,
        feed_retention: Duration::from_secs(settings.feed.retention_seconds),
        feed_retention_bytes: settings.feed.retention_bytes,
        // A repeat of a command is answered for as long as its key is known, however late it came.
        history_retention: Duration::from_secs(settings.rules.retention_seconds + settings.rules.idempotency_seconds),
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
        segment_bytes_max: settings.log.segment_bytes_max,
        idempotency_seconds: Some(rules(&settings.rules).idempotency_seconds),
        ..DirectoryOptions::new(now)
    }
}

/// The door's limits.
pub(crate) fn http_options(settings: &Settings) -> HttpOptions {
    let Settings { node, http, feed, .. } = settings;
    HttpOptions {
        worker_threads: to_usize(node.worker_threads.or(parallel::cores() as u64)),
        connections_max: to_usize(http.connections_max),
        send_buffer_bytes: to_usize(http.send_buffer_bytes),
        header_bytes_max: to_usize(http.header_bytes_max),
        body_bytes_max: to_usize(http.body_bytes_max),
        batch_body_bytes_max: to_usize(http.batch_body_bytes_max),
        bodies_bytes_max: to_usize(http.bodies_bytes_max),
        header_seconds_max: http.header_seconds_max,
        body_seconds_max: http.body_seconds_max,
        idle_seconds_max: http.idle_seconds_max,
        drain_seconds: http.drain_seconds,
        answer_seconds_max: http.answer_seconds_max,
        feed_heartbeat_seconds: feed.heartbeat_seconds,
        feed_stall_seconds_max: feed.stall_seconds_max,
        feed_streams_max: to_usize(feed.streams_max),
    }
}

/// Who is let in, and over what.
pub(crate) fn access_options(settings: &Settings) -> AccessOptions {
    let certificate = settings.tls.certificate_file.clone().zip(settings.tls.private_key_file.clone());
    AccessOptions {
        keys_file: settings.auth.keys_file.clone(),
        metrics_without_key: settings.auth.metrics_without_key,
        certificate: certificate.map(|(certificate, private_key)| CertificateFiles { certificate, private_key }),
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
    use tidegate_engine::write_image;
    use tidegate_persistence::{Actor, ActorName, GroupBuilder, GroupSequence};
    use tidegate_stock::limits::{
        ALLOTTED_MAX, HOLD_SECONDS_MAX, IDENTIFIER_CHARACTERS_MAX, LAPSE_RESERVATIONS_MAX, QUANTITY_MAX, REASON_BYTES_MAX,
    };
    use tidegate_stock::{
        Allotment, ChangeSequence, Delta, Event, Fingerprint, GrantSequence, HoldSeconds, Idempotency, Image, LastExit, LedgerSum,
        Partition, Quantity, Reason, Reference, ReservationId, ReservationRecord, Revision, Sku, StockId, StockNumber, StockRecord,
        StockTerms, UserId,
    };

    use super::*;

    #[test]
    fn the_defaults_are_the_rooms_own() {
        let settings = Settings::default();
        assert_eq!(engine_options(&settings), EngineOptions::default());
        assert_eq!(http_options(&settings), HttpOptions::default());
        assert_eq!(access_options(&settings), AccessOptions::default());
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
        assert_eq!(tidegate_config::WORK_COMMANDS_MAX, tidegate_engine::WORK_COMMANDS_MAX as u64);
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
        let engine = [
            "ring_slots",
            "batch_commands_max",
            "group_events_max",
            "group_bytes_max",
            "groups_in_flight_max",
            "resolved_in_memory_max",
            "recalls_in_flight_max",
            "known_filter_bytes_max",
        ];
        let http = [
            "connections_max",
            "send_buffer_bytes",
            "header_bytes_max",
            "body_bytes_max",
            "batch_body_bytes_max",
            "bodies_bytes_max",
            "header_seconds_max",
            "body_seconds_max",
            "idle_seconds_max",
            "answer_seconds_max",
            "drain_seconds",
        ];
        let keys: Vec<String> =
            engine.iter().map(|name| format!("engine.{name}")).chain(http.iter().map(|name| format!("http.{name}"))).collect();
        for values in [
            ["64", "1", "1", "1", "1", "0", "1", "65536", "1", "4096", "1024", "1024", "1024", "1024", "1", "1", "1", "1", "0"],
            [
                "1048576",
                "8192",
                "1000000",
                "7798784",
                "1024",
                "50000000",
                "1000000",
                "1073741824",
                "1000000",
                "67108864",
                "1048576",
                "67108864",
                "67108864",
                "68719476736",
                "3600",
                "3600",
                "3600",
                "3600",
                "3600",
            ],
        ] {
            // What is kept of those that hold nothing is at most half of all.
            let room = [("rules.reservations_in_memory_max", "100000000")];
            let flags = keys.iter().zip(values).map(|(key, value)| (key.as_str(), value)).chain(room);
            let settings = Settings::load(None, [], flags).unwrap();
            assert_eq!(engine_options(&settings).check(), Ok(()));
            assert_eq!(http_options(&settings).check(), Ok(()));
        }
    }

    /// What `event` with its image adds to a group in which nothing has its actor's name yet.
    fn bytes_of(event: &Event, image: &Image) -> u64 {
        let mut group = GroupBuilder::new(GroupSequence(1), Timestamp::from_unix_ms(0));
        let empty = group.bytes();
        let actor = Actor::Key(ActorName::new(&"k".repeat(IDENTIFIER_CHARACTERS_MAX)).unwrap());
        let mut bytes = Vec::new();
        write_image(&mut bytes, image);
        group.push(event, &actor, Timestamp::from_unix_ms(u64::MAX), &bytes);
        (group.bytes() - empty) as u64
    }

    #[test]
    fn the_largest_events_are_within_what_settings_count_them_as() {
        let longest = "x".repeat(IDENTIFIER_CHARACTERS_MAX);
        let (user, reference) = (UserId::new(&longest).unwrap(), Reference::new(&longest).unwrap());
        let id = StockId { partition: Partition(u16::MAX), number: StockNumber(u32::MAX) };
        let quantity = Quantity::new(u64::from(QUANTITY_MAX)).unwrap();
        let hold = HoldSeconds::new(u64::from(HOLD_SECONDS_MAX)).unwrap();
        let end = Timestamp::from_unix_ms(u64::MAX);
        let change = ChangeSequence(u64::MAX);
        let key = Some(Idempotency { key: Fingerprint(u128::MAX), request: Fingerprint(u128::MAX) });
        let reservation = ReservationId { stock: id, sequence: GrantSequence(u64::MAX) };
        let record = ReservationRecord {
            id: reservation,
            user: user.clone(),
            reference: Some(reference.clone()),
            reserved_at: end,
            expires_at: end,
            resolved_at: Some(end),
            reserved: u32::MAX,
            confirmed: u32::MAX,
            released: u32::MAX,
            returned: u32::MAX,
            last_exit: LastExit::Returned,
        };
        let terms = StockTerms {
            per_user_limit: Some(quantity),
            hold_seconds: hold,
            hold_seconds_max: hold,
            opens_at: Some(end),
            closes_at: Some(end),
        };
        let (sku, units) = (Sku::new(&longest).unwrap(), Allotment::new(ALLOTTED_MAX).unwrap());
        let stock = Image::Stock(Box::new(StockRecord {
            id,
            sku: sku.clone(),
            first_quantity: units,
            terms: terms.clone(),
            allotted: u64::MAX,
            available: u64::MAX,
            reserved: u64::MAX,
            sold: u64::MAX,
            grants: u64::MAX,
            changes: change,
            revision: Revision(u64::MAX),
            is_paused: true,
            is_closed: true,
            is_archived: true,
        }));
        let changed = Image::Reservation { change, record: record.clone() };
        let reserved = Event::Reserved {
            stock: id,
            sequence: reservation.sequence,
            user,
            quantity,
            expires_at: end,
            reference: Some(reference),
            idempotency: key,
        };
        let reason = Reason::new(&"r".repeat(REASON_BYTES_MAX)).unwrap();
        let delta = Delta::new(-i64::from(QUANTITY_MAX)).unwrap();
        let created = Event::StockCreated { stock: id, sku, quantity: units, terms: terms.clone() };
        for (event, image) in [
            (reserved, Image::Granted { change }),
            (Event::Confirmed { reservation, quantity, idempotency: key }, changed.clone()),
            (Event::Extended { reservation, expires_at: end, idempotency: key }, changed.clone()),
            (created, stock.clone()),
            (Event::StockChanged { stock: id, terms }, stock.clone()),
            (Event::StockAdjusted { stock: id, delta, reason, idempotency: key }, stock),
        ] {
            assert!(bytes_of(&event, &image) <= EVENT_BYTES_MAX, "{event:?}");
        }
        // A return of what has left memory is one command and two events.
        let recalled = bytes_of(&Event::Recalled { record: Box::new(record.clone()) }, &Image::Nothing);
        assert!(recalled + bytes_of(&Event::Returned { reservation, quantity, idempotency: key }, &changed) <= EVENT_BYTES_MAX);
        let lapsed = Image::Lapsed(vec![(change, record); LAPSE_RESERVATIONS_MAX]);
        let expired = Event::Expired { reservations: vec![reservation; LAPSE_RESERVATIONS_MAX] };
        let summed = Event::Summed { sum: LedgerSum { stocks: u64::MAX, open_holds: u64::MAX, hash: u64::MAX } };
        assert!(bytes_of(&expired, &lapsed) + bytes_of(&summed, &Image::Nothing) <= LAPSE_BYTES_MAX);
    }
}
