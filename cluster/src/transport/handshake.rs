//! Who is at the other end of a connection: the first thing that either side says, before any frame.
//!
//! ```text
//! 1. who connects says
//!  0  4  "tgcl"
//!  4  2  version of the protocol, big-endian like everything here
//!  6  2  length of what follows up to the checksum
//!  8  8  the node that says it
//! 16  8  the node that it says it to
//! 24  1  lane: 1 control, 2 log, 3 snapshots, 4 requests
//! 25 32  a nonce
//! 57  n  the cluster
//! 57+n 4 crc32c of everything before
//!
//! 2. who is reached says, whatever it heard
//!  0  4  "tgcl"
//!  4  2  version of the protocol
//!  6 32  a nonce
//! 38  4  crc32c of everything before
//!
//! 3. who connects proves that it knows the secret
//!  0 32  HMAC-SHA256 of the statement below, with a verdict of 0
//!
//! 4. who is reached says what becomes of it
//!  0  1  verdict: 0 taken, 1 refused, 2 of another cluster, 3 another node, 4 not allowed to be that node
//!  1 32  HMAC-SHA256 of the statement below; zeros when the verdict is 1
//!
//! the statement
//!  0  1  who proves: 1 who connects, 2 who is reached
//!  1  1  verdict
//!  2  2  version of the protocol
//!  4  8  the node that connects
//! 12  8  the node that it means to reach
//! 20  1  lane
//! 21 32  nonce of who connects
//! 53 32  nonce of who is reached
//! 85 32  what both know of the TLS session underneath and nobody else does, zeros where there is none
//! 117 n  the cluster
//! ```
//!
//! Who connects proves first, and learns of a stranger's mistake nothing but the refusal: which cluster and node were reached is told only to who
//! knows the secret. What is told in the clear by who connects is its own number, the one it looks for and the name of the cluster.
//!
//! Proofs are of this one handshake: nonces are drawn anew, and neither side's proof is of use to the other. What follows is *not* proved:
//! without TLS, whoever can change what goes over the connection can change frames afterwards, and whoever can read it reads them.

use std::io;

use tidegate_persistence::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::transport::secret::{ClusterSecret, Nonce, PROOF_BYTES};

/// Version of what goes over connections that this code speaks, and the only one.
pub const PROTOCOL_VERSION: u16 = 2;

/// Longest name of a cluster in bytes.
pub const CLUSTER_BYTES_MAX: usize = 256;

const MAGIC: [u8; 4] = *b"tgcl";
const HEAD_BYTES: usize = 8;
/// From behind the head to the cluster.
const FIELDS_BYTES: usize = 8 + 8 + 1 + 32;
const CHECKSUM_BYTES: usize = 4;
const CHALLENGE_BYTES: usize = 4 + 2 + 32 + CHECKSUM_BYTES;
const VERDICT_BYTES: usize = 1 + PROOF_BYTES;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Its cluster, of [`CLUSTER_BYTES_MAX`] bytes at most.
    pub cluster: String,
    /// Itself.
    pub node: NodeId,
}

/// What a connection is for. Each has one of its own, so that nothing small waits behind something large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Heartbeats, votes, transfers of leadership.
    Control,
    /// Entries of the log.
    Log,
    /// Snapshots.
    Snapshots,
    /// What nodes ask each other beside consensus, and requests of callers that another node is to answer.
    Requests,
}

impl Lane {
    const fn code(self) -> u8 {
        match self {
            Self::Control => 1,
            Self::Log => 2,
            Self::Snapshots => 3,
            Self::Requests => 4,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Control),
            2 => Some(Self::Log),
            3 => Some(Self::Snapshots),
            4 => Some(Self::Requests),
            _ => None,
        }
    }
}

/// What one handshake is made with.
#[derive(Debug, Clone, Copy)]
pub struct Session<'a> {
    /// The cluster's secret.
    pub secret: &'a ClusterSecret,
    /// Drawn for this handshake.
    pub nonce: Nonce,
    /// What both sides know of the TLS session underneath; zeros without one.
    pub binding: [u8; 32],
}

/// Who has connected, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guest {
    /// The node.
    pub node: NodeId,
    /// The lane.
    pub lane: Lane,
}

