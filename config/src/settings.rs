//! Every setting with its meaning, bounds and default, and the relations between them.
//!
//! There are three scopes, and every section or field says which one it has:
//! - *same across a cluster*: nodes that differ would come to different results from one log;
//! - *fixed by the directory*: it counts when the data directory is made, and must not contradict it later;
//! - *free per process*: it may differ from node to node and from start to start.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::load::SettingsError;
use crate::telemetry::{CollectorUrl, Ratio};
use crate::value::{Count, Durability, LogFormat, OnDivergence, PeerAddress, Slot};

/// Largest payload of one group in the log, in bytes.
pub const GROUP_PAYLOAD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What one command can add to a group at most, in bytes: identifiers at their longest, and everything around them.
pub const EVENT_BYTES_MAX: u64 = 1_024;

/// What one round of lapses can add to a group at most, in bytes.
pub const LAPSE_BYTES_MAX: u64 = 512 * 1024;

/// How many heartbeats fit into the shortest time after which a node stands for election, at least.
const HEARTBEATS_BEFORE_ELECTION_MIN: u64 = 5;

/// Commands of one HTTP batch that are decided without a look at the batch's length.
pub const WORK_COMMANDS_MAX: u64 = 64;

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
    /// Who may call.
    pub auth: AuthSettings,
    /// TLS.
    pub tls: TlsSettings,
    /// The machine.
    pub engine: EngineSettings,
    /// The write-ahead log.
    pub log: LogSettings,
    /// Snapshots.
    pub snapshots: SnapshotSettings,
    /// The history.
    pub history: HistorySettings,
    /// The rules.
    pub rules: RulesSettings,
    /// The change feed.
    pub feed: FeedSettings,
    /// The cluster that the node is a member of.
    pub cluster: ClusterSettings,
    /// What the program says of itself.
    pub output: OutputSettings,
    /// Where traces go.
    pub telemetry: TelemetrySettings,
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
    /// Where to listen: an IP address with a port, 0 for any free one. Without `auth.keys_file` there is nothing to tell callers apart
    /// by, so only a loopback address is taken. Default: `127.0.0.1:8700`.
    pub listen: SocketAddr,
    /// Most connections open at once, 1 to 1,000,000. For a further one, one is closed that has been idle for a second, or has not ended a
    /// body or not taken an answer for two; while there is none, further ones wait in the operating system's queue. Each needs an open
    /// file. Default: 16,384.
    pub connections_max: u64,
    /// What the operating system may keep for each connection of answers that its client has not taken, 4 KiB to 64 MiB; it adds as much
    /// again for its own bookkeeping, and bounds it by `net.core.wmem_max`. A client that reads nothing costs no more, and one far away gets
    /// so much in a round trip. Default: 128 KiB.
    pub send_buffer_bytes: u64,
    /// Longest header of a request with its first line, 1 KiB to 1 MiB, in bytes. Default: 16 KiB.
    pub header_bytes_max: u64,
    /// Longest body of a request, 1 KiB to 64 MiB, in bytes. Default: 1 MiB.
    pub body_bytes_max: u64,
    /// Longest body of a batch, 1 KiB to 64 MiB, in bytes. Default: 8 MiB.
    pub batch_body_bytes_max: u64,
    /// Most bytes of all bodies together that are in memory at once, 1 KiB to 64 GiB; requests beyond it are refused as `overloaded`. Not
    /// less than one body may have. A body that comes in one piece is not counted: it stays in its connection's buffer, which is as long
    /// as a header may be. Default: 256 MiB.
    pub bodies_bytes_max: u64,
    /// Longest wait for the whole of a request's header, from its first byte, and for a TLS handshake, 1 to 3,600 s. Default: 10.
    pub header_seconds_max: u64,
    /// Longest wait for the whole of a request's body, from the end of its header, 1 to 3,600 s. Default: 30.
    pub body_seconds_max: u64,
    /// How long a connection may stay open without a request, 1 to 3,600 s; a header whose first bytes came in one piece with the request
    /// before it counts as none until more of it comes. Default: 75.
    pub idle_seconds_max: u64,
    /// How long, at a stop, requests on connections that are open are still answered as ever, each closing its connection, 0 to 3,600 s;
    /// less if all have closed before. Give it as long as whatever sends requests takes to see that `/readyz` is not 200. A client that
    /// does not finish what it sends, or does not take its answer, is waited for behind that for as long as `answer_seconds_max` and a
    /// second more. Default: 1.
    pub drain_seconds: u64,
    /// Longest time from a complete request to its answer, after which it is `timeout`, 1 to 3,600 s. Default: 10.
    pub answer_seconds_max: u64,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8_700)),
            connections_max: 16_384,
            send_buffer_bytes: 128 * KIB,
            header_bytes_max: 16 * KIB,
            body_bytes_max: MIB,
            batch_body_bytes_max: 8 * MIB,
            bodies_bytes_max: 256 * MIB,
            header_seconds_max: 10,
            body_seconds_max: 30,
            idle_seconds_max: 75,
            drain_seconds: 1,
            answer_seconds_max: 10,
        }
    }
}

