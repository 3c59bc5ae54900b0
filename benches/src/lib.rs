//! Measured work. Each bench has a full form, for figures, and a tiny one, for tests; both do the same and check that the work was right:
//! a bench that oversells or loses an answer gives no figure.
//!
//! The crate knows the rooms' public faces only, and the node only by its program and its HTTP contract.

pub mod bulk;
mod bystander;
mod callers;
pub mod chart;
pub mod child;
pub mod cluster;
pub mod committed;
pub mod compaction;
mod copies;
mod door;
pub mod engine;
pub mod error;
pub mod eviction;
pub mod exchange;
pub mod expiry;
pub mod figure;
pub mod floor;
pub mod groups;
mod heard;
pub mod history;
pub mod hot_path;
pub mod http;
pub mod instructions;
pub mod load;
pub mod machine;
pub mod memory;
mod node;
mod pace;
pub mod past;
pub mod picture;
pub mod piece;
pub mod plot;
pub mod recovery;
pub mod report;
pub mod rules;
pub mod sample;
pub mod server;
pub mod signals;
pub mod snapshot;
mod wait;
pub mod wire;
