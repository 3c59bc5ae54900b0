//! Who connects to a node and should not, or says what it should not: it is refused, and nothing of it counts.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use common::wired::{Authority, MemoryTransfer, WiredNode, endpoint, greeting, in_time, introduce, listener, secret, until_closed};
use common::{LedgerMachine, PATIENCE};
use openraft::errors::RPCError;
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::VoteRequest;
use tempfile::TempDir;
use tidegate_cluster::network::{Endpoint, EndpointError, Links, NetworkLimits};
use tidegate_cluster::transport::{
    ClusterTls, FRAME_BYTES_MAX, Frame, Greeting, HandshakeError, Lane, node_name, read_frame, write_frame,
};
use tidegate_cluster::{LeaderId, Member, Vote};
use tidegate_persistence::{MemoryStore, NodeId};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Node 2, alone.
async fn node(limits: NetworkLimits, tls: Option<ClusterTls>) -> (WiredNode, SocketAddr) {
    let (listener, address) = listener().await;
    let endpoint = Endpoint::new(greeting(2), secret(7), tls, limits).unwrap();
    let node = WiredNode::start(listener, endpoint, MemoryStore::new(), LedgerMachine::default(), MemoryTransfer::default()).await;
    (node, address)
}

/// A connection of node 3 to node 2.
async fn guest(address: SocketAddr, lane: Lane) -> TcpStream {
    introduce(address, &greeting(3), &secret(7), 2, lane).await.unwrap()
}

/// The bytes of a frame.
async fn frame(number: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_frame(&mut bytes, number, body).await.unwrap();
    bytes
}

/// Asks `body`, and returns the answer.
async fn ask(stream: &mut TcpStream, body: &[u8]) -> Vec<u8> {
    stream.write_all(&frame(1, body).await).await.unwrap();
    let Frame { number, body } = in_time("an answer", read_frame(stream)).await.unwrap().unwrap();
    assert_eq!(number, 1);
    body
}

/// An append of nothing, for shard `shard`, by node `by` which leads term 9.
fn append(shard: u16, by: u64) -> Vec<u8> {
    let [high, low] = shard.to_be_bytes();
    [&[1, high, low][..], &9_u64.to_be_bytes(), &by.to_be_bytes(), &[1, 0, 0], &[0; 4]].concat()
}

const TAKEN: &[u8] = &[0x81, 0];