/// `[auth]`: who may call. Free per process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthSettings {
    /// The file that lists the API keys by their hashes; it is read again when it changes and on SIGHUP. With `none` every caller may do
    /// everything, on a loopback address only. A relative path starts at the working directory. Default: `none`.
    pub keys_file: Option<PathBuf>,
    /// Whether `/metrics` is shown to callers without a key. Default: `false`.
    pub metrics_without_key: bool,
}

/// `[tls]`: the certificate. Free per process. Both files or none; they are read again when they change and on SIGHUP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsSettings {
    /// The server's certificate in PEM, and behind it those that lead to its root; with `none` plain HTTP is spoken. Default: `none`.
    pub certificate_file: Option<PathBuf>,
    /// The certificate's private key in PEM, not encrypted. Default: `none`.
    pub private_key_file: Option<PathBuf>,
}

/// `[engine]`: the machine that decides. Free per process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineSettings {
    /// Pieces of work that may wait in front of each shard: single commands, and up to 64 commands of one batch together; more are
    /// refused as `overloaded`. A power of two, 64 to 1,048,576. Default: 32,768.
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
    /// Reservations that each shard keeps in memory though they hold nothing any more, the newest ones, 0 to 50,000,000, and at most half
    /// of `rules.reservations_in_memory_max`; the others are read from the history. Default: 100,000.
    pub resolved_in_memory_max: u64,
    /// Commands of each shard that wait for a reservation from the history at once, 1 to 1,000,000; more are refused as `overloaded`.
    /// Default: 1,024.
    pub recalls_in_flight_max: u64,
    /// Most bytes by which each shard's door knows whom the shard knows, a power of two, 64 KiB to 1 GiB: strangers hear that something is sold
    /// out without asking the shard. With as many users and keys as bytes, one in twenty asks all the same. Default: 4 MiB.
    pub known_filter_bytes_max: u64,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self {
            ring_slots: 32_768,
            batch_commands_max: 1_024,
            group_events_max: 16_384,
            group_bytes_max: MIB,
            groups_in_flight_max: 4,
            resolved_in_memory_max: 100_000,
            recalls_in_flight_max: 1_024,
            known_filter_bytes_max: 4 * MIB,
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
    /// Bytes after which the log goes on in a new segment, 1 MiB to 64 GiB. The log's space is given back by whole segments.
    /// Default: 256 MiB.
    pub segment_bytes_max: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            durability: Durability::PowerLoss,
            disk_free_bytes_min: 512 * MIB,
            cache_bytes: 32 * MIB,
            segment_bytes_max: 256 * MIB,
        }
    }
}

