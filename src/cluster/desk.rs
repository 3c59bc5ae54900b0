//! What a member answers other members.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tidegate_api::Forwarded;
use tidegate_cluster::ChangeError;
use tidegate_cluster::network::Desk;
use tidegate_persistence::{NodeId, StreamId};

use super::member::Shared;
use super::talk::{Question, encode_answer, encode_drained, encode_marked, encode_outcome, encode_refusal, encode_standing};

/// Answers for a member.
pub(super) struct MemberDesk(pub(super) Arc<Shared>);

impl Desk for MemberDesk {
    fn answer(&self, node: NodeId, body: Vec<u8>) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send>> {
        let member = Arc::clone(&self.0);
        Box::pin(async move {
            match Question::decode(&body) {
                Ok(Question::Standing) => encode_standing(&member.standing()),
                Ok(Question::Change(shard, change)) => {
                    let Some(group) = member.groups.get(usize::from(shard)) else {
                        return encode_outcome(Err(ChangeError::Impossible(format!("there is no shard {shard}"))));
                    };
                    tracing::info!(from = node.0, shard, ?change, "another node asks for a change of the members");
                    encode_outcome(group.change(change).await)
                }
                Ok(Question::Request { shard, term, request }) => {
                    // Late from a term before. Whoever sent it has been told otherwise by now.
                    let is_now = member.groups.get(usize::from(shard)).is_some_and(|group| group.term() == term);
                    if !is_now && !mutant!(LateRequestTaken) {
                        return encode_refusal("this node does not lead the shard in that term");
                    }
                    // Before it serves, a node has nothing to answer by.
                    let Some(answering) = member.answering.get() else { return encode_refusal("the node does not serve yet") };
                    match Forwarded::decode(&request) {
                        Ok(request) => encode_answer(&answering.answer(request).await.encode()),
                        Err(why) => encode_refusal(&why),
                    }
                }
                Ok(Question::Drain(drains)) => {
                    tracing::info!(from = node.0, drains, "another node has this one drained or resumed");
                    encode_drained(&member.drain_here(drains).await)
                }
                Ok(Question::Mark(shard)) => {
                    if !member.progress.get(usize::from(shard)).is_some_and(|progress| progress.leads()) {
                        return encode_refusal("this node does not lead the shard");
                    }
                    match member.engine.mark_log(StreamId::log(shard)).await {
                        Ok(()) => encode_marked(),
                        Err(error) => encode_refusal(&error.to_string()),
                    }
                }
                Err(why) => {
                    tracing::warn!(node = node.0, why, "a node asks what cannot be read");
                    encode_refusal(&why)
                }
            }
        })
    }
}
