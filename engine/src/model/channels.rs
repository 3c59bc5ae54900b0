//! Counterparts of tokio's and the standard library's channels: what the engine uses of them.

/// One value from one thread to one task.
pub(crate) mod oneshot {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::Ordering::{AcqRel, Acquire};
    use std::task::{Context, Poll};

    use crate::model::atomics::{AtomicUsize, Uncontended};
    use crate::model::waker::AtomicWaker;

    /// The value is there.
    const SENT: usize = 0b001;
    /// No value will come any more.
    const LEFT: usize = 0b010;
    /// Nobody waits any more.
    const CLOSED: usize = 0b100;

    #[derive(Debug)]
    struct Shared<T> {
        state: AtomicUsize,
        value: Uncontended<Option<T>>,
        waker: AtomicWaker,
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T>(Option<Arc<Shared<T>>>);

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(Arc<Shared<T>>);

    /// The sender left without a word.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct RecvError;

    /// There is nothing yet, or never will be.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum TryRecvError {
        Empty,
        Closed,
    }

    pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared { state: AtomicUsize::new(0), value: Uncontended::new(None), waker: AtomicWaker::default() });
        (Sender(Some(Arc::clone(&shared))), Receiver(shared))
    }

    impl<T> Sender<T> {
        pub(crate) fn send(mut self, value: T) -> Result<(), T> {
            let shared = self.0.take().expect("a sender sends once");
            *shared.value.lock() = Some(value);
            if shared.state.fetch_or(SENT, AcqRel) & CLOSED != 0 {
                let value = shared.value.lock().take();
                return value.map_or(Ok(()), Err);
            }
            shared.waker.wake();
            Ok(())
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            if let Some(shared) = self.0.take() {
                shared.state.fetch_or(LEFT, AcqRel);
                shared.waker.wake();
            }
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn try_recv(&mut self) -> Result<T, TryRecvError> {
            let state = self.0.state.load(Acquire);
            if state & SENT != 0 {
                self.0.value.lock().take().ok_or(TryRecvError::Closed)
            } else if state & LEFT != 0 {
                Err(TryRecvError::Closed)
            } else {
                Err(TryRecvError::Empty)
            }
        }
    }

    impl<T> Future for Receiver<T> {
        type Output = Result<T, RecvError>;

        fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
            self.0.waker.register(context.waker());
            match self.try_recv() {
                Ok(value) => Poll::Ready(Ok(value)),
                Err(TryRecvError::Closed) => Poll::Ready(Err(RecvError)),
                Err(TryRecvError::Empty) => Poll::Pending,
            }
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            self.0.state.fetch_or(CLOSED, AcqRel);
        }
    }
}

/// A value that many tasks may wait to see changed.
pub(crate) mod watch {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
    use std::task::{Poll, Waker};

    use crate::model::atomics::{AtomicUsize, Mutex};

    #[derive(Debug)]
    struct Shared<T> {
        value: Mutex<T>,
        version: AtomicUsize,
        receivers: AtomicUsize,
        waiting: Mutex<Vec<Waker>>,
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T>(Arc<Shared<T>>);

    /// In the face of `Feed` and `Engine`, hence public.
    #[derive(Debug)]
    pub struct Receiver<T> {
        shared: Arc<Shared<T>>,
        seen: usize,
    }

    impl<T> Sender<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(Arc::new(Shared {
                value: Mutex::new(value),
                version: AtomicUsize::new(0),
                receivers: AtomicUsize::new(0),
                waiting: Mutex::new(Vec::new()),
            }))
        }

        pub(crate) fn subscribe(&self) -> Receiver<T> {
            let seen = self.0.version.load(Acquire);
            self.0.receivers.fetch_add(1, Relaxed);
            Receiver { shared: Arc::clone(&self.0), seen }
        }

        pub(crate) fn receiver_count(&self) -> usize {
            self.0.receivers.load(Relaxed)
        }

