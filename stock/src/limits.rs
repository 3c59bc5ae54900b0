//! The bounds of the domain, by name. Bounds of machines, disks and sockets live with those.

/// Longest identifier (sku, user, reference, idempotency key), in characters of the identifier alphabet.
pub const IDENTIFIER_CHARACTERS_MAX: usize = 128;

/// Largest quantity in one command, in units.
pub const QUANTITY_MAX: u32 = 1_000_000_000;

/// Longest reason of an adjustment, in bytes of UTF-8.
pub const REASON_BYTES_MAX: usize = 256;

/// Largest number of units a stock may be allotted over its life.
pub const ALLOTTED_MAX: u64 = 1_000_000_000_000;

/// Longest hold, in seconds (one year).
pub const HOLD_SECONDS_MAX: u32 = 31_536_000;

/// Hold of a stock that names none, in seconds.
pub const HOLD_SECONDS_DEFAULT: u32 = 600;

/// Longest hold a reservation may ask for where its stock names none, in seconds; a stock whose own hold is longer gets that instead.
pub const HOLD_SECONDS_MAX_DEFAULT: u32 = 3_600;

/// Most reservations that one lapse event carries, so that a batch of commands runs between two of them.
pub const LAPSE_RESERVATIONS_MAX: usize = 1_000;

/// Most reservations that one ledger holds in memory at any setting: what the handles of names and records have room for.
pub const RESERVATIONS_IN_MEMORY_MAX: usize = 100_000_000;

/// Most users that one ledger holds in memory at any setting, counted once for each stock: a name is kept of each, and one of each
/// reservation in memory that carries a reference.
pub const USERS_IN_MEMORY_MAX: usize = 34_000_000;

/// Most idempotency keys that one ledger remembers at any setting.
pub const IDEMPOTENCY_KEYS_MAX: usize = 1_000_000_000;

// A quantity fits the 32-bit counters of a reservation, and a stock's units fit 64 bits with room for every adjustment.
const _: () = assert!(QUANTITY_MAX as u64 <= ALLOTTED_MAX);
const _: () = assert!(ALLOTTED_MAX < u64::MAX / 2);
const _: () = assert!(HOLD_SECONDS_DEFAULT <= HOLD_SECONDS_MAX_DEFAULT && HOLD_SECONDS_MAX_DEFAULT <= HOLD_SECONDS_MAX);