/// Why the other end is not whom this one talks to. The connection is to be closed.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed, or ended too early.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// The other end is no node, or what it said did not arrive as it was said.
    #[error("the other end of the connection is no node of a cluster")]
    NoNode,
    /// It speaks another version.
    #[error("protocol version is {found} where {PROTOCOL_VERSION} is spoken")]
    Version {
        /// What it speaks.
        found: u16,
    },
    /// It does not know the secret.
    #[error("who says to be node {0} does not know the cluster's secret")]
    Secret(NodeId),
    /// It belongs to another cluster.
    #[error("node {node} is of cluster {found:?} where {expected:?} was expected")]
    Cluster {
        /// Who it is there.
        node: NodeId,
        /// Its cluster.
        found: String,
        /// This node's.
        expected: String,
    },
    /// It expected another node than this one.
    #[error("node {found} was reached where {expected} was expected")]
    Node {
        /// Who was reached.
        found: NodeId,
        /// Who was to be reached.
        expected: NodeId,
    },
    /// It may not call itself that.
    #[error("who says to be node {0} may not be it: it is this node, or its certificate is another's")]
    NotAllowed(NodeId),
    /// It has refused this node, and does not say why: it has another secret.
    #[error("node {0} refuses the connection; its log says why")]
    Refused(NodeId),
    /// It has refused this node, because it is of another cluster.
    #[error("node {0} is of another cluster")]
    RefusedCluster(NodeId),
    /// It has refused this node, because it is another than was expected.
    #[error("another node was reached where {0} was expected")]
    RefusedNode(NodeId),
    /// It has refused this node, because it may not call itself what it does.
    #[error("node {0} does not take this node for the one that it says to be")]
    RefusedName(NodeId),
    /// A cluster's name is too long.
    #[error("a cluster's name of {0} bytes where {CLUSTER_BYTES_MAX} are allowed")]
    TooLong(usize),
}

/// What becomes of who connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Taken,
    Refused,
    OtherCluster,
    OtherNode,
    NotAllowed,
}

impl Verdict {
    const ALL: [Self; 5] = [Self::Taken, Self::Refused, Self::OtherCluster, Self::OtherNode, Self::NotAllowed];

    const fn code(self) -> u8 {
        match self {
            Self::Taken => 0,
            Self::Refused => 1,
            Self::OtherCluster => 2,
            Self::OtherNode => 3,
            Self::NotAllowed => 4,
        }
    }
}

/// What who connects says first.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hello {
    greeting: Greeting,
    to: NodeId,
    lane: Lane,
    nonce: Nonce,
}

/// Who proves something.
#[derive(Clone, Copy)]
enum Side {
    Guest = 1,
    Host = 2,
}

impl Hello {
    /// What `side` proves.
    fn statement(&self, side: Side, verdict: Verdict, host_nonce: &Nonce, binding: &[u8; 32]) -> Vec<u8> {
        let mut bytes = vec![side as u8, verdict.code()];
        bytes.extend_from_slice(&PROTOCOL_VERSION.to_be_bytes());
        bytes.extend_from_slice(&self.greeting.node.0.to_be_bytes());
        bytes.extend_from_slice(&self.to.0.to_be_bytes());
        bytes.push(self.lane.code());
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(host_nonce);
        bytes.extend_from_slice(binding);
        bytes.extend_from_slice(self.greeting.cluster.as_bytes());
        bytes
    }

    fn encode(&self) -> Result<Vec<u8>, HandshakeError> {
        let cluster = self.greeting.cluster.as_bytes();
        let length = u16::try_from(FIELDS_BYTES + cluster.len()).ok().filter(|_| cluster.len() <= CLUSTER_BYTES_MAX);
        let length = length.ok_or(HandshakeError::TooLong(cluster.len()))?;
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&PROTOCOL_VERSION.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(&self.greeting.node.0.to_be_bytes());
        bytes.extend_from_slice(&self.to.0.to_be_bytes());
        bytes.push(self.lane.code());
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(cluster);
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
        Ok(bytes)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let covered = checked(bytes)?;
        let (node, rest) = covered.get(HEAD_BYTES..)?.split_first_chunk()?;
        let (to, rest) = rest.split_first_chunk()?;
        let (&lane, rest) = rest.split_first()?;
        let (nonce, cluster) = rest.split_first_chunk()?;
        let greeting = Greeting { cluster: std::str::from_utf8(cluster).ok()?.to_owned(), node: NodeId(u64::from_be_bytes(*node)) };
        Some(Self { greeting, to: NodeId(u64::from_be_bytes(*to)), lane: Lane::from_code(lane)?, nonce: *nonce })
    }
}

