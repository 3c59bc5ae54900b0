//! Who is at the other end of a connection: the first thing that either side says, before any frame.
//!
//! ```text
//!  0  4  "tgcl"
//!  4  2  version of the protocol, big-endian like everything here
//!  6  2  length of what follows up to the checksum
//!  8  8  the node that says it
//! 16  8  the node that it says it to
//! 24  n  the cluster
//! 24+n 4  crc32c of everything before
//! ```
//!
//! Who connects greets first; who is greeted answers, and answers one whom it refuses too, so that both can say what does not match. It names
//! nodes and proves nothing: that a node is who it says is for whatever protects the connection.

use std::io;

use tidegate_persistence::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Version of what goes over connections that this code speaks, and the only one.
pub const PROTOCOL_VERSION: u16 = 1;

/// Longest name of a cluster in bytes.
pub const CLUSTER_BYTES_MAX: usize = 256;

const MAGIC: [u8; 4] = *b"tgcl";
const HEAD_BYTES: usize = 8;
const NODES_BYTES: usize = 16;
const CHECKSUM_BYTES: usize = 4;

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Its cluster, of [`CLUSTER_BYTES_MAX`] bytes at most.
    pub cluster: String,
    /// Itself.
    pub node: NodeId,
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
    /// It is another node than was expected, or expected another node than this one.
    #[error("node {found} was reached where {expected} was expected")]
    Node {
        /// Who was reached.
        found: NodeId,
        /// Who was to be reached.
        expected: NodeId,
    },
    /// A cluster's name is too long.
    #[error("a cluster's name of {0} bytes where {CLUSTER_BYTES_MAX} are allowed")]
    TooLong(usize),
}

/// What one side said.
struct Said {
    greeting: Greeting,
    to: NodeId,
}

/// Greets node `expected` over a connection to it, as `us`. It is that node, of the same cluster and protocol, at return.
pub async fn greet(
    connection: &mut (impl AsyncRead + AsyncWrite + Unpin),
    us: &Greeting,
    expected: NodeId,
) -> Result<(), HandshakeError> {
    say(connection, us, expected).await?;
    let said = hear(connection, us).await?;
    if said.greeting.node == expected { Ok(()) } else { Err(HandshakeError::Node { found: said.greeting.node, expected }) }
}

/// Answers whoever has connected, as `us`. Returns which node it is, of the same cluster and protocol.
pub async fn answer(connection: &mut (impl AsyncRead + AsyncWrite + Unpin), us: &Greeting) -> Result<NodeId, HandshakeError> {
    let heard = hear(connection, us).await;
    let to = match &heard {
        Ok(said) => said.greeting.node,
        Err(HandshakeError::Cluster { node, .. }) => *node,
        // Another version is told this one; who it is cannot be read.
        Err(HandshakeError::Version { .. }) => NodeId(0),
        Err(_) => return heard.map(|said| said.greeting.node),
    };
    say(connection, us, to).await?;
    let said = heard?;
    if said.to == us.node { Ok(said.greeting.node) } else { Err(HandshakeError::Node { found: us.node, expected: said.to }) }
}

async fn say(writer: &mut (impl AsyncWrite + Unpin), us: &Greeting, to: NodeId) -> Result<(), HandshakeError> {
    let length = u16::try_from(NODES_BYTES + us.cluster.len()).ok().filter(|_| us.cluster.len() <= CLUSTER_BYTES_MAX);
    let length = length.ok_or(HandshakeError::TooLong(us.cluster.len()))?;
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&PROTOCOL_VERSION.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&us.node.0.to_be_bytes());
    bytes.extend_from_slice(&to.0.to_be_bytes());
    bytes.extend_from_slice(us.cluster.as_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_be_bytes());
    writer.write_all(&bytes).await?;
    Ok(writer.flush().await?)
}

/// Hears what the other side says, and checks what can be without knowing who was expected.
async fn hear(reader: &mut (impl AsyncRead + Unpin), us: &Greeting) -> Result<Said, HandshakeError> {
    let mut head = [0; HEAD_BYTES];
    reader.read_exact(&mut head).await?;
    let [magic @ .., version_high, version_low, length_high, length_low] = head;
    if magic != MAGIC {
        return Err(HandshakeError::NoNode);
    }
    let found = u16::from_be_bytes([version_high, version_low]);
    if found != PROTOCOL_VERSION {
        return Err(HandshakeError::Version { found });
    }
    let length = usize::from(u16::from_be_bytes([length_high, length_low]));
    if !(NODES_BYTES..=NODES_BYTES + CLUSTER_BYTES_MAX).contains(&length) {
        return Err(HandshakeError::NoNode);
    }
    let mut bytes = head.to_vec();
    bytes.resize(HEAD_BYTES + length + CHECKSUM_BYTES, 0);
    reader.read_exact(&mut bytes[HEAD_BYTES..]).await?;
    let said = decode(&bytes).ok_or(HandshakeError::NoNode)?;
    if said.greeting.cluster != us.cluster {
        let Greeting { cluster: found, node } = said.greeting;
        return Err(HandshakeError::Cluster { node, found, expected: us.cluster.clone() });
    }
    Ok(said)
}

