//! How the directory of a node that stood alone becomes the first member of a cluster.
//!
//! Its log is the beginning of the cluster's as it is: its groups are entries of term 1, led by the node itself. What is missing is who the
//! members are. openraft makes a cluster of an empty log only, and most shards of a directory may be empty or not, so they are written here, as the entry behind the last, together with a vote that
//! leads to a term of its own. It is no part of consensus: until then there is one node, and nobody to agree with.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use tidegate_persistence::{NodeId, Promises, Term, Vote};

use crate::log_store::ReplicatedLog;
use crate::members::Member;
use crate::types::{Entry, LeaderId, LogId, Membership};

/// The term that a node alone leads.
const TERM_ALONE: u64 = 1;

/// Makes `node`, whose log `log` was written by it alone, the only member of a cluster. Does nothing, and says false, if that has been done
/// before. Durable at return; after a failure in between it may be done again.
///
/// # Errors
/// When somebody else led its last entry, and when it cannot be written.
pub async fn adopt(log: &mut ReplicatedLog, node: NodeId, member: Member) -> io::Result<bool> {
    let promises = log.promises();
    if promises.vote.is_some() {
        return Ok(false);
    }
    let alone = LeaderId { term: TERM_ALONE, node_id: node };
    let (leader, next) = match log.last() {
        None => (alone, 0),
        Some(last) if last.leader_id.node_id == node => (last.leader_id, last.index + 1),
        Some(last) => {
            let what = format!(
                "the log ends with entry {last}, which node {node} did not lead, so it cannot have been written by it alone"
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
    };
    // An attempt before may have come so far.
    let newest = log.get_log_reader().await.try_get_log_entries(next.saturating_sub(1)..next).await?;
    if !newest.iter().any(|entry| entry.get_membership().is_some()) {
        let members = Membership::new(vec![BTreeSet::from([node])], BTreeMap::from([(node, member)])).map_err(io::Error::other)?;
        let next = LogId { index: next, leader_id: leader };
        log.blocking_append([Entry::new_membership(next, members)]).await.map_err(io::Error::other)?;
    }
    // Not granted: openraft then has the node elected, for a term in which nothing was written before.
    let vote = Vote { term: Term(leader.term), leader: node, is_granted: false };
    log.promise(Promises { vote: Some(vote), ..promises }).await?;
    Ok(true)
}
