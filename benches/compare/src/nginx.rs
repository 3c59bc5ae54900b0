//! Nginx with its Lua module in front of Redis: what teams run for a sale today.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use tempfile::TempDir;
use tidegate_benches::error::BenchError;
use tidegate_benches::exchange::{Crowd, Seen};
use tidegate_benches::machine::temporary_directory;

use crate::node::sell_singly;
use crate::process::{Process, command};
use crate::programs::NginxPrograms;
use crate::redis::{AppendOnly, Redis, free_port};
use crate::shop::{Books, Shop};

/// The configuration, with places for what differs.
const CONFIGURATION: &str = include_str!("../peers/nginx.conf");

/// The door in Lua.
const DOOR: &str = include_str!("../peers/door.lua");

/// Whether the door remembers what is sold out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SoldOut {
    /// Every request is asked of Redis.
    Asked,
    /// For a second it is answered from the dictionary that Nginx' workers share.
    Remembered,
}

/// A running Nginx and its Redis. Dropping it ends both.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    address: SocketAddr,
    redis: Redis,
    _directory: TempDir,
}

impl Nginx {
    /// Starts both on fresh folders in `parent` and waits until they are ready.
    pub fn start(
        programs: &NginxPrograms,
        redis: &Path,
        append_only: AppendOnly,
        sold_out: SoldOut,
        parent: Option<&PathBuf>,
    ) -> Result<Self, BenchError> {
        let redis = Redis::start(redis, append_only, parent)?;
        let directory = temporary_directory(parent)?;
        let port = free_port()?;
        let user = if rustix::process::geteuid().is_root() { "root" } else { "nobody" };
        let values = [
            ("USER", user.to_owned()),
            ("DIRECTORY", directory.path().display().to_string()),
            ("MODULES", programs.modules.display().to_string()),
            ("REDIS", redis.socket().display().to_string()),
            ("DIGEST", redis.digest().to_owned()),
            ("REMEMBERS", (sold_out == SoldOut::Remembered).to_string()),
            ("PORT", port.to_string()),
        ];
        let fill = |text: String, (name, value): &(&str, String)| text.replace(&format!("@{name}@"), value);
        let configuration = values.iter().fold(CONFIGURATION.to_owned(), fill);
        let path = directory.path().join("nginx.conf");
        let written = std::fs::write(&path, configuration).and_then(|()| std::fs::write(directory.path().join("door.lua"), DOOR));
        written.map_err(BenchError::io("configuration of Nginx"))?;
        let mut nginx = command(&programs.nginx, None);
        nginx.arg("-p").arg(directory.path()).arg("-e").arg(directory.path().join("error.log")).arg("-c").arg(&path);
        let mut process = Process::start(nginx, "Nginx", &directory.path().join("output"), Signal::TERM)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        process.wait_ready(|| TcpStream::connect(address).map_err(BenchError::io("Nginx")))?;
        Ok(Self { process, address, redis, _directory: directory })
    }
}

impl Shop for Nginx {
    fn open(&mut self, sku: &str, units: u64) -> Result<(), BenchError> {
        self.redis.open(sku, units)
    }

    fn sell(&mut self, sku: &str, crowd: &Crowd) -> Result<Seen, BenchError> {
        sell_singly(self.address, sku, crowd)
    }

    fn books(&mut self, sku: &str) -> Result<Books, BenchError> {
        self.redis.books(sku)
    }

    fn processes(&self) -> Vec<u32> {
        [vec![self.process.id()], self.redis.processes()].concat()
    }
}
