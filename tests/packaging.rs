//! What the program is delivered with: the image, the service, the examples, what a cluster is put together with; and what a service manager
//! hears of a real node.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate_config::{Durability, Settings};

mod support;

use support::{Server, WAIT_MAX, finish, program, run};

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

/// The documents of a YAML file.
#[track_caller]
fn documents(name: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(&packaged(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// What stands under `path`, whose parts are apart by dots.
#[track_caller]
fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, part| {
        let found = part.parse::<usize>().map_or_else(|_| value.get(part), |place| value.get(place));
        found.unwrap_or_else(|| panic!("{path} is missing: there is no {part} in {value:#}"))
    })
}

#[track_caller]
fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    at(value, path).as_str().unwrap_or_else(|| panic!("{path} is no text in {value:#}"))
}

#[track_caller]
fn list<'a>(value: &'a Value, path: &str) -> &'a [Value] {
    at(value, path).as_array().unwrap_or_else(|| panic!("{path} is no list in {value:#}"))
}

/// A text for each of a list's values: what stands under `key`.
fn texts<'a>(value: &'a Value, path: &str, key: &str) -> Vec<&'a str> {
    list(value, path).iter().map(|value| text(value, key)).collect()
}

/// The paths that a node serves.
fn served() -> BTreeSet<String> {
    let contract: Value = serde_json::from_str(&fs::read_to_string(root().join("api/openapi.json")).unwrap()).unwrap();
    contract["paths"].as_object().unwrap().keys().cloned().collect()
}

/// Every Kubernetes object that is packaged, by file, with its kind and name.
fn objects() -> Vec<(String, Value)> {
    let mut objects = Vec::new();
    for entry in fs::read_dir(root().join("packaging/kubernetes")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert_eq!(Path::new(&name).extension().and_then(|extension| extension.to_str()), Some("yaml"), "{name}");
        assert!(packaged(&format!("kubernetes/{name}")).starts_with("# "), "{name} does not say what it is for");
        objects.extend(documents(&format!("kubernetes/{name}")).into_iter().map(|object| (name.clone(), object)));
    }
    objects
}

#[track_caller]
fn object(kind: &str, name: &str) -> Value {
    let is_it = |object: &Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects().into_iter().map(|(_, object)| object).find(is_it).unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

/// The variables of a container, with the name of the pod put in.
fn variables(container: &Value, pod: &str) -> Vec<(OsString, OsString)> {
    let all = list(container, "env").iter();
    let own = all.filter(|variable| text(variable, "name").starts_with("TIDEGATE_"));
    own.map(|variable| (text(variable, "name").into(), text(variable, "value").replace("$(POD_NAME)", pod).into())).collect()
}

/// The settings that a container's node has: those of the packaged file, and its variables over them.
#[track_caller]
fn settings_of(container: &Value, pod: &str) -> Settings {
    let settings = object("ConfigMap", "tidegate-settings");
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, settings["data"]["tidegate.toml"].as_str().expect("the settings are a text")).unwrap();
    Settings::load(Some(&file), variables(container, pod), []).unwrap_or_else(|error| panic!("{error}"))
}

