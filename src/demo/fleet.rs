//! The nodes of the demo: one that stands alone, or several that make a cluster.
//!
//! It owns their directories, processes and clients: it makes the cluster with the commands that an operator would give, tells who leads, kills a
//! node and starts it again. It must not know what is sold.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::future::Future;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use tokio::time::sleep;

use crate::child::{Node, NodeError, NodeOptions, free_ports, run_to_end};
use crate::client::{Client, ClientOptions, ClusterSeen, Outcome};

/// Shards of the cluster. One, so that a kill of its leader stops every grant: nothing that goes on elsewhere hides the pause.
const SHARDS: &str = "1";

/// Bytes of the secret that the nodes share.
const SECRET_BYTES: usize = 32;

/// How often it is looked who leads, or who lacks what.
const LOOK: Duration = Duration::from_millis(20);

/// Longest wait for a leader.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(30);

/// Groups that a node may lack in the middle of a sale and still take over. What a node says of the others is half a second old by then.
pub(crate) const LAG_IN_SALE_MAX: u64 = 1_000;

/// Longest wait until every node is counted and has everything.
const WHOLE_WAIT_MAX: Duration = Duration::from_mins(2);

/// Why the nodes are not what they should be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    /// One of them is not.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The secret could not be made.
    #[error("the cluster's secret could not be made: {0}")]
    Secret(#[source] io::Error),
    /// A command could not be run, or failed.
    #[error("`{command}` failed: {said}")]
    Command {
        /// Its words.
        command: String,
        /// What it said.
        said: String,
    },
    /// Nobody leads.
    #[error("no node leads after {} s", LEADER_WAIT_MAX.as_secs())]
    NoLeader,
    /// A node lacks something, or is not counted.
    #[error("not every node is counted and has everything after {} s; node {node} says {said}", WHOLE_WAIT_MAX.as_secs())]
    NotWhole {
        /// Its number.
        node: usize,
        /// How it sees the cluster.
        said: String,
    },
}

/// One node's place, whether it runs or not.
struct Place {
    options: NodeOptions,
    client: Client,
    node: Option<Node>,
}

/// Several nodes, or one. Dropping it kills those that run.
pub(crate) struct Fleet {
    places: Vec<Place>,
    program: PathBuf,
}

impl Fleet {
    /// Starts `program` as one node whose directory is `data` in `home`, or as a cluster of as many as `nodes` says, with `node-1`, `node-2` and
    /// so on. Returns once all are ready, and counted. Makes its clients on the runtime that it is called in.
    pub(crate) async fn start(program: &Path, home: &Path, nodes: u8) -> Result<Self, FleetError> {
        let count = usize::from(nodes);
        let ports = free_ports(2 * count)?;
        let secret = home.join("secret");
        let place = |number: usize| {
            let (data, settings) = if count == 1 {
                ("data".to_owned(), Vec::new())
            } else {
                let listen = format!("127.0.0.1:{}", ports[count + number]);
                let settings = vec![("cluster.listen", listen), ("cluster.secret_file", secret.display().to_string())];
                (format!("node-{}", number + 1), settings)
            };
            let (data_dir, log) = (home.join(data), home.join(log_name(nodes, number)));
            let options = NodeOptions { program: program.to_owned(), data_dir, port: ports[number], settings, log };
            let client = Client::new(([127, 0, 0, 1], ports[number]).into(), ClientOptions::default());
            Place { options, client, node: None }
        };
        let mut fleet = Self { places: (0..count).map(place).collect(), program: program.to_owned() };
        if count > 1 {
            make_secret(&secret).map_err(FleetError::Secret)?;
            fleet.command(0, &["cluster", "init"], &["--shards", SHARDS]).await?;
        }
        fleet.begin(0).await?;
        fleet.wait_ready(0).await?;
        let target = format!("http://127.0.0.1:{}", ports[0]);
        for number in 1..count {
            fleet.command(number, &["cluster", "join"], &["--target", &target]).await?;
            fleet.begin(number).await?;
            fleet.wait_ready(number).await?;
        }
        fleet.wait_whole(0).await?;
        Ok(fleet)
    }

