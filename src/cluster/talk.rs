//! What members say to each other beside consensus, and the bytes that it is.
//!
//! ```text
//! a question: 1 byte of its kind, then its body
//!   1 how do you stand: nothing
//!   2 change the members of a shard that you lead: JSON
//!   3 answer a caller's request: 2 the shard that it is about, 8 the term in which you lead that, big-endian; as the door has it
//!   4 make a group of a shard that you lead, of nothing if there is nothing to be in it: 2 the shard, big-endian
//!   5 lead nothing from now on: 1, or again what you get: 0
//! an answer: 1 byte, then its body
//!   1 to the first, the second and the fifth, which is answered with the shards that are still led: JSON
//!   3 to a request: as the door has it
//!   4 it is being made: nothing
//!   255 it cannot be read, or not answered: why, in UTF-8
//! ```
//!
//! Nodes of two versions may meet here while a cluster is renewed: what a node does not know in an answer it passes over, and a question that
//! it does not know it refuses.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate_cluster::{ChangeError, MemberChange};
use tidegate_persistence::{NodeId, Term};

const STANDING: u8 = 1;
const CHANGE: u8 = 2;
const REQUEST: u8 = 3;
const MARK: u8 = 4;
const DRAIN: u8 = 5;

const ANSWERED: u8 = 1;
const REFUSED: u8 = 255;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// How does the node stand?
    Standing,
    /// Change the members of a shard.
    Change(u16, MemberChange),
    /// Answer a caller's request about a shard that the node leads in this term. In another it is nothing to it.
    Request { shard: u16, term: Term, request: Vec<u8> },
    /// Make a group of a shard.
    Mark(u16),
    /// Lead nothing from now on, or again.
    Drain(bool),
}

/// Why there is no answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AnswerError {
    /// It was not looked at.
    Refused(String),
    /// It cannot be read.
    Unreadable(String),
}

/// The answer to a caller's request.
pub(super) fn encode_answer(answer: &[u8]) -> Vec<u8> {
    [&[REQUEST], answer].concat()
}

/// The same, from the answer of another node.
pub(super) fn decode_answer(bytes: &[u8]) -> Result<Vec<u8>, AnswerError> {
    match bytes.split_first() {
        Some((&REQUEST, answer)) => Ok(answer.to_vec()),
        Some((&REFUSED, why)) => Err(AnswerError::Refused(String::from_utf8_lossy(why).into_owned())),
        _ => Err(AnswerError::Unreadable("the answer cannot be read".to_owned())),
    }
}

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Standing {
    /// Its clock, in milliseconds since 1970.
    pub(super) unix_ms: u64,
    /// Its shards, by number.
    pub(super) shards: Vec<ShardStanding>,
    /// Whether it is to lead nothing.
    #[serde(default)]
    pub(super) is_draining: bool,
    /// Its settings that should be those of all members, by name. One of another version may have others.
    #[serde(default)]
    pub(super) settings: BTreeMap<String, u64>,
}

/// How a shard stands on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShardStanding {
    /// Whether it decides: its node leads, hears of its quorum, and everything before is settled.
    pub(super) leads: bool,
    /// The newest group that it has applied, all of which are committed.
    pub(super) committed: u64,
}

/// A change as it travels.
#[derive(Debug, Serialize, Deserialize)]
struct ChangeBody {
    shard: u16,
    change: ChangeKind,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangeKind {
    Add { node: u64, address: String },
    Promote { node: u64 },
    Remove { node: u64 },
    Finish,
    Move { node: u64, address: String },
    Note { node: u64, given: u64 },
}

/// What came of a change, as it travels.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChangeOutcome {
    Done,
    NotLeader { leader: Option<u64> },
    UnderWay,
    Impossible { why: String },
    Unknown { why: String },
}

