//! How the directory of a node that stood alone becomes the first member of a cluster.
//!
//! Its log is the beginning of the cluster's as it is: its groups are entries of term 1, led by the node itself. What is missing is who the
//! members are. openraft makes a cluster of an empty log only, so they are written here, as the entry behind the last, together with a vote that
//! leads to a term of its own. It is no part of consensus: until then there is one node, and nobody to agree with.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use openraft::entry::RaftEntry;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use tidegate_persistence::{NodeId, Promises, Term, Vote};

use crate::log_store::ReplicatedLog;
use crate::members::Member;
use crate::types::{Entry, LogId, Membership};

/// Makes `node`, whose log `log` was written by it alone, the only member of a cluster. Does nothing, and says false, if that has been done
/// before. Durable at return; after a failure in between it may be done again.
///
/// # Errors
/// When the log is empty, for which `initialize` of openraft is made, when somebody else led its last entry, and when it cannot be written.
pub async fn adopt(log: &mut ReplicatedLog, node: NodeId, member: Member) -> io::Result<bool> {
    let promises = log.promises();
    if promises.vote.is_some() {
        return Ok(false);
    }
    let Some(last) = log.last().filter(|last| last.leader_id.node_id == node) else {
        let what = format!("the log does not end with an entry of node {node}, so it cannot have been written by it alone");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    };
    let newest = log.get_log_reader().await.try_get_log_entries(last.index..=last.index).await?;
    if !newest.iter().any(|entry| entry.get_membership().is_some()) {
        let members = Membership::new(vec![BTreeSet::from([node])], BTreeMap::from([(node, member)])).map_err(io::Error::other)?;
        let next = LogId { index: last.index + 1, ..last };
        log.blocking_append([Entry::new_membership(next, members)]).await.map_err(io::Error::other)?;
    }
    // Not granted: openraft then has the node elected, for a term in which nothing was written before.
    let vote = Vote { term: Term(last.leader_id.term), leader: node, is_granted: false };
    log.promise(Promises { vote: Some(vote), ..promises }).await?;
    Ok(true)
}
