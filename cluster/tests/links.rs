//! How a node asks another: what is in flight, what is matched, and what becomes of it when the other is gone, silent or wrong. The other node
//! is played by the test.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::PATIENCE;
use common::wired::{MemoryTransfer, SHARD, endpoint, greeting, in_time, listener, secret, until_closed};
use futures_util::StreamExt;
use futures_util::stream;
use openraft::StoredMembership;
use openraft::errors::{RPCError, ReplicationClosed, StreamingError};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, VoteRequest};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf};
use tidegate_cluster::network::{Client, Dialer, Endpoint, Links, NetworkLimits, SNAPSHOT_PART_BYTES};
use tidegate_cluster::transport::{Frame, Guest, Lane, Session, answer, read_frame, write_frame};
use tidegate_cluster::{LeaderId, LogId, MachineSnapshot, Member, TypeConfig, Vote};
use tidegate_persistence::{ChainHash, GroupSequence, LogIndex, LogPosition, NodeId, Term};
use tidegate_stock::Timestamp;
use tokio::net::{TcpListener, TcpStream};

/// Longer than anything here takes.
fn long() -> RPCOption {
    RPCOption::new(PATIENCE)
}

fn dialer(endpoint: Endpoint) -> Dialer<MemoryTransfer> {
    Links::new(endpoint).dialer(SHARD, Arc::new(MemoryTransfer::default()))
}

/// Node 1, which asks node 2 at `listener`.
async fn client(listener: &TcpListener) -> Client<MemoryTransfer> {
    dialer(endpoint(1, None)).new_client(NodeId(2), &member(listener)).await
}

fn member(listener: &TcpListener) -> Member {
    Member::new(listener.local_addr().unwrap().to_string())
}

/// The next connection of node 1, and what it is for.
async fn accept(listener: &TcpListener) -> (TcpStream, Lane) {
    let (mut stream, _) = in_time("a connection", listener.accept()).await.unwrap();
    let session = Session { secret: &secret(7), nonce: [2; 32], binding: [0; 32] };
    let Guest { node, lane } = in_time("a handshake", answer(&mut stream, &greeting(2), session, |_| true)).await.unwrap();
    assert_eq!(node, NodeId(1));
    (stream, lane)
}

async fn asked(stream: &mut TcpStream) -> Frame {
    in_time("a question", read_frame(stream)).await.unwrap().unwrap()
}

async fn say(stream: &mut TcpStream, number: u64, body: &[u8]) {
    write_frame(stream, number, body).await.unwrap();
}

fn vote(term: u64) -> Vote {
    Vote { leader_id: LeaderId { term, node_id: NodeId(1) }, committed: false }
}

/// The answer that the vote of `term` is granted.
fn granted(term: u64) -> Vec<u8> {
    [&[0x82][..], &term.to_be_bytes(), &1_u64.to_be_bytes(), &[0, 1, 0]].concat()
}

fn id(index: u64) -> LogId {
    LogId { leader_id: LeaderId { term: 1, node_id: NodeId(1) }, index }
}

/// An append of nothing behind entry `index`.
fn append(index: Option<u64>) -> AppendEntriesRequest<TypeConfig> {
    let vote = Vote { committed: true, ..vote(1) };
    AppendEntriesRequest { vote, prev_log_id: index.map(id), entries: Vec::new(), leader_commit: None }
}

#[tokio::test]
async fn answers_find_their_questions_in_any_order() {
    let (listener, _) = listener().await;
    let mut dialer = dialer(endpoint(1, None));
    let mut one = dialer.new_client(NodeId(2), &member(&listener)).await;
    let mut other = dialer.new_client(NodeId(2), &member(&listener)).await;
    let node = async {
        let (mut stream, lane) = accept(&listener).await;
        assert_eq!(lane, Lane::Control);
        let (first, second) = (asked(&mut stream).await, asked(&mut stream).await);
        for Frame { number, body } in [second, first] {
            // Behind kind and shard the term is asked.
            let term = u64::from_be_bytes(body[3..11].try_into().unwrap());
            say(&mut stream, number, &granted(term)).await;
        }
        stream
    };
    let (_stream, first, second) =
        tokio::join!(node, one.vote(VoteRequest::new(vote(5), None), long()), other.vote(VoteRequest::new(vote(6), None), long()),);
    assert_eq!((first.unwrap().vote, second.unwrap().vote), (vote(5), vote(6)));
}

