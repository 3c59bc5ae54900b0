//! The machine's limits, by name, with their defaults and the relations between them.

use crate::known::KNOWN_BYTES_MIN;
use crate::ring::RING_SLOTS_MIN;

/// Limits of one engine. Free per process: they change neither the log's format nor any decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineOptions {
    /// Slots of each shard's ring: commands that may wait there, and likewise (within one batch) answers that may wait for their commit.
    /// A power of two, at least 64. Default 32,768.
    pub ring_slots: usize,
    /// Most commands decided in one batch, with one time stamp. At least 1. Default 1,024.
    pub batch_commands_max: usize,
    /// Events at which an open group takes no further batch until it is proposed. At least 1. Default 16,384.
    pub group_events_max: u32,
    /// Payload bytes at which an open group takes no further batch until it is proposed. At least 1. Default 1 MiB.
    pub group_bytes_max: usize,
    /// Groups of one shard proposed and not yet committed. At least 1. Default 4.
    pub groups_in_flight_max: usize,
    /// Reservations of one shard that hold nothing and stay in memory all the same, the newest ones; the others go to the history.
    /// Default 100,000.
    pub resolved_in_memory_max: usize,
    /// Commands of one shard that wait for a reservation from the history at once; more are refused. At least 1. Default 1,024.
    pub recalls_in_flight_max: usize,
    /// Most bytes of what each shard's door knows of whom the shard knows, so that strangers hear that something is sold out without asking
    /// the shard. A power of two, at least 4 KiB; while a new one is made, up to twice as many are used. With as many users and keys as bytes, one
    /// stranger in twenty asks the shard all the same, and with more of them more. Default 4 MiB.
    pub known_filter_bytes_max: usize,
    /// In a cluster, groups of a shard after which whoever decides writes its ledger's sum behind the next, for the others to compare theirs
    /// with. At least 1. Default 1,000.
    pub sum_groups: u32,
    /// The same by time, in seconds: the next group behind so long has one, however few there were. At least 1. Default 10.
    pub sum_seconds: u32,
    /// What is done where a sum in the log is not that of the shard's ledger. Default [`OnDivergence::Stop`].
    pub on_divergence: OnDivergence,
}

/// What is done where a ledger differs from that of whoever decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnDivergence {
    /// The shard applies nothing more, and the node must stop.
    #[default]
    Stop,
    /// It is told, and the shard goes on. For those whose ledger is known to be the right one.
    Warn,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            ring_slots: 32_768,
            batch_commands_max: 1_024,
            group_events_max: 16_384,
            group_bytes_max: 1024 * 1024,
            groups_in_flight_max: 4,
            resolved_in_memory_max: 100_000,
            recalls_in_flight_max: 1_024,
            known_filter_bytes_max: 4 * 1024 * 1024,
            sum_groups: 1_000,
            sum_seconds: 10,
            on_divergence: OnDivergence::Stop,
        }
    }
}

/// A limit that is not possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// The ring cannot have that many slots.
    #[error("ring_slots is {0} where a power of two of at least {RING_SLOTS_MIN} is needed")]
    RingSlots(usize),
    /// The filter cannot have that many bytes.
    #[error("known_filter_bytes_max is {0} where a power of two of at least {KNOWN_BYTES_MIN} is needed")]
    KnownFilter(usize),
    /// A limit is zero.
    #[error("{0} is 0 where at least 1 is needed")]
    Zero(&'static str),
}

impl EngineOptions {
    /// Checks every limit.
    pub fn check(&self) -> Result<(), OptionError> {
        if !self.ring_slots.is_power_of_two() || self.ring_slots < RING_SLOTS_MIN {
            return Err(OptionError::RingSlots(self.ring_slots));
        }
        if !self.known_filter_bytes_max.is_power_of_two() || self.known_filter_bytes_max < KNOWN_BYTES_MIN {
            return Err(OptionError::KnownFilter(self.known_filter_bytes_max));
        }
        let zero = [
            ("batch_commands_max", self.batch_commands_max == 0),
            ("group_events_max", self.group_events_max == 0),
            ("group_bytes_max", self.group_bytes_max == 0),
            ("groups_in_flight_max", self.groups_in_flight_max == 0),
            ("recalls_in_flight_max", self.recalls_in_flight_max == 0),
            ("sum_groups", self.sum_groups == 0),
            ("sum_seconds", self.sum_seconds == 0),
        ];
        match zero.iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => Err(OptionError::Zero(name)),
            None => Ok(()),
        }
    }
}
