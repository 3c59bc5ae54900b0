//! Connections: accepting them, giving each its HTTP machine and its one timer, and closing them in good order. The door of hyper.
//!
//! hyper's own header time-out runs from the moment it wants a header, so it cannot tell a slow one from an idle connection; the
//! waits are bounded here instead, by the phase that the connection is in.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::door::Door;
use crate::exchange::{Exchange, Phase};
use crate::routes;
use crate::socket::Socket;

/// How long accepting rests when the operating system gives no further connection, for want of descriptors for example.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What closing connections get beyond the answer's limit, so that the last answers reach the network.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// The smallest read buffer that hyper takes.
const READ_BUFFER_BYTES_MIN: usize = 8 * 1024;

/// Serves `door` on `listener` until `shutdown` is done. Then it stops the door, accepts nothing more, answers what is under way,
/// closes every connection that has nothing under way, and returns when none is left, or after the answer's limit and a second at the
/// latest; what is then still open is cut.
///
/// Dropping the future cuts every connection at once; commands that reached the engine still happen.
///
/// # Errors
/// When the listener cannot be used at all.
pub async fn serve(listener: TcpListener, door: Arc<Door>, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "serving");
    let router = routes::router(Arc::clone(&door));
    let http = http_machine(&door);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < door.options().connections_max => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(drive(stream, http.clone(), Arc::clone(&door), router.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_REST).await;
                }
            },
        }
    }
    drop(listener);
    door.begin_stop();
    let limit = Duration::from_secs(door.options().answer_seconds_max) + CLOSE_GRACE;
    let all_closed = async { while connections.join_next().await.is_some() {} };
    if timeout(limit, all_closed).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are cut that did not close in time");
        connections.shutdown().await;
    }
    Ok(())
}

fn http_machine(door: &Door) -> http1::Builder {
    let header_bytes_max = door.options().header_bytes_max;
    let mut http = http1::Builder::new();
    // The header's limit is looked at between two reads only, so no read may reach beyond it.
    http.half_close(true)
        .header_read_timeout(None)
        .max_header_size(header_bytes_max)
        .max_buf_size(header_bytes_max.max(READ_BUFFER_BYTES_MIN));
    http
}

/// Runs one connection to its end.
async fn drive(stream: TcpStream, http: http1::Builder, door: Arc<Door>, router: Router) {
    let _open = door.metrics().open_connection();
    // Answers are written whole; waiting to send more with them only delays them.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let exchange = Arc::new(Exchange::new());
    let socket = Socket::new(stream, Arc::clone(&exchange), Arc::clone(&door));
    let answer = |request| routes::answer(Arc::clone(&door), router.clone(), Arc::clone(&exchange), request);
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service_fn(answer)));

    let options = door.options();
    // The timer fires at the latest after the shortest limit, so it is never set later than any phase's end and need not be touched
    // when phases change.
    let step = options.shortest();
    let mut timer = pin!(sleep(step));
    let mut seen = exchange.mark();
    let mut deadline = Instant::now() + seen.phase().limit(options);
    let mut stop_notice = pin!(door.stop_notice());
    let mut listens = false;
    let mut is_closing = false;
    // Whoever comes after the stop began hears of it in one answer; whoever was idle then is closed.
    let first = door.is_stopping().then_some(seen);

    let run = poll_fn(|context| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended);
            }
            if !listens {
                // Once is enough: the task stays the same.
                listens = stop_notice.as_mut().poll(context).is_pending();
            }
            // A header that has begun is let in, to be told that the node is stopping.
            if !is_closing && door.is_stopping() && exchange.phase() != Phase::Header && first != Some(exchange.mark()) {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
                continue;
            }
            let fired = timer.as_mut().poll(context).is_ready();
            let mark = exchange.mark();
            if mark == seen && !fired {
                return Poll::Pending;
            }
            let now = Instant::now();
            if mark != seen {
                seen = mark;
                deadline = now + mark.phase().limit(options);
            } else if now >= deadline {
                match seen.phase() {
                    Phase::Body | Phase::Answer => {
                        exchange.expire();
                        deadline = now + step;
                        continue;
                    }
                    Phase::Idle | Phase::Header | Phase::Writing | Phase::Lingering => return Poll::Ready(Ok(())),
                }
            }
            if !fired {
                return Poll::Pending;
            }
            timer.as_mut().reset(deadline.min(now + step));
        }
    });
    if let Err(error) = run.await {
        tracing::debug!(%error, "a connection ended early");
    }
}