/// Checks that what a pod is made of fits together, and the settings of its containers to what is mounted.
#[track_caller]
fn check_pod(pod: &Value, name: &str, claims: &[&str]) {
    // Otherwise Kubernetes gives it variables that would be taken for settings.
    assert_eq!(pod["enableServiceLinks"], false, "{name}");
    let link = Settings::load(None, [("TIDEGATE_PORT".into(), "tcp://10.0.0.1:8700".into())], []);
    assert!(link.is_err(), "links would do no harm");
    for (key, expected) in [("runAsNonRoot", json!(true)), ("runAsUser", json!(8_700)), ("fsGroup", json!(8_700))] {
        assert_eq!(pod["securityContext"][key], expected, "{name}: {key}");
    }
    let secret = object("Secret", "tidegate-secret");
    let mut volumes: BTreeMap<&str, BTreeSet<&str>> = claims.iter().map(|claim| (*claim, BTreeSet::new())).collect();
    for volume in list(pod, "volumes") {
        let items = match volume.get("secret") {
            None => BTreeSet::new(),
            Some(from) => {
                assert_eq!((text(from, "secretName"), &from["defaultMode"]), ("tidegate-secret", &json!(0o440)));
                for key in texts(from, "items", "key") {
                    assert!(secret["stringData"][key].is_string(), "{key}");
                }
                texts(from, "items", "path").into_iter().collect()
            }
        };
        volumes.insert(text(volume, "name"), items);
    }
    let none = Vec::new();
    let containers = pod["initContainers"].as_array().unwrap_or(&none).iter().chain(list(pod, "containers"));
    for container in containers {
        assert_eq!(text(container, "image"), "tidegate");
        let confined = &container["securityContext"];
        assert_eq!((&confined["readOnlyRootFilesystem"], &confined["allowPrivilegeEscalation"]), (&json!(true), &json!(false)));
        // A file's volume, and the path of what is mounted.
        let mounted = |path: &Path| -> Option<&str> {
            let mounts = list(container, "volumeMounts").iter();
            let mount = mounts
                .filter(|mount| path.starts_with(text(mount, "mountPath")))
                .max_by_key(|mount| text(mount, "mountPath").len())?;
            Some(text(mount, "name"))
        };
        let settings = settings_of(container, name);
        assert_eq!(mounted(&settings.node.data_dir), Some("data"), "{name}");
        for file in [settings.auth.keys_file, settings.cluster.secret_file] {
            let file = file.expect("it is set");
            let of = mounted(&file).unwrap_or_else(|| panic!("{} is not mounted", file.display()));
            let name = file.file_name().and_then(|name| name.to_str()).unwrap();
            assert!(volumes[of].contains(name), "{} is not in {of}", file.display());
        }
        let config =
            variables(container, name).into_iter().find(|(name, _)| name == "TIDEGATE_CONFIG").expect("the file is named").1;
        assert_eq!(mounted(Path::new(&config)), Some("settings"), "{name}");
        for mount in list(container, "volumeMounts") {
            assert!(volumes.contains_key(text(mount, "name")), "{mount} is of no volume");
        }
    }
}

#[test]
fn the_nodes_in_kubernetes_are_what_the_program_takes() {
    let set = object("StatefulSet", "tidegate");
    assert_eq!((&set["spec"]["replicas"], text(&set, "spec.podManagementPolicy")), (&json!(3), "Parallel"));
    let pod = at(&set, "spec.template.spec");
    assert_eq!(texts(&set, "spec.volumeClaimTemplates", "metadata.name"), ["data"]);
    check_pod(pod, "tidegate-0", &["data"]);
    assert!(at(pod, "terminationGracePeriodSeconds").as_u64().unwrap() > Settings::default().http.answer_seconds_max + 10);

    let [node] = list(pod, "containers") else { panic!("one container is needed") };
    assert_eq!(node["args"], json!(["serve"]));
    let settings = settings_of(node, "tidegate-1");
    let listens = settings.cluster.listen.expect("it is a member");
    assert!(settings.http.listen.ip().is_unspecified() && listens.ip().is_unspecified(), "others reach it");
    let ports: BTreeMap<&str, u64> =
        list(node, "ports").iter().map(|port| (text(port, "name"), port["containerPort"].as_u64().unwrap())).collect();
    assert_eq!(ports, BTreeMap::from([("http", settings.http.listen.port().into()), ("cluster", listens.port().into())]));
    // The name by which others reach it is the one that its service gives.
    let nodes = text(&set, "spec.serviceName");
    assert_eq!(settings.cluster.advertise.unwrap().to_string(), format!("tidegate-1.{nodes}:{}", listens.port()));

    for (probe, path) in [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")] {
        let get = at(node, &format!("{probe}.httpGet"));
        assert_eq!((text(get, "path"), text(get, "port")), (path, "http"), "{probe}");
        assert!(served().contains(path), "{path} is served by nobody");
    }

    let [join] = list(pod, "initContainers") else { panic!("one init container is needed") };
    let script = text(join, "args.0");
    let target = format!("http://tidegate:{}", settings.http.listen.port());
    for part in ["cluster join", "data/identity.json", &format!("--target {target}"), "--key-file /etc/tidegate/admin/admin.key"] {
        assert!(script.contains(part), "{part:?} is not in {script}");
    }
    assert!(!script.contains("init"), "a pod never begins a cluster: {script}");
    assert!(settings.node.data_dir.join("identity.json") == Path::new("/var/lib/tidegate/data/identity.json"));
}

