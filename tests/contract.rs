//! The contract after a restart: every row of its tables on the whole program, before a kill, after a start from the log, after a start
//! from a snapshot, and after one whose resolved reservations are in the history. Expected values stand here as the contract says them.

mod support;

mod contract {
    pub mod node;

    mod access;
    mod feed;
    mod idempotency;
    mod kill;
    mod lists;
    mod reservations;
    mod stocks;
    mod time;
}
