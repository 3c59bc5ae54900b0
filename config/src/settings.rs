//! Every setting with its meaning, bounds and default, and the relations between them.
//!
//! There are three scopes, and every section or field says which one it has:
//! - *same across a cluster*: nodes that differ would come to different results from one log;
//! - *fixed by the directory*: it counts when the data directory is made, and must not contradict it later;
//! - *free per process*: it may differ from node to node and from start to start.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::load::SettingsError;
use crate::value::{Count, Durability, LogFormat, Slot};

/// Largest payload of one group in the log, in bytes.
pub const GROUP_PAYLOAD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What one command can add to a group at most, in bytes: identifiers at their longest, and everything around them.
pub const EVENT_BYTES_MAX: u64 = 1_024;

/// What one round of lapses can add to a group at most, in bytes.
pub const LAPSE_BYTES_MAX: u64 = 64 * 1024;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
const YEAR_SECONDS: u64 = 365 * 86_400;

/// All settings of one process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// The node and its data directory.
    pub node: NodeSettings,
    /// The HTTP door.
    pub http: HttpSettings,
    /// The machine.
    pub engine: EngineSettings,
    /// The write-ahead log.
    pub log: LogSettings,
    /// The rules.
    pub rules: RulesSettings,
    /// What the program says of itself.
    pub output: OutputSettings,
}

/// `[node]`: the node and its data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// The folder that holds everything durable; it is made if it is missing. A relative path starts at the working directory. Free per
    /// process. Default: `tidegate-data`.
    pub data_dir: PathBuf,
    /// How many shards own the products, 1 to 1,024: each has an actor on a thread of its own, a ring and a stream of the log. Fixed by
    /// the directory; `auto` takes the directory's count, and half the cores, at least 1, when it is made. Default: `auto`.
    pub shards: Count,
    /// Threads that serve connections, 1 to 1,024; `auto` is one for each core. Free per process. Default: `auto`.
    pub worker_threads: Count,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self { data_dir: PathBuf::from("tidegate-data"), shards: Count::Automatic, worker_threads: Count::Automatic }
    }
}

/// `[http]`: the HTTP door. Free per process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Where to listen: an IP address with a port, 0 for any free one. There are no keys to tell callers apart by, so only a loopback
    /// address is taken. Default: `127.0.0.1:8700`.
    pub listen: SocketAddr,
    /// Most connections open at once, 1 to 1,000,000; further ones wait in the operating system's queue. Each needs an open file.
    /// Default: 16,384.
    pub connections_max: u64,
    /// Longest header of a request with its first line, 1 KiB to 1 MiB, in bytes. Default: 16 KiB.
    pub header_bytes_max: u64,
    /// Longest body of a request, 1 KiB to 64 MiB, in bytes. Default: 1 MiB.
    pub body_bytes_max: u64,
    /// Longest wait for the whole of a request's header, from its first byte, 1 to 3,600 s. Default: 10.
    pub header_seconds_max: u64,
    /// Longest wait for the whole of a request's body, from the end of its header, 1 to 3,600 s. Default: 30.
    pub body_seconds_max: u64,
    /// How long a connection may stay open without a request, 1 to 3,600 s. Default: 75.
    pub idle_seconds_max: u64,
    /// Longest time from a complete request to its answer, after which it is `timeout`, 1 to 3,600 s. Default: 10.
    pub answer_seconds_max: u64,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8_700)),
            connections_max: 16_384,
            header_bytes_max: 16 * KIB,
            body_bytes_max: MIB,
            header_seconds_max: 10,
            body_seconds_max: 30,
            idle_seconds_max: 75,
            answer_seconds_max: 10,
        }
    }
}

/// `[engine]`: the machine that decides. Free per process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// Commands that may wait in front of each shard; more are refused as `overloaded`. A power of two, 64 to 1,048,576. Default: 32,768.
    pub ring_slots: u64,
    /// Most commands that are decided in one batch, 1 to 8,192. Default: 1,024.
    pub batch_commands_max: u64,
    /// Events at which a group takes no further command, 1 to 1,000,000. Default: 16,384.
    pub group_events_max: u64,
    /// Bytes at which a group takes no further command, 1 to 16 MiB; what the last batch adds must fit under 16 MiB as well.
    /// Default: 1 MiB.
    pub group_bytes_max: u64,
    /// Groups of one shard that are written and not yet durable, 1 to 1,024. Default: 4.
    pub groups_in_flight_max: u64,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            ring_slots: 32_768,
            batch_commands_max: 1_024,
            group_events_max: 16_384,
            group_bytes_max: MIB,
            groups_in_flight_max: 4,
        }
    }
}

/// `[log]`: the write-ahead log. Free per process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// What a change survives when its answer leaves: `power_loss`; `process_crash`, which a loss of power undoes; `none`, which only an
    /// orderly stop keeps. Default: `power_loss`.
    pub durability: Durability,
    /// Free bytes of the disk below which changes are refused as `overloaded`, 1 MiB to 1 TiB. Default: 512 MiB.
    pub disk_free_bytes_min: u64,
    /// Memory for the log store's page cache, 1 MiB to 64 GiB, in bytes; roughly kept. Default: 32 MiB.
    pub cache_bytes: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { durability: Durability::PowerLoss, disk_free_bytes_min: 512 * MIB, cache_bytes: 32 * MIB }
    }
}

