//! The door: HTTP and nothing else.
//!
//! A [`Door`] stands open from the first moment: it answers probes while the engine recovers, commands once it is given the engine,
//! and lets nobody in once it is stopping. [`serve`] puts it behind a socket. This crate parses, bounds, names and renders; what a
//! command does is for the engine behind it, and how long anything lasts on disk it cannot know.

#[macro_use]
mod mutant;

mod access;
mod backlog;
mod backup;
mod batch;
mod bodies;
mod bounds;
mod call;
mod cluster;
mod commands;
mod connections;
mod cursor;
mod documents;
mod door;
mod events;
mod exchange;
mod exposition;
mod fields;
mod forward;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod json;
mod keys;
mod labels;
mod metrics;
mod openapi;
mod operations;
mod options;
mod page;
mod precondition;
mod problem;
mod query;
mod reload;
mod replies;
mod reservations;
mod routes;
mod schema;
mod server;
mod service;
mod socket;
mod status;
mod stocks;
mod stream;
mod time;
mod tls;
mod trace;
mod workers;

pub use backup::BackupSource;
pub use cluster::{
    ClusterFuture, ClusterRefusal, ClusterSource, ClusterView, Decider, ForwardFailure, Leader, NodeView, ShardView,
};
pub use door::{Door, METRICS_PREFIX};
pub use forward::{Answering, Forwarded, ForwardedAnswer};
pub use keys::{KEY_CHARACTERS_MAX, KeyHash, KeyNameError, KeysError, LOOPBACK_ACTOR, Role, key_name};
pub use options::{AccessOptions, DoorError, HttpOptions, HttpOptionsError};
pub use reload::FileError;
pub use server::serve;
pub use tls::{CertificateError, CertificateFiles};
pub use trace::REQUEST_SPAN_TARGET;