impl Question {
    /// As it goes to another node.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Standing => vec![STANDING],
            Self::Change(shard, change) => {
                let change = match change.clone() {
                    MemberChange::Add(node, address) => ChangeKind::Add { node: node.0, address },
                    MemberChange::Promote(node) => ChangeKind::Promote { node: node.0 },
                    MemberChange::Remove(node) => ChangeKind::Remove { node: node.0 },
                    MemberChange::Finish => ChangeKind::Finish,
                    MemberChange::Move(node, address) => ChangeKind::Move { node: node.0, address },
                    MemberChange::Note(node, given) => ChangeKind::Note { node: node.0, given },
                };
                encode(CHANGE, &ChangeBody { shard: *shard, change })
            }
            Self::Request { shard, term, request } => {
                [&[REQUEST], &shard.to_be_bytes()[..], &term.0.to_be_bytes(), request].concat()
            }
            Self::Drain(drains) => vec![DRAIN, u8::from(*drains)],
            Self::Mark(shard) => [&[MARK], &shard.to_be_bytes()[..]].concat(),
        }
    }

    /// What another node asks, or why it cannot be read.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        match bytes.split_first() {
            Some((&STANDING, [])) => Ok(Self::Standing),
            Some((&CHANGE, body)) => {
                let ChangeBody { shard, change } = serde_json::from_slice(body).map_err(|error| error.to_string())?;
                let change = match change {
                    ChangeKind::Add { node, address } => MemberChange::Add(NodeId(node), address),
                    ChangeKind::Move { node, address } => MemberChange::Move(NodeId(node), address),
                    ChangeKind::Note { node, given } => MemberChange::Note(NodeId(node), given),
                    ChangeKind::Promote { node } => MemberChange::Promote(NodeId(node)),
                    ChangeKind::Remove { node } => MemberChange::Remove(NodeId(node)),
                    ChangeKind::Finish => MemberChange::Finish,
                };
                Ok(Self::Change(shard, change))
            }
            Some((&REQUEST, body)) => {
                let of_request = || {
                    let (shard, body) = body.split_first_chunk()?;
                    let (term, request) = body.split_first_chunk()?;
                    let (shard, term) = (u16::from_be_bytes(*shard), Term(u64::from_be_bytes(*term)));
                    Some(Self::Request { shard, term, request: request.to_vec() })
                };
                of_request().ok_or_else(|| "a request ends before it says what it is about".to_owned())
            }
            Some((&DRAIN, [drains @ (0 | 1)])) => Ok(Self::Drain(*drains == 1)),
            Some((&MARK, shard)) => {
                let shard = shard.try_into().map_err(|_| format!("{} bytes are no number of a shard", shard.len()))?;
                Ok(Self::Mark(u16::from_be_bytes(shard)))
            }
            Some((kind, _)) => Err(format!("kind {kind} of question is unknown here")),
            None => Err("the question is empty".to_owned()),
        }
    }
}

fn encode(kind: u8, body: &impl Serialize) -> Vec<u8> {
    let mut bytes = vec![kind];
    serde_json::to_writer(&mut bytes, body).expect("numbers and texts always make JSON");
    bytes
}

/// The answer to how a node stands.
pub(super) fn encode_standing(standing: &Standing) -> Vec<u8> {
    encode(ANSWERED, standing)
}

/// What came of a change.
pub(super) fn encode_outcome(outcome: Result<(), ChangeError>) -> Vec<u8> {
    let outcome = match outcome {
        Ok(()) => ChangeOutcome::Done,
        Err(ChangeError::NotLeader(leader)) => ChangeOutcome::NotLeader { leader: leader.map(|leader| leader.0) },
        Err(ChangeError::UnderWay) => ChangeOutcome::UnderWay,
        Err(ChangeError::Impossible(why)) => ChangeOutcome::Impossible { why },
        Err(ChangeError::Unknown(why)) => ChangeOutcome::Unknown { why },
    };
    encode(ANSWERED, &outcome)
}

/// Which shards a node still leads that is to be drained.
pub(super) fn encode_drained(led: &[u16]) -> Vec<u8> {
    encode(ANSWERED, &led)
}

/// The same, from the answer of another node.
pub(super) fn decode_drained(bytes: &[u8]) -> Result<Vec<u16>, String> {
    decode(bytes)
}

/// A group is being made.
pub(super) fn encode_marked() -> Vec<u8> {
    vec![MARK]
}

/// A question is not answered.
pub(super) fn encode_refusal(why: &str) -> Vec<u8> {
    [&[REFUSED], why.as_bytes()].concat()
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&ANSWERED, body)) => serde_json::from_slice(body).map_err(|error| format!("its answer cannot be read: {error}")),
        Some((&REFUSED, why)) => Err(format!("it does not answer: {}", String::from_utf8_lossy(why))),
        _ => Err("its answer cannot be read".to_owned()),
    }
}

/// How another node stands, from its answer.
pub(super) fn decode_standing(bytes: &[u8]) -> Result<Standing, String> {
    decode(bytes)
}