#[test]
fn the_services_in_kubernetes_lead_to_the_nodes() {
    let set = object("StatefulSet", "tidegate");
    let labels = at(&set, "spec.template.metadata.labels");
    assert_eq!(at(&set, "spec.selector.matchLabels"), labels);
    let budget = object("PodDisruptionBudget", "tidegate");
    assert_eq!((&budget["spec"]["maxUnavailable"], at(&budget, "spec.selector.matchLabels")), (&json!(1), labels));
    for (name, port, is_headless) in [("tidegate", "http", false), ("tidegate-nodes", "cluster", true)] {
        let service = object("Service", name);
        assert_eq!(at(&service, "spec.selector"), labels, "{name}");
        let [only] = list(&service, "spec.ports") else { panic!("{name} has one port") };
        assert_eq!(text(only, "targetPort"), port);
        let of_node = list(&set, "spec.template.spec.containers.0.ports").iter().find(|of| of["name"] == port).unwrap();
        assert_eq!(only["port"], of_node["containerPort"], "{name}");
        assert_eq!(service["spec"]["clusterIP"] == "None", is_headless, "{name}");
        assert_eq!(service["spec"]["publishNotReadyAddresses"] == true, is_headless, "{name}");
    }
    // What is there for people is not applied with the rest.
    let kustomization = documents("kubernetes/kustomization.yaml").remove(0);
    let applied: BTreeSet<String> =
        list(&kustomization, "resources").iter().map(|name| name.as_str().unwrap().to_owned()).collect();
    let by_hand = ["begin.yaml", "secret.yaml", "kustomization.yaml"].map(str::to_owned);
    let all: BTreeSet<String> = objects().into_iter().map(|(file, _)| file).collect();
    assert_eq!(all, applied.into_iter().chain(by_hand).collect());
    // Nobody gets far with the secret as it is packaged.
    let secret = object("Secret", "tidegate-secret");
    assert!(text(&secret, "stringData.cluster-secret").len() < 32);
}

#[test]
fn a_cluster_in_kubernetes_is_begun_by_a_job_of_its_own() {
    let job = object("Job", "tidegate-begin");
    let pod = at(&job, "spec.template.spec");
    let set = object("StatefulSet", "tidegate");
    let claim = object("PersistentVolumeClaim", "data-tidegate-0");
    // The set takes the claim of this name for the pod of this name, if it is as the template says.
    assert_eq!(at(&claim, "spec"), at(&set, "spec.volumeClaimTemplates.0.spec"));
    let data = list(pod, "volumes").iter().find(|volume| volume["name"] == "data").unwrap();
    assert_eq!(text(data, "persistentVolumeClaim.claimName"), "data-tidegate-0");
    check_pod(pod, "tidegate-0", &[]);
    assert_eq!((&job["spec"]["backoffLimit"], text(pod, "restartPolicy")), (&json!(0), "Never"));
    let [begin] = list(pod, "containers") else { panic!("one container is needed") };
    let of_set = settings_of(at(&set, "spec.template.spec.containers.0"), "tidegate-0");
    assert_eq!(settings_of(begin, "tidegate-0"), of_set, "the first node begins as it goes on");
    // Its pod is no node: no service leads to it.
    assert_ne!(at(&job, "spec.template.metadata.labels"), at(&set, "spec.template.metadata.labels"));
}

