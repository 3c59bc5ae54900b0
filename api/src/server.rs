//! Connections: accepting them, giving each its HTTP machine and its one timer, and closing them in good order. The door of hyper.
//!
//! hyper's own header time-out runs from the moment it wants a header, so it cannot tell a slow one from an idle connection; the
//! waits are bounded here instead, by the phase that the connection is in.

use std::future::poll_fn;
use std::io;
use std::net::TcpStream as UnboundStream;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::rustls::ServerConfig;

use crate::backlog;
use crate::connections::Connections;
use crate::door::Door;
use crate::exchange::{Exchange, Phase};
use crate::reload::LOOK_INTERVAL;
use crate::routes;
use crate::socket::Socket;
use crate::tls::shake_hands;
use crate::workers::Workers;

/// How long accepting rests when the operating system gives no further connection, for want of descriptors for example.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// After how long it is looked again who could make room for who waits.
const ROOM_REST: Duration = Duration::from_millis(100);

/// What closing connections get beyond the answer's limit, so that the last answers reach the network.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// The smallest read buffer that hyper takes.
const READ_BUFFER_BYTES_MIN: usize = 8 * 1024;

/// Serves `door` on `listener` until `shutdown` is done. Then it accepts what has connected already, and nothing more, and drains the
/// door: for `drain_seconds` at most every request on a connection that is open is answered as ever, and its connection closes behind the
/// answer, so that no client sends into a connection that is just being closed. After that it stops the door, answers what is under way,
/// closes every connection that has nothing under way, and returns when none is left, or after the answer's limit and a second at the
/// latest; what is then still open is cut.
///
/// Where `connections_max` are open and another comes, one that waits for its client and for nothing else is closed for it; if none does,
/// it waits until one closes.
///
/// Accepting, and what else concerns all connections, happens where this is polled; the connections themselves are on threads of their own,
/// `worker_threads` of them.
///
/// Dropping the future cuts every connection at once; commands that reached the engine still happen.
///
/// # Errors
/// When the listener cannot be used at all, or the operating system gives no threads.
pub async fn serve(listener: TcpListener, door: Arc<Door>, shutdown: impl Future<Output = ()>) -> io::Result<()> {
    tracing::info!(address = %listener.local_addr()?, "serving");
    bound_send_buffers(&listener, door.options().send_buffer_bytes)?;
    let router = routes::router(Arc::clone(&door));
    let http = http_machine(&door);
    let workers = Workers::start(door.options().worker_threads)?;
    let mut connections = Connections::new(workers, door.options().connections_max);
    // Ends when this is dropped.
    let mut beside = JoinSet::new();
    if door.has_files() {
        beside.spawn(watch_files(Arc::clone(&door)));
    }
    let welcome = |connections: &mut Connections, stream| {
        let exchange = Arc::new(Exchange::new());
        let (http, router, door) = (http.clone(), router.clone(), Arc::clone(&door));
        // Two kinds of task, so that a connection without TLS is no larger for those with it.
        match door.certificate() {
            None => connections.open(Arc::clone(&exchange), welcome(stream, exchange, http, door, router)),
            Some(config) => connections.open(Arc::clone(&exchange), welcome_tls(stream, config, exchange, http, door, router)),
        }
    };
    // One that was accepted and for which there is no place yet.
    let mut waiting: Option<UnboundStream> = None;
    let mut shutdown = pin!(shutdown);
    loop {
        if connections.is_full() {
            if waiting.is_some() {
                connections.make_room();
            }
        } else if let Some(stream) = waiting.take() {
            welcome(&mut connections, stream);
        }
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            () = connections.one_closed() => {}
            // Perhaps one of them has nothing more to do by then.
            () = sleep(ROOM_REST), if waiting.is_some() => {}
            accepted = accept(&listener), if waiting.is_none() => match accepted {
                Ok(stream) => waiting = Some(stream),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_REST).await;
                }
            },
        }
    }
    let drain = Duration::from_secs(door.options().drain_seconds);
    // Before the last are let in, so that each of them hears of it.
    if drain.is_zero() {
        door.begin_stop();
    } else {
        door.begin_drain();
    }
    for stream in waiting.into_iter().chain(backlog::take(listener, connections.room()).await) {
        welcome(&mut connections, stream);
    }
    // Who is still there after the drain hears that the node is stopping.
    let _ = timeout(drain, connections.all_closed()).await;
    door.begin_stop();
    let limit = Duration::from_secs(door.options().answer_seconds_max) + CLOSE_GRACE;
    if timeout(limit, connections.all_closed()).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are cut that did not close in time");
        connections.cut().await;
    }
    Ok(())
}

/// The next connection, bound to no runtime yet.
async fn accept(listener: &TcpListener) -> io::Result<UnboundStream> {
    listener.accept().await?.0.into_std()
}

/// Bounds what the operating system keeps of answers that a client does not take. Connections have it from their listener.
fn bound_send_buffers(listener: &TcpListener, bytes: usize) -> io::Result<()> {
    SockRef::from(listener).set_send_buffer_size(bytes)
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

/// Has the door look, for as long as this is polled, whether its keys or its certificate have changed.
async fn watch_files(door: Arc<Door>) {
    let mut every = interval(LOOK_INTERVAL);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let door = Arc::clone(&door);
        if spawn_blocking(move || door.reload_what_changed()).await.is_err() {
            // The process is at its end.
            return;
        }
    }
}

