//! The end of a listener: who has connected by then is taken over, and nobody is let in after that. The door of socket2.
//!
//! The operating system connects clients before anybody accepts them, and a listener that closes resets all that wait. So first nobody
//! further is connected, then all that wait are accepted, and only then the listener closes. A client that asks for a connection
//! meanwhile hears nothing, asks again after a second as every TCP does, and is refused.

use std::io::{self, ErrorKind};
use std::net::{TcpListener as BlockingListener, TcpStream};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::sleep;

/// How long connections may take that the operating system has begun to make. Those that take longer are reset.
const HANDSHAKE_GRACE: Duration = Duration::from_millis(20);

/// Closes `listener`, and returns up to `max` connections that waited to be accepted, each ready for a runtime. What is beyond `max` is
/// reset. Where nobody can be kept from connecting, so are those that connect in the moment between the last look and the closing.
pub(crate) async fn take(listener: TcpListener, max: usize) -> Vec<TcpStream> {
    match connect_nobody(&listener) {
        Ok(()) => sleep(HANDSHAKE_GRACE).await,
        Err(error) => tracing::debug!(%error, "the listener connects clients until it closes"),
    }
    let mut taken = Vec::new();
    // Not by way of the runtime, which may not know yet who has come.
    let Ok(listener) = listener.into_std() else { return taken };
    while taken.len() < max {
        match accept(&listener) {
            Ok(stream) => taken.push(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // It was gone before it was looked at.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                break;
            }
        }
    }
    taken
}

fn accept(listener: &BlockingListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// From now on requests for a connection are dropped unseen; those that were seen are still finished.
#[cfg(target_os = "linux")]
fn connect_nobody(listener: &TcpListener) -> io::Result<()> {
    use socket2::{SockFilter, SockRef};

    /// Where the flags stand in a TCP header, and the one that asks for a connection.
    const FLAGS_OFFSET: u32 = 13;
    const SYN: u32 = 0x02;

    // In the instructions of the classic Berkeley Packet Filter, whose packets begin here with the TCP header.
    let load_byte = |offset| SockFilter::new(0x30, 0, 0, offset);
    let skip_unless_set = |bits, skipped| SockFilter::new(0x45, 0, skipped, bits);
    let keep_bytes = |count| SockFilter::new(0x06, 0, 0, count);
    SockRef::from(listener).attach_filter(&[load_byte(FLAGS_OFFSET), skip_unless_set(SYN, 1), keep_bytes(0), keep_bytes(u32::MAX)])
}

#[cfg(not(target_os = "linux"))]
fn connect_nobody(_: &TcpListener) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}