/// `[snapshots]`: copies of the state in memory, so that a start reads little of the log. Free per process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSettings {
    /// Bytes that the log grows by between two snapshots, 1 MiB to 1 TiB: about what a start reads of it. Default: 512 MiB.
    pub log_bytes: u64,
    /// Longest time between two snapshots while the log grows at all, 10 s to 365 days. Default: 3,600 (one hour).
    pub interval_seconds: u64,
    /// Bytes of a snapshot that are written in a second at most, 1 MiB to 64 GiB, so that the log's own writes come first.
    /// Default: 32 MiB.
    pub bytes_per_second_max: u64,
}

impl Default for SnapshotSettings {
    fn default() -> Self {
        Self { log_bytes: 512 * MIB, interval_seconds: 3_600, bytes_per_second_max: 32 * MIB }
    }
}

/// `[history]`: where resolved reservations go. Free per process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistorySettings {
    /// Memory for what was read of the history, 1 MiB to 64 GiB, in bytes. Default: 16 MiB.
    pub cache_bytes: u64,
}

impl Default for HistorySettings {
    fn default() -> Self {
        Self { cache_bytes: 16 * MIB }
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
    /// How long a reservation stays readable, and can be returned, after its last held unit went, 1 s to 365 days; not shorter than
    /// `idempotency_seconds`. Default: 604,800 (seven days).
    pub retention_seconds: u64,
    /// Reservations that each shard holds in memory at most, 1 to 100,000,000; beyond, new ones are refused as `overloaded`. One takes
    /// about 130 bytes. Default: 50,000,000.
    pub reservations_in_memory_max: u64,
    /// Most users that a shard keeps units of in memory, counted once for each stock, 1 to 34,000,000; beyond, reservations of new users
    /// are refused with `overloaded`. Default: 30,000,000.
    pub users_in_memory_max: u64,
}

impl Default for RulesSettings {
    fn default() -> Self {
        Self {
            idempotency_seconds: 86_400,
            idempotency_keys_max: 10_000_000,
            retention_seconds: 604_800,
            reservations_in_memory_max: 50_000_000,
            users_in_memory_max: 30_000_000,
        }
    }
}

/// `[feed]`: the change feed. Free per process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedSettings {
    /// How long a change stays in the feed at most, by the log's time, 60 s to 365 days. A cursor before what is left is `cursor_expired`.
    /// Default: 604,800 (seven days).
    pub retention_seconds: u64,
    /// How large the log may grow for the feed's sake, 16 MiB to 64 TiB, in bytes; beyond, the oldest changes leave the feed before their
    /// time. Default: 16 GiB.
    pub retention_bytes: u64,
    /// After how long without a change an event stream says that it is alive, 1 to 3,600 s. Default: 15.
    pub heartbeat_seconds: u64,
    /// How long the reader of an event stream may take nothing of what is there for it, 1 to 3,600 s; then it is closed. Default: 60.
    pub stall_seconds_max: u64,
    /// Most event streams at once, 1 to 1,000,000; further ones are refused as `overloaded`. Each takes a connection. Default: 256.
    pub streams_max: u64,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self {
            retention_seconds: 604_800,
            retention_bytes: 16 * 1024 * MIB,
            heartbeat_seconds: 15,
            stall_seconds_max: 60,
            streams_max: 256,
        }
    }
}

