//! Servers under measurement, each a process of its own: the real node, and the floor beside it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::error::BenchError;
use crate::floor::FixedAnswer;
use crate::machine::temporary_directory;
use crate::sample::HOLD_SECONDS;

/// Longest wait for a node to be ready.
const READY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Time between two looks whether it is.
const READY_LOOK: Duration = Duration::from_millis(5);

/// Longest wait for one answer to a control request.
const CONTROL_WAIT_MAX: Duration = Duration::from_secs(20);

/// Stocks in a page of their list: the most that there may be.
const PAGE_STOCKS: usize = 1_000;

/// The node's program beside `program`, as the tree has it now: cargo builds programs of a test's own package only, so tests ask it for this
/// one. Fails with what cargo says.
pub fn build_node(program: &Path) -> Result<PathBuf, BenchError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let build =
        Command::new(env!("CARGO")).args(["build", "--package", "tidegate", "--bin", "tidegate"]).current_dir(root).output();
    let build = build.map_err(BenchError::wrong)?;
    if !build.status.success() {
        return Err(BenchError::wrong(String::from_utf8_lossy(&build.stderr)));
    }
    Ok(program.with_file_name("tidegate"))
}

/// A running server. Dropping it ends its process and removes its data.
#[derive(Debug)]
pub struct Server {
    child: Child,
    address: SocketAddr,
    /// Kept open, so that the server can go on to print.
    output: Option<BufReader<ChildStdout>>,
    /// The node's data and errors; the floor has none.
    data: Option<TempDir>,
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
        let mut command = Command::new(bench);
        command.args(["serve-fixed", "--status", &answer.status.to_string(), "--body-bytes", &answer.body_bytes.to_string()]);
        Self::start(command)
    }

    /// Starts a node with its default settings (durability included) on a new data directory in `parent`, and waits until it is ready.
    pub fn node(tidegate: &Path, parent: Option<&PathBuf>) -> Result<Self, BenchError> {
        Self::node_with(tidegate, parent, &[])
    }

    /// The same with settings other than the defaults, each as `section.field=value`.
    pub fn node_with(tidegate: &Path, parent: Option<&PathBuf>, settings: &[String]) -> Result<Self, BenchError> {
        let directory = temporary_directory(parent)?;
        let mut server = Self::node_on(tidegate, &directory.path().join("data"), settings)?;
        server.data = Some(directory);
        Ok(server)
    }

    /// The same on a data directory that stays, or that is made and stays; what the node says goes to a file beside it.
    pub fn node_on(tidegate: &Path, data: &Path, settings: &[String]) -> Result<Self, BenchError> {
        let errors_path = data.with_extension("errors");
        let errors = File::create(&errors_path).map_err(BenchError::io("the node's errors"))?;
        let mut command = Command::new(tidegate);
        command.args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data).stderr(errors);
        for setting in settings {
            command.args(["--set", setting]);
        }
        Self::start(command).and_then(|mut server| server.wait_ready().map(|()| server)).map_err(|error| {
            let said = std::fs::read_to_string(&errors_path).unwrap_or_default();
            BenchError::Wrong(format!("{error}; it said:\n{said}"))
        })
    }

    /// Starts a program that says where it listens in the first line that it prints.
    fn start(mut command: Command) -> Result<Self, BenchError> {
        let program = command.get_program().display().to_string();
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(BenchError::io(program))?;
        let output = child.stdout.take().map(BufReader::new);
        let mut server = Self { child, address: SocketAddr::from(([127, 0, 0, 1], 0)), output, data: None };
        let mut line = String::new();
        if let Some(output) = &mut server.output {
            output.read_line(&mut line).map_err(BenchError::io("a server's address"))?;
        }
        let address = line.trim().rsplit('/').next().and_then(|address| address.parse().ok());
        server.address = address.ok_or_else(|| BenchError::Wrong(format!("a server said {line:?} instead of its address")))?;
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
        self.open_stock_on(sku, &stock_terms(units, Some(1), HOLD_SECONDS))
    }

    /// Opens a stock on such terms as [`stock_terms`] gives.
    pub fn open_stock_on(&self, sku: &str, terms: &str) -> Result<(), BenchError> {
        match self.ask("PUT", &format!("/v1/stocks/{sku}"), terms)? {
            (201, _) => Ok(()),
            (status, body) => Err(BenchError::Wrong(format!("opening a stock got {status}: {body}"))),
        }
    }

    /// Closes a stock of which nothing is held, and archives it.
    pub fn archive_stock(&self, sku: &str) -> Result<(), BenchError> {
        for step in ["close", "archive"] {
            let (status, body) = self.ask("POST", &format!("/v1/stocks/{sku}/{step}"), "")?;
            if status != 200 {
                return Err(BenchError::Wrong(format!("{step} of a stock got {status}: {body}")));
            }
        }
        Ok(())
    }

    /// A counter of the stock as the node shows it.
    pub fn stock_counter(&self, sku: &str, counter: &str) -> Result<u64, BenchError> {
        let (status, body) = self.ask("GET", &format!("/v1/stocks/{sku}"), "")?;
        let stock: Value = serde_json::from_str(&body).map_err(BenchError::wrong)?;
        stock[counter].as_u64().ok_or_else(|| BenchError::Wrong(format!("reading a stock got {status}: {body}")))
    }

    /// All stocks, as the node shows them, by name.
    pub fn stocks(&self) -> Result<Vec<Value>, BenchError> {
        let (mut stocks, mut cursor) = (Vec::new(), String::new());
        loop {
            let (status, body) = self.ask("GET", &format!("/v1/stocks?limit={PAGE_STOCKS}{cursor}"), "")?;
            let mut page: Value = serde_json::from_str(&body).map_err(BenchError::wrong)?;
            let Some(Value::Array(shown)) = page.get_mut("stocks").map(Value::take) else {
                return Err(BenchError::Wrong(format!("reading the stocks got {status}: {body}")));
            };
            stocks.extend(shown);
            let Some(next) = page["next_cursor"].as_str() else { return Ok(stocks) };
            cursor = format!("&cursor={next}");
        }
    }

    /// What the node's metrics say now.
    pub fn metrics(&self) -> Result<String, BenchError> {
        self.ask("GET", "/metrics", "").map(|(_, metrics)| metrics)
    }

    /// The sum of the node's metrics whose name ends in `suffix`; 0 where there is none.
    pub fn metric(metrics: &str, suffix: &str) -> f64 {
        let samples = metrics.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        let named = samples.filter(|(name, _)| name.split('{').next().is_some_and(|name| name.ends_with(suffix)));
        named.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
    }

    fn wait_ready(&mut self) -> Result<(), BenchError> {
        let deadline = Instant::now() + READY_WAIT_MAX;
        loop {
            if matches!(self.ask("GET", "/readyz", ""), Ok((200, _))) {
                return Ok(());
            }
            let ended = self.child.try_wait().map_err(BenchError::io("the node's process"))?;
            if let Some(status) = ended {
                return Err(BenchError::Wrong(format!("the node ended with {status}")));
            }
            if Instant::now() >= deadline {
                return Err(BenchError::Wrong(format!("the node is not ready after {} s", READY_WAIT_MAX.as_secs())));
            }
            // Readiness is an answer, not an event to wait for.
            thread::park_timeout(READY_LOOK);
        }
    }
}

/// The body that opens a stock: its units, how many of them a user may have, and how long they are held.
pub fn stock_terms(units: u64, per_user_limit: Option<u64>, hold_seconds: u32) -> String {
    json!({"quantity": units, "per_user_limit": per_user_limit, "hold_seconds": hold_seconds}).to_string()
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
