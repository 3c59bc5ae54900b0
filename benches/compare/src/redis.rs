//! Redis with the usual script of a sale, asked over its own protocol by many connections with pipelines.

use std::fmt;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tidegate_benches::error::BenchError;
use tidegate_benches::exchange::{Crowd, Seen, exchange};
use tidegate_benches::machine::temporary_directory;

use crate::process::{Process, command};
use crate::script::{redis_command, request, take_results};
use crate::shop::{Books, Shop};

/// The configuration that every Redis here begins with.
const CONFIGURATION: &str = include_str!("../peers/redis.conf");

/// The script.
const SCRIPT: &str = include_str!("../peers/reserve.lua");

/// Longest wait for an answer to a control command.
const CONTROL_WAIT_MAX: Duration = Duration::from_secs(20);

/// When Redis writes what it answered to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendOnly {
    /// Never.
    No,
    /// Once a second, behind the answers.
    EverySecond,
    /// Before it answers.
    Always,
}

impl AppendOnly {
    /// All of them, weakest first.
    pub const ALL: [Self; 3] = [Self::No, Self::EverySecond, Self::Always];

    const fn settings(self) -> &'static str {
        match self {
            Self::No => "appendonly no\n",
            Self::EverySecond => "appendonly yes\nappendfsync everysec\n",
            Self::Always => "appendonly yes\nappendfsync always\n",
        }
    }
}

impl fmt::Display for AppendOnly {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::No => "none",
            Self::EverySecond => "AOF everysec",
            Self::Always => "AOF always",
        })
    }
}

/// A running Redis that knows the script. Dropping it ends it and removes its data.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    address: SocketAddr,
    directory: TempDir,
    control: BufReader<TcpStream>,
    digest: String,
}

impl Redis {
    /// Starts it on a fresh folder in `parent` and waits until it is ready.
    pub fn start(program: &Path, append_only: AppendOnly, parent: Option<&PathBuf>) -> Result<Self, BenchError> {
        let directory = temporary_directory(parent)?;
        let port = free_port()?;
        let (folder, socket) = (directory.path().display(), socket(directory.path()));
        let own = format!("port {port}\nunixsocket {}\ndir {folder}\n{}", socket.display(), append_only.settings());
        let configuration = directory.path().join("redis.conf");
        std::fs::write(&configuration, [CONFIGURATION, &own].concat()).map_err(BenchError::io("configuration of Redis"))?;
        let mut redis = command(program, None);
        redis.arg(&configuration).current_dir(directory.path());
        let mut process = Process::start(redis, "Redis", &directory.path().join("output"), Signal::TERM)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let control = process.wait_ready(|| {
            let stream = TcpStream::connect(address).map_err(BenchError::io("Redis"))?;
            stream.set_read_timeout(Some(CONTROL_WAIT_MAX)).map_err(BenchError::io("Redis"))?;
            let mut control = BufReader::new(stream);
            ask(&mut control, &["PING"])?;
            Ok(control)
        })?;
        let mut redis = Self { process, address, directory, control, digest: String::new() };
        redis.digest = redis.ask(&["SCRIPT", "LOAD", SCRIPT])?;
        Ok(redis)
    }

    /// The socket in the file system at which it listens too.
    pub fn socket(&self) -> PathBuf {
        socket(self.directory.path())
    }

    /// What the script is called by.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    fn ask(&mut self, words: &[&str]) -> Result<String, BenchError> {
        ask(&mut self.control, words)
    }

    fn count(&mut self, words: &[&str]) -> Result<u64, BenchError> {
        let reply = self.ask(words)?;
        reply.parse().map_err(|_| BenchError::Wrong(format!("{words:?} got {reply:?} where a count was expected")))
    }
}

impl Shop for Redis {
    fn open(&mut self, sku: &str, units: u64) -> Result<(), BenchError> {
        self.ask(&["SET", &format!("{sku}:stock"), &units.to_string()]).map(drop)
    }

    fn sell(&mut self, sku: &str, crowd: &Crowd) -> Result<Seen, BenchError> {
        exchange(self.address, &request(&self.digest, sku, crowd.commands), take_results, crowd)
    }

    fn books(&mut self, sku: &str) -> Result<Books, BenchError> {
        let available = self.count(&["GET", &format!("{sku}:stock")])?;
        let users = self.count(&["SCARD", &format!("{sku}:users")])?;
        let orders = self.count(&["XLEN", &format!("{sku}:orders")])?;
        Ok(Books { available, sold: vec![("users in the set", users), ("orders in the stream", orders)] })
    }

    fn processes(&self) -> Vec<u32> {
        vec![self.process.id()]
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("redis.sock")
}

/// A port of the loopback that was free a moment ago.
pub fn free_port() -> Result<u16, BenchError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    listener.map(|address| address.port()).map_err(BenchError::io("a free port"))
}

/// One command and its answer, which must be a text or a number.
fn ask(control: &mut BufReader<TcpStream>, words: &[&str]) -> Result<String, BenchError> {
    let exchange = |control: &mut BufReader<TcpStream>| {
        control.get_mut().write_all(&redis_command(words))?;
        let mut line = String::new();
        control.read_line(&mut line)?;
        if let Some(length) = line.strip_prefix('$').and_then(|length| length.trim_end().parse::<usize>().ok()) {
            let mut text = vec![0; length + 2];
            control.read_exact(&mut text)?;
            return Ok(format!("+{}", String::from_utf8_lossy(&text)));
        }
        Ok(line)
    };
    let reply = exchange(control).map_err(BenchError::io("Redis"))?;
    match reply.strip_prefix(['+', ':']) {
        Some(text) => Ok(text.trim_end().to_owned()),
        None => Err(BenchError::Wrong(format!("Redis answered {:?} with {reply:?}", words.first()))),
    }
}
