//! The general check: is there any order of the calls of a small history that one stock, taking them one after the other, would have
//! answered like that? The feed plays no part but one: it can tell which of the calls without an answer happened. The search is
//! stateright's; the stock is the model here. The one door of stateright. Where that search is given up, or the history is of a kind that
//! it cannot take (long and with batches, or with many calls that may have happened or not), there is a second one that tries first what
//! was answered first and copies less.
//!
//! Of times the model knows nothing, so nothing may lapse in such a history, and no stock may have a window.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};
use tidegate_witness::finding::{Fault, Finding};
use tidegate_witness::record::{Answer, Call, Change, Moment, Op, Reservation, Stock, behind};
use tidegate_witness::rules::{Exit, KeyUse, Life, Step, View, explains, reservation_state, step, stock_state, tag};

/// Calls of which nobody knows whether they happened, that stateright's search takes, at most: it tries them in every order, even where it
/// is lost already. The second one leaves such a place at once, so it takes any number.
const OPEN_CALLS_MAX: usize = 3;

/// Calls of an order that a finding tells.
const PIECE_CALLS_MAX: usize = 3;

/// Different situations that stateright's search looks at, at most.
const SITUATIONS_MAX: usize = 2_000;

/// Calls of a history with batches that stateright's search takes, at most: each step costs it as much as there are lines and calls.
const CALLS_WITH_BATCHES_MAX: usize = 40;

/// The same for the second search.
const SITUATIONS_SECOND_MAX: usize = 300_000;

/// What the search found out.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// There is such an order.
    Linearizable,
    /// There is none.
    Not(Finding),
    /// The search was given up.
    Undecided,
}

/// A stock, as one who takes calls one after the other keeps it.
#[derive(Debug, Clone)]
struct Model {
    stock: Stock,
    life: Life,
    /// How often settings or life changed, with the creation.
    revision: u64,
    /// By their grants.
    reservations: Arc<BTreeMap<u64, (Reservation, Exit)>>,
    /// Where they are.
    ids: Arc<BTreeMap<String, u64>>,
    users: Arc<BTreeMap<String, i64>>,
    keys: Arc<BTreeMap<String, KeyUse>>,
    /// The sum of digests of all reservations and keys.
    sum: u128,
    /// The grants that any answer shows: their names are the node's own choice.
    granted: Arc<BTreeMap<u64, Reservation>>,
    grants: u64,
    /// Which calls it has taken, whatever their order.
    taken: u128,
    /// The same in their order.
    order: Vec<usize>,
    /// The latest beginning of those.
    latest_began: Moment,
    /// The history; the search, which copies what it handles, handles places in it.
    calls: Arc<Vec<Call>>,
    /// For each call the one before it in its batch.
    behind: Arc<Vec<Option<usize>>>,
    /// Whether the search was in the same situation before, and came back.
    is_known_dead: bool,
    search: Arc<Search>,
}

/// What one search remembers: the same calls taken, in whatever order, and the same stock behind them leave the same to be tried. A
/// situation that comes up again has failed before, so each is looked at once.
#[derive(Debug)]
struct Search {
    /// Most situations.
    situations_max: usize,
    /// 128 bits of each situation.
    seen: Mutex<BTreeSet<u128>>,
    /// The most calls that were ever taken one after the other.
    longest: Mutex<Vec<usize>>,
}

impl Search {
    fn new(situations_max: usize) -> Self {
        Self { situations_max, seen: Mutex::default(), longest: Mutex::default() }
    }

    /// Whether the situation is a new one, and there is room for it.
    fn enter(&self, situation: u128, order: &[usize]) -> bool {
        let mut longest = self.longest.lock().unwrap_or_else(PoisonError::into_inner);
        if order.len() > longest.len() {
            order.clone_into(&mut longest);
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.len() < self.situations_max && seen.insert(situation)
    }

    fn is_given_up(&self) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len() >= self.situations_max
    }
}

