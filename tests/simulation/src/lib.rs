//! A whole cluster in one process, on one thread, in time that passes only when nothing else is to be done: everything that happens follows from
//! one seed.
//!
//! What runs is the product: its engine, its consensus, its write-ahead log with its recovery. What is simulated is what is around it: the network,
//! the disks, the clocks, the clients, and all that goes wrong with them. What a run leaves is judged by `invariants/`, one file for each
//! promise.

mod clients;
mod clocks;
mod cluster;
mod defect;
mod disk;
mod evidence;
mod faults;
mod invariants;
mod network;
mod node;
mod report;
mod run;
mod snapshots;
mod world;

pub use defect::Defect;
pub use evidence::Finding;
pub use report::Tally;
pub use run::{Run, run_many, run_seed};