    /// How many nodes there are, those included that do not run.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether they make a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.len() > 1
    }

    /// A client of each, by place.
    pub(crate) fn clients(&self) -> Vec<Client> {
        self.places.iter().map(|place| place.client.clone()).collect()
    }

    /// The data directory of each, by place.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &Path> {
        self.places.iter().map(|place| place.options.data_dir.as_path())
    }

    /// Fails if a node that was started and not killed has ended.
    pub(crate) fn check_running(&mut self) -> Result<(), NodeError> {
        self.places.iter_mut().filter_map(|place| place.node.as_mut()).try_for_each(Node::check_running)
    }

    /// The place of the node that leads: of one alone, that of the only one.
    pub(crate) async fn leader(&self) -> Result<usize, FleetError> {
        if !self.is_cluster() {
            return Ok(0);
        }
        let began = Instant::now();
        while began.elapsed() < LEADER_WAIT_MAX {
            for place in self.places.iter().filter(|place| place.node.is_some()) {
                let Outcome::Accepted { body, .. } = place.client.get_cluster().await else { continue };
                let leader = body.shards.first().and_then(|shard| usize::try_from(shard.leader?).ok()?.checked_sub(1));
                // A node that was killed may be named for a moment longer.
                if let Some(leader) = leader.filter(|leader| self.places.get(*leader).is_some_and(|place| place.node.is_some())) {
                    return Ok(leader);
                }
            }
            sleep(LOOK).await;
        }
        Err(FleetError::NoLeader)
    }

    /// SIGKILL. Returns once the process is gone.
    pub(crate) async fn kill(&mut self, number: usize) -> Result<(), NodeError> {
        match self.places[number].node.take() {
            Some(mut node) => node.kill().await,
            None => Ok(()),
        }
    }

    /// Starts the node that does not run. Returns once it listens.
    pub(crate) async fn begin(&mut self, number: usize) -> Result<(), NodeError> {
        let place = &mut self.places[number];
        place.node = Some(Node::start(&place.options).await?);
        Ok(())
    }

    /// Returns once the node is ready, with the moment.
    pub(crate) async fn wait_ready(&mut self, number: usize) -> Result<Instant, NodeError> {
        let Place { client, node, .. } = &mut self.places[number];
        match node {
            Some(node) => node.wait_ready(client).await,
            None => Ok(Instant::now()),
        }
    }

    /// Returns once every node sees that all are counted and that none lacks more than `lag_max` groups. One alone never does.
    pub(crate) async fn wait_whole(&mut self, lag_max: u64) -> Result<(), FleetError> {
        if !self.is_cluster() {
            return Ok(());
        }
        let (count, began) = (self.len(), Instant::now());
        for (at, client) in self.clients().into_iter().enumerate() {
            loop {
                self.check_running()?;
                let seen = client.get_cluster().await;
                if matches!(&seen, Outcome::Accepted { body, .. } if is_whole(body, count, lag_max)) {
                    break;
                }
                if began.elapsed() > WHOLE_WAIT_MAX {
                    return Err(FleetError::NotWhole { node: at + 1, said: format!("{seen:?}") });
                }
                sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// Asks every node to stop, one after the other. Returns their exit codes, by place.
    pub(crate) async fn stop(&mut self) -> Vec<Result<i32, String>> {
        let mut codes = Vec::with_capacity(self.len());
        for place in &mut self.places {
            let status = match place.node.take() {
                Some(node) => node.terminate().await.map_err(|error| error.to_string()),
                None => Err("it does not run".to_owned()),
            };
            codes.push(status.and_then(|status| status.code().ok_or_else(|| status.to_string())));
        }
        codes
    }

    /// Runs a command on a node's directory, with its settings.
    async fn command(&self, number: usize, words: &[&str], more: &[&str]) -> Result<(), FleetError> {
        let options = &self.places[number].options;
        let mut arguments: Vec<OsString> = words.iter().chain(more).map(OsString::from).collect();
        arguments.extend([OsString::from("--data-dir"), options.data_dir.clone().into()]);
        arguments.extend(options.settings.iter().flat_map(|(name, value)| ["--set".into(), format!("{name}={value}").into()]));
        let failed = |said| FleetError::Command { command: format!("tidegate {}", words.join(" ")), said };
        let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        let (status, _, stderr): (ExitStatus, _, _) =
            run_to_end(&self.program, &arguments).await.map_err(|error| failed(error.to_string()))?;
        if status.success() { Ok(()) } else { Err(failed(format!("{status}: {}", stderr.trim()))) }
    }
}

/// The names of the files that keep what each of so many nodes says.
pub(crate) fn log_names(nodes: u8) -> impl Iterator<Item = String> {
    (0..usize::from(nodes)).map(move |number| log_name(nodes, number))
}

fn log_name(nodes: u8, number: usize) -> String {
    if nodes == 1 { "node.log".to_owned() } else { format!("node-{}.log", number + 1) }
}

/// Whether `count` nodes are counted and none lacks more than `lag_max` groups.
fn is_whole(seen: &ClusterSeen, count: usize, lag_max: u64) -> bool {
    let voters = seen.nodes.iter().filter(|node| node.role == "voter").count();
    let has_all = |shard: &crate::client::ShardSeen| {
        shard.leader.is_some()
            && shard.replicas.len() == count
            && shard.replicas.iter().all(|replica| replica.lag.is_some_and(|lag| lag <= lag_max))
    };
    voters == count && seen.nodes.len() == count && seen.shards.iter().all(has_all)
}

/// A secret drawn at random, in a file that nobody else may read.
fn make_secret(path: &Path) -> io::Result<()> {
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(io::Error::other)?;
    let text = HEXLOWER.encode(&secret);
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}

/// Makes `call` of one client after the other, from the place `first` on.
pub(crate) fn in_turn<'a, T, F: Future<Output = Outcome<T>>>(
    clients: &'a [Client],
    first: usize,
    call: impl Fn(&'a Client) -> F,
) -> impl FnMut() -> F {
    let mut turn = first;
    move || {
        let client = &clients[turn % clients.len()];
        turn = turn.wrapping_add(1);
        call(client)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_secret_is_random_and_its_own_users_only() {
        let folder = TempDir::new().unwrap();
        let [one, two] = ["one", "two"].map(|name| {
            let path = folder.path().join(name);
            make_secret(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            std::fs::read_to_string(&path).unwrap()
        });
        assert_eq!(one.len(), 2 * SECRET_BYTES);
        assert_ne!(one, two);
        assert!(make_secret(&folder.path().join("one")).is_err(), "one that is there stays");
    }

    #[test]
    fn a_cluster_is_whole_when_all_are_counted_and_none_lacks_anything() {
        let seen = |nodes: &str, shard: &str| -> ClusterSeen {
            let shard = format!(r#"{{"shard":0,"term":1,"committed":9,{shard}}}"#);
            serde_json::from_str(&format!(r#"{{"node":1,"nodes":[{nodes}],"shards":[{shard}]}}"#)).unwrap()
        };
        let voters = r#"{"node":1,"role":"voter"},{"node":2,"role":"voter"}"#;
        let whole = r#""leader":1,"replicas":[{"node":1,"lag":0},{"node":2,"lag":0}]"#;
        assert!(is_whole(&seen(voters, whole), 2, 0));
        assert!(!is_whole(&seen(voters, whole), 3, 0));
        assert!(!is_whole(&seen(r#"{"node":1,"role":"voter"},{"node":2,"role":"learner"}"#, whole), 2, 0));
        for shard in [
            r#""leader":null,"replicas":[{"node":1,"lag":0},{"node":2,"lag":0}]"#,
            r#""leader":1,"replicas":[{"node":1,"lag":0}]"#,
            r#""leader":1,"replicas":[{"node":1,"lag":0},{"node":2,"lag":6}]"#,
            r#""leader":1,"replicas":[{"node":1,"lag":0},{"node":2,"lag":null}]"#,
        ] {
            assert!(!is_whole(&seen(voters, shard), 2, 5), "{shard}");
        }
        assert!(is_whole(&seen(voters, r#""leader":1,"replicas":[{"node":1,"lag":0},{"node":2,"lag":5}]"#), 2, 5));
    }

    #[tokio::test]
    async fn each_attempt_goes_to_the_next_node() {
        let clients: Vec<Client> =
            (1..=3).map(|port| Client::new(([127, 0, 0, 1], port).into(), ClientOptions::default())).collect();
        let mut call = in_turn(&clients, 2, |client| {
            let at = clients.iter().position(|of| std::ptr::eq(of, client)).unwrap();
            async move { Outcome::<usize>::Accepted { status: 200, replayed: false, body: at } }
        });
        for expected in [2, 0, 1, 2] {
            assert!(matches!(call().await, Outcome::Accepted { body, .. } if body == expected));
        }
    }
}
