//! The network of a cluster: how the consensus groups of one node ask those of another, over [`crate::transport`].
//!
//! Two nodes have four connections in each direction, one for each lane, which all shards share: every question of consensus names its shard.
//! On the fourth goes what is for neither consensus nor this module: [`Links::ask`] asks it, a [`Desk`] answers it. [`Links`] makes connections and asks ([`Dialer`] is openraft's view of it), [`Server`] takes them and answers. What goes over them stands
//! in `wire.rs`; how a snapshot becomes bytes is the machine's, by [`SnapshotTransfer`].
//!
//! It decides nothing: what is asked and what an answer means is openraft's. A connection fails as a whole, and with it everything
//! that was asked over it.

mod dialer;
mod endpoint;
mod link;
mod reception;
mod server;
mod transfer;
mod wire;

pub use dialer::{
    APPENDS_IN_FLIGHT_MAX, BULK_MS_MIN, Client, Dialer, Links, SNAPSHOT_INSTALL_SECONDS_MAX, SNAPSHOT_PART_BYTES,
    SNAPSHOT_PARTS_IN_FLIGHT_MAX,
};
pub use endpoint::{
    CONNECT_MS_MAX, CONNECTIONS_MAX_DEFAULT, Endpoint, EndpointError, HANDSHAKE_MS_MAX_DEFAULT, HANDSHAKES_MAX_DEFAULT,
    NetworkLimits, SILENCE_MS_MAX_DEFAULT,
};
pub use link::{IDLE_SECONDS_MAX, LINK_QUEUE_MAX, LinkError, RECONNECT_MS_MAX, RECONNECT_MS_MIN};
pub use server::{
    Desk, NoDesk, REQUESTS_IN_FLIGHT_BYTES_MAX, REQUESTS_IN_FLIGHT_MAX, SILENT_SECONDS_MAX, STOP_MS_MAX, Server, Shards,
};
pub use transfer::{IncomingFile, IncomingSnapshot, SnapshotTransfer};
