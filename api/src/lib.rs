//! The door: HTTP and nothing else.
//!
//! A [`Door`] stands open from the first moment: it answers probes while the engine recovers, commands once it is given the engine,
//! and lets nobody in once it is stopping. [`serve`] puts it behind a socket. This crate parses, bounds, names and renders; what a
//! command does is for the engine behind it, and how long anything lasts on disk it cannot know.

mod bodies;
mod call;
mod door;
mod exchange;
mod fields;
mod labels;
mod metrics;
mod options;
mod problem;
mod replies;
mod reservations;
mod routes;
mod server;
mod service;
mod socket;
mod status;
mod stocks;
mod time;

pub use door::{Door, LOOPBACK_ACTOR};
pub use options::{HttpOptions, HttpOptionsError};
pub use server::serve;
