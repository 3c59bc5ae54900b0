//! What the tests of the program share: running it, talking HTTP to it, ending it. Every wait is bounded.
//!
//! Each test file takes what it needs, so not everything is used everywhere.
#![allow(dead_code)]

pub mod log;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longest wait for anything that a process should do.
pub const WAIT_MAX: Duration = Duration::from_mins(1);

/// The program with `arguments`, without the settings of whoever runs the tests.
pub fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDEGATE_")) {
        command.env_remove(name);
    }
    command
}

/// Runs the program to its end.
#[track_caller]
pub fn run(arguments: &[&str]) -> Finished {
    finish(program(arguments).spawn().expect("the program starts"))
}

/// What a process left behind.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Checks the exit code, and that each of `said` is in what went to the standard error.
    #[track_caller]
    pub fn expect(self, code: i32, said: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for part in said {
            assert!(self.stderr.contains(part), "{part:?} is not in: {}", self.stderr);
        }
        self
    }
}

/// Waits for the end of `process`, and kills it when that takes too long.
#[track_caller]
pub fn finish(process: Child) -> Finished {
    let id = pid(&process);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(process.wait_with_output()));
    let Ok(output) = receiver.recv_timeout(WAIT_MAX) else {
        kill_process(id, Signal::KILL).expect("a process that has not been waited for can be killed");
        panic!("the program has not ended after {WAIT_MAX:?}");
    };
    let Output { status, stdout, stderr } = output.expect("the program's output can be read");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the program writes UTF-8");
    Finished { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

fn pid(process: &Child) -> Pid {
    Pid::from_child(process)
}

/// A node that serves. Dropped, it is killed.
pub struct Server {
    process: Option<Child>,
    pub address: SocketAddr,
}

impl Server {
    /// Starts a node on `directory` and a free port, and returns when it is ready.
    #[track_caller]
    pub fn start(directory: &Path) -> Self {
        let server = Self::start_with(directory, &[]);
        server.wait_ready();
        server
    }

    /// Starts a node with more `arguments`, and returns when it listens.
    #[track_caller]
    pub fn start_with(directory: &Path, arguments: &[&str]) -> Self {
        let directory = directory.to_str().expect("temporary paths are UTF-8");
        let mut command = program(&["serve", "--data-dir", directory, "--listen", "127.0.0.1:0"]);
        command.args(arguments);
        Self::from_command(command)
    }

    /// Starts a node with `command`, and returns when it listens.
    #[track_caller]
    pub fn from_command(mut command: Command) -> Self {
        let mut process = command.spawn().expect("the program starts");
        let mut line = String::new();
        let stdout = process.stdout.as_mut().expect("the standard output is piped");
        // One byte at a time, so that nothing behind the line is taken from the pipe.
        BufReader::with_capacity(1, stdout).read_line(&mut line).expect("the standard output can be read");
        let address = line.strip_prefix("listening on ").and_then(|url| url.trim_end().split_once("://"));
        let address = address.and_then(|(_, address)| address.parse().ok());
        let Some(address) = address else { panic!("{line:?} is no address: {:?}", finish(process)) };
        Self { process: Some(process), address }
    }

    /// Returns when the node takes commands.
    #[track_caller]
    pub fn wait_ready(&self) {
        let started_at = Instant::now();
        loop {
            let answer = self.get("/readyz");
            if answer.status == 200 {
                return;
            }
            assert!(started_at.elapsed() < WAIT_MAX, "the node is not ready after {WAIT_MAX:?}: {}", answer.body);
            thread::yield_now();
        }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        request(self.address, "GET", path, "").expect("the node answers")
    }

    #[track_caller]
    pub fn put(&self, path: &str, body: &str) -> Response {
        request(self.address, "PUT", path, body).expect("the node answers")
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &str) -> Response {
        request(self.address, "POST", path, body).expect("the node answers")
    }

    /// The number of its process.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("the node was not waited for").id()
    }

    pub fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("the node was not waited for");
        kill_process(pid(process), signal).expect("a process that has not been waited for can be signalled");
    }

    /// Waits for the node's end.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        finish(self.process.take().expect("the node was not waited for"))
    }

    /// Asks the node to stop, and waits for its end.
    #[track_caller]
    pub fn terminate(self) -> Finished {
        self.signal(Signal::TERM);
        self.finish()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It may have ended already; then there is nothing to kill.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// An answer, as far as these tests look at it.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    /// The value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.filter(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }
}

/// Makes the log longer, by more than a MiB: holds of a second, of a stock that is made for it.
pub fn sell_more(server: &Server) {
    let long = "u".repeat(100);
    let commands: Vec<String> = (0..5_000)
        .map(|_| format!(r#"{{"op":"reserve","sku":"more","user":"{long}","reference":"{long}","hold_seconds":1}}"#))
        .collect();
    server.put("/v1/stocks/more", r#"{"quantity":1000000000}"#);
    let answer = server.post("/v1/batch", &format!(r#"{{"commands":[{}]}}"#, commands.join(",")));
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// One request on a connection of its own.
pub fn request(address: SocketAddr, method: &str, path: &str, body: &str) -> std::io::Result<Response> {
    request_with(address, method, path, &[], body)
}

/// One request with more header `fields`, on a connection of its own.
pub fn request_with(
    address: SocketAddr,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> std::io::Result<Response> {
    let mut stream = connect(address)?;
    stream.write_all(head_with(method, path, fields, body.len()).as_bytes())?;
    stream.write_all(body.as_bytes())?;
    response(stream)
}

pub fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, WAIT_MAX)?;
    stream.set_read_timeout(Some(WAIT_MAX))?;
    stream.set_write_timeout(Some(WAIT_MAX))?;
    Ok(stream)
}

/// The head of a request whose answer ends with its connection.
pub fn head(method: &str, path: &str, body_bytes: usize) -> String {
    head_with(method, path, &[], body_bytes)
}

/// The same with more header `fields`; the body is JSON unless one of them says otherwise.
pub fn head_with(method: &str, path: &str, fields: &[(&str, &str)], body_bytes: usize) -> String {
    let is_typed = fields.iter().any(|(name, _)| *name == "content-type");
    let json = [("content-type", "application/json")];
    let fields = fields.iter().chain(json.iter().filter(|_| !is_typed));
    let fields: Vec<String> = fields.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let fields = fields.concat();
    format!("{method} {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n{fields}content-length: {body_bytes}\r\n\r\n")
}

/// Reads one answer to the end of its connection.
pub fn response(mut stream: TcpStream) -> std::io::Result<Response> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let cut = || std::io::Error::other(format!("the answer is cut off: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(cut)?;
    let length = head.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if length.and_then(|(_, length)| length.trim().parse().ok()) != Some(body.len()) {
        return Err(cut());
    }
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(cut)?;
    Ok(Response { status, head: head.to_owned(), body: body.to_owned() })
}
