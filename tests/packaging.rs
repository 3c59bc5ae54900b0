//! What the program is delivered with: the image, the service, the examples; and what a service manager hears of a real node.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;
use tidegate_config::{Durability, Settings};

mod support;

use support::{Server, WAIT_MAX, program};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn packaged(name: &str) -> String {
    fs::read_to_string(root().join("packaging").join(name)).expect("what is packaged can be read")
}

/// The instructions of a Dockerfile with their arguments, continued lines joined.
fn instructions(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let joined = lines.join("\n").replace("\\\n", " ");
    let instructions = joined.lines().map(str::trim).filter(|line| !line.is_empty());
    instructions
        .map(|line| line.split_once(' ').expect("an instruction has arguments"))
        .map(|(name, rest)| (name.to_owned(), rest.trim().to_owned()))
        .collect()
}

/// What the arguments of every instruction of that name are.
fn all<'a>(instructions: &'a [(String, String)], name: &str) -> Vec<&'a str> {
    instructions.iter().filter(|(known, _)| known == name).map(|(_, rest)| rest.as_str()).collect()
}

#[test]
fn the_image_is_built_with_the_pinned_toolchain() {
    let toolchain: toml::Table = fs::read_to_string(root().join("rust-toolchain.toml")).unwrap().parse().unwrap();
    let channel = toolchain["toolchain"]["channel"].as_str().unwrap();
    let instructions = instructions(&packaged("Dockerfile"));
    let stages = all(&instructions, "FROM");
    let [build, runtime] = &*stages else { panic!("two stages are needed: {stages:?}") };
    assert_eq!(*build, format!("rust:{channel}-slim-bookworm AS build"));
    assert_eq!(*runtime, "debian:bookworm-slim AS runtime");
    assert!(all(&instructions, "ENV").contains(&format!("RUSTUP_TOOLCHAIN={channel}").as_str()), "{instructions:?}");
}

#[test]
fn the_image_runs_without_root_on_a_volume_and_stops_in_order() {
    let instructions = instructions(&packaged("Dockerfile"));
    let known = ["FROM", "ENV", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "STOPSIGNAL", "ENTRYPOINT", "CMD"];
    assert!(instructions.iter().all(|(name, _)| known.contains(&name.as_str())), "{instructions:?}");
    assert_eq!(all(&instructions, "USER"), ["tidegate"]);
    assert_eq!(all(&instructions, "VOLUME"), ["/var/lib/tidegate"]);
    assert_eq!(all(&instructions, "EXPOSE"), [Settings::default().http.listen.port().to_string()]);
    assert_eq!(all(&instructions, "STOPSIGNAL"), ["SIGTERM"]);
    let words =
        |name| -> Vec<String> { serde_json::from_str(all(&instructions, name)[0]).expect("in the form that starts no shell") };
    assert_eq!((words("ENTRYPOINT"), words("CMD")), (vec!["/usr/local/bin/tidegate".to_owned()], vec!["serve".to_owned()]));
    let variables = all(&instructions, "ENV").join(" ");
    let variables = variables.split_whitespace().filter_map(|pair| pair.split_once('='));
    let variables: Vec<_> = variables.map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
    let settings = Settings::load(None, variables, []).expect("the image's variables are settings");
    assert!(settings.node.data_dir.starts_with("/var/lib/tidegate"), "{settings:?}");
}

#[test]
fn every_source_that_the_image_copies_is_there() {
    let instructions = instructions(&packaged("Dockerfile"));
    let ignored = fs::read_to_string(root().join(".dockerignore")).unwrap();
    let mut copied = 0;
    for arguments in all(&instructions, "COPY") {
        let mut words: Vec<&str> = arguments.split_whitespace().collect();
        words.pop().expect("a copy has a target");
        if let Some(stage) = words[0].strip_prefix("--from=") {
            assert_eq!((stage, &words[1..]), ("build", &["/source/target/release/tidegate"][..]));
            continue;
        }
        for source in words {
            assert!(root().join(source).exists(), "{source} is not there");
            assert!(ignored.lines().all(|line| line != source), "{source} is left out by .dockerignore");
            copied += 1;
        }
    }
    assert!(copied >= 2);
    // What the build reads besides the packages themselves.
    for needed in ["Cargo.toml", "Cargo.lock", "config/tidegate.toml"] {
        assert!(root().join(needed).exists(), "{needed} is not there");
    }
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    for member in manifest["workspace"]["members"].as_array().unwrap() {
        let member = member.as_str().unwrap();
        assert!(ignored.lines().all(|line| !Path::new(member).starts_with(line)), "{member} is left out by .dockerignore");
    }
}

