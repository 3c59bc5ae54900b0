//! The threads that serve connections. Each has a runtime of its own, and a connection stays on the thread that it was given to.
//!
//! A thread that nobody steals from has its sockets, timers and tasks to itself, which costs a third less than sharing them. What it does
//! not have for itself is the wake-ups of answers: they come from the shards' threads, many at once when a group is committed, and
//! one by one each would be a system call. So they gather, and the thread is woken once for all that have gathered.
//!
//! Knows nothing of HTTP.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{Notify, oneshot};

/// Threads for work that blocks (the history, metrics), all workers together, where there are few of those; and of each at least.
const BLOCKING_THREADS_MAX: usize = 512;
const BLOCKING_THREADS_MIN: usize = 8;

thread_local! {
    /// Whose thread this is: the address of its [`Gathered`], 0 on every other thread.
    static HERE: Cell<usize> = const { Cell::new(0) };
}

/// The threads. They end when this is dropped, and what still runs on them is dropped there.
pub(crate) struct Workers {
    workers: Vec<Worker>,
}

struct Worker {
    handle: Handle,
    gathered: Arc<Gathered>,
    /// Dropped, it ends the thread.
    _running: oneshot::Sender<()>,
}

impl Workers {
    /// Starts `count` threads, at least one.
    ///
    /// # Errors
    /// When the operating system gives no thread or no reactor.
    pub(crate) fn start(count: usize) -> io::Result<Self> {
        let count = count.max(1);
        let blocking = (BLOCKING_THREADS_MAX / count).max(BLOCKING_THREADS_MIN);
        (0..count).map(|_| Worker::start(blocking)).collect::<io::Result<_>>().map(|workers| Self { workers })
    }

    /// The thread that has least to look after, and `task` in the form in which it runs best there.
    pub(crate) fn place<F: Future>(&self, task: F) -> (&Handle, Homed<F>) {
        let worker =
            self.workers.iter().min_by_key(|worker| worker.handle.metrics().num_alive_tasks()).expect("there is one at least");
        (&worker.handle, Homed { task: Box::pin(task), home: Arc::clone(&worker.gathered), wakers: None })
    }
}

impl Worker {
    fn start(blocking_threads_max: usize) -> io::Result<Self> {
        let gathered = Arc::new(Gathered::default());
        let home = Arc::clone(&gathered);
        let (running, end) = oneshot::channel();
        let (started, starting) = mpsc::sync_channel(1);
        // The runtime is made where it runs: it must not be dropped inside another one if the operating system gives no thread.
        thread::Builder::new().name("http".to_owned()).spawn(move || {
            match Builder::new_current_thread().enable_all().max_blocking_threads(blocking_threads_max).build() {
                Ok(runtime) => {
                    // Whoever starts it waits for this.
                    let _ = started.send(Ok(runtime.handle().clone()));
                    run(runtime, &home, end);
                }
                Err(error) => drop(started.send(Err(error))),
            }
        })?;
        let handle = starting.recv().map_err(|_| io::Error::other("a thread for connections ended as it began"))??;
        Ok(Self { handle, gathered, _running: running })
    }
}

fn run(runtime: Runtime, home: &Arc<Gathered>, end: oneshot::Receiver<()>) {
    HERE.set(home.address());
    runtime.block_on(async {
        tokio::select! {
            never = home.hand_out() => match never {},
            // Nothing is ever sent.
            _ = end => {}
        }
    });
    // Not waiting for what blocks.
    runtime.shutdown_background();
}

/// Wake-ups for the tasks of one thread that came from others.
#[derive(Default)]
struct Gathered {
    waiting: Mutex<Vec<Arc<HomeWaker>>>,
    some: Notify,
}

impl Gathered {
    fn address(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self) as usize
    }

    fn is_here(self: &Arc<Self>) -> bool {
        HERE.get() == self.address()
    }

    fn add(&self, waker: Arc<HomeWaker>) {
        let mut waiting = self.waiting.lock();
        waiting.push(waker);
        let is_first = waiting.len() == 1;
        drop(waiting);
        // Whoever comes later finds that the thread has been told, and has not yet looked.
        if is_first {
            self.some.notify_one();
        }
    }

    /// Wakes what has gathered, again and again, on the thread that this is polled on.
    async fn hand_out(&self) -> Infallible {
        let mut taken = Vec::new();
        loop {
            self.some.notified().await;
            std::mem::swap(&mut taken, &mut *self.waiting.lock());
            for waker in taken.drain(..) {
                waker.task.wake_by_ref();
            }
        }
    }
}

/// Wakes a task: at once on its own thread, and from others together with what else has gathered for it.
struct HomeWaker {
    task: Waker,
    home: Arc<Gathered>,
}

