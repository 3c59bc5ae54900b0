//! loom's atomics and locks with the faces of the standard library's and `parking_lot`'s; and the means to weaken one of them at one place
//! of the code under test.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::str::FromStr;
use std::sync::atomic::Ordering;

use loom::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

/// A place in the code under test that asks for an ordering stronger than relaxed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Site {
    pub(crate) file: &'static str,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl fmt::Display for Site {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A text that names no site.
#[derive(Debug)]
pub(crate) struct NoSite;

impl FromStr for Site {
    type Err = NoSite;

    fn from_str(text: &str) -> Result<Self, NoSite> {
        let mut parts = text.rsplitn(3, ':');
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or(NoSite);
        let (column, line) = (number()?, number()?);
        let file = parts.next().ok_or(NoSite)?;
        // A process reads a few of them and ends.
        Ok(Self { file: file.to_owned().leak(), line, column })
    }
}

thread_local! {
    // All threads of a model run on one thread of the machine, so these hold for one model.
    static WEAKENED: Cell<Option<Site>> = const { Cell::new(None) };
    static MET: RefCell<BTreeSet<Site>> = const { RefCell::new(BTreeSet::new()) };
}

/// From now on the models of this thread ask for no more than a relaxed ordering, or for no fence, at `site`.
pub(super) fn weaken(site: Option<Site>) {
    WEAKENED.set(site);
}

/// The sites that the models of this thread have met.
pub(super) fn sites_met() -> BTreeSet<Site> {
    MET.take()
}

/// Whether what is asked for at the caller's place is to be had.
#[track_caller]
fn is_kept() -> bool {
    let caller = Location::caller();
    let site = Site { file: caller.file(), line: caller.line(), column: caller.column() };
    // The counterparts of foreign crates are not under test.
    if !site.file.contains("/model/") {
        MET.with_borrow_mut(|met| met.insert(site));
    }
    WEAKENED.get() != Some(site)
}

#[track_caller]
fn granted(asked: Ordering) -> Ordering {
    if asked == Ordering::Relaxed || is_kept() { asked } else { Ordering::Relaxed }
}

/// A fence.
#[track_caller]
pub(crate) fn fence(asked: Ordering) {
    if is_kept() {
        loom::sync::atomic::fence(asked);
    }
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        #[derive(Debug)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        #[allow(dead_code, reason = "each type has the same face")]
        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }

            #[track_caller]
            pub(crate) fn load(&self, asked: Ordering) -> $value {
                self.0.load(granted(asked))
            }

            #[track_caller]
            pub(crate) fn swap(&self, value: $value, asked: Ordering) -> $value {
                self.0.swap(value, granted(asked))
            }

            #[track_caller]
            pub(crate) fn fetch_or(&self, value: $value, asked: Ordering) -> $value {
                self.0.fetch_or(value, granted(asked))
            }

            #[track_caller]
            pub(crate) fn fetch_and(&self, value: $value, asked: Ordering) -> $value {
                self.0.fetch_and(value, granted(asked))
            }

            #[track_caller]
            pub(crate) fn fetch_xor(&self, value: $value, asked: Ordering) -> $value {
                self.0.fetch_xor(value, granted(asked))
            }

            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                from: $value,
                to: $value,
                asked: Ordering,
                failed: Ordering,
            ) -> Result<$value, $value> {
                self.0.compare_exchange(from, to, granted(asked), failed)
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new(Default::default())
            }
        }
    };
}

macro_rules! store {
    ($name:ident, $value:ty) => {
        impl $name {
            #[track_caller]
            pub(crate) fn store(&self, value: $value, asked: Ordering) {
                self.0.store(value, granted(asked));
            }
        }
    };
}

store!(AtomicU64, u64);
store!(AtomicI64, i64);

impl AtomicBool {
    /// A swap: loom leaves a store and another thread's swap without an order, so that one who knows of both may see either. The
    /// modification order of the standard is total, and a swap stands right behind what it read.
    #[track_caller]
    pub(crate) fn store(&self, value: bool, asked: Ordering) {
        self.0.swap(value, granted(asked));
    }
}

atomic!(AtomicBool, bool);
atomic!(AtomicU64, u64);
atomic!(AtomicI64, i64);
atomic!(AtomicUsize, usize);

impl AtomicUsize {
    #[track_caller]
    pub(crate) fn fetch_add(&self, value: usize, asked: Ordering) -> usize {
        self.0.fetch_add(value, granted(asked))
    }
}

impl AtomicU64 {
    #[track_caller]
    pub(crate) fn fetch_add(&self, value: u64, asked: Ordering) -> u64 {
        self.0.fetch_add(value, granted(asked))
    }

    #[track_caller]
    pub(crate) fn fetch_sub(&self, value: u64, asked: Ordering) -> u64 {
        self.0.fetch_sub(value, granted(asked))
    }
}

/// loom's mutex, never poisoned.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().expect("loom's mutex is never poisoned")
    }
}

/// loom's read-write lock, never poisoned.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(loom::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().expect("loom's lock is never poisoned")
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().expect("loom's lock is never poisoned")
    }
}

/// A cell that the order around it must keep to one thread at a time. It orders nothing by itself; a check fails where two accesses are
/// not ordered by something else.
#[derive(Debug)]
pub(crate) struct Uncontended<T>(std::sync::Mutex<Watched<T>>);

#[derive(Debug)]
struct Watched<T> {
    accesses: loom::cell::UnsafeCell<()>,
    value: T,
}

impl<T> Uncontended<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(Watched { accesses: loom::cell::UnsafeCell::new(()), value }))
    }

    /// The value, for one thread.
    pub(crate) fn lock(&self) -> impl DerefMut<Target = T> + '_ {
        let watched = self.0.try_lock().expect("two threads are in the cell");
        watched.accesses.with_mut(|_| ());
        Held(watched)
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        let watched = self.0.get_mut().expect("no thread died in the cell");
        watched.accesses.with_mut(|_| ());
        &mut watched.value
    }
}

struct Held<'a, T>(std::sync::MutexGuard<'a, Watched<T>>);

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.value
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0.value
    }
}