/// The values of `key` in the service.
fn service(key: &str) -> Vec<String> {
    let text = packaged("tidegate.service");
    text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=').map(str::to_owned)).collect()
}

#[test]
fn the_service_is_what_systemd_takes() {
    if Command::new("systemd-analyze").arg("--version").output().is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        eprintln!("NOT CHECKED: systemd-analyze is not on this machine, so nobody looked at packaging/tidegate.service");
        return;
    }
    let folder = TempDir::new().unwrap();
    let unit = folder.path().join("tidegate.service");
    // A unit may only name programs that are there.
    let text = packaged("tidegate.service").replace("/usr/local/bin/tidegate", env!("CARGO_BIN_EXE_tidegate"));
    fs::write(&unit, &text).unwrap();
    let verify = |unit: &Path| {
        let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(unit).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // It loads what the unit depends on too, and tells of that as well.
        let ours: Vec<String> = said.lines().filter(|line| line.contains("tidegate")).map(str::to_owned).collect();
        (output.status.success(), ours)
    };
    assert_eq!(verify(&unit), (true, vec![]));
    // That it would have said so.
    fs::write(&unit, text.replace("WatchdogSec=", "WatchdogSecs=")).unwrap();
    assert!(!verify(&unit).1.is_empty());
}

#[test]
fn the_service_says_what_the_node_does() {
    assert_eq!(service("Type"), ["notify"]);
    assert_eq!(service("Restart"), ["on-failure"]);
    for key in ["NoNewPrivileges", "MemoryDenyWriteExecute", "PrivateTmp", "ProtectHome", "LockPersonality"] {
        assert_eq!(service(key), ["yes"], "{key}");
    }
    assert_eq!(service("ProtectSystem"), ["strict"]);
    assert_eq!(service("User"), ["tidegate"]);
    let number = |key: &str| service(key)[0].parse::<u64>().expect("a number");
    let defaults = Settings::default();
    assert!(number("LimitNOFILE") > defaults.http.connections_max);
    assert!(number("TimeoutStopSec") > defaults.http.answer_seconds_max + 10);
    let [variable] = &*service("Environment") else { panic!("one variable is needed") };
    let (name, value) = variable.split_once('=').unwrap();
    let settings = Settings::load(None, [(name.into(), value.into())], []).expect("the service's variable is a setting");
    let [folder] = &*service("StateDirectory") else { panic!("one folder is needed") };
    assert!(settings.node.data_dir.starts_with(Path::new("/var/lib").join(folder)), "nothing else can be written to");
}

#[test]
fn every_example_is_taken_by_the_settings() {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("packaging/examples")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(path.extension().and_then(|extension| extension.to_str()), Some("toml"), "{}", path.display());
        let settings = Settings::load(Some(&path), [], []).unwrap_or_else(|error| panic!("{error}"));
        assert_ne!(settings, Settings::default(), "{} changes nothing", path.display());
        assert!(fs::read_to_string(&path).unwrap().starts_with("# "), "{} does not say what it is for", path.display());
        names.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
    }
    names.sort();
    assert_eq!(names, ["behind-a-proxy", "loopback", "low-latency", "observed", "tls"]);
}

#[test]
fn the_examples_are_what_they_are_called() {
    let example = |name: &str| {
        let path = root().join("packaging/examples").join(name).with_extension("toml");
        Settings::load(Some(&path), [], []).unwrap_or_else(|error| panic!("{error}"))
    };
    assert!(example("loopback").http.listen.ip().is_loopback());
    for name in ["behind-a-proxy", "tls"] {
        let settings = example(name);
        assert!(!settings.http.listen.ip().is_loopback() && settings.auth.keys_file.is_some(), "{name}");
        assert_eq!(settings.tls.certificate_file.is_some(), name == "tls", "{name}");
    }
    assert_eq!(example("low-latency").log.durability, Durability::ProcessCrash);
    assert!(example("observed").telemetry.otlp_endpoint.is_some());
    for name in ["behind-a-proxy", "tls", "loopback", "observed"] {
        assert_eq!(example(name).log.durability, Durability::PowerLoss, "{name}");
    }
}

