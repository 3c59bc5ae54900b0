//! Whom and which keys a shard's stocks may know. It lets a node say that a stock is sold out without asking the shard, which is what nearly
//! everybody in a rush hears: whoever is a stranger to the stock can be told from its view alone.
//!
//! A Bloom filter, so a stranger may be taken for somebody known and is sent to the shard, and never the other way round:
//!
//! - The shard adds a user and a key as it applies the event that makes them known: before its group is proposed, and so before its view is
//!   shown. Whoever has read a view and then looks here finds everybody whom that view counts.
//! - Nobody is taken out. Those who are known no longer go with the whole filter: now and then the shard makes a new one, of whom its ledger
//!   knows and who comes meanwhile. It takes the place of the old one once every change that it may have left somebody out for is
//!   committed and shown: until then the view still counts them.
//! - Whoever looks holds on to one filter, and takes what it says only if that is the one in use after the view was read as before.

use std::hash::Hasher;
use std::sync::Arc;

use siphasher::sip::SipHasher13;
use tidegate_persistence::GroupSequence;
use tidegate_stock::{Event, Fingerprint, Idempotency, Known, KnownWalk, Ledger, StockId};

use crate::sync::{AtomicU64, Ordering, RwLock};

/// Fewest bytes of a filter. A model checker looks at each word of it.
pub(crate) const KNOWN_BYTES_MIN: usize = if cfg!(all(test, feature = "loom")) { 16 } else { 4 * 1024 };

/// Looks at records in one turn of a shard while a filter is made.
const LOOKS: usize = 256;

/// A filter. One thread adds, any may look. The bits need no order of their own: they have that of the views.
#[derive(Debug)]
pub(crate) struct KnownFilter(Box<[AtomicU64]>);

impl KnownFilter {
    fn new(bytes: usize) -> Self {
        Self((0..bytes / size_of::<u64>()).map(|_| AtomicU64::new(0)).collect())
    }

    fn add(&self, known: Known<'_>) {
        let (word, bits) = self.place(known);
        // Only one thread writes.
        word.store(word.load(Ordering::Relaxed) | bits, Ordering::Relaxed);
    }

    /// Whether it may be known; no is certain.
    pub(crate) fn may_know(&self, known: Known<'_>) -> bool {
        let (word, bits) = self.place(known);
        word.load(Ordering::Relaxed) & bits == bits
    }

    /// Two bits of one word, so that a look touches one place of the memory.
    fn place(&self, known: Known<'_>) -> (&AtomicU64, u64) {
        let hash = hash(known);
        let word = usize::try_from(hash >> 12).map_or(0, |hash| hash % self.0.len());
        (&self.0[word], 1 << (hash % 64) | 1 << (hash / 64 % 64))
    }
}

/// Whoever makes hashes meet gains a way through the shard, which everybody had before; so there is no secret in it.
fn hash(known: Known<'_>) -> u64 {
    let mut hasher = SipHasher13::new();
    let mut begin = |stock: StockId, kind| {
        hasher.write_u16(stock.partition.0);
        hasher.write_u32(stock.number.0);
        hasher.write_u8(kind);
    };
    match known {
        Known::User(stock, user) => {
            begin(stock, 0);
            hasher.write(user.as_bytes());
        }
        Known::Key(stock, Fingerprint(key)) => {
            begin(stock, 1);
            hasher.write_u128(key);
        }
    }
    hasher.finish()
}

/// The filter that is in use, for those who look; none until the first is made.
#[derive(Debug, Default)]
pub(crate) struct KnownInUse(RwLock<Option<Arc<KnownFilter>>>);

impl KnownInUse {
    pub(crate) fn get(&self) -> Option<Arc<KnownFilter>> {
        self.0.read().clone()
    }

    /// Whether `filter` is still the one in use.
    pub(crate) fn is(&self, filter: &Arc<KnownFilter>) -> bool {
        self.0.read().as_ref().is_some_and(|in_use| Arc::ptr_eq(in_use, filter))
    }

    fn put(&self, filter: Arc<KnownFilter>) {
        *self.0.write() = Some(filter);
    }
}

/// The shard's side: adds, and makes new filters.
pub(crate) struct KnownKeeper {
    shared: Arc<KnownInUse>,
    bytes_max: usize,
    in_use: Option<Arc<KnownFilter>>,
    /// What may be added to the newest filter before it is too full.
    room: usize,
    making: Option<Making>,
}

/// A filter that is being made.
struct Making {
    filter: Arc<KnownFilter>,
    walk: KnownWalk,
    /// Once all are in it: the head at that time.
    whole_at: Option<GroupSequence>,
}

