//! Nodes that ask each other over sockets, and strangers who connect to them.

use std::borrow::Borrow;
use std::fs;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tidegate_cluster::network::{Endpoint, IncomingSnapshot, Links, NetworkLimits, NoDesk, Server, Shards, SnapshotTransfer};
use tidegate_cluster::transport::{ClusterSecret, ClusterTls, ClusterTlsFiles, Greeting, HandshakeError, Lane, Session, greet};
use tidegate_cluster::{Abstention, CommittedGroup, Member, Raft, Standing, StateMachine};
use tidegate_persistence::{ChainHash, Group, GroupSequence, LogIndex, LogPosition, MemoryStore, NodeId, Term};
use tidegate_stock::Timestamp;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{LedgerMachine, Network, Node, PATIENCE, config, open_log, start_on};

pub const SHARD: u16 = 0;

/// What every snapshot has in front of its groups, so that it goes over in several parts.
const FILLER: &[u8] = &[0x5a; 5 << 20];

/// Snapshots of the tests' machine, in memory.
pub struct MemoryTransfer {
    /// Whether what is received is taken, or kept waiting.
    pub gate: watch::Sender<bool>,
    /// How many were begun.
    pub begun: watch::Sender<u64>,
    /// How many are there that are not finished.
    pub unfinished: Arc<AtomicUsize>,
}

impl Default for MemoryTransfer {
    fn default() -> Self {
        let (gate, begun) = (watch::channel(true).0, watch::channel(0).0);
        Self { gate, begun, unfinished: Arc::default() }
    }
}

pub struct MemoryIncoming {
    bytes: Vec<u8>,
    gate: watch::Receiver<bool>,
    unfinished: Arc<AtomicUsize>,
}

impl Drop for MemoryIncoming {
    fn drop(&mut self) {
        self.unfinished.fetch_sub(1, Ordering::SeqCst);
    }
}

fn encode(groups: &[CommittedGroup]) -> Vec<u8> {
    let mut bytes = FILLER.to_vec();
    for CommittedGroup { position, leader, predecessor, group } in groups {
        for number in [position.index.0, position.sequence.0, position.term.0, position.time.unix_ms(), leader.0] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&position.chain.0);
        bytes.extend_from_slice(&predecessor.0);
        for number in [group.sequence.0, group.time.unix_ms(), u64::from(group.events), group.payload.len() as u64] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&group.payload);
    }
    bytes
}

fn decode(bytes: &[u8]) -> Vec<CommittedGroup> {
    let mut rest = bytes.strip_prefix(FILLER).unwrap();
    let mut groups = Vec::new();
    while !rest.is_empty() {
        let mut number = || u64::from_be_bytes(take(&mut rest));
        let [index, sequence, term, time, leader] = [(); 5].map(|()| number());
        let (chain, predecessor) = (ChainHash(take(&mut rest)), ChainHash(take(&mut rest)));
        let mut number = || u64::from_be_bytes(take(&mut rest));
        let [of_group, opened, events, length] = [(); 4].map(|()| number());
        let (payload, behind) = rest.split_at(usize::try_from(length).unwrap());
        rest = behind;
        let position = LogPosition {
            index: LogIndex(index),
            sequence: GroupSequence(sequence),
            chain,
            term: Term(term),
            time: Timestamp::from_unix_ms(time),
        };
        let group = Group {
            sequence: GroupSequence(of_group),
            time: Timestamp::from_unix_ms(opened),
            events: u32::try_from(events).unwrap(),
            payload: payload.to_vec(),
        };
        groups.push(CommittedGroup { position, leader: NodeId(leader), predecessor, group: Arc::new(group) });
    }
    groups
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (taken, behind) = rest.split_first_chunk().unwrap();
    *rest = behind;
    *taken
}

impl SnapshotTransfer for MemoryTransfer {
    type Snapshot = Arc<Vec<CommittedGroup>>;
    type Reader = io::Cursor<Vec<u8>>;
    type Incoming = MemoryIncoming;

    async fn open(&self, snapshot: Self::Snapshot) -> io::Result<Self::Reader> {
        Ok(io::Cursor::new(encode(&snapshot)))
    }

    async fn receive(&self, shard: u16) -> io::Result<MemoryIncoming> {
        assert_eq!(shard, SHARD);
        self.unfinished.fetch_add(1, Ordering::SeqCst);
        self.begun.send_modify(|begun| *begun += 1);
        Ok(MemoryIncoming { bytes: Vec::new(), gate: self.gate.subscribe(), unfinished: Arc::clone(&self.unfinished) })
    }
}

