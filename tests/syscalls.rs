//! What a node asks of the kernel, and in which order, as `strace` sees it: what is missing here is missed only after a loss of power.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

mod support;

use support::{Server, finish, run};

/// Calls that are looked at: those that make something last, those that name a file, and those that write to a file or a socket.
const CALLS: &str = "trace=fdatasync,fsync,rename,renameat,renameat2,write,writev,pwrite64,sendto,sendmsg";

/// A node whose calls are written down.
struct Traced {
    server: Server,
    tracer: Child,
    calls: PathBuf,
    folder: TempDir,
}

/// A call: what it is, what it is about, and whether it begins or ends here. One that nothing came between is there once, as both.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    /// The name of the thread that makes it.
    thread: String,
    name: String,
    /// As the trace has it: descriptors with their paths, the beginnings of texts.
    arguments: String,
    begins: bool,
    ends: bool,
}

/// `None` where there is no `strace`, which is said.
fn traced(settings: &[&str]) -> Option<Traced> {
    if Command::new("strace").arg("--version").output().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        eprintln!("NOT CHECKED: strace is not on this machine, so nobody looked at what a node asks of the kernel");
        return None;
    }
    let folder = TempDir::new().expect("a temporary folder can be made");
    let server = Server::start_with(&folder.path().join("data"), settings);
    server.wait_ready();
    let calls = folder.path().join("calls");
    let mut tracer = Command::new("strace");
    tracer
        .args(["-f", "-yy", "-s", "32", "--decode-pids=comm", "-e", CALLS, "-o"])
        .arg(&calls)
        .args(["-p", &server.id().to_string()]);
    let mut tracer = tracer.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("strace starts");
    let mut said = String::new();
    // One byte at a time, so that the rest stays in the pipe.
    let errors = tracer.stderr.as_mut().expect("the standard error is piped");
    BufReader::with_capacity(1, errors).read_line(&mut said).expect("strace says that it has attached");
    if said.contains("Operation not permitted") {
        eprintln!("NOT CHECKED: this machine lets nobody trace, so nobody looked at what a node asks of the kernel: {said}");
        finish(tracer);
        return None;
    }
    assert!(said.contains(" attached"), "{said}");
    Some(Traced { server, tracer, calls, folder })
}

impl Traced {
    /// Stops the node, and returns its calls in order.
    fn stop(self) -> Vec<Call> {
        self.server.terminate().expect(0, &[]);
        finish(self.tracer);
        let calls = read(&fs::read_to_string(&self.calls).expect("strace wrote down the calls"));
        drop(self.folder);
        calls
    }
}

fn read(trace: &str) -> Vec<Call> {
    let mut under_way: HashMap<&str, (String, String)> = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        // The thread's number and name stand in front.
        let Some((thread, line)) = line.split_once("> ") else { continue };
        let name_of = |thread: &str| thread.split_once('<').map_or("", |(_, name)| name).to_owned();
        if line.starts_with("<... ") {
            if let Some((name, arguments)) = under_way.remove(thread) {
                calls.push(Call { thread: name_of(thread), name, arguments, begins: false, ends: true });
            }
            continue;
        }
        // Signals and ends of threads are no calls.
        let Some((name, arguments)) =
            line.split_once('(').filter(|(name, _)| name.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        else {
            continue;
        };
        let ends = !arguments.ends_with("<unfinished ...>");
        if !ends {
            under_way.insert(thread, (name.to_owned(), arguments.to_owned()));
        }
        calls.push(Call { thread: name_of(thread), name: name.to_owned(), arguments: arguments.to_owned(), begins: true, ends });
    }
    calls
}

impl Call {
    /// Whether the answer to a call that changed something begins here.
    fn is_answer(&self) -> bool {
        let is_write = ["write", "writev", "sendto", "sendmsg"].contains(&self.name.as_str());
        self.begins && is_write && self.arguments.contains("<TCP:") && self.arguments.contains("\"HTTP/1.1 20")
    }

    /// Whether the log has just been made to last, by our own sync.
    fn is_log_sync(&self) -> bool {
        self.ends && self.name == "fdatasync" && self.arguments.contains("/log/") && self.arguments.contains("/db>")
    }

    /// Whether the file or folder whose path ends in `path` has just been made to last.
    fn is_sync_of(&self, path: &str) -> bool {
        self.ends && ["fsync", "fdatasync"].contains(&self.name.as_str()) && self.arguments.contains(&format!("{path}>"))
    }

    fn is_write_to(&self, path: &str) -> bool {
        self.begins && ["write", "writev", "pwrite64"].contains(&self.name.as_str()) && self.arguments.contains(&format!("{path}>"))
    }

    fn is_renaming_to(&self, path: &str) -> bool {
        // The new name is the last text in the call.
        let to = self.arguments.rsplit('"').nth(1);
        self.begins && self.name.starts_with("rename") && to.is_some_and(|to| to.ends_with(path))
    }
}