/// Greets node `expected` over a connection to it, as `us`, for `lane`. It is that node, of the same cluster and protocol, knows the secret
/// and has taken this node for what it says to be, at return.
pub async fn greet(
    connection: &mut (impl AsyncRead + AsyncWrite + Unpin),
    us: &Greeting,
    expected: NodeId,
    lane: Lane,
    session: Session<'_>,
) -> Result<(), HandshakeError> {
    let Session { secret, nonce, binding } = session;
    let hello = Hello { greeting: us.clone(), to: expected, lane, nonce };
    say(connection, &hello.encode()?).await?;
    let host_nonce = hear_challenge(connection).await?;
    let proof = secret.prove(&hello.statement(Side::Guest, Verdict::Taken, &host_nonce, &binding));
    say(connection, &proof).await?;

    let mut said = [0; VERDICT_BYTES];
    connection.read_exact(&mut said).await?;
    let [code, proof @ ..] = said;
    let verdict = Verdict::ALL.into_iter().find(|verdict| verdict.code() == code).ok_or(HandshakeError::NoNode)?;
    if verdict == Verdict::Refused {
        return Err(HandshakeError::Refused(expected));
    }
    if !secret.is_proved(&hello.statement(Side::Host, verdict, &host_nonce, &binding), &proof) {
        return Err(HandshakeError::Secret(expected));
    }
    match verdict {
        Verdict::Taken => Ok(()),
        Verdict::Refused => Err(HandshakeError::Refused(expected)),
        Verdict::OtherCluster => Err(HandshakeError::RefusedCluster(expected)),
        Verdict::OtherNode => Err(HandshakeError::RefusedNode(expected)),
        Verdict::NotAllowed => Err(HandshakeError::RefusedName(expected)),
    }
}

/// Answers whoever has connected, as `us`. Returns which node it is, of the same cluster and protocol; it knows the secret, and `is_allowed` has
/// said that it may be that node.
pub async fn answer(
    connection: &mut (impl AsyncRead + AsyncWrite + Unpin),
    us: &Greeting,
    session: Session<'_>,
    is_allowed: impl FnOnce(NodeId) -> bool,
) -> Result<Guest, HandshakeError> {
    let Session { secret, nonce, binding } = session;
    let hello = match hear_hello(connection).await {
        // Another version is told this one; what it means otherwise cannot be read.
        Err(error @ HandshakeError::Version { .. }) => {
            say(connection, &challenge(&nonce)).await?;
            return Err(error);
        }
        heard => heard?,
    };
    say(connection, &challenge(&nonce)).await?;
    let mut proof = [0; PROOF_BYTES];
    connection.read_exact(&mut proof).await?;
    let Greeting { node, cluster } = &hello.greeting;
    if !secret.is_proved(&hello.statement(Side::Guest, Verdict::Taken, &nonce, &binding), &proof) {
        let mut refusal = [0; VERDICT_BYTES];
        refusal[0] = Verdict::Refused.code();
        say(connection, &refusal).await?;
        return Err(HandshakeError::Secret(*node));
    }
    let (verdict, result) = if *cluster != us.cluster {
        let error = HandshakeError::Cluster { node: *node, found: cluster.clone(), expected: us.cluster.clone() };
        (Verdict::OtherCluster, Err(error))
    } else if hello.to != us.node {
        (Verdict::OtherNode, Err(HandshakeError::Node { found: us.node, expected: hello.to }))
    } else if *node == us.node || !is_allowed(*node) {
        (Verdict::NotAllowed, Err(HandshakeError::NotAllowed(*node)))
    } else {
        (Verdict::Taken, Ok(Guest { node: *node, lane: hello.lane }))
    };
    let proof = secret.prove(&hello.statement(Side::Host, verdict, &nonce, &binding));
    say(connection, &[&[verdict.code()][..], &proof].concat()).await?;
    result
}

