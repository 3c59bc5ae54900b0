//! Where the nodes of a cluster are: each in a network of its own, joined by a bridge, so that any of them can be cut off from any other; or,
//! where that cannot be had, on loopback addresses. Owns networks, mounts and how a program is started in them; knows nothing of nodes.
//!
//! Nothing of it has to be taken down by others: the bridge and the mounts are in namespaces that only this process and what it starts are in, and a node's
//! network is held by a process that ends when this one does.

use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tidegate_witness::node::{NodeError, command};

/// The network that the nodes share: the bridge's end is `.254`, that of the first node `.1`.
const NETWORK: [u8; 3] = [10, 77, 0];
const BRIDGE_HOST: u8 = 254;

/// Where programs for the administrator lie, which are not on everybody's path.
const FOLDERS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

/// What a machine must be able to do for nodes to have networks of their own.
const TRIAL: &str = "ip link add name trial type bridge && ip link add left type veth peer name right && mount -t tmpfs none /mnt";

/// The networks and disks of so many nodes.
#[derive(Debug)]
pub(crate) struct Site {
    /// Who holds each node's network; empty on loopback addresses.
    holders: Vec<Child>,
    /// The place of `setpriv`, with which a node ends when this process does.
    setpriv: Option<PathBuf>,
}

/// The place of `program`, if it is installed.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|place| place.is_file())
}

/// The program, wherever it lies, without the settings of whoever runs this.
fn tool(program: &str) -> Command {
    command(&find(program).unwrap_or_else(|| PathBuf::from(program)))
}

/// Goes on in namespaces of its own: begins this program once more there, with what it was told and `more`, and does not return. Returns
/// why, where this machine or this user cannot.
pub(crate) fn enter(more: &str) -> String {
    let trial = tool("unshare").args(["--net", "--mount", "--propagation", "private", "sh", "-c", TRIAL]).output();
    match trial {
        Err(error) => return format!("`unshare` cannot be run: {error}"),
        Ok(output) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            return format!("no namespaces with networks and mounts can be made: {}", said.trim().replace('\n', "; "));
        }
        Ok(_) => {}
    }
    let this = match std::env::current_exe() {
        Ok(this) => this,
        Err(error) => return format!("this program cannot be found: {error}"),
    };
    let mut within = tool("unshare");
    within.args(["--net", "--mount", "--propagation", "private", "--"]).arg(this).args(std::env::args_os().skip(1)).arg(more);
    format!("`unshare` cannot be run: {}", within.exec())
}

/// Runs a tool to its end.
fn run(mut tool: Command) -> Result<(), NodeError> {
    let failed = |source| NodeError::Machine { what: "a tool of the network or of the mounts failed", source };
    let output = tool.output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(failed(io::Error::other(format!("{tool:?}: {said}"))))
}

fn ip(words: &str) -> Result<(), NodeError> {
    let mut ip = tool("ip");
    ip.args(words.split_whitespace());
    run(ip)
}

impl Site {
    /// Networks for `count` nodes, joined by a bridge. For a process that has entered namespaces of its own.
    pub(crate) fn networks(count: usize) -> Result<Self, NodeError> {
        let mut site = Self::loopback();
        let [a, b, c] = NETWORK;
        ip("link set lo up")?;
        ip("link add name nodes type bridge")?;
        ip(&format!("address add {a}.{b}.{c}.{BRIDGE_HOST}/24 dev nodes"))?;
        ip("link set nodes up")?;
        for place in 0..count {
            site.holders.push(hold()?);
            let pid = site.holders[place].id();
            ip(&format!("link add node{place} type veth peer name uplink netns {pid}"))?;
            ip(&format!("link set node{place} master nodes up"))?;
            site.ip_at(place, "link set lo up")?;
            site.ip_at(place, &format!("address add {}/24 dev uplink", site.address(place)))?;
            site.ip_at(place, "link set uplink up")?;
        }
        Ok(site)
    }

    /// No networks: every node on a loopback address of its own.
    pub(crate) fn loopback() -> Self {
        Self { holders: Vec::new(), setpriv: find("setpriv") }
    }