/// Where a node listens for others: an address of the loopback network that nothing else uses, made of the process's number.
fn for_nodes(number: u8) -> String {
    let [.., high, low] = std::process::id().to_be_bytes();
    format!("127.{}.{low}.{number}:8701", 0xc0 | (high & 0x1f))
}

/// A machine that a pod's containers run on: a folder in the place of its volumes.
struct Machine {
    folder: TempDir,
    pod: &'static str,
    /// Where it listens for other nodes.
    listen: String,
}

impl Machine {
    /// With the packaged settings and with files that `secrets` names, as they stand in the secret.
    fn new(pod: &'static str, number: u8, secrets: &[(&str, &str)]) -> Self {
        let machine = Self { folder: TempDir::new().unwrap(), pod, listen: for_nodes(number) };
        let settings = object("ConfigMap", "tidegate-settings");
        let settings = machine.here(settings["data"]["tidegate.toml"].as_str().unwrap());
        for folder in ["etc/secret", "etc/admin", "lib"] {
            fs::create_dir_all(machine.folder.path().join(folder)).unwrap();
        }
        fs::write(machine.folder.path().join("etc/tidegate.toml"), settings).unwrap();
        for (name, text) in secrets {
            fs::write(machine.folder.path().join("etc").join(name), text).unwrap();
        }
        machine
    }

    /// `text` with the paths of this machine.
    fn here(&self, text: &str) -> String {
        let folder = self.folder.path().to_str().unwrap();
        text.replace("/etc/tidegate", &format!("{folder}/etc")).replace("/var/lib/tidegate", &format!("{folder}/lib"))
    }

    /// Has `command` do what `container` does on this machine.
    fn set_up(&self, container: &Value, mut command: Command) -> Command {
        for (name, value) in variables(container, self.pod) {
            command.env(name, self.here(value.to_str().unwrap()));
        }
        command.env("TIDEGATE_CLUSTER_LISTEN", &self.listen);
        command
    }

    fn has_directory(&self) -> bool {
        self.folder.path().join("lib/data/identity.json").exists()
    }
}

