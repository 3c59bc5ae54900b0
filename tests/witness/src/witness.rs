//! The witness check: the feed names the one order of all changes, so a history is right if every answer fits that order.
//!
//! One sweep over the beginnings and ends of all calls, in the order of time. Each change has its place; each answer that changed
//! nothing is put at the earliest state that explains it, no earlier than anything that was answered before its call began. Earliest is
//! best, since it binds later calls least; so whatever fits nowhere then fits nowhere at all. n log n, and linear behind the sort.

use std::collections::{BTreeMap, HashMap};

use crate::finding::{Fault, Finding};
use crate::record::{Answer, Call, Change, Moment, Op, behind};
use crate::rules::{KeyUse, Step, View, explains, step};
use crate::timeline::{At, Keys, Timeline};

/// Findings of one stock at most: once an order is broken, what follows is broken too.
const FINDINGS_MAX: usize = 5;

/// Most lines of changes in a finding.
const PIECE_CHANGES_MAX: usize = 4;

/// Checks the calls on one stock against its changes in the order of the feed.
pub fn check(sku: &str, calls: &[Call], changes: Vec<Change>) -> Vec<Finding> {
    let (timeline, mut findings) = Timeline::new(changes);
    let mut sweep = Sweep::new(sku, calls, &timeline);
    sweep.run();
    sweep.claim_unknown();
    findings.append(&mut sweep.findings);
    findings.truncate(FINDINGS_MAX);
    findings
}

/// The last state that is known to be over, and the call that shows it.
#[derive(Debug, Clone, Copy, Default)]
struct Low {
    state: usize,
    by: Option<usize>,
}

struct Sweep<'a> {
    sku: &'a str,
    calls: &'a [Call],
    timeline: &'a Timeline,
    keys: Keys,
    /// Places by the name that its maker gave a change.
    tagged: HashMap<&'a str, Vec<usize>>,
    /// Places of all other changes by kind and reservation, in order.
    untagged: BTreeMap<(&'a str, Option<&'a str>), Vec<usize>>,
    /// Which call each change is the doing of, by its place.
    claimed: Vec<Option<usize>>,
    /// The earliest state of each call.
    lows: Vec<Low>,
    /// For each call the one before it in its batch.
    behind: Vec<Option<usize>>,
    /// The state that each call was put at.
    placed: Vec<usize>,
    /// The latest state that an answer at a moment can show: before the next change of a call that began after it.
    highs: Vec<(Moment, usize)>,
    running: Low,
    findings: Vec<Finding>,
}

impl<'a> Sweep<'a> {
    fn new(sku: &'a str, calls: &'a [Call], timeline: &'a Timeline) -> Self {
        let (mut tagged, mut untagged) = (HashMap::<_, Vec<usize>>::new(), BTreeMap::<_, Vec<usize>>::new());
        for (change, place) in timeline.changes.iter().zip(1..) {
            if let Some(tag) = change.tag() {
                tagged.entry(tag).or_default().push(place);
            } else {
                let id = change.reservation.as_ref().map(|shown| shown.id.as_str());
                untagged.entry((change.kind.as_str(), id)).or_default().push(place);
            }
        }
        let mut sweep = Self {
            sku,
            calls,
            timeline,
            keys: Keys::new(),
            tagged,
            untagged,
            claimed: vec![None; timeline.last() + 1],
            lows: vec![Low::default(); calls.len()],
            behind: behind(calls),
            placed: vec![0; calls.len()],
            highs: Vec::new(),
            running: Low::default(),
            findings: Vec::new(),
        };
        // A change cannot be older than the first call that asked for it.
        let mut asked: BTreeMap<usize, Moment> = BTreeMap::new();
        for call in calls {
            if let Some(place) = sweep.tagged_place(call) {
                sweep.remember_key(call, place);
                let first = asked.entry(place).or_insert(call.began);
                *first = call.began.min(*first);
            }
        }
        sweep.highs = asked.into_iter().map(|(place, began)| (began, place - 1)).collect();
        sweep.highs.sort_unstable();
        let mut high = timeline.last();
        for (_, state) in sweep.highs.iter_mut().rev() {
            high = high.min(*state);
            *state = high;
        }
        sweep
    }

    fn high(&self, ended: Moment) -> usize {
        let next = self.highs.partition_point(|(began, _)| *began <= ended);
        self.highs.get(next).map_or(self.timeline.last(), |(_, state)| *state)
    }