#[tokio::test]
async fn shards_share_their_connections() {
    let (listener, _) = listener().await;
    let links = Links::new(endpoint(1, None));
    let [mut one, mut other] = [0, 1].map(|shard| links.dialer(shard, Arc::new(MemoryTransfer::default())));
    let mut one = one.new_client(NodeId(2), &member(&listener)).await;
    let mut other = other.new_client(NodeId(2), &member(&listener)).await;
    let node = async {
        let (mut stream, _) = accept(&listener).await;
        let mut shards = Vec::new();
        for _ in 0..2 {
            let Frame { number, body } = asked(&mut stream).await;
            shards.push(body[1..3].to_vec());
            say(&mut stream, number, &granted(1)).await;
        }
        (stream, shards)
    };
    let ((_stream, shards), first, second) =
        tokio::join!(node, one.vote(VoteRequest::new(vote(1), None), long()), other.vote(VoteRequest::new(vote(1), None), long()),);
    assert_eq!(shards, [[0, 0], [0, 1]]);
    assert!(first.is_ok() && second.is_ok());
}

#[tokio::test]
async fn each_purpose_has_a_connection_of_its_own() {
    let (listener, _) = listener().await;
    let mut dialer = dialer(endpoint(1, None));
    let mut client = dialer.new_client(NodeId(2), &member(&listener)).await;
    let mut heartbeats = dialer.new_heartbeat_client(NodeId(2), &member(&listener)).await;
    let node = async {
        let (mut log, lane) = accept(&listener).await;
        assert_eq!(lane, Lane::Log);
        let waits = asked(&mut log).await;
        // The heartbeat is answered while the other append still waits.
        let answering = async {
            let (mut control, lane) = accept(&listener).await;
            assert_eq!(lane, Lane::Control);
            let Frame { number, .. } = asked(&mut control).await;
            say(&mut control, number, &[0x81, 0]).await;
            control
        };
        let (_control, beaten) = tokio::join!(answering, heartbeats.append_entries(append(None), long()));
        say(&mut log, waits.number, &[0x81, 0]).await;
        (log, beaten)
    };
    let ((_log, beaten), appended) = tokio::join!(node, client.append_entries(append(None), long()));
    assert_eq!((beaten.unwrap(), appended.unwrap()), (AppendEntriesResponse::Success, AppendEntriesResponse::Success));
}

#[tokio::test]
async fn appends_do_not_wait_for_each_other() {
    let (listener, _) = listener().await;
    let mut client = client(&listener).await;
    let node = async {
        let (mut stream, lane) = accept(&listener).await;
        assert_eq!(lane, Lane::Log);
        let mut numbers = Vec::new();
        for _ in 0..3 {
            numbers.push(asked(&mut stream).await.number);
        }
        for number in numbers {
            say(&mut stream, number, &[0x81, 0]).await;
        }
        stream
    };
    let asking = async {
        let input = stream::iter([1, 2, 3].map(|index| append(Some(index))));
        let answers = client.stream_append(input, long()).await.unwrap();
        answers.map(Result::unwrap).map(Result::unwrap).collect::<Vec<_>>().await
    };
    let (_stream, answers) = tokio::join!(node, asking);
    assert_eq!(answers, [1, 2, 3].map(|index| Some(id(index))));
}

#[tokio::test]
async fn a_stream_of_appends_ends_with_the_first_that_fails() {
    let (listener, _) = listener().await;
    let mut client = client(&listener).await;
    let node = async {
        let (mut stream, _) = accept(&listener).await;
        for answer in [&[0x81, 0][..], &[0x81, 2], &[0x81, 0]] {
            let Frame { number, .. } = asked(&mut stream).await;
            say(&mut stream, number, answer).await;
        }
        stream
    };
    let asking = async {
        let input = stream::iter([1, 2, 3].map(|index| append(Some(index))));
        client.stream_append(input, long()).await.unwrap().map(Result::unwrap).collect::<Vec<_>>().await
    };
    let (_stream, answers) = tokio::join!(node, asking);
    assert_eq!(answers, [Ok(Some(id(1))), Err(StreamAppendError::Conflict(id(2)))]);
}

#[tokio::test]
async fn what_a_node_cannot_have_answered_is_an_error() {
    let (listener, _) = listener().await;
    let mut client = client(&listener).await;
    let one = [&[0x81, 1, 1][..], &1_u64.to_be_bytes(), &1_u64.to_be_bytes(), &9_u64.to_be_bytes()].concat();
    let wrong = [
        // A conflict with the beginning of a log; entries that were not sent; another question's answer; and no answer at all.
        vec![0x81, 2],
        one,
        granted(1),
        vec![0x81],
        vec![0x99],
    ];
    let count = wrong.len();
    let node = async {
        let (mut stream, _) = accept(&listener).await;
        for answer in wrong {
            let Frame { number, .. } = asked(&mut stream).await;
            say(&mut stream, number, &answer).await;
        }
        stream
    };
    let asking = async {
        for _ in 0..count {
            let answer = client.append_entries(append(None), long()).await;
            assert!(matches!(answer, Err(RPCError::Network(_))), "{answer:?}");
        }
    };
    let (_stream, ()) = tokio::join!(node, asking);
}

