//! What goes over a connection between two nodes: TLS where it is wanted, then who they are, then frames. It knows nothing of what a frame
//! holds, of consensus, nor of how a connection comes about, and has no clock: whoever calls bounds the time, and closes a connection after any
//! error.

mod frame;
mod handshake;
mod secret;
mod tls;

pub use frame::{FRAME_BYTES_MAX, Frame, FrameError, read_frame, write_frame};
pub use handshake::{CLUSTER_BYTES_MAX, Greeting, Guest, HandshakeError, Lane, PROTOCOL_VERSION, Session, answer, greet};
pub use secret::{ClusterSecret, Nonce, SECRET_BYTES_MAX, SECRET_BYTES_MIN, SecretError, draw_nonce};
pub use tls::{ClusterTls, ClusterTlsError, ClusterTlsFiles, node_name};
pub(crate) use tls::{Connection, Secured};
