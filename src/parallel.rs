//! The same work for many things on a few threads, for whatever runs before or without the machine. Knows nothing of the work.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Cores that this process may use; 1 where the operating system does not tell.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Does `work` for each of `items`, on at most as many threads as there are cores, and returns what came of each, in their order.
///
/// # Panics
/// When `work` does.
pub(crate) fn map<I: Sync, T: Send>(items: &[I], work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let take_turns = || {
        let mut done = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(place) else { return done };
            done.push((place, work(item)));
        }
    };
    let mut done: Vec<(usize, T)> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores().min(items.len())).map(|_| scope.spawn(take_turns)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    done.sort_unstable_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_stand_in_the_order_of_their_items() {
        let items: Vec<u64> = (0..1_000).collect();
        let doubled = map(&items, |item| item * 2);
        assert!(doubled.len() == 1_000 && doubled.iter().zip(&items).all(|(result, item)| *result == item + item));
    }

    #[test]
    fn nothing_to_do_is_done() {
        assert!(map(&[], |item: &u64| *item).is_empty());
    }

    #[test]
    #[should_panic(expected = "item 3")]
    fn a_panic_is_handed_on() {
        map(&[1, 2, 3], |item| assert!(*item < 3, "item {item}"));
    }
}