#[test]
fn a_cluster_is_begun_and_joined_as_it_is_packaged_for_kubernetes() {
    let made = run(&["key", "new", "--name", "admin", "--role", "admin"]).expect(0, &[]).stdout;
    let (key, entry) = made.split_once("\n\n").expect("an empty line stands between the key and its entry");
    let secret = "x".repeat(44);
    let secrets = [("secret/cluster-secret", secret.as_str()), ("secret/keys.toml", entry), ("admin/admin.key", key)];
    let (first, second) = (Machine::new("tidegate-0", 1, &secrets), Machine::new("tidegate-1", 2, &secrets));

    let job = object("Job", "tidegate-begin");
    let begin = at(&job, "spec.template.spec.containers.0");
    let words: Vec<&str> = list(begin, "args").iter().map(|word| word.as_str().unwrap()).collect();
    let told = || finish(first.set_up(begin, program(&words)).spawn().unwrap()).expect(0, &[]).stdout;
    let said = told();
    assert!(said.contains("is node 1 of cluster") && said.contains("with 2 shards"), "{said}");
    assert!(said.contains("reached at tidegate-0.tidegate-nodes:8701") && first.has_directory(), "{said}");
    assert!(told().contains("already"), "it is begun once");

    let set = object("StatefulSet", "tidegate");
    let node = at(&set, "spec.template.spec.containers.0");
    let words: Vec<&str> = list(node, "args").iter().map(|word| word.as_str().unwrap()).collect();
    let serves = [&words[..], &["--listen", "127.0.0.1:0"]].concat();
    let running = Server::from_command(first.set_up(node, program(&serves)));
    running.wait_ready();

    let init = at(&set, "spec.template.spec.initContainers.0");
    let shell: Vec<&str> = list(init, "command").iter().map(|word| word.as_str().unwrap()).collect();
    let script = second.here(text(init, "args.0")).replace("http://tidegate:8700", &format!("http://{}", running.address));
    // The image has the program where a shell looks for it.
    let folder = Path::new(env!("CARGO_BIN_EXE_tidegate")).parent().unwrap().to_str().unwrap();
    let join = || {
        let mut command = Command::new(shell[0]);
        command.args(&shell[1..]).arg(&script).env_clear().env("PATH", format!("{folder}:/usr/bin:/bin"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(second.set_up(init, command).spawn().unwrap())
    };
    let said = join().expect(0, &[]).stdout;
    assert!(said.contains("is node 2 of cluster") && said.contains("reached at tidegate-1.tidegate-nodes:8701"), "{said}");
    assert!(second.has_directory());
    assert_eq!(join().expect(0, &[]).stdout, "", "a pod that has its volume asks for nothing");
    running.terminate().expect(0, &[]);
    // Without a member that answers it fails, and begins nothing.
    fs::remove_dir_all(second.folder.path().join("lib/data")).unwrap();
    join().expect(1, &["gave no answer"]);
    assert!(!second.has_directory());
}

#[test]
fn the_nodes_in_compose_are_what_the_program_takes() {
    let compose = documents("compose.yaml").remove(0);
    let services = compose["services"].as_object().unwrap();
    assert_eq!(services.keys().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(["node-1", "node-2", "node-3"]));
    let (mut volumes, mut outside) = (BTreeSet::new(), BTreeSet::new());
    for (name, service) in services {
        let given = service["environment"].as_object().unwrap();
        let given = given.iter().map(|(name, value)| (OsString::from(name), OsString::from(value.as_str().unwrap())));
        let settings = Settings::load(None, given, []).unwrap_or_else(|error| panic!("{name}: {error}"));
        let listens = settings.cluster.listen.expect("it is a member");
        assert!(settings.http.listen.ip().is_unspecified() && listens.ip().is_unspecified(), "others reach it");
        assert_eq!(settings.cluster.advertise.unwrap().to_string(), format!("{name}:{}", listens.port()));
        assert_eq!(text(service, "hostname"), name);
        let secrets: BTreeSet<&str> = list(service, "secrets").iter().map(|secret| secret.as_str().unwrap()).collect();
        for file in [settings.auth.keys_file, settings.cluster.secret_file] {
            let file = file.expect("it is set");
            let secret = file.strip_prefix("/run/secrets").expect("it is a secret").to_str().unwrap().to_owned();
            assert!(secrets.contains(secret.as_str()), "{name}: {secret}");
        }
        for secret in secrets {
            assert!(text(&compose, &format!("secrets.{secret}.file")).starts_with("../cluster/"), "{secret}");
        }
        let (outer, inner) = text(service, "ports.0").rsplit_once(':').unwrap();
        assert_eq!(inner, settings.http.listen.port().to_string());
        assert!(outer.starts_with("127.0.0.1:") && outside.insert(outer), "{name}: {outer}");
        let (volume, place) = text(service, "volumes.0").split_once(':').unwrap();
        assert!(compose["volumes"].get(volume).is_some() && volumes.insert(volume), "{name}: {volume}");
        assert_eq!(place, "/var/lib/tidegate");
        assert_eq!((text(service, "build.dockerfile"), text(service, "build.context")), ("packaging/Dockerfile", ".."));
        let grace: u64 = text(service, "stop_grace_period").strip_suffix('s').unwrap().parse().unwrap();
        assert!(grace > settings.http.answer_seconds_max + 10);
        assert!(service["ulimits"]["nofile"].as_u64().unwrap() > settings.http.connections_max);
        // It serves; who begins or joins is told to by hand.
        assert!(service.get("command").is_none() && service.get("entrypoint").is_none(), "{name}");
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