impl IncomingSnapshot for MemoryIncoming {
    type Snapshot = Arc<Vec<CommittedGroup>>;

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.gate.wait_for(|is_open| *is_open).await.map_err(io::Error::other)?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    async fn finish(self) -> io::Result<Self::Snapshot> {
        Ok(Arc::new(decode(&self.bytes)))
    }
}

pub fn greeting(node: u64) -> Greeting {
    Greeting { cluster: "tests".to_owned(), node: NodeId(node) }
}

pub fn secret(byte: u8) -> ClusterSecret {
    ClusterSecret::new(&[byte; 32]).unwrap()
}

/// Node `node` as it should be, with `tls` or without.
pub fn endpoint(node: u64, tls: Option<ClusterTls>) -> Endpoint {
    Endpoint::new(greeting(node), secret(7), tls, NetworkLimits::default()).unwrap()
}

/// A listener on a port that was free.
pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A node that others reach over a socket.
pub struct WiredNode {
    node: Node,
    pub transfer: Arc<MemoryTransfer>,
    pub server: Server,
    links: Links,
}

impl Deref for WiredNode {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Borrow<Node> for WiredNode {
    fn borrow(&self) -> &Node {
        &self.node
    }
}

impl WiredNode {
    pub async fn start(
        listener: TcpListener,
        endpoint: Endpoint,
        store: MemoryStore,
        machine: LedgerMachine,
        transfer: MemoryTransfer,
    ) -> Self {
        let (id, transfer) = (endpoint.node(), Arc::new(transfer));
        let (wal, replica) = start_on(store.clone(), id);
        let state_machine = StateMachine::new(machine.clone(), Standing::genesis());
        let log = open_log(&wal, &replica, &state_machine);
        let links = Links::new(endpoint.clone());
        let dialer = links.dialer(SHARD, Arc::clone(&transfer));
        let raft = Raft::new(id, config(), dialer, log, state_machine).await.unwrap();
        let shards = Shards::default();
        shards.insert(SHARD, raft.clone(), Abstention::NONE, Arc::clone(&transfer));
        let server = Server::start(listener, endpoint, shards, Arc::new(NoDesk)).unwrap();
        let node = Node { id, raft, machine, store, network: Network::default(), wal };
        Self { node, transfer, server, links }
    }

    pub fn member(&self) -> Member {
        Member::new(self.server.address().to_string())
    }

    /// Stops it; what it has stored is left.
    pub async fn stop(self) -> MemoryStore {
        self.server.stop().await;
        self.links.close();
        self.node.stop().await
    }
}

/// What `doing` gives, if it comes to an end at all.
pub async fn in_time<T>(what: &str, doing: impl Future<Output = T>) -> T {
    timeout(PATIENCE, doing).await.unwrap_or_else(|_| panic!("{what}: still not after a minute"))
}

/// Shakes hands with node `expected` at `address` as `us`, who knows `secret`, for `lane`.
pub async fn introduce(
    address: SocketAddr,
    us: &Greeting,
    secret: &ClusterSecret,
    expected: u64,
    lane: Lane,
) -> Result<TcpStream, HandshakeError> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let session = Session { secret, nonce: [1; 32], binding: [0; 32] };
    in_time("a handshake", greet(&mut stream, us, NodeId(expected), lane, session)).await?;
    Ok(stream)
}

/// Everything that comes over `stream` until the other side closes it.
pub async fn until_closed(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut told = Vec::new();
    // A reset is an end too: it comes when the other side has not read everything.
    drop(in_time("a connection ends", stream.read_to_end(&mut told)).await);
    told
}

/// Who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the authority of a cluster");
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate made out to `name`, in `folder`, whose owner trusts `trusted`.
    pub fn certify(&self, folder: &Path, name: &str, trusted: &Self) -> ClusterTlsFiles {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let [at_certificate, at_key, at_authorities] =
            ["certificate", "key", "authorities"].map(|what| folder.join(format!("{name}-{what}.pem")));
        fs::write(&at_certificate, certificate.pem()).unwrap();
        fs::write(&at_key, key.serialize_pem()).unwrap();
        fs::write(&at_authorities, trusted.0.pem()).unwrap();
        ClusterTlsFiles { certificate: at_certificate, private_key: at_key, authorities: at_authorities }
    }
}