    /// The state, as one who looked at it before the change `until` saw it.
    fn at(&self, state: usize, until: usize) -> At<'_> {
        At { timeline: self.timeline, keys: &self.keys, state, until }
    }

    /// What a call comes to where its change is at `place`.
    fn step_at(&self, place: usize, op: &Op, key: Option<&str>) -> Step {
        step(&self.at(place - 1, place), op, key, &self.change(place).at)
    }

    fn change(&self, place: usize) -> &'a Change {
        &self.timeline.changes[place - 1]
    }

    /// The place of the change that carries the call's own name and values.
    fn tagged_place(&self, call: &Call) -> Option<usize> {
        let place = *self.tagged.get(call.op.tag()?)?.first()?;
        let change = self.change(place);
        let fits = match (&call.op, &change.reservation) {
            (Op::Reserve { user, quantity, .. }, Some(shown)) => (user, quantity) == (&shown.user, &shown.quantity),
            (Op::Adjust { delta, .. }, None) => Some(*delta) == change.delta,
            _ => false,
        };
        fits.then_some(place)
    }

    fn remember_key(&mut self, call: &Call, place: usize) {
        if let Some(key) = &call.key {
            let reservation = self.change(place).reservation.as_ref().map(|shown| shown.id.clone());
            self.keys.entry(key.clone()).or_insert((place, KeyUse { op: call.op.clone(), reservation }));
        }
    }

    fn find(&mut self, fault: Fault, call: usize, changes: impl IntoIterator<Item = usize>, why: &str) {
        let mut piece = vec![why.to_owned()];
        let by = self.lows[call].by.filter(|by| *by != call);
        piece.extend(by.map(|by| format!("{} (no later than state {})", self.calls[by].line(), self.lows[call].state)));
        piece.push(self.calls[call].line());
        let mut places: Vec<usize> = changes.into_iter().filter(|place| (1..=self.timeline.last()).contains(place)).collect();
        places.sort_unstable();
        places.dedup();
        piece.extend(places.iter().take(PIECE_CHANGES_MAX).map(|place| self.change(*place).line()));
        self.findings.push(Finding { fault, sku: self.sku.to_owned(), piece });
    }

    fn run(&mut self) {
        // A call that begins at the moment at which another ends is not behind it.
        let mut moments: Vec<(Moment, bool, usize)> = Vec::with_capacity(2 * self.calls.len());
        for (index, call) in self.calls.iter().enumerate() {
            moments.push((call.began, false, index));
            moments.push((call.ended, true, index));
        }
        moments.sort_unstable();
        for (_, is_end, index) in moments {
            if is_end {
                self.end(index);
            } else {
                self.lows[index] = self.running;
            }
        }
    }

    fn raise(&mut self, state: usize, by: usize) {
        self.placed[by] = state;
        if state > self.running.state {
            self.running = Low { state, by: Some(by) };
        }
    }

    fn end(&mut self, index: usize) {
        let call = &self.calls[index];
        if let Some(by) = self.behind[index].filter(|by| self.placed[*by] > self.lows[index].state) {
            self.lows[index] = Low { state: self.placed[by], by: Some(by) };
        }
        match &call.answer {
            Answer::Unknown => {
                if let Some(place) = self.tagged_place(call) {
                    self.claim(index, place);
                }
            }
            Answer::Rejected { .. } => self.observe(index),
            answer if answer.is_replayed() => self.repeat(index),
            _ if call.op.kind().is_none() => self.observe(index),
            // It may have asked for what was so already; then a change that looks like its own is a later one's.
            _ => match self.own_change(index) {
                Some(place) if !(self.lows[index].state..place).any(|state| self.is_explained(index, state)) => {
                    if let Some(maker) = self.unheard_maker(index, place) {
                        self.claimed[place] = Some(maker);
                        self.remember_key(&self.calls[maker], place);
                        self.observe(index);
                    } else {
                        self.acknowledge(index, place);
                    }
                }
                _ => self.observe(index),
            },
        }
    }

    /// The change that an acknowledged call made.
    fn own_change(&self, index: usize) -> Option<usize> {
        let call = &self.calls[index];
        if call.op.tag().is_some() {
            return self.tagged_place(call);
        }
        let places = self.untagged.get(&(call.op.kind()?, call.op.reservation()))?;
        let actor = call.actor();
        let shows = |place: usize| match &call.answer {
            Answer::Reservation { shown, .. } => self.change(place).reservation.as_ref() == Some(shown),
            Answer::Stock { shown, .. } => self.change(place).stock.as_ref() == Some(&shown.untagged()),
            _ => false,
        };
        let first = places.partition_point(|place| *place <= self.lows[index].state);
        let mut free = places[first..].iter().copied().filter(|place| self.claimed[*place].is_none());
        free.find(|place| self.change(*place).actor == actor && shows(*place))
    }

    /// The call that made the change at `place`, and of which nobody heard, where the one that looks like its maker found everything done already.
    /// Whoever finds it so is answered as new and leaves no key behind; and that this one left none, a later call with its key shows, which
    /// was answered as new as well.
    fn unheard_maker(&self, index: usize, place: usize) -> Option<usize> {
        let call = &self.calls[index];
        let is_new = |answer: &Answer| matches!(answer, Answer::Reservation { replayed: false, .. });
        let is_later = |other: &&Call| (&other.op, &other.key) == (&call.op, &call.key) && other.began >= call.ended;
        if call.op.tag().is_some() || call.key.is_none() || !self.calls.iter().filter(is_later).any(|other| is_new(&other.answer)) {
            return None;
        }
        let may_have = |other: &usize| {
            let maker = &self.calls[*other];
            let is_alike =
                (maker.client, maker.op.kind(), maker.op.reservation()) == (call.client, call.op.kind(), call.op.reservation());
            let is_unheard = maker.answer == Answer::Unknown && maker.key != call.key && !self.claimed.contains(&Some(*other));
            is_alike && is_unheard && maker.began < call.ended && self.lows[*other].state < place && self.moves(place, &maker.op)
        };
        (0..self.calls.len()).find(may_have)
    }

    /// Takes `place` as the doing of an acknowledged call.
    fn acknowledge(&mut self, index: usize, place: usize) {
        let call = &self.calls[index];
        let change = self.change(place);
        let is_shown = match &call.answer {
            Answer::Reservation { shown, .. } => change.reservation.as_ref() == Some(shown),
            Answer::Stock { shown, .. } => {
                change.stock.as_ref() == Some(&shown.untagged()) && self.at(place, place).stock().is_shown_by(shown)
            }
            _ => false,
        };
        if !is_shown {
            let is_other = matches!((&call.answer, &change.reservation), (Answer::Reservation { shown, .. }, Some(made)) if shown.id != made.id);
            let fault = if is_other && call.key.is_some() { Fault::KeyAnsweredTwice } else { Fault::AcknowledgementLost };
            self.find(fault, index, [place], "the change holds something else than was acknowledged");
        }
        let is_new = |other: &usize| {
            let answer = &self.calls[*other].answer;
            *answer != Answer::Unknown && !answer.is_replayed()
        };
        if let Some(other) = self.claimed[place].filter(is_new) {
            let fault = if call.key.is_some() { Fault::KeyAnsweredTwice } else { Fault::AcknowledgementLost };
            let why = format!("one change was acknowledged twice as new, before by {}", self.calls[other].line());
            self.find(fault, index, [place], &why);
        }
        self.claimed[place] = Some(index);
        self.claim(index, place);
        self.remember_key(call, place);
    }

    /// Notes whose doing a change is, and whether it lies where that can be.
    fn claim(&mut self, index: usize, place: usize) {
        let call = &self.calls[index];
        self.claimed[place].get_or_insert(index);
        // Of several attempts that nobody heard of, the first may have made it.
        let is_late = |other: usize| place <= self.lows[other].state;
        let is_attempt = |other: &usize| self.calls[*other].op == call.op;
        let others = 0..if call.answer == Answer::Unknown { self.calls.len() } else { 0 };
        if is_late(index) && others.filter(is_attempt).all(is_late) {
            let why = "its change lies before what was over when it began";
            self.find(self.of_order(index, Fault::RealTimeBroken), index, [place, self.lows[index].state], why);
        }
        match self.step_at(place, &call.op, call.key.as_deref()) {
            Step::Changes(_) => {}
            Step::Rejects("precondition_failed") => {
                self.find(Fault::PreconditionIgnored, index, [place - 1, place], "the stock had another entity tag");
            }
            _ => self.find(Fault::NotAllowed, index, [place - 1, place], "the state before its change does not allow it"),
        }
        // Over with its process, unless another attempt may have made it later.
        if call.answer != Answer::Unknown || self.calls.iter().filter(|other| other.op == call.op).count() == 1 {
            self.raise(place, index);
        }
    }

    /// A repeat: its key's change is there, before what it shows.
    fn repeat(&mut self, index: usize) {
        let call = &self.calls[index];
        let known = call.key.as_ref().is_some_and(|key| self.keys.contains_key(key));
        if !known && let Some(place) = self.change_of_unknown_attempt(index) {
            self.claimed[place] = Some(index);
            self.remember_key(call, place);
        }
        let Some((place, used)) = call.key.as_ref().and_then(|key| self.keys.get(key)).cloned() else {
            self.find(Fault::KeyAnsweredTwice, index, [], "it is answered as the repeat of a call that never was");
            return;
        };
        if let (Answer::Reservation { shown, .. }, Some(id)) = (&call.answer, &used.reservation)
            && shown.id != *id
        {
            self.find(Fault::KeyAnsweredTwice, index, [place], "the key was used for another reservation");
            return;
        }
        self.claimed[place].get_or_insert(index);
        if self.lows[index].state < place {
            self.lows[index] = Low { state: place, by: self.claimed[place] };
        }
        self.observe(index);
    }

    /// The change of an earlier attempt with the same key whose answer nobody heard.
    fn change_of_unknown_attempt(&self, index: usize) -> Option<usize> {
        let call = &self.calls[index];
        let places = self.untagged.get(&(call.op.kind()?, call.op.reservation()))?;
        let (actor, key) = (call.actor(), call.key.as_ref()?);
        let is_attempt = |other: &usize| {
            let other = &self.calls[*other];
            other.key.as_ref() == Some(key) && other.op == call.op && other.answer == Answer::Unknown && other.began < call.ended
        };
        let first = (0..self.calls.len()).filter(is_attempt).min_by_key(|other| self.calls[*other].began)?;
        places.iter().copied().find(|place| {
            *place > self.lows[first].state
                && self.claimed[*place].is_none()
                && self.change(*place).actor == actor
                && self.moves(*place, &call.op)
        })
    }

    /// Whether a change is of as many units as `op` asks for.
    fn moves(&self, place: usize, op: &Op) -> bool {
        let is_so_patched = |change: &Change| match (op, &change.stock) {
            (Op::Patch { patch, .. }, Some(shown)) => {
                let mut patched = self.at(place - 1, place).stock().clone();
                patch.lay_over(&mut patched);
                patched.untagged().is_shown_by(shown)
            }
            _ => true,
        };
        matches!(self.step_at(place, op, None), Step::Changes(units) if units == self.timeline.units[place - 1])
            && is_so_patched(self.change(place))
    }

    /// `fault`, unless it is the order within a batch that was broken.
    fn of_order(&self, index: usize, fault: Fault) -> Fault {
        let by = self.lows[index].by;
        if by.is_some() && by == self.behind[index] { Fault::BatchOutOfOrder } else { fault }
    }

    fn is_explained(&self, index: usize, state: usize) -> bool {
        let call = &self.calls[index];
        explains(&self.at(state, self.high(call.ended) + 1), &call.op, call.key.as_deref(), &call.answer)
    }

    /// Puts an answer that changed nothing at the earliest state that explains it.
    fn observe(&mut self, index: usize) {
        let call = &self.calls[index];
        let (low, high) = (self.lows[index].state, self.high(call.ended));
        if let Some(state) = (low..=high.max(low)).find(|state| self.is_explained(index, *state)) {
            self.raise(state, index);
            return;
        }
        let is_new = call.op.kind().is_some() && !call.answer.is_replayed();
        let (fault, why) = match &call.answer {
            Answer::Rejected { .. } => {
                let was_so_before = (0..low).any(|state| self.is_explained(index, state));
                let fault =
                    if was_so_before { self.of_order(index, Fault::RejectedWithoutReason) } else { Fault::RejectedWithoutReason };
                (fault, "no state between its beginning and its end rejects it so")
            }
            _ if (0..low).any(|state| self.is_explained(index, state)) => {
                (self.of_order(index, Fault::Stale), "what it shows was over before it began")
            }
            _ if is_new => (Fault::AcknowledgementLost, "the feed has no such change"),
            _ => (Fault::NeverSo, "what it shows was not so at any time before its end"),
        };
        self.find(fault, index, low..=high, why);
    }

    /// Every change that is left was made by a call that nobody heard of again, and by each of them at most one.
    fn claim_unknown(&mut self) {
        let mut wants: HashMap<(&str, Option<&str>, String), Vec<usize>> = HashMap::new();
        for (index, call) in self.calls.iter().enumerate() {
            if let Some(kind) = call.op.kind().filter(|_| call.op.tag().is_none() && call.answer == Answer::Unknown) {
                wants.entry((kind, call.op.reservation(), call.actor())).or_default().push(index);
            }
        }
        for place in 1..=self.timeline.last() {
            let change = self.change(place);
            if self.claimed[place].is_some() || change.kind == "stock_created" {
                continue;
            }
            if change.kind == "expired" && change.actor == "clock" {
                continue;
            }
            let id = change.reservation.as_ref().map(|shown| shown.id.as_str()).filter(|_| change.tag().is_none());
            let group = wants.get(&(change.kind.as_str(), id, change.actor.clone())).cloned().unwrap_or_default();
            // A step of the stock's life may look like one that found it so already, behind an unheard one of the same client.
            let shows = |call: &Call| matches!(&call.answer, Answer::Stock { replayed: false, shown } if change.stock.as_ref() == Some(&shown.untagged()));
            let is_step = |call: &Call| call.op.kind() == Some(change.kind.as_str()) && call.op.tag().is_none() && shows(call);
            let mine = |index: &usize| is_step(&self.calls[*index]) && self.calls[*index].actor() == change.actor;
            let heard = (0..if id.is_none() { self.calls.len() } else { 0 }).filter(mine);
            let group: Vec<usize> = group.into_iter().chain(heard).collect();
            // One key is one want, whatever the number of its attempts.
            let is_free = |index: &usize| self.calls[*index].key.as_ref().is_none_or(|key| !self.keys.contains_key(key));
            let can_be = |index: &usize| self.lows[*index].state < place && place <= self.high(self.calls[*index].ended);
            let fits: Vec<usize> = group.iter().copied().filter(|index| self.moves(place, &self.calls[*index].op)).collect();
            let free = || fits.iter().copied().filter(is_free).filter(|index| !self.claimed.contains(&Some(*index)));
            if let Some(index) = free().find(can_be) {
                self.claimed[place] = Some(index);
                self.remember_key(&self.calls[index], place);
            } else if let Some(index) = free().next() {
                self.claimed[place] = Some(index);
                self.find(Fault::RealTimeBroken, index, [place], "its change lies where it was not under way");
            } else {
                self.stranger(place);
            }
        }
        for place in 1..=self.timeline.last() {
            self.check_actor(place);
        }
    }

    /// A change without a call of its own.
    fn stranger(&mut self, place: usize) {
        let change = self.change(place);
        let id = change.reservation.as_ref().map(|shown| shown.id.as_str());
        let is_its = |call: &Call| match change.tag() {
            Some(tag) => call.op.tag() == Some(tag),
            None => (call.op.kind(), call.op.reservation()) == (Some(change.kind.as_str()), id) && call.actor() == change.actor,
        };
        let can_have = |call: &Call| !matches!(call.answer, Answer::Rejected { .. }) && is_its(call);
        let (fault, why) = if self.calls.iter().any(can_have) {
            (Fault::HappenedTwice, "the call that asked for it has its change already")
        } else {
            (Fault::Invented, "no call asked for it, or it was rejected")
        };
        let mut piece = vec![why.to_owned()];
        piece.extend(self.calls.iter().filter(|call| is_its(call)).take(PIECE_CHANGES_MAX).map(Call::line));
        let twins = (1..place).filter(|other| {
            let other = self.change(*other);
            (&other.kind, other.tag()) == (&change.kind, change.tag())
                && (change.tag().is_some() || id == other.reservation.as_ref().map(|shown| shown.id.as_str()))
        });
        piece.extend(twins.take(PIECE_CHANGES_MAX).map(|other| self.change(other).line()));
        piece.push(change.line());
        self.findings.push(Finding { fault, sku: self.sku.to_owned(), piece });
    }

    /// Who made a change is one of those who asked for it.
    fn check_actor(&mut self, place: usize) {
        let change = self.change(place);
        let (Some(tag), Some(index)) = (change.tag(), self.claimed[place]) else { return };
        let own = |call: &Call| call.op.tag() == Some(tag) && call.actor() == change.actor;
        if self.calls[index].actor() != change.actor && !self.calls.iter().any(own) {
            self.find(Fault::Invented, index, [place], "it is the doing of somebody who never asked for it");
        }
    }
}
