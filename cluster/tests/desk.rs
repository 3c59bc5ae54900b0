//! What nodes ask each other beside consensus: whoever is asked hears from whom, and whoever asks learns whether it may have been heard.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use common::wired::{MemoryTransfer, endpoint, in_time, listener};
use common::{LedgerMachine, PATIENCE};
use tidegate_cluster::network::{Desk, LinkError, Links, Server, Shards};
use tidegate_persistence::NodeId;
use tokio::sync::Notify;

/// Says who asks what, and never answers whoever asks for patience; tells when that was asked.
struct Echo(Arc<Notify>);

impl Desk for Echo {
    fn answer(&self, node: NodeId, body: Vec<u8>) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send>> {
        let asked = Arc::clone(&self.0);
        Box::pin(async move {
            if body == b"patience" {
                asked.notify_one();
                return std::future::pending().await;
            }
            [format!("node {node} asks ").into_bytes(), body].concat()
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desk_answers_whoever_asks_and_nobody_waits_for_another() {
    let (listener, address) = listener().await;
    let (shards, asked) = (Shards::<LedgerMachine, MemoryTransfer>::default(), Arc::new(Notify::new()));
    let desk = Arc::new(Echo(Arc::clone(&asked)));
    let server = Server::start(listener, endpoint(2, None), shards, desk).unwrap();
    let links = Links::new(endpoint(1, None));
    let ask = |body: &[u8]| {
        let (links, body) = (links.clone(), body.to_vec());
        async move { links.ask(NodeId(2), &address.to_string(), body, PATIENCE).await }
    };
    assert_eq!(in_time("an answer", ask(b"how")).await, Ok(b"node 1 asks how".to_vec()));
    let waiting = tokio::spawn(ask(b"patience"));
    in_time("it is asked", asked.notified()).await;
    assert_eq!(in_time("an answer", ask(b"who")).await, Ok(b"node 1 asks who".to_vec()));

    // Whoever has been asked and is gone may have done it; whoever is gone before has not.
    drop(server);
    let lost = in_time("its connection is gone", waiting).await.unwrap();
    assert!(matches!(lost, Err(LinkError::Lost(NodeId(2), _))), "{lost:?}");
    let unreachable = in_time("nobody is there", ask(b"again")).await;
    assert!(matches!(unreachable, Err(LinkError::Unreachable(NodeId(2), _))), "{unreachable:?}");
}
