//! Servers under measurement, each a process of its own: the real node, and the floor beside it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::error::BenchError;
use crate::floor::FixedAnswer;
use crate::machine::temporary_directory;

/// Longest wait for a node to be ready.
const READY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Time between two looks whether it is.
const READY_LOOK: Duration = Duration::from_millis(5);

/// Longest wait for one answer to a control request.
const CONTROL_WAIT_MAX: Duration = Duration::from_secs(20);

/// A running server. Dropping it ends its process and removes its data.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    /// The node's data and output; the floor has none.
    _directory: Option<TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // What was measured has been checked by now; a process that is gone already is as well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    /// Starts the floor: `bench` is this package's own program.
    pub fn floor(bench: &Path, answer: FixedAnswer) -> Result<Self, BenchError> {
        let mut child = Command::new(bench)
            .args(["serve-fixed", "--status", &answer.status.to_string(), "--body-bytes", &answer.body_bytes.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(BenchError::io(bench.display().to_string()))?;
        let mut line = String::new();
        let read = child.stdout.take().map(|output| BufReader::new(output).read_line(&mut line));
        let address = line.trim().parse().map_err(|_| BenchError::Wrong(format!("the floor said {line:?} instead of its address")));
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), _directory: None };
        read.transpose().map_err(BenchError::io("the floor's address"))?;
        server.address = address?;
        Ok(server)
    }

    /// Starts a node with its default settings (durability included) on a new data directory in `parent`, and waits until it is ready.
    pub fn node(tidegate: &Path, parent: Option<&PathBuf>) -> Result<Self, BenchError> {
        let directory = temporary_directory(parent)?;
        let output_path = directory.path().join("output");
        let output = File::create(&output_path).map_err(BenchError::io("the node's output"))?;
        let errors = output.try_clone().map_err(BenchError::io("the node's output"))?;
        let address = free_address()?;
        let child = Command::new(tidegate)
            .arg("serve")
            .args(["--listen", &address.to_string()])
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(BenchError::io(tidegate.display().to_string()))?;
        let mut server = Self { child, address, _directory: Some(directory) };
        server.wait_ready(&output_path)?;
        Ok(server)
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Asks for `path` and gives the status and the body.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, String), BenchError> {
        let answer = exchange(self.address, method, path, body).map_err(BenchError::io(format!("{method} {path}")))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| BenchError::Wrong(format!("{method} {path} got no HTTP answer: {answer:?}")))?;
        Ok((status, body.to_owned()))
    }

    /// Opens a stock of `units`, one to a user.
    pub fn open_stock(&self, sku: &str, units: u64) -> Result<(), BenchError> {
        let body = format!(r#"{{"quantity":{units},"per_user_limit":1,"hold_seconds":3600}}"#);
        match self.ask("PUT", &format!("/v1/stocks/{sku}"), &body)? {
            (201, _) => Ok(()),
            (status, body) => Err(BenchError::Wrong(format!("opening a stock got {status}: {body}"))),
        }
    }

    /// A counter of the stock as the node shows it.
    pub fn stock_counter(&self, sku: &str, counter: &str) -> Result<u64, BenchError> {
        let (status, body) = self.ask("GET", &format!("/v1/stocks/{sku}"), "")?;
        let stock: Value = serde_json::from_str(&body).map_err(BenchError::wrong)?;
        stock[counter].as_u64().ok_or_else(|| BenchError::Wrong(format!("reading a stock got {status}: {body}")))
    }

    /// The sum of the node's metrics whose name ends in `suffix`; 0 where there is none.
    pub fn metric(metrics: &str, suffix: &str) -> f64 {
        let samples = metrics.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        let named = samples.filter(|(name, _)| name.split('{').next().is_some_and(|name| name.ends_with(suffix)));
        named.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }

    fn wait_ready(&mut self, output: &Path) -> Result<(), BenchError> {
        let deadline = Instant::now() + READY_WAIT_MAX;
        loop {
            if matches!(self.ask("GET", "/readyz", ""), Ok((200, _))) {
                return Ok(());
            }
            let ended = self.child.try_wait().map_err(BenchError::io("the node's process"))?;
            if ended.is_some() || Instant::now() >= deadline {
                let said = std::fs::read_to_string(output).unwrap_or_default();
                let how = ended.map_or_else(|| "is not ready".to_owned(), |status| format!("ended with {status}"));
                return Err(BenchError::Wrong(format!("the node {how}; it said:\n{said}")));
            }
            // A socket that is not there yet gives no event to wait for.
            thread::park_timeout(READY_LOOK);
        }
    }
}

/// A port that nobody listens on at the moment.
fn free_address() -> Result<SocketAddr, BenchError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    listener.map_err(BenchError::io("a free port"))
}

fn exchange(address: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(CONTROL_WAIT_MAX))?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_the_end_of_their_name() {
        let text = "# HELP x_log_groups y\nx_log_groups_total 4\nx_commands_total{a=\"b c\"} 2\nx_commands_total{a=\"d\"} 3\n";
        assert!((Server::metric(text, "log_groups_total") - 4.0).abs() < 1e-9);
        assert!((Server::metric(text, "commands_total") - 5.0).abs() < 1e-9);
        assert!(Server::metric(text, "nothing").abs() < 1e-9);
    }
}