#[tokio::test]
async fn a_shard_that_is_not_there_is_unreachable() {
    let (listener, _) = listener().await;
    let mut client = client(&listener).await;
    let node = async {
        let (mut stream, _) = accept(&listener).await;
        for code in [1, 2] {
            let Frame { number, .. } = asked(&mut stream).await;
            say(&mut stream, number, &[0xff, code, b'!']).await;
        }
        stream
    };
    let asking = async {
        for _ in 0..2 {
            let answer = client.vote(VoteRequest::new(vote(1), None), long()).await;
            assert!(matches!(answer, Err(RPCError::Unreachable(_))), "{answer:?}");
        }
    };
    let (_stream, ()) = tokio::join!(node, asking);
}

/// Asks for a vote until there is one, as openraft asks: after as long as it is told to wait.
async fn ask_until_answered(client: &mut Client<MemoryTransfer>) {
    let mut pauses = client.backoff().unwrap();
    let asking = async {
        while let Err(error) = client.vote(VoteRequest::new(vote(1), None), long()).await {
            assert!(matches!(error, RPCError::Unreachable(_) | RPCError::Network(_)), "{error}");
            tokio::time::sleep(pauses.next().unwrap()).await;
        }
    };
    in_time("a vote", asking).await;
}

#[tokio::test]
async fn what_was_in_flight_fails_with_its_connection_and_the_next_has_another() {
    let (first_listener, address) = listener().await;
    let mut client = client(&first_listener).await;
    let node = async {
        let (mut stream, _) = accept(&first_listener).await;
        asked(&mut stream).await;
    };
    let ((), answer) = tokio::join!(node, client.vote(VoteRequest::new(vote(1), None), long()));
    assert!(matches!(answer, Err(RPCError::Network(_))), "{answer:?}");
    // Nobody connects at once again.
    let answer = client.vote(VoteRequest::new(vote(1), None), long()).await;
    assert!(matches!(answer, Err(RPCError::Unreachable(_))), "{answer:?}");

    // Nobody is there for a while, and then somebody is.
    drop(first_listener);
    let mut pauses = client.backoff().unwrap();
    for _ in 0..3 {
        let answer = client.vote(VoteRequest::new(vote(1), None), long()).await;
        assert!(matches!(answer, Err(RPCError::Unreachable(_))), "{answer:?}");
        tokio::time::sleep(pauses.next().unwrap()).await;
    }
    let listener = TcpListener::bind(address).await.unwrap();
    let node = async {
        let (mut stream, _) = accept(&listener).await;
        let Frame { number, .. } = asked(&mut stream).await;
        say(&mut stream, number, &granted(1)).await;
        stream
    };
    let (_stream, ()) = tokio::join!(node, ask_until_answered(&mut client));
}

#[tokio::test]
async fn a_node_that_falls_silent_is_given_up() {
    let (listener, _) = listener().await;
    let limits = NetworkLimits { silence_ms_max: 2_000, ..NetworkLimits::default() };
    let endpoint = Endpoint::new(greeting(1), secret(7), None, limits).unwrap();
    let mut client = dialer(endpoint).new_client(NodeId(2), &member(&listener)).await;
    let node = async {
        let (mut stream, _) = accept(&listener).await;
        let question = asked(&mut stream).await;
        // It is asked for a sign of life, gives one, and none after it.
        let Frame { number, body } = asked(&mut stream).await;
        assert!(number > question.number && body.is_empty(), "{body:?}");
        say(&mut stream, number, &[]).await;
        assert!(asked(&mut stream).await.body.is_empty());
        stream
    };
    let (_stream, answer) = tokio::join!(node, client.vote(VoteRequest::new(vote(1), None), long()));
    let Err(RPCError::Network(error)) = answer else { panic!("{answer:?}") };
    assert!(error.to_string().contains("nothing came for 2000 ms"), "{error}");
}

#[tokio::test]
async fn short_questions_do_not_hide_that_a_node_is_silent() {
    let (listener, _) = listener().await;
    let limits = NetworkLimits { silence_ms_max: 200, ..NetworkLimits::default() };
    let endpoint = Endpoint::new(greeting(1), secret(7), None, limits).unwrap();
    let mut client = dialer(endpoint).new_client(NodeId(2), &member(&listener)).await;
    let node = async {
        let (mut stream, _) = accept(&listener).await;
        until_closed(&mut stream).await;
    };
    let asking = async {
        loop {
            // Far less than the silence that is put up with.
            drop(client.vote(VoteRequest::new(vote(1), None), RPCOption::new(Duration::from_millis(20))).await);
        }
    };
    tokio::select! {
        () = node => {}
        () = asking => {}
    }
}