/// `[rules]`: what must hold wherever the log is applied. Same across a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulesSettings {
    /// How long an idempotency key is remembered, by the log's time, 1 s to 365 days. Default: 86,400 (one day).
    pub idempotency_seconds: u64,
    /// Idempotency keys that each shard remembers at most, 1 to 1,000,000,000; beyond, new keyed work is refused as `overloaded` and no
    /// key is forgotten early. Default: 10,000,000.
    pub idempotency_keys_max: u64,
}

impl Default for RulesSettings {
    fn default() -> Self {
        Self { idempotency_seconds: 86_400, idempotency_keys_max: 10_000_000 }
    }
}

/// `[output]`: what the program says of itself, on its standard error. Free per process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSettings {
    /// `human` for lines, `json` for one object a line. Default: `human`.
    pub format: LogFormat,
    /// What is worth saying: `error`, `warn`, `info`, `debug`, `trace`, or a list of them by module, such as
    /// `warn,tidegate_engine=debug`. Default: `info`.
    pub filter: String,
}

impl Default for OutputSettings {
    fn default() -> Self {
        Self { format: LogFormat::Human, filter: "info".to_owned() }
    }
}

/// A field's section, its name, and its place.
pub(crate) type Field<'a> = (&'static str, &'static str, Slot<'a>);

impl Settings {
    /// Every setting, with its bounds. What is not listed here cannot be set.
    pub(crate) fn fields(&mut self) -> Vec<Field<'_>> {
        let Self { node, http, engine, log, rules, output } = self;
        let seconds = || 1..=3_600;
        vec![
            ("node", "data_dir", Slot::Path(&mut node.data_dir)),
            ("node", "shards", Slot::Count(&mut node.shards, 1..=1_024)),
            ("node", "worker_threads", Slot::Count(&mut node.worker_threads, 1..=1_024)),
            ("http", "listen", Slot::Address(&mut http.listen)),
            ("http", "connections_max", Slot::Number(&mut http.connections_max, 1..=1_000_000)),
            ("http", "header_bytes_max", Slot::Number(&mut http.header_bytes_max, KIB..=MIB)),
            ("http", "body_bytes_max", Slot::Number(&mut http.body_bytes_max, KIB..=64 * MIB)),
            ("http", "header_seconds_max", Slot::Number(&mut http.header_seconds_max, seconds())),
            ("http", "body_seconds_max", Slot::Number(&mut http.body_seconds_max, seconds())),
            ("http", "idle_seconds_max", Slot::Number(&mut http.idle_seconds_max, seconds())),
            ("http", "answer_seconds_max", Slot::Number(&mut http.answer_seconds_max, seconds())),
            ("engine", "ring_slots", Slot::PowerOfTwo(&mut engine.ring_slots, 64..=1_048_576)),
            ("engine", "batch_commands_max", Slot::Number(&mut engine.batch_commands_max, 1..=8_192)),
            ("engine", "group_events_max", Slot::Number(&mut engine.group_events_max, 1..=1_000_000)),
            ("engine", "group_bytes_max", Slot::Number(&mut engine.group_bytes_max, 1..=GROUP_PAYLOAD_BYTES_MAX)),
            ("engine", "groups_in_flight_max", Slot::Number(&mut engine.groups_in_flight_max, 1..=1_024)),
            ("log", "durability", Slot::Durability(&mut log.durability)),
            ("log", "disk_free_bytes_min", Slot::Number(&mut log.disk_free_bytes_min, MIB..=MIB * MIB)),
            ("log", "cache_bytes", Slot::Number(&mut log.cache_bytes, MIB..=64 * 1024 * MIB)),
            ("rules", "idempotency_seconds", Slot::Number(&mut rules.idempotency_seconds, 1..=YEAR_SECONDS)),
            ("rules", "idempotency_keys_max", Slot::Number(&mut rules.idempotency_keys_max, 1..=1_000_000_000)),
            ("output", "format", Slot::LogFormat(&mut output.format)),
            ("output", "filter", Slot::Text(&mut output.filter)),
        ]
    }

    /// The name of every setting with its section: `http.listen`.
    pub fn keys() -> Vec<String> {
        Self::default().fields().iter().map(|(section, name, _)| format!("{section}.{name}")).collect()
    }

    /// Checks the relations between settings; each is within its own bounds already.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let listen = self.http.listen;
        if !listen.ip().is_loopback() {
            return Err(SettingsError::Contradiction {
                key: "http.listen",
                given: listen.to_string(),
                allowed: "a loopback address, such as 127.0.0.1:8700,".to_owned(),
                reason: "there are no API keys, so whoever reaches the address may do anything".to_owned(),
            });
        }
        let EngineSettings { batch_commands_max, group_bytes_max, .. } = self.engine;
        let last_batch = batch_commands_max * EVENT_BYTES_MAX + LAPSE_BYTES_MAX;
        let allowed_max = GROUP_PAYLOAD_BYTES_MAX - last_batch;
        if group_bytes_max > allowed_max {
            return Err(SettingsError::Contradiction {
                key: "engine.group_bytes_max",
                given: group_bytes_max.to_string(),
                allowed: format!("a whole number of 1 to {allowed_max}"),
                reason: format!(
                    "a group holds {GROUP_PAYLOAD_BYTES_MAX} bytes, and its last batch, with engine.batch_commands_max at \
                     {batch_commands_max}, up to {last_batch} of them"
                ),
            });
        }
        Ok(())
    }
}

// The longest batch leaves room for the group before it.
const _: () = assert!(8_192 * EVENT_BYTES_MAX + LAPSE_BYTES_MAX < GROUP_PAYLOAD_BYTES_MAX);
