//! What a service manager hears of the process: systemd's notification protocol, one datagram a message.
//!
//! Without `$NOTIFY_SOCKET` every call does nothing. A manager that does not take a message is no reason to serve any worse, so a message
//! that cannot be sent is told in the log and otherwise forgotten. This file must not know what the messages are about.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process;
use std::time::Duration;

/// Longest wait for a manager to take one message.
const SEND_WAIT_MAX: Duration = Duration::from_secs(1);

/// The service manager, if there is one that listens.
#[derive(Debug)]
pub(crate) struct ServiceManager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names, or none.
    pub(crate) fn from_environment() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").and_then(|name| match connect(&name) {
            Ok(socket) => Some(socket),
            Err(error) => {
                tracing::warn!(%error, socket = %name.display(), "the service manager cannot be reached");
                None
            }
        });
        let number = |name| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        // The time-out may be meant for another process that this one was started by.
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|microseconds| is_ours && *microseconds > 0).map(Duration::from_micros);
        Self { socket, watchdog }
    }

    /// How long the manager waits for a [`Self::ping`] before it takes the process for hung; `None` if it does not wait for any.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog.filter(|_| self.socket.is_some())
    }

    /// The service takes work.
    pub(crate) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}\n", line(status)));
    }

    /// The start goes on, and needs at most `longer` from now until the next such message or the end of the start.
    pub(crate) fn starting(&self, status: &str, longer: Duration) {
        self.send(&format!("STATUS={}\nEXTEND_TIMEOUT_USEC={}\n", line(status), longer.as_micros()));
    }

    /// The service is ending.
    pub(crate) fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}\n", line(status)));
    }

    /// The service is alive.
    pub(crate) fn ping(&self) {
        self.send("WATCHDOG=1\n");
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(message.as_bytes())
        {
            tracing::warn!(%error, message = message.trim_end(), "the service manager did not take a message");
        }
    }
}

fn connect(name: &OsStr) -> io::Result<UnixDatagram> {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(SEND_WAIT_MAX))?;
    Ok(socket)
}

/// A status is the rest of one line.
fn line(status: &str) -> String {
    status.replace(['\n', '\r'], " ")
}