    /// Whether nodes can be cut off, and given small disks.
    pub(crate) fn has_networks(&self) -> bool {
        !self.holders.is_empty()
    }

    /// The address of the node at `place`.
    pub(crate) fn address(&self, place: usize) -> IpAddr {
        let host = u8::try_from(place + 1).unwrap_or(u8::MAX);
        if self.has_networks() {
            let [a, b, c] = NETWORK;
            return Ipv4Addr::new(a, b, c, host).into();
        }
        // Of the loopback network a part that nothing else uses, made of the process's number.
        let [.., high, low] = std::process::id().to_be_bytes();
        Ipv4Addr::new(127, 128 | (high & 0x7f), low, host).into()
    }

    /// `program` in the network of the node at `place`. It is killed when the thread that starts it ends.
    pub(crate) fn command(&self, place: usize, program: &Path) -> Command {
        let mut words: Vec<PathBuf> = Vec::new();
        if let Some(holder) = self.holders.get(place) {
            words.push(find("nsenter").unwrap_or_else(|| PathBuf::from("nsenter")));
            words.extend([format!("--net=/proc/{}/ns/net", holder.id()).into(), "--".into()]);
        }
        if let Some(setpriv) = &self.setpriv {
            words.extend([setpriv.clone(), "--pdeathsig".into(), "KILL".into(), "--".into()]);
        }
        words.push(program.to_owned());
        let mut whole = command(&words[0]);
        whole.args(&words[1..]);
        whole
    }

    fn ip_at(&self, place: usize, words: &str) -> Result<(), NodeError> {
        let mut within = self.command(place, &find("ip").unwrap_or_else(|| PathBuf::from("ip")));
        within.args(words.split_whitespace());
        run(within)
    }

    /// Nothing that the node at `from` sends to the one at `to` arrives from now on; what it gets from there it gets.
    pub(crate) fn cut(&self, from: usize, to: usize) -> Result<(), NodeError> {
        self.ip_at(from, &format!("route add blackhole {}/32", self.address(to)))
    }

    /// Undoes [`Site::cut`].
    pub(crate) fn join(&self, from: usize, to: usize) -> Result<(), NodeError> {
        self.ip_at(from, &format!("route del blackhole {}/32", self.address(to)))
    }

    /// Pulls the plug of the node at `place`, or puts it in again: nothing reaches it, clients neither.
    pub(crate) fn plug(&self, place: usize, is_in: bool) -> Result<(), NodeError> {
        self.ip_at(place, if is_in { "link set uplink up" } else { "link set uplink down" })
    }
}

/// Makes `folder` a disk of so many MiB, for as long as this process and what it starts are there.
pub(crate) fn mount(folder: &Path, mebibytes: u64) -> Result<(), NodeError> {
    let mut mount = tool("mount");
    mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tidegate-proof"]).arg(folder);
    run(mount)
}

/// Undoes [`mount`].
pub(crate) fn unmount(folder: &Path) -> Result<(), NodeError> {
    let mut unmount = tool("umount");
    unmount.arg(folder);
    run(unmount)
}

/// A process in a network of its own, which ends when nobody holds its standard input any more.
fn hold() -> Result<Child, NodeError> {
    let failed = |source| NodeError::Machine { what: "no network can be made", source };
    let mut holder = tool("unshare");
    holder.args(["--net", "sh", "-c", "echo ready; exec cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut holder = holder.spawn().map_err(failed)?;
    let mut line = String::new();
    let stdout = holder.stdout.take().expect("the standard output is piped");
    BufReader::new(stdout).read_line(&mut line).map_err(failed)?;
    Ok(holder)
}

impl Drop for Site {
    /// Takes the links down at once, so that the next ones can have their names.
    fn drop(&mut self) {
        if self.has_networks() {
            // Whatever cannot be removed goes with the namespaces.
            for link in (0..self.holders.len()).map(|place| format!("node{place}")).chain(["nodes".to_owned()]) {
                let _ = ip(&format!("link del {link}"));
            }
        }
        for holder in &mut self.holders {
            // Without its standard input it ends; if it has ended, all the better.
            drop(holder.stdin.take());
            let _ = holder.wait();
        }
    }
}