#[tokio::test]
async fn a_node_that_takes_too_long_is_not_waited_for() {
    let (listener, _) = listener().await;
    let mut client = client(&listener).await;
    let node = async {
        let (mut stream, _) = accept(&listener).await;
        let mut late = Vec::new();
        loop {
            let Frame { number, body } = asked(&mut stream).await;
            if body[3..11] == 1_u64.to_be_bytes() {
                late.push(number);
                continue;
            }
            // The answers come too late, and are nobody's.
            for number in late {
                say(&mut stream, number, &granted(1)).await;
            }
            say(&mut stream, number, &granted(2)).await;
            return stream;
        }
    };
    let asking = async {
        let short = RPCOption::new(Duration::from_millis(400));
        let answer = client.vote(VoteRequest::new(vote(1), None), short).await;
        let Err(RPCError::Timeout(error)) = answer else { panic!("{answer:?}") };
        assert_eq!((error.id, error.target, error.timeout), (NodeId(1), NodeId(2), Duration::from_millis(300)));
        client.vote(VoteRequest::new(vote(2), None), long()).await.unwrap()
    };
    let (_stream, response) = tokio::join!(node, asking);
    assert_eq!(response.vote, vote(2));
}

type Snapshot = SnapshotOf<TypeConfig, MachineSnapshot<Arc<Vec<tidegate_cluster::CommittedGroup>>>>;

fn snapshot() -> Snapshot {
    let meta = SnapshotMetaOf::<TypeConfig> { last_log_id: Some(id(4)), last_membership: StoredMembership::default() };
    let position = LogPosition {
        index: LogIndex(5),
        sequence: GroupSequence(0),
        chain: ChainHash::GENESIS,
        term: Term(1),
        time: Timestamp::from_unix_ms(0),
    };
    Snapshot { meta, snapshot: MachineSnapshot { position, machine: Arc::default() } }
}

#[tokio::test]
async fn a_snapshot_goes_over_in_parts_on_its_own_lane() {
    let (listener, _) = listener().await;
    let mut client = client(&listener).await;
    let node = async {
        let (mut stream, lane) = accept(&listener).await;
        assert_eq!(lane, Lane::Snapshots);
        let Frame { number, body } = asked(&mut stream).await;
        assert_eq!(body[..3], [5, 0, 0]);
        let transfer = body[3..11].to_vec();
        say(&mut stream, number, &[0x85]).await;
        let mut bytes = Vec::new();
        loop {
            let Frame { number, body } = asked(&mut stream).await;
            assert_eq!(body[3..11], transfer);
            if body[0] == 7 {
                assert_eq!(body[11..19], (bytes.len() as u64).to_be_bytes());
                assert_eq!(body[19..], *blake3::hash(&bytes).as_bytes());
                say(&mut stream, number, &[&[0x87][..], &1_u64.to_be_bytes(), &1_u64.to_be_bytes(), &[1]].concat()).await;
                return (stream, bytes);
            }
            assert_eq!((body[0], &body[11..19]), (6, &(bytes.len() as u64).to_be_bytes()[..]));
            assert!(body.len() - 19 <= SNAPSHOT_PART_BYTES);
            bytes.extend_from_slice(&body[19..]);
            say(&mut stream, number, &[0x86]).await;
        }
    };
    let vote = Vote { committed: true, ..vote(1) };
    let sending = Box::pin(client.full_snapshot(vote, snapshot(), std::future::pending(), long()));
    let ((_stream, bytes), sent) = in_time("a snapshot", async { tokio::join!(node, sending) }).await;
    assert_eq!(sent.unwrap().vote, vote);
    // What the tests put in front of the groups, of which there is none.
    assert_eq!(bytes, vec![0x5a; 5 << 20]);
}

#[tokio::test]
async fn a_snapshot_that_is_cancelled_is_given_up() {
    let (listener, _) = listener().await;
    let mut client = client(&listener).await;
    let (cancel, cancelled) = tokio::sync::oneshot::channel::<()>();
    let node = async {
        let (mut stream, _) = accept(&listener).await;
        let Frame { number, body } = asked(&mut stream).await;
        say(&mut stream, number, &[0x85]).await;
        assert_eq!(asked(&mut stream).await.body[0], 6);
        cancel.send(()).unwrap();
        // Some parts may be on the way.
        loop {
            let told = asked(&mut stream).await.body;
            if told[0] == 8 {
                assert_eq!(told[3..], body[3..11]);
                return stream;
            }
            assert_eq!(told[0], 6);
        }
    };
    let vote = Vote { committed: true, ..vote(1) };
    let cancel = async {
        cancelled.await.unwrap();
        ReplicationClosed::new("the test says so")
    };
    let sending = Box::pin(client.full_snapshot(vote, snapshot(), cancel, long()));
    let (_stream, sent) = in_time("a snapshot", async { tokio::join!(node, sending) }).await;
    assert!(matches!(sent, Err(StreamingError::Closed(_))), "{sent:?}");
}