async fn welcome(stream: UnboundStream, exchange: Arc<Exchange>, http: http1::Builder, door: Arc<Door>, router: Router) {
    let _open = door.metrics().open_connection();
    let Some(stream) = take_over(stream) else { return };
    if speaks(&stream, &exchange, &door).await {
        // On the heap, so that a connection that says nothing has no room for it.
        Box::pin(drive(stream, exchange, http, Arc::clone(&door), router)).await;
    }
}

/// Waits for a first byte, so that a connection that says nothing costs no HTTP machine with its buffers. `false` when it is to be closed.
async fn speaks(stream: &TcpStream, exchange: &Exchange, door: &Door) -> bool {
    // Listens before it looks, so that a stop that begins in between is heard. Whoever comes after that gets its one answer.
    let mut stop_notice = pin!(door.stop_notice());
    stop_notice.as_mut().enable();
    let is_late = door.is_stopping();
    let mut first = [0];
    tokio::select! {
        biased;
        // A look, because readiness alone may be claimed of what has nothing.
        peeked = stream.peek(&mut first) => peeked.is_ok_and(|bytes| bytes > 0),
        () = exchange.leave_notice() => false,
        () = &mut stop_notice, if !is_late => false,
        () = sleep(Phase::Idle.limit(door.options())) => false,
    }
}

async fn welcome_tls(
    stream: UnboundStream,
    config: Arc<ServerConfig>,
    exchange: Arc<Exchange>,
    http: http1::Builder,
    door: Arc<Door>,
    router: Router,
) {
    let _open = door.metrics().open_connection();
    let Some(stream) = take_over(stream) else { return };
    let shaken = tokio::select! {
        shaken = shake_hands(&door, config, stream) => shaken,
        () = exchange.leave_notice() => None,
    };
    if let Some(stream) = shaken {
        drive(stream, exchange, http, Arc::clone(&door), router).await;
    }
}

/// Binds a connection to the thread that this is called on. Answers are written whole; waiting to send more with them only delays them.
fn take_over(stream: UnboundStream) -> Option<TcpStream> {
    let taken = stream.set_nodelay(true).and_then(|()| TcpStream::from_std(stream));
    taken.inspect_err(|error| tracing::debug!(%error, "a connection ended before it began")).ok()
}

/// Runs one connection to its end.
async fn drive<S>(stream: S, exchange: Arc<Exchange>, http: http1::Builder, door: Arc<Door>, router: Router)
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let socket = Socket::new(stream, Arc::clone(&exchange), Arc::clone(&door));
    let answer = |request| routes::answer(&door, &router, &exchange, request);
    let mut connection = pin!(http.serve_connection(TokioIo::new(socket), service_fn(answer)));

    let options = door.options();
    // The timer fires at the latest after the shortest limit, so it is never set later than any phase's end and need not be touched
    // when phases change.
    let step = options.shortest();
    let mut timer = pin!(sleep(step));
    let mut seen = exchange.mark();
    let mut deadline = Instant::now() + seen.phase().limit(options);
    let mut stop_notice = pin!(door.stop_notice());
    let mut leave_notice = pin!(exchange.leave_notice());
    let mut listens = false;
    let mut is_closing = false;
    let mut cut: Option<Instant> = None;
    // Whoever comes after the stop began hears of it in one answer; whoever was idle then is closed.
    let first = door.is_stopping().then_some(seen);

    let run = poll_fn(|context| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended);
            }
            if !listens {
                // Once is enough: the task stays the same.
                while leave_notice.as_mut().poll(context).is_ready() {
                    leave_notice.set(exchange.leave_notice());
                }
                listens = stop_notice.as_mut().poll(context).is_pending();
            }
            if exchange.take_leave() {
                listens = false;
                match exchange.phase() {
                    Phase::Idle if !is_closing => {
                        is_closing = true;
                        connection.as_mut().graceful_shutdown();
                        continue;
                    }
                    // Nothing has been begun for a body that is not whole.
                    Phase::Header | Phase::Body | Phase::Writing | Phase::Lingering => return Poll::Ready(Ok(())),
                    // It waits for the node by now.
                    _ => continue,
                }
            }
            // A header that has begun is let in, to be told that the node is stopping.
            if !is_closing && door.is_stopping() && exchange.phase() != Phase::Header && first != Some(exchange.mark()) {
                is_closing = true;
                if matches!(exchange.phase(), Phase::Sending | Phase::Streaming) {
                    // A stream ends now, and nobody waits for a reader that takes nothing.
                    let end = Instant::now() + CLOSE_GRACE;
                    cut = Some(end);
                    deadline = end;
                    timer.as_mut().reset(end);
                }
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
                exchange.note(now);
                let end = now + mark.phase().limit(options);
                deadline = cut.map_or(end, |cut| end.min(cut));
            } else if now >= deadline {
                match seen.phase() {
                    // In good order, so that a client knows that nothing was cut off; if that takes long, without.
                    Phase::Idle if !is_closing => {
                        is_closing = true;
                        connection.as_mut().graceful_shutdown();
                        deadline = now + step;
                        continue;
                    }
                    Phase::Body | Phase::Answer => {
                        exchange.expire();
                        deadline = now + step;
                        continue;
                    }
                    _ => return Poll::Ready(Ok(())),
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn every_connection_has_the_send_buffer_of_its_listener() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        bound_send_buffers(&listener, 20_000).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        // Linux adds as much again for its bookkeeping.
        assert_eq!(SockRef::from(&accepted.unwrap().0).send_buffer_size().unwrap(), 40_000);
        assert!(client.is_ok());
    }
}