fn decode(bytes: &[u8]) -> Option<Said> {
    let (covered, checksum) = bytes.split_last_chunk()?;
    if crc32c::crc32c(covered) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let (node, rest) = covered[HEAD_BYTES..].split_first_chunk()?;
    let (to, cluster) = rest.split_first_chunk()?;
    let (node, to) = (NodeId(u64::from_be_bytes(*node)), NodeId(u64::from_be_bytes(*to)));
    Some(Said { greeting: Greeting { cluster: std::str::from_utf8(cluster).ok()?.to_owned(), node }, to })
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::transport::{Frame, read_frame, write_frame};

    fn node(cluster: &str, node: u64) -> Greeting {
        Greeting { cluster: cluster.to_owned(), node: NodeId(node) }
    }

    /// What becomes of it for `guest`, who connects and expects node `expected`, and for `host`.
    async fn shake(guest: Greeting, expected: u64, host: Greeting) -> (Result<(), HandshakeError>, Result<NodeId, HandshakeError>) {
        let (mut here, mut there) = duplex(1024);
        tokio::join!(greet(&mut here, &guest, NodeId(expected)), answer(&mut there, &host))
    }

    #[tokio::test]
    async fn nodes_of_one_cluster_find_each_other() {
        let (greeted, answered) = shake(node("c", 1), 2, node("c", 2)).await;
        assert_eq!((greeted.unwrap(), answered.unwrap()), ((), NodeId(1)));
    }

    #[tokio::test]
    async fn both_sides_say_what_does_not_match() {
        let (greeted, answered) = shake(node("blue", 1), 2, node("green", 2)).await;
        assert_eq!(greeted.unwrap_err().to_string(), "node 2 is of cluster \"green\" where \"blue\" was expected");
        assert_eq!(answered.unwrap_err().to_string(), "node 1 is of cluster \"blue\" where \"green\" was expected");
        let (greeted, answered) = shake(node("c", 1), 3, node("c", 2)).await;
        assert_eq!(greeted.unwrap_err().to_string(), "node 2 was reached where 3 was expected");
        assert_eq!(answered.unwrap_err().to_string(), "node 2 was reached where 3 was expected");
    }

    #[tokio::test]
    async fn another_version_is_named_on_both_sides() {
        let mut newer = Vec::new();
        say(&mut newer, &node("c", 1), NodeId(2)).await.unwrap();
        newer[5] = 2;
        let (mut here, mut there) = duplex(1024);
        here.write_all(&newer).await.unwrap();
        let answered = answer(&mut there, &node("c", 2)).await;
        assert!(matches!(answered, Err(HandshakeError::Version { found: 2 })), "{answered:?}");
        let mut head = [0; HEAD_BYTES];
        here.read_exact(&mut head).await.unwrap();
        assert_eq!(head[..6], *b"tgcl\x00\x01");
    }

    #[tokio::test]
    async fn whoever_is_no_node_is_told_nothing() {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"tgcl\x00\x01\x00\x00", b"tgcl\x00\x01\xff\xff"] {
            let (mut here, mut there) = duplex(1024);
            here.write_all(bytes).await.unwrap();
            let answered = answer(&mut there, &node("c", 2)).await;
            assert!(matches!(answered, Err(HandshakeError::NoNode)), "{answered:?}");
            drop(there);
            let mut told = Vec::new();
            here.read_to_end(&mut told).await.unwrap();
            assert!(told.is_empty(), "{told:?}");
        }
    }

    #[tokio::test]
    async fn a_flipped_bit_anywhere_is_refused() {
        let mut good = Vec::new();
        say(&mut good, &node("c", 1), NodeId(2)).await.unwrap();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let heard = hear(&mut &bytes[..], &node("c", 2)).await.map(|said| said.greeting);
            assert!(heard.is_err(), "bit {bit}: {heard:?}");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_too_long_is_not_said() {
        let long = node(&"x".repeat(CLUSTER_BYTES_MAX + 1), 1);
        let mut bytes = Vec::new();
        assert!(matches!(say(&mut bytes, &long, NodeId(2)).await, Err(HandshakeError::TooLong(257))));
        assert!(bytes.is_empty());
    }

    #[tokio::test]
    async fn frames_follow_over_a_real_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let host = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            assert_eq!(answer(&mut connection, &node("c", 2)).await.unwrap(), NodeId(1));
            let asked = read_frame(&mut connection).await.unwrap().unwrap();
            write_frame(&mut connection, asked.number, b"yes").await.unwrap();
        };
        let guest = async {
            let mut connection = TcpStream::connect(address).await.unwrap();
            greet(&mut connection, &node("c", 1), NodeId(2)).await.unwrap();
            write_frame(&mut connection, 7, &vec![1; 1 << 20]).await.unwrap();
            assert_eq!(read_frame(&mut connection).await.unwrap(), Some(Frame { number: 7, body: b"yes".to_vec() }));
            assert_eq!(read_frame(&mut connection).await.unwrap(), None);
        };
        tokio::join!(host, guest);
    }
}