impl Wake for HomeWaker {
    fn wake(self: Arc<Self>) {
        if self.home.is_here() {
            self.task.wake_by_ref();
        } else {
            self.home.clone().add(self);
        }
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.home.is_here() {
            self.task.wake_by_ref();
        } else {
            self.home.add(Arc::clone(self));
        }
    }
}

/// A task whose wake-ups from other threads gather.
pub(crate) struct Homed<F> {
    task: Pin<Box<F>>,
    home: Arc<Gathered>,
    /// What it was last polled with, and what it is given in the place of that.
    wakers: Option<(Waker, Waker)>,
}

impl<F: Future> Future for Homed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Self { task, home, wakers } = &mut *self;
        let (_, own) = match wakers {
            Some(wakers) if wakers.0.will_wake(context.waker()) => wakers,
            stale => {
                let given = context.waker().clone();
                let own = Waker::from(Arc::new(HomeWaker { task: given.clone(), home: Arc::clone(home) }));
                stale.insert((given, own))
            }
        };
        task.as_mut().poll(&mut Context::from_waker(own))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::time::timeout;

    use super::*;

    const WAIT_MAX: Duration = Duration::from_secs(10);

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Count {
        fn get(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_has_gathered_is_handed_out_at_one_wake_up_and_each_task_woken() {
        let (thread, tasks) = (Arc::<Count>::default(), [Arc::<Count>::default(), Arc::default(), Arc::default()]);
        let home = Arc::new(Gathered::default());
        let mut handing_out = pin!(home.hand_out());
        let waker = Waker::from(Arc::clone(&thread));
        for round in 1..=2 {
            assert!(handing_out.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            for task in &tasks {
                // This is not the tasks' thread.
                Waker::from(Arc::new(HomeWaker { task: Arc::clone(task).into(), home: Arc::clone(&home) })).wake();
            }
            assert_eq!(thread.get(), round);
            assert_eq!(tasks.each_ref().map(|task| task.get()), [round - 1; 3]);
            assert!(handing_out.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            assert_eq!(tasks.each_ref().map(|task| task.get()), [round; 3]);
        }
    }

    #[tokio::test]
    async fn every_wake_up_from_another_thread_arrives() {
        const TASKS: usize = 200;
        const ROUNDS: usize = 50;
        let workers = Workers::start(2).unwrap();
        let (answers, mut answered) = mpsc::unbounded_channel();
        let asks: Vec<_> = (0..TASKS)
            .map(|task| {
                let (ask, mut asked) = mpsc::unbounded_channel::<usize>();
                let answers = answers.clone();
                let (handle, run) = workers.place(async move {
                    while let Some(round) = asked.recv().await {
                        answers.send((task, round)).unwrap();
                    }
                });
                handle.spawn(run);
                ask
            })
            .collect();
        for round in 0..ROUNDS {
            for ask in &asks {
                ask.send(round).unwrap();
            }
            let mut seen = [false; TASKS];
            for _ in 0..TASKS {
                let (task, answer) = timeout(WAIT_MAX, answered.recv()).await.expect("a wake-up is lost").unwrap();
                assert_eq!(answer, round);
                assert!(!std::mem::replace(&mut seen[task], true));
            }
        }
    }

    #[tokio::test]
    async fn a_task_goes_to_the_thread_that_has_fewest_and_stays_there() {
        let workers = Workers::start(3).unwrap();
        let (told, mut tell) = mpsc::unbounded_channel();
        let mut asks = Vec::new();
        for _ in 0..6 {
            let (ask, mut asked) = mpsc::unbounded_channel::<()>();
            let told = told.clone();
            let (handle, run) = workers.place(async move {
                let at_first = thread::current().id();
                while asked.recv().await.is_some() {
                    told.send((at_first, thread::current().id())).unwrap();
                }
            });
            handle.spawn(run);
            asks.push(ask);
        }
        let mut threads = std::collections::BTreeMap::new();
        for ask in &asks {
            ask.send(()).unwrap();
            let (at_first, now) = timeout(WAIT_MAX, tell.recv()).await.unwrap().unwrap();
            assert_eq!(at_first, now);
            *threads.entry(format!("{now:?}")).or_insert(0) += 1;
        }
        assert_eq!(threads.into_values().collect::<Vec<_>>(), [2, 2, 2]);
    }

    #[tokio::test]
    async fn what_runs_is_dropped_with_the_threads() {
        let workers = Workers::start(1).unwrap();
        let (kept, dropped) = oneshot::channel::<()>();
        let (handle, run) = workers.place(async move {
            let _kept = kept;
            std::future::pending::<()>().await;
        });
        handle.spawn(run);
        drop(workers);
        assert!(timeout(WAIT_MAX, dropped).await.expect("the task lives on").is_err());
    }
}
