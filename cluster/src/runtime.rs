//! The runtime that consensus runs on: tokio, and randomness that a thread can be given.
//!
//! openraft draws when it stands for election, and nothing else. A node draws what the machine gives. A simulation runs all its nodes on one
//! thread, and has that thread draw from its seed, so that the same seed gives the same run. For the same reason whoever watches a value is
//! woken in order there (`watch.rs`).

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::time::Duration;

use openraft::OptionalSend;
use openraft::async_runtime::AsyncRuntime;
use openraft_rand::rngs::SmallRng;
use openraft_rand::{SeedableRng, rng};
use openraft_rt_tokio::TokioRuntime;

use crate::watch::OrderedWatch;

thread_local! {
    /// What this thread draws from next, if it was given a seed.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Has consensus draw from `seed` on this thread from now on.
pub fn seed_thread(seed: u64) {
    SEED.set(Some(seed));
}

/// Whether this thread was given a seed.
pub(crate) fn is_seeded() -> bool {
    SEED.get().is_some()
}

/// tokio, with randomness and order as [`seed_thread`] has it.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = OrderedWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> SmallRng {
        match SEED.get() {
            // Neighbouring seeds give rows that have nothing in common.
            Some(seed) => {
                SEED.set(Some(seed.wrapping_add(1)));
                SmallRng::seed_from_u64(seed)
            }
            None => SmallRng::from_rng(&mut rng()),
        }
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }

    fn spawn_blocking<F, T>(doing: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        TokioRuntime::spawn_blocking(doing)
    }
}

#[cfg(test)]
mod tests {
    use openraft_rand::RngExt;

    use super::*;

    fn drawn() -> Vec<u64> {
        (0..4).map(|_| Runtime::thread_rng().random()).collect()
    }

    #[test]
    fn a_thread_with_a_seed_draws_the_same_again_and_one_without_does_not() {
        let in_thread = |seed: Option<u64>| {
            let draw = move || {
                seed.into_iter().for_each(seed_thread);
                drawn()
            };
            std::thread::spawn(draw).join().unwrap()
        };
        assert_eq!(in_thread(Some(7)), in_thread(Some(7)));
        assert_ne!(in_thread(Some(7)), in_thread(Some(8)));
        assert_ne!(in_thread(None), in_thread(None));
    }
}
