//! Clients of a real node that write down what they asked and were answered, and a judge who says whether any of it breaks a promise.
//!
//! The node is a process ([`node`]), its clients speak HTTP over real sockets ([`clients`], [`wire`]), and what they write down are plain
//! values ([`record`]). The judge ([`witness`]) takes the change feed for the one order of all changes; the contract's rules stand once
//! more in [`rules`]. Nothing in here shares code with the program that it judges.

pub mod clients;
pub mod finding;
pub mod node;
pub mod record;
pub mod rules;
mod timeline;
pub mod wire;
pub mod witness;
