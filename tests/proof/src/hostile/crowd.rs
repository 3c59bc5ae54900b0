//! Many connections at once that are held open: each says something when it is made, and perhaps a byte more now and then. One thread,
//! no waiting on any of them; one that the node has closed is made anew.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::machine::wait_until;

/// Longest wait for a connection.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(5);

/// Turns in which all connections are looked at once: a share of them in each, so that the load is even.
const TURNS: usize = 20;

/// From one turn to the next.
const TURN: Duration = Duration::from_millis(10);

/// Receive buffer of a client that does not read, in bytes; the kernel makes its least of it.
const SMALL_BUFFER_BYTES: usize = 2_048;

/// What is said at most on one connection in one turn, in bytes: a client that does not read its answers sends until it cannot.
const WRITTEN_MAX: usize = 4 * 1_024;

/// How each connection of a crowd behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It says nothing after its opening.
    Silent,
    /// It says one more byte of this, round and round, whenever its turn comes.
    Drips(&'static [u8]),
    /// It says its opening again and again as long as it can, and reads nothing.
    Floods,
    /// It closes its sending side behind its opening.
    HalfCloses,
}

/// What became of a crowd.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Done {
    /// Connections made, or requests sent.
    pub(crate) made: u64,
    /// Those of them that the node ended.
    pub(crate) ended: u64,
}

/// Which addresses of this machine connections come from. Each attack has its own, so that none runs out of ports because those of the
/// last are still remembered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source(pub(crate) u8);

/// Connects from `source`.
pub(crate) fn connect(address: SocketAddr, source: Source, small_buffer: bool) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if small_buffer {
        socket.set_recv_buffer_size(SMALL_BUFFER_BYTES)?;
    }
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 1, source.0.max(1)), 0)).into())?;
    socket.connect_timeout(&address.into(), CONNECT_WAIT_MAX)?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

struct Member {
    stream: TcpStream,
    said: usize,
}

/// A crowd of `count` connections with `opening`.
pub(crate) struct Crowd<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) source: Source,
    pub(crate) count: usize,
    pub(crate) opening: &'a [u8],
    pub(crate) manner: Manner,
}

impl Crowd<'_> {
    /// Makes all connections, says so, and goes on until `ends`. Gives up its connections in no order that a client would.
    pub(crate) fn run(&self, ready: &Sender<()>, ends: &AtomicBool) -> io::Result<Done> {
        let mut done = Done::default();
        let mut members = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            members.push(self.join(&mut done)?);
        }
        // Nobody waits when the run is given up.
        let _ = ready.send(());
        let mut due = Instant::now();
        for turn in 0.. {
            if ends.load(Ordering::Relaxed) {
                break;
            }
            for member in members.iter_mut().skip(turn % TURNS).step_by(TURNS) {
                if self.goes_on(member).is_err() {
                    done.ended += 1;
                    *member = self.join(&mut done)?;
                }
            }
            due += TURN;
            wait_until(due);
        }
        Ok(done)
    }

    fn join(&self, done: &mut Done) -> io::Result<Member> {
        let mut stream = connect(self.address, self.source, self.manner == Manner::Floods)?;
        done.made += 1;
        // Whether the node takes it shows when its turn comes.
        let _ = stream.write_all(self.opening);
        if self.manner == Manner::HalfCloses {
            let _ = stream.shutdown(Shutdown::Write);
        }
        stream.set_nonblocking(true)?;
        Ok(Member { stream, said: 0 })
    }

    /// Says what there is to say; an error when the connection is over.
    fn goes_on(&self, member: &mut Member) -> io::Result<()> {
        match self.manner {
            Manner::Floods => {
                let mut written = 0;
                while written < WRITTEN_MAX {
                    // Half a request would be another kind of hostility, so what was left unsaid comes first.
                    match quietly(member.stream.write(&self.opening[member.said..]))? {
                        None => return Ok(()),
                        Some(some) => {
                            written += some;
                            member.said = (member.said + some) % self.opening.len();
                        }
                    }
                }
                return Ok(());
            }
            Manner::Drips(text) => {
                quietly(member.stream.write(&text[member.said..=member.said]))?;
                member.said = (member.said + 1) % text.len();
            }
            Manner::Silent | Manner::HalfCloses => {}
        }
        let mut answer = [0; 4_096];
        match quietly(member.stream.read(&mut answer))? {
            Some(0) => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// `None` where nothing can be done just now.
fn quietly(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}