async fn say(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), HandshakeError> {
    writer.write_all(bytes).await?;
    Ok(writer.flush().await?)
}

fn challenge(nonce: &Nonce) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_be_bytes());
    bytes.extend_from_slice(nonce);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
    bytes
}

/// What `bytes` hold in front of their checksum, if it fits.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (covered, checksum) = bytes.split_last_chunk()?;
    (crc32c::crc32c(covered) == u32::from_be_bytes(*checksum)).then_some(covered)
}

/// Checks what every first message begins with.
fn check_version(magic: [u8; 4], version: [u8; 2]) -> Result<(), HandshakeError> {
    let found = u16::from_be_bytes(version);
    match magic {
        MAGIC if found == PROTOCOL_VERSION => Ok(()),
        MAGIC => Err(HandshakeError::Version { found }),
        _ => Err(HandshakeError::NoNode),
    }
}

async fn hear_hello(reader: &mut (impl AsyncRead + Unpin)) -> Result<Hello, HandshakeError> {
    let mut head = [0; HEAD_BYTES];
    reader.read_exact(&mut head).await?;
    let [magic @ .., version_high, version_low, length_high, length_low] = head;
    check_version(magic, [version_high, version_low])?;
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    if !(FIELDS_BYTES..=FIELDS_BYTES + CLUSTER_BYTES_MAX).contains(&length) {
        return Err(HandshakeError::NoNode);
    }
    let mut bytes = head.to_vec();
    bytes.resize(HEAD_BYTES + length + CHECKSUM_BYTES, 0);
    reader.read_exact(&mut bytes[HEAD_BYTES..]).await?;
    Hello::decode(&bytes).ok_or(HandshakeError::NoNode)
}