/// The service manager's end of the notifications.
struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = TempDir::new().expect("the test can be set up");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("the test can be set up");
        socket.set_read_timeout(Some(WAIT_MAX)).expect("the test can be set up");
        Self { socket, path, _folder: folder }
    }

    /// The next message, as lines.
    #[track_caller]
    fn next(&self) -> Vec<String> {
        let mut buffer = [0; 4_096];
        let length = self.socket.recv(&mut buffer).expect("the node says something in time");
        std::str::from_utf8(&buffer[..length]).expect("messages are text").lines().map(str::to_owned).collect()
    }

    /// Reads on to a message with `line`, and returns all before it.
    #[track_caller]
    fn wait_for(&self, line: &str) -> Vec<Vec<String>> {
        let started_at = Instant::now();
        let mut before = Vec::new();
        loop {
            let message = self.next();
            if message.iter().any(|known| known == line) {
                return before;
            }
            before.push(message);
            assert!(started_at.elapsed() < WAIT_MAX, "{line} did not come: {before:?}");
        }
    }

    /// A node that tells this manager how it is.
    fn start(&self, directory: &Path, variables: &[(&str, &str)]) -> Server {
        let mut command = program(&["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
        command.arg(directory).env("NOTIFY_SOCKET", &self.path).env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        Server::from_command({
            command.envs(variables.iter().copied());
            command
        })
    }
}

#[test]
fn ready_is_told_once_the_node_is_ready_and_stopping_when_it_stops() {
    let folder = TempDir::new().unwrap();
    let manager = Manager::new();
    let server = manager.start(folder.path(), &[]);
    let before = manager.wait_for("READY=1");
    assert_eq!(server.get("/readyz").status, 200);
    for message in &before {
        assert!(message.iter().any(|line| line.starts_with("STATUS=")), "{message:?}");
        let longer = message.iter().find_map(|line| line.strip_prefix("EXTEND_TIMEOUT_USEC="));
        assert!(longer.is_some_and(|longer| longer.parse::<u64>().is_ok_and(|longer| longer > 0)), "{message:?}");
    }
    server.signal(Signal::TERM);
    assert_eq!(manager.wait_for("STOPPING=1"), Vec::<Vec<String>>::new(), "nothing is said in between");
    server.finish().expect(0, &["stopped"]);
}

#[test]
fn the_watchdog_is_fed_only_where_there_is_one() {
    let folder = TempDir::new().unwrap();
    let manager = Manager::new();
    let limit = Duration::from_millis(200).as_micros().to_string();
    let server = manager.start(folder.path(), &[("WATCHDOG_USEC", &limit)]);
    manager.wait_for("READY=1");
    for _ in 0..3 {
        assert_eq!(manager.next(), ["WATCHDOG=1"]);
    }
    // A process that does not run cannot say that it is alive.
    server.signal(Signal::KILL);
    server.finish();

    let server = manager.start(folder.path(), &[("WATCHDOG_USEC", &limit), ("WATCHDOG_PID", "1")]);
    manager.socket.set_nonblocking(true).unwrap();
    while manager.socket.recv(&mut [0; 4_096]).is_ok() {}
    manager.socket.set_nonblocking(false).unwrap();
    server.wait_ready();
    server.signal(Signal::TERM);
    let before = manager.wait_for("STOPPING=1");
    assert!(before.iter().flatten().all(|line| line != "WATCHDOG=1"), "meant for another process: {before:?}");
    server.finish().expect(0, &["stopped"]);
}

#[test]
fn a_manager_that_is_not_there_keeps_nobody_from_serving() {
    let folder = TempDir::new().unwrap();
    let mut command = program(&["serve", "--listen", "127.0.0.1:0", "--data-dir"]);
    command.arg(folder.path().join("data")).env("NOTIFY_SOCKET", folder.path().join("nobody"));
    let server = Server::from_command(command);
    server.wait_ready();
    server.terminate().expect(0, &["the service manager cannot be reached", "stopped"]);
}
