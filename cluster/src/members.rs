//! The members of a cluster, and the bytes that they are in the log.
//!
//! ```text
//! 0  2  number of sets of voters, big-endian like everything here; two while members are being changed
//!       each: 2 number of voters, 8 each of them, ascending
//! n  2  number of members, voters or not
//!       each, ascending: 8 node, 2 length of its address, its address, 8 highest number that it knows to be given
//! ```
//!
//! In a snapshot they stand behind the entry that they are of:
//!
//! ```text
//! 0  1  0 if they are of no entry, which is before the first, and 1 otherwise
//! 1  8  the entry's term
//! 9  8  the node that proposed it
//! 17 8  its index in the log; the three of them are 0 for no entry
//! 25    the members, as above
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use tidegate_persistence::{LogIndex, NodeId, SNAPSHOT_MEMBERS_BYTES_MAX, Term};

use crate::types::{LeaderId, LogId, Membership, StoredMembership, log_id, log_index};

/// What is known of a member beside its number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// Where other nodes reach it.
    pub address: String,
    /// The highest number that a member has had, as far as it is noted with this one: numbers are given once, and those of nodes that have left
    /// stand nowhere else.
    pub numbers_given: u64,
}

impl Member {
    /// A member at `address`, with which no number is noted.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), numbers_given: 0 }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.address)
    }
}

/// Why members cannot be written, or bytes are no members.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    /// A number or a length does not fit.
    #[error("{0} members, voters or bytes of an address where 65,535 are allowed")]
    TooMany(usize),
    /// The bytes are not as long as they say.
    #[error("members end early, or bytes are left behind the last")]
    Length,
    /// An address is no text.
    #[error("the address of node {0} is no UTF-8")]
    Address(NodeId),
    /// A snapshot has no room for them.
    #[error("members of {0} bytes where a snapshot has room for {SNAPSHOT_MEMBERS_BYTES_MAX}")]
    TooLong(usize),
    /// They contradict each other.
    #[error("members contradict each other: {0}")]
    Contradiction(String),
}

pub(crate) fn encode_membership(membership: &Membership) -> Result<Vec<u8>, MembersError> {
    let mut bytes = Vec::new();
    let voters = membership.get_joint_config();
    push_count(&mut bytes, voters.len())?;
    for set in voters {
        push_count(&mut bytes, set.len())?;
        for node in set {
            bytes.extend_from_slice(&node.0.to_be_bytes());
        }
    }
    let members: BTreeMap<_, _> = membership.nodes().collect();
    push_count(&mut bytes, members.len())?;
    for (node, member) in members {
        bytes.extend_from_slice(&node.0.to_be_bytes());
        push_count(&mut bytes, member.address.len())?;
        bytes.extend_from_slice(member.address.as_bytes());
        bytes.extend_from_slice(&member.numbers_given.to_be_bytes());
    }
    Ok(bytes)
}

pub(crate) fn decode_membership(bytes: &[u8]) -> Result<Membership, MembersError> {
    let mut rest = bytes;
    let mut voters = Vec::new();
    for _ in 0..take_count(&mut rest)? {
        let set: Result<BTreeSet<_>, _> = (0..take_count(&mut rest)?).map(|_| take_node(&mut rest)).collect();
        voters.push(set?);
    }
    let mut members = BTreeMap::new();
    for _ in 0..take_count(&mut rest)? {
        let node = take_node(&mut rest)?;
        let length = usize::from(take_count(&mut rest)?);
        let (address, behind) = rest.split_at_checked(length).ok_or(MembersError::Length)?;
        rest = behind;
        let address = std::str::from_utf8(address).map_err(|_| MembersError::Address(node))?;
        let numbers_given = u64::from_be_bytes(take(&mut rest)?);
        members.insert(node, Member { address: address.to_owned(), numbers_given });
    }
    if !rest.is_empty() {
        return Err(MembersError::Length);
    }
    Membership::new(voters, members).map_err(|error| MembersError::Contradiction(error.to_string()))
}

