//! What goes over a connection between two nodes: first who they are, then frames. It knows nothing of what a frame holds, of consensus, nor of
//! how a connection comes about, and has no clock: whoever calls bounds the time, and closes a connection after any error.

mod frame;
mod handshake;

pub use frame::{FRAME_BYTES_MAX, Frame, FrameError, read_frame, write_frame};
pub use handshake::{CLUSTER_BYTES_MAX, Greeting, HandshakeError, PROTOCOL_VERSION, answer, greet};
