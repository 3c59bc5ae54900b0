//! A door with one thread for connections, and its one caller. What a request costs there, from its first byte to the answer's last, is all that
//! thread does; the caller, the shard and the log have threads of their own.

use std::net::Ipv4Addr;

use prometheus_client::registry::Registry;
use tempfile::TempDir;
use tidegate_api::{AccessOptions, Door, HttpOptions, serve};
use tidegate_engine::Feed;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::error::BenchError;
use crate::load::{ANSWER_BYTES_MAX, parse_answer};
use crate::node::Node;

/// An open door in front of a node, and a connection to it.
pub struct OpenDoor {
    runtime: Runtime,
    caller: TcpStream,
    answer: Vec<u8>,
    shut: oneshot::Sender<()>,
    served: JoinHandle<std::io::Result<()>>,
    node: Node,
    folder: TempDir,
}

impl OpenDoor {
    /// Opens the door of `node` with default limits and without keys, on a loopback address.
    pub fn open((node, folder): (Node, TempDir)) -> Result<Self, BenchError> {
        let options = HttpOptions { drain_seconds: 0, worker_threads: 1, ..HttpOptions::default() };
        let door = Door::new(options, AccessOptions::default(), Registry::default()).map_err(BenchError::wrong)?;
        door.open(node.engine.clone(), Feed::new(node.engine.clone(), node.wal.reader()));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(BenchError::io("a runtime"))?;
        let (shut, asked) = oneshot::channel();
        let connected = runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let address = listener.local_addr()?;
            let served = tokio::spawn(serve(listener, door, async {
                // A caller that went without a word has left too.
                let _ = asked.await;
            }));
            Ok((TcpStream::connect(address).await?, served))
        });
        let (caller, served) = connected.map_err(BenchError::io("a connection to the door"))?;
        caller.set_nodelay(true).map_err(BenchError::io("a connection to the door"))?;
        Ok(Self { runtime, caller, answer: vec![0; ANSWER_BYTES_MAX], shut, served, node, folder })
    }

    /// Sends `request` and waits for the whole answer: its status.
    pub fn exchange(&mut self, request: &[u8]) -> Result<u16, BenchError> {
        let Self { runtime, caller, answer, .. } = self;
        runtime.block_on(async {
            caller.write_all(request).await.map_err(BenchError::io("send"))?;
            let mut received = 0;
            loop {
                match caller.read(&mut answer[received..]).await.map_err(BenchError::io("receive"))? {
                    0 => return Err(BenchError::wrong("the door closed the connection instead of an answer")),
                    read => received += read,
                }
                if let Some(head) = parse_answer(&answer[..received])? {
                    return Ok(head.status);
                }
            }
        })
    }

    /// Shuts the door and stops the node behind it.
    pub fn stop(self) -> Result<(), BenchError> {
        let Self { runtime, caller, shut, served, node, folder, .. } = self;
        drop(caller);
        drop(shut);
        runtime.block_on(served).map_err(BenchError::wrong)?.map_err(BenchError::io("the door"))?;
        drop(runtime);
        node.stop()?;
        drop(folder);
        Ok(())
    }
}