/// The bytes of members with the entry that they are of.
pub(crate) fn encode_stored(membership: &StoredMembership) -> Result<Vec<u8>, MembersError> {
    let of = *membership.log_id();
    let (term, node, index) =
        of.map_or((0, 0, 0), |LogId { leader_id: LeaderId { term, node_id }, index }| (term, node_id.0, log_index(index).0));
    let mut bytes = vec![u8::from(of.is_some())];
    for number in [term, node, index] {
        bytes.extend_from_slice(&number.to_be_bytes());
    }
    bytes.extend(encode_membership(membership.membership())?);
    if bytes.len() > SNAPSHOT_MEMBERS_BYTES_MAX { Err(MembersError::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// The members that [`encode_stored`] has made `bytes` of.
pub(crate) fn decode_stored(bytes: &[u8]) -> Result<StoredMembership, MembersError> {
    let mut rest = bytes;
    let [is_some] = take(&mut rest)?;
    let [term, node, index] = [take(&mut rest)?, take(&mut rest)?, take(&mut rest)?].map(u64::from_be_bytes);
    let of = match (is_some, term, node, index) {
        (0, 0, 0, 0) => None,
        (1, term, node, 1..) => Some(log_id(Term(term), NodeId(node), LogIndex(index))),
        _ => return Err(MembersError::Contradiction("they are of an entry that there cannot be".to_owned())),
    };
    Ok(StoredMembership::new(of, decode_membership(rest)?))
}

fn push_count(bytes: &mut Vec<u8>, count: usize) -> Result<(), MembersError> {
    let count = u16::try_from(count).map_err(|_| MembersError::TooMany(count))?;
    bytes.extend_from_slice(&count.to_be_bytes());
    Ok(())
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], MembersError> {
    let (taken, behind) = rest.split_first_chunk().ok_or(MembersError::Length)?;
    *rest = behind;
    Ok(*taken)
}

fn take_count(rest: &mut &[u8]) -> Result<u16, MembersError> {
    take(rest).map(u16::from_be_bytes)
}

fn take_node(rest: &mut &[u8]) -> Result<NodeId, MembersError> {
    take(rest).map(|number| NodeId(u64::from_be_bytes(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members() -> Membership {
        let member = |node: u64| (NodeId(node), Member { address: format!("node-{node}:4100"), numbers_given: 7 * node });
        let voters = vec![BTreeSet::from([NodeId(1), NodeId(2)]), BTreeSet::from([NodeId(2), NodeId(3)])];
        // The fourth has no vote.
        Membership::new(voters, BTreeMap::from([1, 2, 3, 4].map(member))).unwrap()
    }

    #[test]
    fn members_come_back_as_they_were_written() {
        let bytes = encode_membership(&members()).unwrap();
        assert_eq!(decode_membership(&bytes), Ok(members()));
        let expected = [
            &[0, 2, 0, 2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2][..],
            &[0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3],
            &[0, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 11],
            b"node-1:4100",
            &[0, 0, 0, 0, 0, 0, 0, 7],
        ];
        assert!(bytes.starts_with(&expected.concat()), "{bytes:?}");
    }

    #[test]
    fn bytes_that_are_no_members_are_refused() {
        let bytes = encode_membership(&members()).unwrap();
        for end in 0..bytes.len() {
            assert_eq!(decode_membership(&bytes[..end]), Err(MembersError::Length), "the first {end} bytes");
        }
        assert_eq!(decode_membership(&[&bytes[..], &[0]].concat()), Err(MembersError::Length));
        let mut no_text = bytes.clone();
        let last_of_address = no_text.len() - 9;
        no_text[last_of_address] = 0xff;
        assert_eq!(decode_membership(&no_text), Err(MembersError::Address(NodeId(4))));
        // A voter that is no member.
        let mut stranger = bytes;
        stranger[11] = 9;
        assert!(matches!(decode_membership(&stranger), Err(MembersError::Contradiction(_))));
    }

    #[test]
    fn members_of_a_snapshot_come_back_with_the_entry_that_they_are_of() {
        let of = log_id(Term(7), NodeId(2), LogIndex(9));
        let stored = StoredMembership::new(Some(of), members());
        let bytes = encode_stored(&stored).unwrap();
        assert_eq!(bytes[..25], [1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(bytes[25..], encode_membership(&members()).unwrap());
        assert_eq!(decode_stored(&bytes), Ok(stored));
        let none = StoredMembership::default();
        assert_eq!(decode_stored(&encode_stored(&none).unwrap()), Ok(none));
        for end in 0..bytes.len() {
            assert_eq!(decode_stored(&bytes[..end]), Err(MembersError::Length), "the first {end} bytes");
        }
        for (at, value) in [(0, 0), (0, 2), (24, 0)] {
            let mut bad = bytes.clone();
            bad[at] = value;
            assert!(matches!(decode_stored(&bad), Err(MembersError::Contradiction(_))), "byte {at} is {value}");
        }
    }

    #[test]
    fn more_members_than_a_snapshot_has_room_for_are_refused() {
        let member = |node: u64| (NodeId(node), Member::new("x".repeat(60_000)));
        let nodes = BTreeMap::from([1, 2, 3, 4, 5].map(member));
        let members = Membership::new(vec![BTreeSet::from([NodeId(1)])], nodes).unwrap();
        let stored = StoredMembership::new(None, members);
        // Entry 25, voters 2 + 2 + 8, members 2, and of each 8 + 2 + 60,000 + 8.
        assert_eq!(encode_stored(&stored), Err(MembersError::TooLong(300_129)));
    }

    #[test]
    fn an_address_that_is_too_long_is_refused() {
        let member = Member::new("x".repeat(65_536));
        let members = Membership::new(vec![BTreeSet::from([NodeId(1)])], BTreeMap::from([(NodeId(1), member)])).unwrap();
        assert_eq!(encode_membership(&members), Err(MembersError::TooMany(65_536)));
    }
}