#[tokio::test(flavor = "multi_thread")]
async fn who_is_of_another_cluster_or_has_another_secret_is_refused() {
    let (node, address) = node(NetworkLimits::default(), None).await;
    let elsewhere = Greeting { cluster: "others".to_owned(), node: NodeId(3) };
    let refused = introduce(address, &elsewhere, &secret(7), 2, Lane::Log).await;
    assert!(matches!(refused, Err(HandshakeError::RefusedCluster(NodeId(2)))), "{refused:?}");
    let refused = introduce(address, &greeting(3), &secret(7), 4, Lane::Log).await;
    assert!(matches!(refused, Err(HandshakeError::RefusedNode(NodeId(4)))), "{refused:?}");
    let refused = introduce(address, &greeting(2), &secret(7), 2, Lane::Log).await;
    assert!(matches!(refused, Err(HandshakeError::RefusedName(NodeId(2)))), "{refused:?}");
    let refused = introduce(address, &greeting(3), &secret(8), 2, Lane::Log).await;
    assert!(matches!(refused, Err(HandshakeError::Refused(NodeId(2)))), "{refused:?}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_another_protocol_or_version_is_refused() {
    let (node, address) = node(NetworkLimits::default(), None).await;
    let mut newer = b"tgcl\0\x03\0\x36".to_vec();
    newer.extend_from_slice(&[0; 58]);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&newer).await.unwrap();
    let told = until_closed(&mut stream).await;
    assert!(told.starts_with(b"tgcl\0\x02") && told.len() == 42, "{told:?}");

    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: tidegate\r\n\r\n").await.unwrap();
    assert_eq!(until_closed(&mut stream).await, [0; 0]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_stranger_is_cut_off() {
    let (node, address) = node(NetworkLimits { handshake_ms_max: 100, ..NetworkLimits::default() }, None).await;
    for said in [&b""[..], b"tgcl", b"tgcl\0\x02\0\x36\0\0\0"] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(said).await.unwrap();
        assert_eq!(until_closed(&mut stream).await, [0; 0], "{said:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_strangers_keeps_nobody_out() {
    let limit = u64::try_from(PATIENCE.as_millis()).unwrap() * 10;
    let limits = NetworkLimits { handshake_ms_max: limit, handshakes_max: 2, ..NetworkLimits::default() };
    let (node, address) = node(limits, None).await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let mut stream = guest(address, Lane::Log).await;
    assert_eq!(ask(&mut stream, &append(0, 3)).await, TAKEN);
    // One of the two was cut off for it.
    let [first, second] = &mut silent[..] else { unreachable!() };
    in_time("a stranger is cut off", async {
        tokio::select! {
            told = until_closed(first) => assert!(told.is_empty()),
            told = until_closed(second) => assert!(told.is_empty()),
        }
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_and_the_newest_of_a_node_counts() {
    let (node, address) = node(NetworkLimits { connections_max: 2, ..NetworkLimits::default() }, None).await;
    let mut first = guest(address, Lane::Log).await;
    assert_eq!(ask(&mut first, &append(0, 3)).await, TAKEN);
    let mut second = guest(address, Lane::Log).await;
    assert_eq!(ask(&mut second, &append(0, 3)).await, TAKEN);
    assert_eq!(until_closed(&mut first).await, [0; 0]);
    let mut control = guest(address, Lane::Control).await;
    assert_eq!(ask(&mut control, b"").await, b"");
    // There is no room for another node.
    let mut other = introduce(address, &greeting(4), &secret(7), 2, Lane::Log).await.unwrap();
    assert_eq!(until_closed(&mut other).await, [0; 0]);
    assert_eq!(ask(&mut second, b"").await, b"");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_ends_the_connection_and_nothing_counts() {
    let (node, address) = node(NetworkLimits::default(), None).await;
    let good = frame(1, &append(0, 3)).await;
    let before = node.metrics();
    for byte in 0..good.len() {
        let mut bytes = good.clone();
        bytes[byte] ^= 1 << (byte % 8);
        let mut stream = guest(address, Lane::Log).await;
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(until_closed(&mut stream).await, [0; 0], "byte {byte}");
    }
    let after = node.metrics();
    assert_eq!((before.vote, before.last_log_index), (after.vote, after.last_log_index));
    // As it should be it counts.
    let mut stream = guest(address, Lane::Log).await;
    assert_eq!(ask(&mut stream, &append(0, 3)).await, TAKEN);
    let vote = Vote { leader_id: LeaderId { term: 9, node_id: NodeId(3) }, committed: true };
    node.wait("it follows", |metrics| metrics.vote == vote).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_announced_length_ends_the_connection() {
    let (node, address) = node(NetworkLimits::default(), None).await;
    for length in [u32::try_from(FRAME_BYTES_MAX).unwrap() + 1, u32::MAX] {
        let mut stream = guest(address, Lane::Log).await;
        stream.write_all(&[&length.to_be_bytes()[..], &[0; 12]].concat()).await.unwrap();
        assert_eq!(until_closed(&mut stream).await, [0; 0]);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_answers_is_cut_off() {
    let (node, address) = node(NetworkLimits { silence_ms_max: 100, ..NetworkLimits::default() }, None).await;
    let mut stream = guest(address, Lane::Log).await;
    let signs_of_life = frame(1, b"").await.repeat(4096);
    in_time("it is cut off", async { while stream.write_all(&signs_of_life).await.is_ok() {} }).await;
    let mut stream = guest(address, Lane::Log).await;
    assert_eq!(ask(&mut stream, &append(0, 3)).await, TAKEN);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_may_not_ask_is_refused_and_does_not_count() {
    let (node, address) = node(NetworkLimits::default(), None).await;
    let before = node.metrics();
    let mut stream = guest(address, Lane::Log).await;
    for (body, failure, what) in [
        (append(5, 3), 1, "shard 5 is not here"),
        (append(0x8000, 3), 3, "32768 is no shard's number"),
        (append(0, 4), 3, "the message contradicts itself: a node speaks for another"),
        (vec![8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 3, "the message contradicts itself: it is not asked on this lane"),
        (vec![9, 0, 0], 3, "kind 9 of message is unknown here"),
        (vec![1, 0], 3, "the message ends early"),
    ] {
        let answer = ask(&mut stream, &body).await;
        assert_eq!(answer[..2], [0xff, failure]);
        assert_eq!(String::from_utf8_lossy(&answer[2..]), what);
    }
    let mut snapshots = guest(address, Lane::Snapshots).await;
    assert_eq!(ask(&mut snapshots, &append(0, 3)).await[..2], [0xff, 3]);
    let after = node.metrics();
    assert_eq!((before.vote, before.last_log_index), (after.vote, after.last_log_index));
    assert_eq!(ask(&mut stream, &append(0, 3)).await, TAKEN);
    node.stop().await;
}

/// The begin of a snapshot as transfer 1, of an entry of node 3 in term 9, with nobody as a member.
fn begin() -> Vec<u8> {
    let led = [9_u64.to_be_bytes(), 3_u64.to_be_bytes()].concat();
    let position = [&5_u64.to_be_bytes()[..], &[0; 24], &9_u64.to_be_bytes(), &[0; 8]].concat();
    let [transfer, index] = [1_u64, 4].map(u64::to_be_bytes);
    let (last, no_members) = ([&[1][..], &led, &index].concat(), [0, 0, 0, 0, 4, 0, 0, 0, 0]);
    [&[5, 0, 0][..], &transfer, &led, &[1], &last, &no_members, &position].concat()
}

fn part(offset: u64, bytes: &[u8]) -> Vec<u8> {
    [&[6, 0, 0][..], &1_u64.to_be_bytes(), &offset.to_be_bytes(), bytes].concat()
}

fn end(length: u64, digest: [u8; 32]) -> Vec<u8> {
    [&[7, 0, 0][..], &1_u64.to_be_bytes(), &length.to_be_bytes(), &digest].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_snapshot_leaves_nothing_behind() {
    let (node, address) = node(NetworkLimits::default(), None).await;
    let unfinished = std::sync::Arc::clone(&node.transfer.unfinished);
    let mut stream = guest(address, Lane::Snapshots).await;
    for last in [part(3, b"a gap"), end(3, *blake3_of_abc()), end(2, [0; 32])] {
        assert_eq!(ask(&mut stream, &begin()).await, [0x85]);
        assert_eq!(unfinished.load(Ordering::SeqCst), 1);
        assert_eq!(ask(&mut stream, &part(0, b"ab")).await, [0x86]);
        assert_eq!(ask(&mut stream, &last).await[..2], [0xff, 4]);
        assert_eq!(unfinished.load(Ordering::SeqCst), 0);
    }
    // Given up, and then cut off.
    assert_eq!(ask(&mut stream, &begin()).await, [0x85]);
    assert_eq!(ask(&mut stream, &[&[8, 0, 0][..], &1_u64.to_be_bytes()].concat()).await, [0x88]);
    assert_eq!(unfinished.load(Ordering::SeqCst), 0);
    assert_eq!(ask(&mut stream, &begin()).await, [0x85]);
    assert_eq!(ask(&mut stream, &part(0, b"ab")).await, [0x86]);
    drop(stream);
    assert_eq!(node.machine.installed(), 0);
    assert_eq!(node.metrics().last_applied, None);
    node.stop().await;
    assert_eq!(unfinished.load(Ordering::SeqCst), 0);
}

/// blake3 of "abc", as its own test vectors have it.
fn blake3_of_abc() -> &'static [u8; 32] {
    &[
        0x64, 0x37, 0xb3, 0xac, 0x38, 0x46, 0x51, 0x33, 0xff, 0xb6, 0x3b, 0x75, 0x27, 0x3a, 0x8d, 0xb5, 0x48, 0xc5, 0x58, 0x46,
        0x5d, 0x79, 0xdb, 0x03, 0xfd, 0x35, 0x9c, 0x6c, 0xd5, 0xbd, 0x9d, 0x85,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_closes_what_is_open() {
    let (node, address) = node(NetworkLimits::default(), None).await;
    let mut stream = guest(address, Lane::Log).await;
    let mut stranger = TcpStream::connect(address).await.unwrap();
    assert_eq!(ask(&mut stream, &append(0, 3)).await, TAKEN);
    node.stop().await;
    assert_eq!(until_closed(&mut stream).await, [0; 0]);
    assert_eq!(until_closed(&mut stranger).await, [0; 0]);
    assert!(TcpStream::connect(address).await.is_err());
}

/// What node `us` is told when it asks node 2 for its vote.
async fn ask_for_a_vote(us: Endpoint, address: SocketAddr) -> Result<bool, String> {
    let candidate = us.node();
    let links = Links::new(us);
    let mut dialer = links.dialer(0, std::sync::Arc::new(MemoryTransfer::default()));
    let mut client = dialer.new_client(NodeId(2), &Member::new(address.to_string())).await;
    let vote = Vote { leader_id: LeaderId { term: 9, node_id: candidate }, committed: false };
    let answer = client.vote(VoteRequest::new(vote, None), RPCOption::new(PATIENCE)).await;
    match answer {
        Ok(response) => Ok(response.vote_granted),
        Err(RPCError::Unreachable(error)) => Err(error.to_string()),
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_tls_both_sides_must_be_who_they_say() {
    let folders: BTreeMap<_, _> = ["own", "other"].map(|name| (name, TempDir::new().unwrap())).into();
    let (own, other) = (Authority::new(), Authority::new());
    let tls = |by: &Authority, folder: &str, name: &str, trusted: &Authority| {
        Some(ClusterTls::read(&by.certify(folders[folder].path(), name, trusted)).unwrap())
    };
    let (one, two) = (node_name(NodeId(1)), node_name(NodeId(2)));
    let (node, address) = node(NetworkLimits::default(), tls(&own, "own", &two, &own)).await;

    assert_eq!(ask_for_a_vote(endpoint(1, tls(&own, "own", &one, &own)), address).await, Ok(true));
    // The certificate of another node of the cluster.
    let three = node_name(NodeId(3));
    let told = ask_for_a_vote(endpoint(1, tls(&own, "own", &three, &own)), address).await.unwrap_err();
    assert!(told.contains("node 2 does not take this node for the one that it says to be"), "{told}");
    // One of somebody else's authority, on either side; none at all; and a stranger who speaks no TLS.
    let told = ask_for_a_vote(endpoint(1, tls(&other, "other", &one, &own)), address).await.unwrap_err();
    assert!(told.contains("node 2 is not reached"), "{told}");
    let told = ask_for_a_vote(endpoint(1, tls(&own, "own", &one, &other)), address).await.unwrap_err();
    assert!(told.contains("invalid peer certificate"), "{told}");
    let told = ask_for_a_vote(endpoint(1, None), address).await.unwrap_err();
    assert!(told.contains("node 2 is not reached"), "{told}");
    node.stop().await;

    // A listener with the certificate of another node than is looked for.
    let (node, address) = self::node(NetworkLimits::default(), tls(&own, "own", &three, &own)).await;
    let told = ask_for_a_vote(endpoint(1, tls(&own, "own", &one, &own)), address).await.unwrap_err();
    assert!(told.contains("invalid peer certificate"), "{told}");
    node.stop().await;
}

#[test]
fn files_that_make_no_tls_are_named() {
    let (folder, authority) = (TempDir::new().unwrap(), Authority::new());
    let good = authority.certify(folder.path(), "tidegate-node-1", &authority);
    let other = authority.certify(folder.path(), "tidegate-node-2", &authority);
    let told = |change: &dyn Fn(&mut tidegate_cluster::transport::ClusterTlsFiles)| {
        let mut files = good.clone();
        change(&mut files);
        ClusterTls::read(&files).unwrap_err().to_string()
    };
    let missing = folder.path().join("missing.pem");
    assert_eq!(told(&|files| files.certificate.clone_from(&missing)), format!("TLS file {}", missing.display()));
    let key = good.private_key.display();
    let lacks = format!("TLS file {key}: holds no certificate in PEM");
    assert_eq!(told(&|files| files.certificate.clone_from(&good.private_key)), lacks);
    let lacks = format!("TLS file {}: holds no private key that is not encrypted in PEM", good.certificate.display());
    assert_eq!(told(&|files| files.private_key.clone_from(&good.certificate)), lacks);
    let unusable = format!("TLS file {}: cannot be used", good.certificate.display());
    assert_eq!(told(&|files| files.private_key.clone_from(&other.private_key)), unusable);
    let lacks = format!("TLS file {key}: holds no certificate of an authority in PEM");
    assert_eq!(told(&|files| files.authorities.clone_from(&good.private_key)), lacks);
}

#[test]
fn an_endpoint_with_a_limit_of_nothing_is_refused() {
    let limits = NetworkLimits { handshakes_max: 0, ..NetworkLimits::default() };
    let error = Endpoint::new(greeting(1), secret(7), None, limits).unwrap_err();
    assert_eq!(error, EndpointError::Limit { name: "handshakes_max", found: 0, least: 1 });
    let us = Greeting { cluster: "x".repeat(257), node: NodeId(1) };
    assert_eq!(Endpoint::new(us, secret(7), None, NetworkLimits::default()).unwrap_err(), EndpointError::Cluster(257));
}