/// What came of a change, from the answer of another node.
pub(super) fn decode_outcome(bytes: &[u8]) -> Result<(), ChangeError> {
    match decode(bytes).map_err(ChangeError::Unknown)? {
        ChangeOutcome::Done => Ok(()),
        ChangeOutcome::NotLeader { leader } => Err(ChangeError::NotLeader(leader.map(NodeId))),
        ChangeOutcome::UnderWay => Err(ChangeError::UnderWay),
        ChangeOutcome::Impossible { why } => Err(ChangeError::Impossible(why)),
        ChangeOutcome::Unknown { why } => Err(ChangeError::Unknown(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_come_as_they_were_asked() {
        let address = || "node-2:8701".to_owned();
        for (question, bytes) in [
            (Question::Standing, &b"\x01"[..]),
            (
                Question::Change(3, MemberChange::Add(NodeId(2), address())),
                b"\x02{\"shard\":3,\"change\":{\"add\":{\"node\":2,\"address\":\"node-2:8701\"}}}",
            ),
            (
                Question::Change(3, MemberChange::Move(NodeId(2), address())),
                b"\x02{\"shard\":3,\"change\":{\"move\":{\"node\":2,\"address\":\"node-2:8701\"}}}",
            ),
            (
                Question::Change(3, MemberChange::Note(NodeId(2), 5)),
                b"\x02{\"shard\":3,\"change\":{\"note\":{\"node\":2,\"given\":5}}}",
            ),
            (Question::Drain(true), &b"\x05\x01"[..]),
            (Question::Drain(false), &b"\x05\x00"[..]),
            (Question::Mark(258), &b"\x04\x01\x02"[..]),
            (Question::Change(0, MemberChange::Promote(NodeId(2))), b"\x02{\"shard\":0,\"change\":{\"promote\":{\"node\":2}}}"),
            (Question::Change(0, MemberChange::Remove(NodeId(2))), b"\x02{\"shard\":0,\"change\":{\"remove\":{\"node\":2}}}"),
            (Question::Request { shard: 258, term: Term(9), request: b"GET".to_vec() }, b"\x03\x01\x02\0\0\0\0\0\0\0\x09GET"),
            (Question::Change(0, MemberChange::Finish), b"\x02{\"shard\":0,\"change\":\"finish\"}"),
        ] {
            assert_eq!(question.encode(), bytes);
            assert_eq!(Question::decode(bytes), Ok(question));
        }
        for bytes in [
            &b""[..],
            b"\x00",
            b"\x01x",
            b"\x05",
            b"\x05\x02",
            b"\x02",
            b"\x02{}",
            b"\x03\0\0\0\0\0\0\0\0\0",
            b"\x04",
            b"\x02{\"shard\":70000,\"change\":\"finish\"}",
        ] {
            assert!(Question::decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn answers_come_as_they_were_given() {
        assert_eq!(decode_drained(&encode_drained(&[0, 7])), Ok(vec![0, 7]));
        let shards = vec![ShardStanding { leads: true, committed: 9 }];
        let settings = BTreeMap::from([("rules.idempotency_seconds".to_owned(), 60)]);
        let standing = Standing { unix_ms: 7, shards: shards.clone(), is_draining: false, settings };
        assert_eq!(decode_standing(&encode_standing(&standing)), Ok(standing.clone()));
        let newer = b"\x01{\"unix_ms\":7,\"shards\":[{\"leads\":true,\"committed\":9,\"more\":1}],\"more\":{}}";
        assert_eq!(decode_standing(newer), Ok(Standing { unix_ms: 7, shards, is_draining: false, settings: BTreeMap::new() }));
        assert!(decode_standing(&encode_refusal("not now")).unwrap_err().contains("not now"));
        for outcome in [
            Ok(()),
            Err(ChangeError::NotLeader(None)),
            Err(ChangeError::NotLeader(Some(NodeId(3)))),
            Err(ChangeError::UnderWay),
            Err(ChangeError::Impossible("no".to_owned())),
            Err(ChangeError::Unknown("gone".to_owned())),
        ] {
            assert_eq!(decode_outcome(&encode_outcome(outcome.clone())), outcome);
        }
        assert_eq!(decode_answer(&encode_answer(b"an answer")), Ok(b"an answer".to_vec()));
        assert_eq!(decode_answer(b""), Err(AnswerError::Unreadable("the answer cannot be read".to_owned())));
        assert_eq!(decode_answer(&encode_refusal("no")), Err(AnswerError::Refused("no".to_owned())));
        // Whatever cannot be read may have been done.
        for bytes in [&b""[..], b"\x01", b"\x01{}", b"\xffwhy"] {
            assert!(matches!(decode_outcome(bytes), Err(ChangeError::Unknown(_))), "{bytes:?}");
        }
    }
}