/// `[cluster]`: the cluster that the node is a member of. Without `cluster.listen` the node stands alone, and nothing else here counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterSettings {
    /// Where to listen for the other nodes: an IP address with a port. With `none` the node stands alone. Free per process.
    /// Default: `none`.
    pub listen: Option<SocketAddr>,
    /// Where the other nodes reach it: a name or an IP address with a port. The members of the cluster keep it, so it counts when the node joins.
    /// With `none` it is `cluster.listen`, which must then be an address of this machine, with a port. Free per process. Default: `none`.
    pub advertise: Option<PeerAddress>,
    /// The file with the secret that the nodes share, 32 to 4,096 bytes best drawn at random; white space at its end does not count. Same across
    /// a cluster. Default: `none`.
    pub secret_file: Option<PathBuf>,
    /// The node's certificate in PEM for connections between nodes, made out to `tidegate-node-<number>`, and behind it those that lead to its
    /// root. All three files of `[cluster]`, or none: then whoever can write to the network between the nodes can change what they say. Free
    /// per process. Default: `none`.
    pub certificate_file: Option<PathBuf>,
    /// The certificate's private key in PEM, not encrypted. Free per process. Default: `none`.
    pub private_key_file: Option<PathBuf>,
    /// The authorities in PEM whose signatures on certificates of nodes are trusted; they should sign nothing else. Free per process.
    /// Default: `none`.
    pub authorities_file: Option<PathBuf>,
    /// How often a leader says that it is there, 10 to 10,000 ms. Same across a cluster. Default: 100.
    pub heartbeat_ms: u64,
    /// A node that has heard of no leader for `cluster.election_ms_max` waits for a time between this and that again, and then stands for election:
    /// 50 to 60,000 ms, and at least five times `cluster.heartbeat_ms`. Same across a cluster. Default: 500.
    pub election_ms_min: u64,
    /// How long a leader decides on that hears of no majority; as long, nobody stands for election against it. 51 to 120,000 ms and more than
    /// `cluster.election_ms_min`. A leader that is lost is replaced within twice that, and a moment. Same across a cluster.
    /// Default: 900.
    pub election_ms_max: u64,
    /// Entries of each shard's log, before its newest snapshot, that are kept for a member that comes back late: 0 to 1,000,000,000. Whoever
    /// lacks more gets the snapshot. Free per process. Default: 100,000.
    pub late_entries_kept: u64,
    /// Groups of a shard after which whoever decides writes what its ledger comes to behind the next, for the other members to compare theirs
    /// with: 1 to 1,000,000. Free per process. Default: 1,000.
    pub sum_groups: u64,
    /// The same by time: the next group behind so long has it, however few there were. 1 to 86,400 s. Free per process. Default: 10.
    pub sum_seconds: u64,
    /// What a member does whose ledger is not that of the node that decided. `stop`: it stops, and does not start again on its directory. `warn`:
    /// it says so and goes on; for as long as it takes to be rid of a node that decided on a damaged ledger, and no longer. Free per process.
    /// Default: `stop`.
    pub on_divergence: OnDivergence,
    /// How far the clock of a member may be from those of the others: 1 to 60,000 ms. Whoever is further off than most says so, leads nothing that
    /// another can lead, and does not stand for election while one is there that is not. Same across a cluster. Default: 500.
    pub clock_skew_ms_max: u64,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            listen: None,
            advertise: None,
            secret_file: None,
            certificate_file: None,
            private_key_file: None,
            authorities_file: None,
            heartbeat_ms: 100,
            election_ms_min: 500,
            election_ms_max: 900,
            late_entries_kept: 100_000,
            sum_groups: 1_000,
            sum_seconds: 10,
            on_divergence: OnDivergence::Stop,
            clock_skew_ms_max: 500,
        }
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
    /// Lines that may wait while whoever reads the standard error of `tidegate serve` does not, 1 to 1,000,000; more are dropped and
    /// counted. Default: 10,000.
    pub lines_waiting_max: u64,
}

impl Default for OutputSettings {
    fn default() -> Self {
        Self { format: LogFormat::Human, filter: "info".to_owned(), lines_waiting_max: 10_000 }
    }
}

