//! The floor under HTTP figures: axum answering one fixed JSON, whatever is asked. The door of axum.

use std::io::{self, Write};
use std::net::SocketAddr;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderName, StatusCode, header};
use axum::routing::any;

use crate::error::BenchError;

/// What the floor answers.
#[derive(Debug, Clone, Copy)]
pub struct FixedAnswer {
    /// Its status.
    pub status: u16,
    /// Length of its body in bytes, at least 4.
    pub body_bytes: usize,
}

/// Serves `answer` on a free port of the loopback, whose address it prints as one line, until the process ends. Like a handler that
/// decides, it waits for the whole request; unlike one, it does not look at it.
pub fn serve_fixed(answer: FixedAnswer) -> Result<(), BenchError> {
    let status = StatusCode::from_u16(answer.status).map_err(BenchError::wrong)?;
    let body = Bytes::from(format!(r#"["{}"]"#, "x".repeat(answer.body_bytes.saturating_sub(4))));
    let reply = move |_request: Bytes| async move { (status, [json()], body) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_io().build().map_err(BenchError::io("runtime"))?;
    runtime.block_on(async move {
        let serve = async {
            let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
            announce(listener.local_addr()?)?;
            axum::serve(listener, Router::new().fallback(any(reply))).await
        };
        serve.await.map_err(BenchError::io("fixed answers"))
    })
}

const fn json() -> (HeaderName, &'static str) {
    (header::CONTENT_TYPE, "application/json")
}

fn announce(address: SocketAddr) -> io::Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{address}")?;
    output.flush()
}