        pub(crate) fn send_replace(&self, value: T) -> T {
            let before = {
                let mut held = self.0.value.lock();
                let before = std::mem::replace(&mut *held, value);
                self.0.version.fetch_add(1, Release);
                before
            };
            let waiting = std::mem::take(&mut *self.0.waiting.lock());
            waiting.into_iter().for_each(Waker::wake);
            before
        }
    }

    impl<T> Receiver<T> {
        /// Waits for the next change that has not been seen.
        pub(crate) async fn changed(&mut self) {
            poll_fn(|context| {
                self.shared.waiting.lock().push(context.waker().clone());
                let version = self.shared.version.load(Acquire);
                if std::mem::replace(&mut self.seen, version) == version { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
        }
    }
}

/// Values in order, from threads to one thread. Time stands still: whoever waits for a while waits.
pub(crate) mod mpsc {
    use std::collections::VecDeque;
    use std::sync::Arc;
    use std::time::Duration;

    pub(crate) use std::sync::mpsc::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};

    #[derive(Debug)]
    struct Shared<T> {
        queue: loom::sync::Mutex<Queue<T>>,
        changed: loom::sync::Condvar,
        room: usize,
    }

    #[derive(Debug)]
    struct Queue<T> {
        values: VecDeque<T>,
        senders: usize,
        is_received: bool,
    }

    #[derive(Debug)]
    pub(crate) struct Sender<T>(Arc<Shared<T>>);

    pub(crate) type SyncSender<T> = Sender<T>;

    #[derive(Debug)]
    pub(crate) struct Receiver<T>(Arc<Shared<T>>);

    pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        sync_channel(usize::MAX)
    }

    pub(crate) fn sync_channel<T>(room: usize) -> (Sender<T>, Receiver<T>) {
        let queue = loom::sync::Mutex::new(Queue { values: VecDeque::new(), senders: 1, is_received: true });
        let shared = Arc::new(Shared { queue, changed: loom::sync::Condvar::new(), room });
        (Sender(Arc::clone(&shared)), Receiver(shared))
    }

    impl<T> Shared<T> {
        fn queue(&self) -> loom::sync::MutexGuard<'_, Queue<T>> {
            self.queue.lock().expect("loom's mutex is never poisoned")
        }
    }

    impl<T> Sender<T> {
        pub(crate) fn try_send(&self, value: T) -> Result<(), TrySendError<T>> {
            let mut queue = self.0.queue();
            if !queue.is_received {
                Err(TrySendError::Disconnected(value))
            } else if queue.values.len() >= self.0.room {
                Err(TrySendError::Full(value))
            } else {
                queue.values.push_back(value);
                self.0.changed.notify_all();
                Ok(())
            }
        }

        /// Only where there is room without end.
        pub(crate) fn send(&self, value: T) -> Result<(), SendError<T>> {
            self.try_send(value).map_err(|refused| match refused {
                TrySendError::Disconnected(value) => SendError(value),
                TrySendError::Full(_) => unreachable!("the model's senders do not wait for room"),
            })
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            self.0.queue().senders += 1;
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.queue().senders -= 1;
            self.0.changed.notify_all();
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn recv(&self) -> Result<T, RecvError> {
            let mut queue = self.0.queue();
            loop {
                if let Some(value) = queue.values.pop_front() {
                    return Ok(value);
                }
                if queue.senders == 0 {
                    return Err(RecvError);
                }
                queue = self.0.changed.wait(queue).expect("loom's mutex is never poisoned");
            }
        }

        pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
            let mut queue = self.0.queue();
            let empty = if queue.senders == 0 { TryRecvError::Disconnected } else { TryRecvError::Empty };
            queue.values.pop_front().ok_or(empty)
        }

        pub(crate) fn recv_timeout(&self, _: Duration) -> Result<T, RecvTimeoutError> {
            self.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }
    }

    impl<T> Drop for Receiver<T> {
        fn drop(&mut self) {
            // What nobody takes any more goes outside the lock: it may have to say so elsewhere.
            let left = {
                let mut queue = self.0.queue();
                queue.is_received = false;
                std::mem::take(&mut queue.values)
            };
            drop(left);
        }
    }
}