/// 128 bits of a value.
fn digest(value: &impl Hash) -> u128 {
    let half = |salt: u64| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        value.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

impl View for Model {
    fn stock(&self) -> &Stock {
        &self.stock
    }

    fn life(&self) -> Life {
        self.life
    }

    fn units_of(&self, user: &str) -> i64 {
        self.users.get(user).copied().unwrap_or(0)
    }

    fn reservation(&self, id: &str) -> Option<(&Reservation, Exit)> {
        self.reservations.get(self.ids.get(id)?).map(|(reservation, exit)| (reservation, *exit))
    }

    fn newest(&self, user: Option<&str>) -> impl Iterator<Item = &Reservation> {
        let all = self.reservations.values().rev().map(|(reservation, _)| reservation);
        all.filter(move |reservation| user.is_none_or(|user| reservation.user == user))
    }

    fn has_just_lapsed(&self, _: &str) -> bool {
        false
    }

    fn key(&self, key: &str) -> Option<&KeyUse> {
        self.keys.get(key)
    }

    fn span(&self) -> (&str, &str) {
        ("", "")
    }
}

impl SequentialSpec for Model {
    type Op = usize;
    type Ret = ();

    /// Only for calls whose answer nobody knows.
    fn invoke(&mut self, call: &usize) {
        // What follows from where the search is lost must not count as tried.
        if self.is_known_dead {
            return;
        }
        let calls = Arc::clone(&self.calls);
        let asked = &calls[*call];
        // Taken without effect, or after its process was gone, is the same as not taken.
        let units = match step(self, &asked.op, asked.key.as_deref(), "") {
            Step::Changes(units) if self.latest_began <= asked.ended && self.is_next_of_batch(*call) => units,
            _ => {
                self.is_known_dead = true;
                return;
            }
        };
        let changed = self.change(asked, units);
        let is_other = |(known, _): &(Reservation, Exit)| {
            let shown = self.granted.get(&known.sequence);
            shown.is_some_and(|shown| shown.reference != known.reference)
        };
        let is_other = changed.and_then(|grant| self.reservations.get(&grant)).is_some_and(is_other);
        self.is_known_dead |= is_other || !self.take(*call);
    }

    fn is_valid_step(&mut self, call: &usize, (): &()) -> bool {
        let calls = Arc::clone(&self.calls);
        if calls[*call].answer == Answer::Unknown {
            self.invoke(call);
            return !self.is_known_dead;
        }
        !self.is_known_dead && self.is_next_of_batch(*call) && self.answers(&calls[*call]) && self.take(*call)
    }
}

impl Model {
    fn new(quantity: i64, per_user_limit: Option<u32>, granted: BTreeMap<u64, Reservation>, calls: Vec<Call>) -> Self {
        let mut stock = Stock {
            allotted: quantity,
            available: quantity,
            reserved: 0,
            sold: 0,
            per_user_limit,
            opens_at: None,
            closes_at: None,
            state: String::new(),
            etag: Some(tag(1)),
        };
        stock_state(&stock, Life::default(), "").clone_into(&mut stock.state);
        Self {
            stock,
            life: Life::default(),
            revision: 1,
            reservations: Arc::default(),
            ids: Arc::default(),
            users: Arc::default(),
            keys: Arc::default(),
            sum: 0,
            granted: Arc::new(granted),
            grants: 0,
            taken: 0,
            order: Vec::new(),
            latest_began: 0,
            behind: Arc::new(behind(&calls)),
            calls: Arc::new(calls),
            is_known_dead: false,
            search: Arc::new(Search::new(SITUATIONS_MAX)),
        }
    }

    /// Whether the call before it in its batch was taken, if its answer is known.
    fn is_next_of_batch(&self, call: usize) -> bool {
        let before = self.behind[call].filter(|before| self.calls[*before].answer != Answer::Unknown);
        before.is_none_or(|before| self.order.contains(&before))
    }

    /// Whether it answers so; then it has changed as it would.
    fn answers(&mut self, asked: &Call) -> bool {
        let answer = &asked.answer;
        let Step::Changes(units) = step(self, &asked.op, asked.key.as_deref(), "") else {
            return explains(self, &asked.op, asked.key.as_deref(), answer);
        };
        let changed = self.change(asked, units);
        match answer {
            Answer::Reservation { created, replayed: false, shown } => {
                let is_known = changed.and_then(|grant| self.reservations.get(&grant)).is_some_and(|(known, _)| known == shown);
                is_known && *created == matches!(asked.op, Op::Reserve { .. })
            }
            Answer::Stock { replayed: false, shown } => self.stock.is_shown_by(shown) && shown.state == self.stock.state,
            _ => false,
        }
    }

    /// Notes that the call was taken. Returns whether what follows from here has not been tried yet.
    fn take(&mut self, call: usize) -> bool {
        self.taken ^= digest(&call);
        self.latest_began = self.latest_began.max(self.calls[call].began);
        self.order.push(call);
        self.search.enter(digest(&(self.taken, &self.stock, self.life, self.sum)), &self.order)
    }

    /// Makes the change that [`step`] allowed, and returns the grant of the reservation that it is about.
    fn change(&mut self, asked: &Call, units: u32) -> Option<u64> {
        let changed = match &asked.op {
            Op::Reserve { user, quantity, reference, .. } => {
                self.grants += 1;
                let shown = self.granted.get(&self.grants).map(|shown| shown.id.clone());
                let id = shown.unwrap_or_else(|| format!("grant {}", self.grants));
                let reservation = Reservation {
                    id: id.clone(),
                    user: user.clone(),
                    quantity: *quantity,
                    reserved: *quantity,
                    confirmed: 0,
                    released: 0,
                    returned: 0,
                    state: String::new(),
                    sequence: self.grants,
                    reference: Some(reference.clone()),
                    reserved_at: String::new(),
                    expires_at: String::new(),
                    resolved_at: None,
                };
                Arc::make_mut(&mut self.ids).insert(id, self.grants);
                Arc::make_mut(&mut self.reservations).insert(self.grants, (reservation, Exit::None));
                Some(self.grants)
            }
            op => op.reservation().and_then(|id| self.ids.get(id)).copied(),
        };
        let reservations = changed.map(|grant| (grant, Arc::make_mut(&mut self.reservations)));
        if let Some((grant, (reservation, exit))) = reservations.and_then(|(grant, all)| Some((grant, all.get_mut(&grant)?))) {
            let is_new = matches!(asked.op, Op::Reserve { .. });
            let before = if is_new { 0 } else { digest(&(grant, &*reservation, *exit)) };
            let (stock, moved) = (&mut self.stock, i64::from(units));
            let has = Arc::make_mut(&mut self.users).entry(reservation.user.clone()).or_default();
            match asked.op {
                Op::Reserve { .. } => {
                    (stock.available, stock.reserved, *has) = (stock.available - moved, stock.reserved + moved, *has + moved);
                }
                Op::Confirm { .. } => {
                    (reservation.reserved, reservation.confirmed) = (reservation.reserved - units, reservation.confirmed + units);
                    (stock.reserved, stock.sold) = (stock.reserved - moved, stock.sold + moved);
                }
                Op::Release { .. } => {
                    (reservation.reserved, reservation.released) = (reservation.reserved - units, reservation.released + units);
                    (stock.reserved, stock.available, *has) = (stock.reserved - moved, stock.available + moved, *has - moved);
                    *exit = Exit::Released;
                }
                Op::Return { .. } => {
                    (reservation.confirmed, reservation.returned) = (reservation.confirmed - units, reservation.returned + units);
                    (stock.sold, stock.available, *has) = (stock.sold - moved, stock.available + moved, *has - moved);
                    *exit = Exit::Returned;
                }
                _ => {}
            }
            reservation_state(reservation.reserved, reservation.confirmed, *exit).clone_into(&mut reservation.state);
            self.sum = self.sum.wrapping_sub(before).wrapping_add(digest(&(grant, &*reservation, *exit)));
        }
        let is_revision = match &asked.op {
            Op::Adjust { delta, .. } => {
                (self.stock.allotted, self.stock.available) = (self.stock.allotted + delta, self.stock.available + delta);
                false
            }
            Op::Patch { patch, .. } => {
                patch.lay_over(&mut self.stock);
                true
            }
            Op::Pause => {
                self.life.is_paused = true;
                true
            }
            Op::Reopen => {
                (self.life.is_paused, self.life.is_closed) = (false, false);
                true
            }
            Op::Close => {
                self.life.is_closed = true;
                true
            }
            Op::Archive => {
                self.life.is_archived = true;
                true
            }
            _ => false,
        };
        if is_revision {
            self.revision += 1;
            self.stock.etag = Some(tag(self.revision));
        }
        stock_state(&self.stock, self.life, "").clone_into(&mut self.stock.state);
        if let Some(key) = &asked.key {
            let reservation = changed.and_then(|grant| self.reservations.get(&grant)).map(|(known, _)| known.id.clone());
            let used = KeyUse { op: asked.op.clone(), reservation };
            self.sum = self.sum.wrapping_add(digest(&(key, &used)));
            Arc::make_mut(&mut self.keys).insert(key.clone(), used);
        }
        changed
    }
}

/// The second search, from `model` on: `left` are the calls that were not taken yet, those that end first first. Whether there is an order.
fn goes_on(model: &Model, left: &[usize], is_over: &dyn Fn(usize) -> bool) -> bool {
    let Some(first_end) = left.iter().filter(|call| is_over(**call)).map(|call| model.calls[*call].ended).min() else {
        return true;
    };
    left.iter().enumerate().filter(|(_, call)| model.calls[**call].began <= first_end).any(|(place, call)| {
        let mut next = model.clone();
        next.is_valid_step(call, &()) && {
            let left: Vec<usize> = left[..place].iter().chain(&left[place + 1..]).copied().collect();
            goes_on(&next, &left, is_over)
        }
    })
}

/// What a feed tells of the calls that nobody heard of again: those that left no change are left out, and those that must have made
/// one are the second list, by their places in the first. Of the others either may be.
pub(crate) fn settle(calls: &[Call], changes: &[Change]) -> (Vec<Call>, Vec<usize>) {
    let left_change = |call: &Call| {
        let id = |change: &Change| change.reservation.as_ref().map(|shown| shown.id.clone());
        let is_its = |change: &Change| match call.op.tag() {
            Some(tag) => change.tag() == Some(tag),
            None => (Some(change.kind.as_str()), id(change).as_deref()) == (call.op.kind(), call.op.reservation()),
        };
        changes.iter().any(is_its)
    };
    let calls: Vec<Call> = calls.iter().filter(|call| call.answer != Answer::Unknown || left_change(call)).cloned().collect();
    let may_have = |call: &Call, other: &Call| {
        let what = |call: &Call| (call.op.kind(), call.op.reservation().map(str::to_owned), call.op.tag().map(str::to_owned));
        what(call) == what(other) && !call.answer.is_replayed() && !matches!(call.answer, Answer::Rejected { .. })
    };
    let is_only = |call: &Call| calls.iter().filter(|other| may_have(other, call)).count() == 1;
    let is_sure = |call: &Call| call.answer == Answer::Unknown && is_only(call);
    let sure = (0..calls.len()).filter(|index| is_sure(&calls[*index])).collect();
    (calls, sure)
}

/// Searches for an order of `calls` on a stock that began with `quantity` units and this limit. Of the calls without an answer those at
/// the places `sure` have happened, and the others may have.
pub(crate) fn check(sku: &str, calls: &[Call], sure: &[usize], quantity: i64, per_user_limit: Option<u32>) -> Verdict {
    let mut calls: Vec<Call> = calls.to_vec();
    let open = calls.iter().enumerate().filter(|(index, call)| call.answer == Answer::Unknown && !sure.contains(index)).count();
    let mut granted = BTreeMap::new();
    for call in &mut calls {
        let all = match &mut call.answer {
            Answer::Reservation { shown, .. } => std::slice::from_mut(shown),
            Answer::List { shown, .. } => shown.as_mut_slice(),
            _ => &mut [],
        };
        for shown in all {
            shown.reserved_at.clear();
            shown.expires_at.clear();
            shown.resolved_at = None;
            granted.insert(shown.sequence, shown.clone());
        }
    }
    let model = Model::new(quantity, per_user_limit, granted, calls);
    let calls = Arc::clone(&model.calls);
    let mut moments: Vec<(u64, bool, usize)> = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        moments.push((call.began, false, index));
        if call.answer != Answer::Unknown || sure.contains(&index) {
            moments.push((call.ended, true, index));
        }
    }
    moments.sort_unstable();
    let mut search = Arc::clone(&model.search);
    let mut tester = LinearizabilityTester::new(model.clone());
    let ended: BTreeSet<usize> = moments.iter().filter(|(_, is_end, _)| *is_end).map(|(.., index)| *index).collect();
    for (_, is_end, index) in &moments {
        let call = &calls[*index];
        // A client's calls come one after the other, but for those of a batch. One without an answer has a line of its own, behind all others.
        let line = match (&call.answer, call.batch) {
            (Answer::Unknown, _) => usize::MAX - index,
            (_, Some(_)) => usize::MAX / 2 + index,
            _ => call.client,
        };
        let noted = if *is_end { tester.on_return(line, ()) } else { tester.on_invoke(line, *index) };
        assert!(noted.is_ok(), "a client began a call before its last one ended: {}", call.line());
    }
    let has_many_batches = calls.len() > CALLS_WITH_BATCHES_MAX && calls.iter().any(|call| call.batch.is_some());
    let is_for_second = has_many_batches || open > OPEN_CALLS_MAX;
    if !is_for_second && tester.is_consistent() {
        return Verdict::Linearizable;
    }
    if is_for_second || search.is_given_up() {
        search = Arc::new(Search::new(SITUATIONS_SECOND_MAX));
        let mut left: Vec<usize> = (0..calls.len()).collect();
        left.sort_by_key(|call| calls[*call].ended);
        if goes_on(&Model { search: Arc::clone(&search), ..model }, &left, &|call| ended.contains(&call)) {
            return Verdict::Linearizable;
        }
        if search.is_given_up() {
            return Verdict::Undecided;
        }
    }
    // Of the longest order that could be made, what comes next: one of these must, and none can.
    let longest = search.longest.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let left: Vec<usize> = ended.into_iter().filter(|index| !longest.contains(index)).collect();
    let until = left.iter().map(|index| calls[*index].ended).min().unwrap_or(0);
    let mut piece =
        vec![format!("{} calls have an order, the last of them are told here; none of the others can be next:", longest.len())];
    let last = longest.iter().rev().take(PIECE_CALLS_MAX).rev();
    piece.extend(last.map(|index| format!("       {}", calls[*index].line())));
    piece.extend(left.iter().filter(|index| calls[**index].began <= until).map(|index| format!("stuck: {}", calls[*index].line())));
    Verdict::Not(Finding { fault: Fault::NotLinearizable, sku: sku.to_owned(), piece })
}