#[test]
fn no_answer_to_a_change_leaves_and_nothing_is_called_durable_before_the_log_is_synced() {
    let Some(node) = traced(&[]) else { return };
    let mut changes = 1;
    assert_eq!(node.server.put("/v1/stocks/tea", r#"{"quantity":100}"#).status, 201);
    for buyer in 0..10 {
        let granted = node.server.post("/v1/stocks/tea/reservations", &format!(r#"{{"user":"buyer-{buyer}"}}"#));
        assert_eq!(granted.status, 201, "{granted:?}");
        let id = granted.json()["id"].as_str().expect("a reservation has an id").to_owned();
        assert_eq!(node.server.post(&format!("/v1/reservations/{id}/confirm"), "").status, 200);
        changes += 2;
    }
    let calls = node.stop();
    let (mut answers, mut notes, mut is_synced) = (0, 0, false);
    for call in &calls {
        is_synced |= call.is_log_sync();
        // At the stop there is nothing new to sync.
        if call.is_write_to("/durable") && answers < changes {
            notes += 1;
            assert!(is_synced, "note {notes} of what is durable was made before the log was synced");
        }
        if call.is_answer() {
            answers += 1;
            // The next call was sent only after this answer, so each has a sync of its own.
            assert!(is_synced, "answer {answers} left before the log was synced");
            is_synced = false;
        }
    }
    assert_eq!(answers, changes);
    assert!(notes >= changes, "{notes} notes of what is durable");
}

#[test]
fn a_snapshot_has_its_name_only_after_all_that_it_stands_on_lasts() {
    let Some(node) = traced(&[]) else { return };
    assert_eq!(node.server.put("/v1/stocks/tea", r#"{"quantity":100}"#).status, 201);
    let (copy, target) = (node.folder.path().join("copy"), format!("http://{}", node.server.address));
    run(&["backup", path(&copy), "--target", &target]).expect(0, &[]);
    let calls = node.stop();
    let place = |what: &str, is_it: &dyn Fn(&Call) -> bool| {
        calls.iter().position(is_it).unwrap_or_else(|| panic!("{what} is not among {} calls", calls.len()))
    };
    let named = place("the renaming", &|call| call.is_renaming_to(".snapshot"));
    let written = calls.iter().rposition(|call| call.is_write_to(".snapshot.unfinished")).expect("a snapshot is written");
    let synced = place("the snapshot's sync", &|call| call.is_sync_of(".snapshot.unfinished"));
    assert!(written < synced && synced < named, "written {written}, synced {synced}, named {named}");
    let history = place("the history's sync", &|call| call.is_sync_of(".jnl"));
    let marked = place("the history's mark", &|call| call.is_renaming_to("/history/persisted"));
    assert!(history < marked && marked < named, "history {history}, marked {marked}, named {named}");
    let folder = place("the folder's sync", &|call| call.is_sync_of("/snapshots"));
    assert!(named < folder, "named {named}, the folder synced {folder}");
}

#[test]
fn the_log_goes_on_in_a_new_segment_only_after_the_last_one_lasts_whatever_the_durability() {
    let settings = ["--set", "log.durability=process_crash", "--set", "log.segment_bytes_max=1048576"];
    let Some(node) = traced(&settings) else { return };
    assert_eq!(node.server.put("/v1/stocks/tea", r#"{"quantity":1000000}"#).status, 201);
    let first = node.folder.path().join("data/log/0000000001");
    let mut batches = 0;
    // Once it is left it is sealed, by another thread.
    while !first.join("sealed").exists() {
        let commands = (0..1_000).map(|buyer| format!(r#"{{"op":"reserve","sku":"tea","user":"buyer-{batches}-{buyer}"}}"#));
        let body = format!(r#"{{"commands":[{}]}}"#, commands.collect::<Vec<_>>().join(","));
        assert_eq!(node.server.post("/v1/batch", &body).status, 200);
        batches += 1;
        assert!(batches < 1_000, "the log stays in its first segment");
    }
    let calls = node.stop();
    let is_synced = |call: &Call| call.thread == "wal" && call.is_log_sync() && call.arguments.contains("/0000000001/");
    assert!(calls.iter().any(is_synced), "the thread that writes the log left its first segment unsynced");
}

fn path(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

#[test]
fn a_trace_is_read_call_by_call() {
    let trace = "7<log segments> fsync(3</d/a>) = 0\n8<wal> fdatasync(4</log/1/db> <unfinished ...>\n\
                 7<log segments> rename(\"/d/a\", \"/d/b\") = 0\n8<wal> <... fdatasync resumed>) = 0\n\
                 9<wal> +++ exited with 0 +++\n7<log segments> --- SIGTERM {si_signo=SIGTERM} ---\n";
    let calls = read(trace);
    let shape: Vec<_> = calls.iter().map(|call| (call.name.as_str(), call.begins, call.ends)).collect();
    assert_eq!(shape, [("fsync", true, true), ("fdatasync", true, false), ("rename", true, true), ("fdatasync", false, true)]);
    assert_eq!(calls.iter().map(Call::is_log_sync).collect::<Vec<_>>(), [false, false, false, true]);
    assert_eq!(calls.iter().map(|call| call.thread.as_str()).collect::<Vec<_>>(), ["log segments", "wal", "log segments", "wal"]);
    assert!(calls[0].is_sync_of("/a") && !calls[0].is_sync_of("/d"));
    assert!(calls[2].is_renaming_to("/b") && !calls[2].is_renaming_to("/a"));
}