/// `[telemetry]`: where traces go. Free per process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// The collector that traces are sent to, in OTLP as protobuf over plain HTTP, such as `http://127.0.0.1:4318`; `none` sends nothing
    /// and makes no connection. Default: `none`.
    pub otlp_endpoint: Option<CollectorUrl>,
    /// The share of traces that begin here and are sent, 0 to 1. A caller's trace is sent if the caller says so, and only then.
    /// Default: 0.01.
    pub sample_ratio: Ratio,
    /// What the service is called in its traces. Default: `tidegate`.
    pub service_name: String,
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        let sample_ratio = Ratio::new(0.01).expect("it is from 0 to 1");
        Self { otlp_endpoint: None, sample_ratio, service_name: "tidegate".to_owned() }
    }
}

/// A field's section, its name, whether its value may be shown, and its place.
pub(crate) type Field<'a> = (&'static str, &'static str, Sight, Slot<'a>);

/// Whether a setting's value may be shown. Every field says so, and none by default: a secret cannot be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Anybody may see it.
    Open,
    /// Nobody may see it: neither in what is printed nor in an error.
    #[allow(dead_code, reason = "no setting is a secret yet")]
    Secret,
}

impl Settings {
    /// Every setting, with its bounds. What is not listed here cannot be set.
    pub(crate) fn fields(&mut self) -> Vec<Field<'_>> {
        let Self { node, http, auth, tls, engine, log, snapshots, history, rules, feed, cluster, output, telemetry } = self;
        let seconds = || 1..=3_600;
        vec![
            ("node", "data_dir", Sight::Open, Slot::Path(&mut node.data_dir)),
            ("node", "shards", Sight::Open, Slot::Count(&mut node.shards, 1..=1_024)),
            ("node", "worker_threads", Sight::Open, Slot::Count(&mut node.worker_threads, 1..=1_024)),
            ("http", "listen", Sight::Open, Slot::Address(&mut http.listen)),
            ("http", "connections_max", Sight::Open, Slot::Number(&mut http.connections_max, 1..=1_000_000)),
            ("http", "send_buffer_bytes", Sight::Open, Slot::Number(&mut http.send_buffer_bytes, 4 * KIB..=64 * MIB)),
            ("http", "header_bytes_max", Sight::Open, Slot::Number(&mut http.header_bytes_max, KIB..=MIB)),
            ("http", "body_bytes_max", Sight::Open, Slot::Number(&mut http.body_bytes_max, KIB..=64 * MIB)),
            ("http", "batch_body_bytes_max", Sight::Open, Slot::Number(&mut http.batch_body_bytes_max, KIB..=64 * MIB)),
            ("http", "bodies_bytes_max", Sight::Open, Slot::Number(&mut http.bodies_bytes_max, KIB..=64 * 1024 * MIB)),
            ("http", "header_seconds_max", Sight::Open, Slot::Number(&mut http.header_seconds_max, seconds())),
            ("http", "body_seconds_max", Sight::Open, Slot::Number(&mut http.body_seconds_max, seconds())),
            ("http", "idle_seconds_max", Sight::Open, Slot::Number(&mut http.idle_seconds_max, seconds())),
            ("http", "drain_seconds", Sight::Open, Slot::Number(&mut http.drain_seconds, 0..=3_600)),
            ("http", "answer_seconds_max", Sight::Open, Slot::Number(&mut http.answer_seconds_max, seconds())),
            ("auth", "keys_file", Sight::Open, Slot::OptionalPath(&mut auth.keys_file)),
            ("auth", "metrics_without_key", Sight::Open, Slot::Switch(&mut auth.metrics_without_key)),
            ("tls", "certificate_file", Sight::Open, Slot::OptionalPath(&mut tls.certificate_file)),
            ("tls", "private_key_file", Sight::Open, Slot::OptionalPath(&mut tls.private_key_file)),
            ("engine", "ring_slots", Sight::Open, Slot::PowerOfTwo(&mut engine.ring_slots, 64..=1_048_576)),
            ("engine", "batch_commands_max", Sight::Open, Slot::Number(&mut engine.batch_commands_max, 1..=8_192)),
            ("engine", "group_events_max", Sight::Open, Slot::Number(&mut engine.group_events_max, 1..=1_000_000)),
            ("engine", "group_bytes_max", Sight::Open, Slot::Number(&mut engine.group_bytes_max, 1..=GROUP_PAYLOAD_BYTES_MAX)),
            ("engine", "groups_in_flight_max", Sight::Open, Slot::Number(&mut engine.groups_in_flight_max, 1..=1_024)),
            ("engine", "resolved_in_memory_max", Sight::Open, Slot::Number(&mut engine.resolved_in_memory_max, 0..=50_000_000)),
            ("engine", "recalls_in_flight_max", Sight::Open, Slot::Number(&mut engine.recalls_in_flight_max, 1..=1_000_000)),
            (
                "engine",
                "known_filter_bytes_max",
                Sight::Open,
                Slot::PowerOfTwo(&mut engine.known_filter_bytes_max, 65_536..=1_073_741_824),
            ),
            ("log", "durability", Sight::Open, Slot::Durability(&mut log.durability)),
            ("log", "disk_free_bytes_min", Sight::Open, Slot::Number(&mut log.disk_free_bytes_min, MIB..=MIB * MIB)),
            ("log", "cache_bytes", Sight::Open, Slot::Number(&mut log.cache_bytes, MIB..=64 * 1024 * MIB)),
            ("log", "segment_bytes_max", Sight::Open, Slot::Number(&mut log.segment_bytes_max, MIB..=64 * 1024 * MIB)),
            ("rules", "idempotency_seconds", Sight::Open, Slot::Number(&mut rules.idempotency_seconds, 1..=YEAR_SECONDS)),
            ("rules", "idempotency_keys_max", Sight::Open, Slot::Number(&mut rules.idempotency_keys_max, 1..=1_000_000_000)),
            ("rules", "retention_seconds", Sight::Open, Slot::Number(&mut rules.retention_seconds, 1..=YEAR_SECONDS)),
            (
                "rules",
                "reservations_in_memory_max",
                Sight::Open,
                Slot::Number(&mut rules.reservations_in_memory_max, 1..=100_000_000),
            ),
            ("rules", "users_in_memory_max", Sight::Open, Slot::Number(&mut rules.users_in_memory_max, 1..=34_000_000)),
            ("snapshots", "log_bytes", Sight::Open, Slot::Number(&mut snapshots.log_bytes, MIB..=MIB * MIB)),
            ("snapshots", "interval_seconds", Sight::Open, Slot::Number(&mut snapshots.interval_seconds, 10..=YEAR_SECONDS)),
            (
                "snapshots",
                "bytes_per_second_max",
                Sight::Open,
                Slot::Number(&mut snapshots.bytes_per_second_max, MIB..=64 * 1024 * MIB),
            ),
            ("history", "cache_bytes", Sight::Open, Slot::Number(&mut history.cache_bytes, MIB..=64 * 1024 * MIB)),
            ("feed", "retention_seconds", Sight::Open, Slot::Number(&mut feed.retention_seconds, 60..=YEAR_SECONDS)),
            ("feed", "retention_bytes", Sight::Open, Slot::Number(&mut feed.retention_bytes, 16 * MIB..=64 * MIB * MIB)),
            ("feed", "heartbeat_seconds", Sight::Open, Slot::Number(&mut feed.heartbeat_seconds, seconds())),
            ("feed", "stall_seconds_max", Sight::Open, Slot::Number(&mut feed.stall_seconds_max, seconds())),
            ("feed", "streams_max", Sight::Open, Slot::Number(&mut feed.streams_max, 1..=1_000_000)),
            ("cluster", "listen", Sight::Open, Slot::OptionalAddress(&mut cluster.listen)),
            ("cluster", "advertise", Sight::Open, Slot::Peer(&mut cluster.advertise)),
            ("cluster", "secret_file", Sight::Open, Slot::OptionalPath(&mut cluster.secret_file)),
            ("cluster", "certificate_file", Sight::Open, Slot::OptionalPath(&mut cluster.certificate_file)),
            ("cluster", "private_key_file", Sight::Open, Slot::OptionalPath(&mut cluster.private_key_file)),
            ("cluster", "authorities_file", Sight::Open, Slot::OptionalPath(&mut cluster.authorities_file)),
            ("cluster", "heartbeat_ms", Sight::Open, Slot::Number(&mut cluster.heartbeat_ms, 10..=10_000)),
            ("cluster", "election_ms_min", Sight::Open, Slot::Number(&mut cluster.election_ms_min, 50..=60_000)),
            ("cluster", "election_ms_max", Sight::Open, Slot::Number(&mut cluster.election_ms_max, 51..=120_000)),
            ("cluster", "late_entries_kept", Sight::Open, Slot::Number(&mut cluster.late_entries_kept, 0..=1_000_000_000)),
            ("cluster", "sum_groups", Sight::Open, Slot::Number(&mut cluster.sum_groups, 1..=1_000_000)),
            ("cluster", "sum_seconds", Sight::Open, Slot::Number(&mut cluster.sum_seconds, 1..=86_400)),
            ("cluster", "on_divergence", Sight::Open, Slot::OnDivergence(&mut cluster.on_divergence)),
            ("cluster", "clock_skew_ms_max", Sight::Open, Slot::Number(&mut cluster.clock_skew_ms_max, 1..=60_000)),
            ("output", "format", Sight::Open, Slot::LogFormat(&mut output.format)),
            ("output", "filter", Sight::Open, Slot::Text(&mut output.filter)),
            ("output", "lines_waiting_max", Sight::Open, Slot::Number(&mut output.lines_waiting_max, 1..=1_000_000)),
            ("telemetry", "otlp_endpoint", Sight::Open, Slot::Collector(&mut telemetry.otlp_endpoint)),
            ("telemetry", "sample_ratio", Sight::Open, Slot::Ratio(&mut telemetry.sample_ratio)),
            ("telemetry", "service_name", Sight::Open, Slot::Text(&mut telemetry.service_name)),
        ]
    }

    /// The name of every setting with its section: `http.listen`.
    pub fn keys() -> Vec<String> {
        Self::default().fields().iter().map(|(section, name, ..)| format!("{section}.{name}")).collect()
    }

    /// Checks the relations between settings; each is within its own bounds already.
    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let listen = self.http.listen;
        if !listen.ip().is_loopback() && self.auth.keys_file.is_none() {
            return Err(SettingsError::Contradiction {
                key: "http.listen",
                given: listen.to_string(),
                allowed: "a loopback address, such as 127.0.0.1:8700,".to_owned(),
                reason: "there are no API keys (auth.keys_file is none), so whoever reaches the address may do anything".to_owned(),
            });
        }
        let lacking = match (&self.tls.certificate_file, &self.tls.private_key_file) {
            (Some(_), None) => Some("tls.private_key_file"),
            (None, Some(_)) => Some("tls.certificate_file"),
            _ => None,
        };
        if let Some(key) = lacking {
            return Err(SettingsError::Contradiction {
                key,
                given: "none".to_owned(),
                allowed: "the path of a file".to_owned(),
                reason: "a certificate and its private key go together".to_owned(),
            });
        }
        self.cluster.check()?;
        let HttpSettings { body_bytes_max, batch_body_bytes_max, bodies_bytes_max, .. } = self.http;
        let body_max = body_bytes_max.max(batch_body_bytes_max);
        if bodies_bytes_max < body_max {
            return Err(SettingsError::Contradiction {
                key: "http.bodies_bytes_max",
                given: bodies_bytes_max.to_string(),
                allowed: format!("a whole number of at least {body_max}"),
                reason: format!(
                    "one body may have as many, with http.body_bytes_max at {body_bytes_max} and http.batch_body_bytes_max at \
                     {batch_body_bytes_max}"
                ),
            });
        }
        let RulesSettings { idempotency_seconds, retention_seconds, reservations_in_memory_max, .. } = self.rules;
        if retention_seconds < idempotency_seconds {
            return Err(SettingsError::Contradiction {
                key: "rules.retention_seconds",
                given: retention_seconds.to_string(),
                allowed: format!("a whole number of at least {idempotency_seconds}"),
                reason: format!(
                    "a repeat is answered with its reservation for rules.idempotency_seconds, which is {idempotency_seconds}"
                ),
            });
        }
        let EngineSettings { batch_commands_max, group_bytes_max, resolved_in_memory_max, .. } = self.engine;
        let resolved_max = reservations_in_memory_max / 2;
        if resolved_in_memory_max > resolved_max {
            return Err(SettingsError::Contradiction {
                key: "engine.resolved_in_memory_max",
                given: resolved_in_memory_max.to_string(),
                allowed: format!("a whole number of 0 to {resolved_max}"),
                reason: format!(
                    "it is at most half of rules.reservations_in_memory_max, which is {reservations_in_memory_max}, so that reservations \
                     which hold nothing leave memory before they keep new ones out"
                ),
            });
        }
        let last_batch = (batch_commands_max + WORK_COMMANDS_MAX) * EVENT_BYTES_MAX + LAPSE_BYTES_MAX;
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