async fn hear_challenge(reader: &mut (impl AsyncRead + Unpin)) -> Result<Nonce, HandshakeError> {
    let mut bytes = [0; CHALLENGE_BYTES];
    reader.read_exact(&mut bytes).await?;
    let [m0, m1, m2, m3, version_high, version_low, ..] = bytes;
    check_version([m0, m1, m2, m3], [version_high, version_low])?;
    let nonce = checked(&bytes).and_then(|covered| covered.last_chunk());
    nonce.copied().ok_or(HandshakeError::NoNode)
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const HERE: Nonce = [1; 32];
    const THERE: Nonce = [2; 32];

    fn node(cluster: &str, node: u64) -> Greeting {
        Greeting { cluster: cluster.to_owned(), node: NodeId(node) }
    }

    fn secret(byte: u8) -> ClusterSecret {
        ClusterSecret::new(&[byte; 32]).unwrap()
    }

    fn session(secret: &ClusterSecret, nonce: Nonce) -> Session<'_> {
        Session { secret, nonce, binding: [0; 32] }
    }

    /// What becomes of it for `guest`, who connects and expects node `expected`, and for `host`. Their secrets are of one byte each.
    async fn shake(
        guest: (Greeting, u8),
        expected: u64,
        host: (Greeting, u8),
    ) -> (Result<(), HandshakeError>, Result<Guest, HandshakeError>) {
        let (mut here, mut there) = duplex(1024);
        let (ours, theirs) = (secret(guest.1), secret(host.1));
        tokio::join!(
            greet(&mut here, &guest.0, NodeId(expected), Lane::Log, session(&ours, HERE)),
            answer(&mut there, &host.0, session(&theirs, THERE), |node| node != NodeId(66)),
        )
    }

    fn hello() -> Vec<u8> {
        let greeting = node("c", 1);
        Hello { greeting, to: NodeId(2), lane: Lane::Log, nonce: HERE }.encode().unwrap()
    }

    /// Everything that comes over `connection` until it ends.
    async fn told(mut connection: DuplexStream) -> Vec<u8> {
        let mut told = Vec::new();
        connection.read_to_end(&mut told).await.unwrap();
        told
    }

    #[tokio::test]
    async fn nodes_of_one_cluster_find_each_other() {
        let (greeted, answered) = shake((node("c", 1), 7), 2, (node("c", 2), 7)).await;
        assert_eq!((greeted.unwrap(), answered.unwrap()), ((), Guest { node: NodeId(1), lane: Lane::Log }));
    }

    #[tokio::test]
    async fn both_sides_that_know_the_secret_say_what_does_not_match() {
        let (greeted, answered) = shake((node("blue", 1), 7), 2, (node("green", 2), 7)).await;
        assert_eq!(greeted.unwrap_err().to_string(), "node 2 is of another cluster");
        assert_eq!(answered.unwrap_err().to_string(), "node 1 is of cluster \"blue\" where \"green\" was expected");
        let (greeted, answered) = shake((node("c", 1), 7), 3, (node("c", 2), 7)).await;
        assert_eq!(greeted.unwrap_err().to_string(), "another node was reached where 3 was expected");
        assert_eq!(answered.unwrap_err().to_string(), "node 2 was reached where 3 was expected");
        for guest in [2, 66] {
            let (greeted, answered) = shake((node("c", guest), 7), 2, (node("c", 2), 7)).await;
            assert!(matches!(greeted, Err(HandshakeError::RefusedName(NodeId(2)))), "{greeted:?}");
            assert!(matches!(answered, Err(HandshakeError::NotAllowed(NodeId(found))) if found == guest), "{answered:?}");
        }
    }

    #[tokio::test]
    async fn who_does_not_know_the_secret_is_told_nothing_but_that() {
        let mut all_told = Vec::new();
        for (cluster, to) in [("c", 2), ("c", 3), ("d", 2)] {
            let (greeted, answered) = shake((node(cluster, 1), 8), to, (node("c", 2), 7)).await;
            assert!(matches!(greeted, Err(HandshakeError::Refused(_))), "{greeted:?}");
            assert!(matches!(answered, Err(HandshakeError::Secret(NodeId(1)))), "{answered:?}");

            let (mut here, mut there) = duplex(1024);
            let greeting = node(cluster, 1);
            let hello = Hello { greeting, to: NodeId(to), lane: Lane::Log, nonce: HERE }.encode().unwrap();
            here.write_all(&[&hello[..], &[0; 32]].concat()).await.unwrap();
            let answered = answer(&mut there, &node("c", 2), session(&secret(7), THERE), |_| true).await;
            assert!(matches!(answered, Err(HandshakeError::Secret(NodeId(1)))), "{answered:?}");
            drop(there);
            all_told.push(told(here).await);
        }
        // The challenge, and a refusal.
        let mut refusal = [0; 33];
        refusal[0] = 1;
        assert!(all_told[0].starts_with(b"tgcl\0\x02\x02\x02"), "{all_told:?}");
        assert_eq!((all_told[0].len(), &all_told[0][42..]), (75, &refusal[..]));
        assert!(all_told.iter().all(|told| *told == all_told[0]), "{all_told:?}");
    }

    #[tokio::test]
    async fn a_host_that_does_not_know_the_secret_is_found_out() {
        for verdict in [0_u8, 2, 3, 4] {
            let (mut here, mut there) = duplex(1024);
            let host = async {
                hear_hello(&mut there).await.unwrap();
                say(&mut there, &challenge(&THERE)).await.unwrap();
                let mut proof = [0; PROOF_BYTES];
                there.read_exact(&mut proof).await.unwrap();
                // The guest's own proof, given back.
                say(&mut there, &[&[verdict][..], &proof].concat()).await.unwrap();
            };
            let ours = secret(7);
            let us = node("c", 1);
            let (greeted, ()) = tokio::join!(greet(&mut here, &us, NodeId(2), Lane::Control, session(&ours, HERE)), host);
            assert!(matches!(greeted, Err(HandshakeError::Secret(NodeId(2)))), "{verdict}: {greeted:?}");
        }
    }

    #[tokio::test]
    async fn a_proof_holds_for_one_handshake_and_one_tls_session() {
        let ours = secret(7);
        let hello = Hello { greeting: node("c", 1), to: NodeId(2), lane: Lane::Log, nonce: HERE };
        let proof = ours.prove(&hello.statement(Side::Guest, Verdict::Taken, &THERE, &[0; 32]));
        for (nonce, binding, is_taken) in [(THERE, [0; 32], true), ([3; 32], [0; 32], false), (THERE, [1; 32], false)] {
            let (mut here, mut there) = duplex(1024);
            here.write_all(&[&hello.encode().unwrap()[..], &proof].concat()).await.unwrap();
            let session = Session { secret: &ours, nonce, binding };
            assert_eq!(answer(&mut there, &node("c", 2), session, |_| true).await.is_ok(), is_taken);
        }
    }

    #[test]
    fn what_is_said_is_laid_out_as_described() {
        let mut expected = b"tgcl\0\x02\0\x32\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\x02".to_vec();
        expected.extend_from_slice(&[1; 32]);
        expected.push(b'c');
        let bytes = hello();
        assert_eq!(bytes[..58], expected);
        assert_eq!(bytes[58..], crc32c::crc32c(&expected).to_be_bytes());

        let hello = Hello::decode(&bytes).unwrap();
        let statement = hello.statement(Side::Host, Verdict::OtherNode, &[2; 32], &[3; 32]);
        let mut expected = b"\x02\x03\0\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\x02".to_vec();
        expected.extend_from_slice(&[[1; 32], [2; 32], [3; 32]].concat());
        expected.push(b'c');
        assert_eq!(statement, expected);
    }

    #[tokio::test]
    async fn another_version_is_named_on_both_sides() {
        let mut newer = hello();
        newer[5] = 3;
        let (mut here, mut there) = duplex(1024);
        here.write_all(&newer).await.unwrap();
        let answered = answer(&mut there, &node("c", 2), session(&secret(7), THERE), |_| true).await;
        assert!(matches!(answered, Err(HandshakeError::Version { found: 3 })), "{answered:?}");
        drop(there);
        assert!(told(here).await.starts_with(b"tgcl\0\x02"));

        let (mut here, mut there) = duplex(1024);
        let mut newer = challenge(&THERE);
        newer[5] = 3;
        there.write_all(&newer).await.unwrap();
        let greeted = greet(&mut here, &node("c", 1), NodeId(2), Lane::Log, session(&secret(7), HERE)).await;
        assert!(matches!(greeted, Err(HandshakeError::Version { found: 3 })), "{greeted:?}");
    }

    #[tokio::test]
    async fn whoever_is_no_node_is_told_nothing() {
        // A browser, and a node whose cluster's name is too long, and one on a lane that there is not.
        let mut long = hello();
        long[6..8].copy_from_slice(&u16::MAX.to_be_bytes());
        let mut lane = hello();
        lane[24] = 5;
        let covered = lane.len() - 4;
        let checksum = crc32c::crc32c(&lane[..covered]).to_be_bytes();
        lane[covered..].copy_from_slice(&checksum);
        for bytes in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), long, lane] {
            let (mut here, mut there) = duplex(1024);
            here.write_all(&bytes).await.unwrap();
            let answered = answer(&mut there, &node("c", 2), session(&secret(7), THERE), |_| true).await;
            assert!(matches!(answered, Err(HandshakeError::NoNode)), "{answered:?}");
            drop(there);
            assert_eq!(told(here).await, [0; 0]);
        }
    }

    #[tokio::test]
    async fn a_flipped_bit_anywhere_is_refused() {
        let good = hello();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let heard = hear_hello(&mut &bytes[..]).await;
            assert!(heard.is_err(), "bit {bit}: {heard:?}");
        }
        let good = challenge(&THERE);
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let heard = hear_challenge(&mut &bytes[..]).await;
            assert!(heard.is_err(), "bit {bit}: {heard:?}");
        }
    }

    #[tokio::test]
    async fn an_end_anywhere_is_an_error() {
        let (hello, challenge) = (hello(), challenge(&THERE));
        for end in 0..hello.len() {
            assert!(matches!(hear_hello(&mut &hello[..end]).await, Err(HandshakeError::Io(_))), "{end}");
        }
        for end in 0..challenge.len() {
            assert!(matches!(hear_challenge(&mut &challenge[..end]).await, Err(HandshakeError::Io(_))), "{end}");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_too_long_is_not_said() {
        let long = node(&"x".repeat(CLUSTER_BYTES_MAX + 1), 1);
        let (mut here, there) = duplex(1024);
        let greeted = greet(&mut here, &long, NodeId(2), Lane::Log, session(&secret(7), HERE)).await;
        assert!(matches!(greeted, Err(HandshakeError::TooLong(257))), "{greeted:?}");
        drop(here);
        assert_eq!(told(there).await, [0; 0]);
    }
}