impl KnownKeeper {
    /// Begins with the first filter, which is in use at once if `ledger` knows nobody. None is larger than `bytes_max`.
    pub(crate) fn new(shared: Arc<KnownInUse>, bytes_max: usize, ledger: &Ledger, committed: GroupSequence) -> Self {
        let mut keeper = Self { shared, bytes_max, in_use: None, room: 0, making: None };
        keeper.begin(ledger);
        if mutant!(KnownForgottenAtRestart) {
            keeper.making = keeper.making.take().map(|making| Making { whole_at: Some(committed), ..making });
        }
        keeper.go_on(ledger, committed);
        keeper.settle(committed);
        keeper
    }

    /// Begins a filter under way from the start: what the ledger was when it began has been taken back.
    pub(crate) fn begin_again(&mut self, ledger: &Ledger) {
        if self.making.take().is_some() {
            self.begin(ledger);
        }
    }

    fn begin(&mut self, ledger: &Ledger) {
        let known = ledger.user_count() + ledger.key_count();
        let bytes = (2 * known).next_power_of_two().clamp(KNOWN_BYTES_MIN, self.bytes_max);
        // With as many known as bytes a word has eight of them, and one in twenty strangers is taken for somebody known. Beyond the largest
        // size there is no such filter, and it is enough not to make one all the time.
        self.room = bytes.saturating_sub(known).max(bytes / 2);
        let filter = Arc::new(KnownFilter::new(bytes));
        self.making = Some(Making { filter, walk: KnownWalk::default(), whole_at: None });
    }

    /// Adds whom and what `event` makes known. To be called before the group of the event can be committed.
    pub(crate) fn note(&mut self, event: &Event) {
        let (user, key) = made_known(event);
        for known in user.into_iter().chain(key) {
            if mutant!(KnownNotNoted) {
                continue;
            }
            self.room = self.room.saturating_sub(1);
            for filter in self.in_use.iter().chain(self.making.as_ref().map(|making| &making.filter)) {
                filter.add(known);
            }
        }
    }

    /// Goes on making a filter, if one is being made or due. `head` is the newest group that anything was applied for. Returns whether
    /// there was anything to do.
    pub(crate) fn go_on(&mut self, ledger: &Ledger, head: GroupSequence) -> bool {
        if self.making.is_none() && self.room == 0 {
            self.begin(ledger);
        }
        let Some(making) = self.making.as_mut().filter(|making| making.whole_at.is_none()) else { return false };
        let filter = &making.filter;
        if !ledger.walk_known(&mut making.walk, LOOKS, |known| filter.add(known)) {
            making.whole_at = Some(head);
        }
        true
    }

    /// Makes a new filter of those whom `ledger` knows now.
    #[cfg(all(test, feature = "loom"))]
    pub(crate) fn make_anew(&mut self, ledger: &Ledger) {
        self.begin(ledger);
    }

    /// Puts a filter that is whole in use, if everything it was made of is committed. The views must have been shown up to `committed`.
    pub(crate) fn settle(&mut self, committed: GroupSequence) {
        let is_due = |making: &mut Making| making.whole_at.is_some_and(|head| head <= committed);
        if let Some(making) = self.making.take_if(is_due) {
            self.shared.put(Arc::clone(&making.filter));
            self.in_use = Some(making.filter);
        }
    }
}

/// Whom and which key an event makes known to its stock.
fn made_known(event: &Event) -> (Option<Known<'_>>, Option<Known<'_>>) {
    let key = |stock, idempotency: &Option<Idempotency>| idempotency.map(|idempotency| Known::Key(stock, idempotency.key));
    match event {
        Event::Reserved { stock, user, idempotency, .. } => (Some(Known::User(*stock, user.as_str())), key(*stock, idempotency)),
        Event::Confirmed { reservation, idempotency, .. }
        | Event::Released { reservation, idempotency, .. }
        | Event::Returned { reservation, idempotency, .. }
        | Event::Extended { reservation, idempotency, .. } => (None, key(reservation.stock, idempotency)),
        Event::StockAdjusted { stock, idempotency, .. } => (None, key(*stock, idempotency)),
        Event::Recalled { record } => (Some(Known::User(record.id.stock, record.user.as_str())), None),
        Event::StockCreated { .. }
        | Event::Expired { .. }
        | Event::StockChanged { .. }
        | Event::StockPaused { .. }
        | Event::StockReopened { .. }
        | Event::StockClosed { .. }
        | Event::StockArchived { .. }
        | Event::Summed { .. } => (None, None),
    }
}