impl ClusterSettings {
    /// Checks the relations between its settings.
    fn check(&self) -> Result<(), SettingsError> {
        let Self { listen, advertise, secret_file, heartbeat_ms, election_ms_min, election_ms_max, .. } = self;
        let contradiction = |key, given: String, allowed: &str, reason: &str| {
            Err(SettingsError::Contradiction { key, given, allowed: allowed.to_owned(), reason: reason.to_owned() })
        };
        let files = [
            ("cluster.certificate_file", &self.certificate_file),
            ("cluster.private_key_file", &self.private_key_file),
            ("cluster.authorities_file", &self.authorities_file),
        ];
        let lacking = files.iter().find(|(_, file)| file.is_none()).filter(|_| files.iter().any(|(_, file)| file.is_some()));
        if let Some((key, _)) = lacking {
            let reason = "a node's certificate, its private key and the authorities that it trusts go together";
            return contradiction(key, "none".to_owned(), "the path of a file", reason);
        }
        if *election_ms_min < HEARTBEATS_BEFORE_ELECTION_MIN * heartbeat_ms {
            let allowed = format!("a whole number of at least {}", HEARTBEATS_BEFORE_ELECTION_MIN * heartbeat_ms);
            let reason = format!("a few of its heartbeats may be late, and cluster.heartbeat_ms is {heartbeat_ms}");
            return contradiction("cluster.election_ms_min", election_ms_min.to_string(), &allowed, &reason);
        }
        if election_ms_max <= election_ms_min {
            let allowed = format!("a whole number of more than {election_ms_min}");
            let reason = format!("nodes stand for election at different times, and cluster.election_ms_min is {election_ms_min}");
            return contradiction("cluster.election_ms_max", election_ms_max.to_string(), &allowed, &reason);
        }
        let Some(listen) = listen else { return Ok(()) };
        if secret_file.is_none() {
            let reason = "nodes know each other by the secret that they share";
            return contradiction("cluster.secret_file", "none".to_owned(), "the path of a file", reason);
        }
        if advertise.is_none() && (listen.ip().is_unspecified() || listen.port() == 0) {
            let reason = format!("no other node can reach cluster.listen, which is {listen}");
            return contradiction("cluster.advertise", "none".to_owned(), "a name or an IP address with a port", &reason);
        }
        Ok(())
    }
}

// The longest batch leaves room for the group before it.
const _: () = assert!((8_192 + WORK_COMMANDS_MAX) * EVENT_BYTES_MAX + LAPSE_BYTES_MAX < GROUP_PAYLOAD_BYTES_MAX);
