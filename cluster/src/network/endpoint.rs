//! What a node brings to every connection, whether it makes it or takes it: who it is, how it proves that, and what it puts up with.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tidegate_persistence::NodeId;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::transport::{
    CLUSTER_BYTES_MAX, ClusterSecret, ClusterTls, Connection, Greeting, Guest, HandshakeError, Lane, Secured, Session, answer,
    draw_nonce, greet,
};

/// How long it may take until both sides of a connection know who the other is.
pub const HANDSHAKE_MS_MAX_DEFAULT: u64 = 5_000;

/// How long it may take until a connection to another node is there, in milliseconds, before any handshake. A node whose machine is down answers
/// nothing at all, and should be found soon after it is back.
pub const CONNECT_MS_MAX: u64 = 2_000;

/// How long nothing may come from a node that owes an answer.
pub const SILENCE_MS_MAX_DEFAULT: u64 = 5_000;

/// How many may be shaking hands at once. Who waits for the longest is cut off for who comes.
pub const HANDSHAKES_MAX_DEFAULT: usize = 64;

/// How many connections of nodes are open at once. A node has one for each lane.
pub const CONNECTIONS_MAX_DEFAULT: usize = 96;

/// What a node puts up with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Milliseconds for everything up to the end of the handshake, at least 1. Default 5,000.
    pub handshake_ms_max: u64,
    /// Milliseconds for which nothing may come from a node that owes an answer, at least 10: it is asked for a sign of life after a fifth
    /// of that, and its connection is closed behind it. Default 5,000.
    pub silence_ms_max: u64,
    /// Who may be shaking hands with the listener at once, at least 1. Default 64.
    pub handshakes_max: usize,
    /// Connections of nodes that the listener keeps at once, at least 1. Default 96.
    pub connections_max: usize,
}

impl Default for NetworkLimits {
    fn default() -> Self {
        Self {
            handshake_ms_max: HANDSHAKE_MS_MAX_DEFAULT,
            silence_ms_max: SILENCE_MS_MAX_DEFAULT,
            handshakes_max: HANDSHAKES_MAX_DEFAULT,
            connections_max: CONNECTIONS_MAX_DEFAULT,
        }
    }
}

/// An endpoint cannot be as it is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The cluster's name is too long.
    #[error("a cluster's name of {0} bytes where {CLUSTER_BYTES_MAX} are allowed")]
    Cluster(usize),
    /// A limit is too low to live with.
    #[error("{name} is {found} where {least} is the least")]
    Limit {
        /// Its name.
        name: &'static str,
        /// What it is.
        found: u64,
        /// What it must be.
        least: u64,
    },
}

/// A node, as others come to know it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Endpoint(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    us: Greeting,
    secret: ClusterSecret,
    tls: Option<ClusterTls>,
    limits: NetworkLimits,
}

impl Endpoint {
    /// Node `us.node` of cluster `us.cluster`, which knows `secret`. With `tls` all connections are protected by it, in both directions; without,
    /// only the handshake is, and a network that others can write to is none to run it on.
    pub fn new(us: Greeting, secret: ClusterSecret, tls: Option<ClusterTls>, limits: NetworkLimits) -> Result<Self, EndpointError> {
        if us.cluster.len() > CLUSTER_BYTES_MAX {
            return Err(EndpointError::Cluster(us.cluster.len()));
        }
        for (name, found, least) in [
            ("handshake_ms_max", limits.handshake_ms_max, 1),
            ("silence_ms_max", limits.silence_ms_max, 10),
            ("handshakes_max", limits.handshakes_max as u64, 1),
            ("connections_max", limits.connections_max as u64, 1),
        ] {
            if found < least {
                return Err(EndpointError::Limit { name, found, least });
            }
        }
        Ok(Self(Arc::new(Parts { us, secret, tls, limits })))
    }

    /// Its number.
    pub fn node(&self) -> NodeId {
        self.0.us.node
    }

    pub(crate) fn limits(&self) -> &NetworkLimits {
        &self.0.limits
    }

    pub(crate) fn handshake_limit(&self) -> Duration {
        Duration::from_millis(self.0.limits.handshake_ms_max)
    }

    pub(crate) fn silence_limit(&self) -> Duration {
        Duration::from_millis(self.0.limits.silence_ms_max)
    }

    fn session(&self, binding: [u8; 32]) -> io::Result<Session<'_>> {
        Ok(Session { secret: &self.0.secret, nonce: draw_nonce()?, binding })
    }

    /// A connection to `node` at `address`, for `lane`. Whoever calls bounds the time.
    pub(crate) async fn connect(&self, node: NodeId, address: &str, lane: Lane) -> Result<Connection, HandshakeError> {
        let connecting = timeout(Duration::from_millis(CONNECT_MS_MAX), TcpStream::connect(address));
        let stream = connecting.await.map_err(io::Error::from)??;
        stream.set_nodelay(true)?;
        let Secured { mut connection, binding, .. } = match &self.0.tls {
            Some(tls) => tls.connect(stream, node).await?,
            None => Secured::plain(stream),
        };
        greet(&mut connection, &self.0.us, node, lane, self.session(binding)?).await?;
        Ok(connection)
    }

    /// Finds out who has connected by `stream`. Whoever calls bounds the time.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<(Guest, Connection), HandshakeError> {
        stream.set_nodelay(true)?;
        let secured = match &self.0.tls {
            Some(tls) => tls.accept(stream).await?,
            None => Secured::plain(stream),
        };
        let Secured { mut connection, binding, certificate } = secured;
        let is_allowed = |node| Secured::may_be(certificate.as_ref(), node);
        let guest = answer(&mut connection, &self.0.us, self.session(binding)?, is_allowed).await?;
        Ok((guest, connection))
    }
}
