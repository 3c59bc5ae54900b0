//! Waiting for a future on a plain thread, without a runtime whose own budget and queues would be part of the figure.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// Wakes the thread that made it.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Parks the thread that made it until a future is ready.
pub struct Waiter(Waker);

impl Default for Waiter {
    fn default() -> Self {
        Self(Waker::from(Arc::new(Unpark(thread::current()))))
    }
}

impl Waiter {
    /// Waits for `future`. Only for the thread that made the waiter.
    pub fn wait<F: Future>(&self, mut future: Pin<&mut F>) -> F::Output {
        loop {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&self.0)) {
                return output;
            }
            thread::park();
        }
    }

    /// The output of `future` if it is there already; if not, the thread is unparked when it is. Only for the thread that made the waiter.
    pub fn poll<F: Future>(&self, future: Pin<&mut F>) -> Option<F::Output> {
        match future.poll(&mut Context::from_waker(&self.0)) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        }
    }
}

/// Waits for `future` on the calling thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    Waiter::default().wait(pin!(future))
}

/// The output of `future` if it is there already.
pub fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
