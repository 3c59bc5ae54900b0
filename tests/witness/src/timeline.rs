//! The states that a stock went through, from its changes in the feed, and whether each change was allowed where it stands.
//!
//! State `n` is the one after the first `n` changes. Knows nothing of calls.

use std::collections::HashMap;

use crate::finding::{Fault, Finding};
use crate::record::{Change, Reservation, Stock};
use crate::rules::{Exit, KeyUse, Life, View, reservation_state, stock_state, tag};

/// What a key was used for, and by which change: 1 for the first.
pub type Keys = HashMap<String, (usize, KeyUse)>;

/// A stock's states, each of which can be looked at.
#[derive(Debug)]
pub struct Timeline {
    pub changes: Vec<Change>,
    /// Units that each change moved.
    pub units: Vec<u32>,
    stocks: Vec<(Stock, Life)>,
    users: HashMap<String, Vec<(usize, i64)>>,
    reservations: HashMap<String, Vec<(usize, Reservation, Exit)>>,
    /// Reservations in the order of their grants, with the places of those: of all users, and of each.
    grants: HashMap<Option<String>, Vec<(usize, String)>>,
}

/// Later than any moment.
const NEVER: &str = "9999";

/// One of its states, to one who knows these keys.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    pub timeline: &'a Timeline,
    pub keys: &'a Keys,
    pub state: usize,
    /// The first change that cannot have been made when it was looked at; behind the last for none.
    pub until: usize,
}

/// The last of `versions` that is no later than `state`.
fn version<T>(versions: &[(usize, T)], state: usize) -> Option<&T> {
    versions[..versions.partition_point(|(since, _)| *since <= state)].last().map(|(_, value)| value)
}

impl View for At<'_> {
    fn stock(&self) -> &Stock {
        &self.timeline.stocks[self.state].0
    }

    fn life(&self) -> Life {
        self.timeline.stocks[self.state].1
    }

    fn units_of(&self, user: &str) -> i64 {
        self.timeline.users.get(user).and_then(|versions| version(versions, self.state)).copied().unwrap_or(0)
    }

    fn reservation(&self, id: &str) -> Option<(&Reservation, Exit)> {
        let versions = self.timeline.reservations.get(id)?;
        let (_, shown, exit) = versions[..versions.partition_point(|(since, ..)| *since <= self.state)].last()?;
        Some((shown, *exit))
    }

    fn newest(&self, user: Option<&str>) -> impl Iterator<Item = &Reservation> {
        let grants = self.timeline.grants.get(&user.map(str::to_owned)).map_or(&[][..], Vec::as_slice);
        let there = grants.partition_point(|(place, _)| *place <= self.state);
        grants[..there].iter().rev().filter_map(|(_, id)| self.reservation(id).map(|(reservation, _)| reservation))
    }

    fn has_just_lapsed(&self, id: &str) -> bool {
        let change = self.state.checked_sub(1).map(|place| &self.timeline.changes[place]);
        change.is_some_and(|change| change.kind == "expired" && change.reservation.as_ref().is_some_and(|shown| shown.id == id))
    }

    fn key(&self, key: &str) -> Option<&KeyUse> {
        self.keys.get(key).filter(|(place, _)| *place <= self.state).map(|(_, used)| used)
    }

    fn span(&self) -> (&str, &str) {
        let at =
            |place: usize| place.checked_sub(1).and_then(|place| self.timeline.changes.get(place)).map(|change| change.at.as_str());
        (at(self.state).unwrap_or_default(), at(self.until).unwrap_or(NEVER))
    }
}

/// What was built so far.
struct Builder {
    timeline: Timeline,
    life: Life,
    /// How often settings or life changed, with the creation.
    revision: u64,
    last_at: String,
    findings: Vec<Finding>,
}

impl Timeline {
    /// Walks through `changes` of one stock in the order of the feed. A change that is wrong is named, and believed all the same.
    pub fn new(changes: Vec<Change>) -> (Self, Vec<Finding>) {
        let nothing = Stock {
            allotted: 0,
            available: 0,
            reserved: 0,
            sold: 0,
            per_user_limit: None,
            opens_at: None,
            closes_at: None,
            state: String::new(),
            etag: None,
        };
        let timeline = Self {
            changes: Vec::new(),
            units: Vec::new(),
            stocks: vec![(nothing, Life::default())],
            users: HashMap::new(),
            reservations: HashMap::new(),
            grants: HashMap::new(),
        };
        let mut builder = Builder { timeline, life: Life::default(), revision: 0, last_at: String::new(), findings: Vec::new() };
        for change in changes {
            builder.change(change);
        }
        (builder.timeline, builder.findings)
    }

    /// The last state.
    pub fn last(&self) -> usize {
        self.changes.len()
    }
}

impl Builder {
    fn find(&mut self, fault: Fault, change: &Change, why: String) {
        let mut piece = vec![why];
        let id = change.reservation.as_ref().map(|shown| &shown.id);
        let before = self.timeline.changes.iter().rev().find(|other| other.reservation.as_ref().map(|shown| &shown.id) == id);
        piece.extend(before.map(Change::line));
        piece.push(change.line());
        self.findings.push(Finding { fault, sku: change.sku.clone(), piece });
    }

    fn change(&mut self, change: Change) {
        // At least once: the same change under the same name counts once.
        if self.timeline.changes.last() == Some(&change) {
            return;
        }
        let place = self.timeline.changes.len() + 1;
        if change.sku_sequence != place as u64 {
            self.find(Fault::GapInFeed, &change, format!("its place is {} where {place} is due", change.sku_sequence));
        }
        if change.at < self.last_at {
            self.find(Fault::NotAllowed, &change, format!("time went back from {}", self.last_at));
        }
        self.last_at.clone_from(&change.at);
        let mut stock = self.timeline.stocks[place - 1].0.clone();
        let units = if let Some(shown) = &change.reservation {
            self.reservation(&change, shown, place, &mut stock)
        } else {
            self.stock(&change, place, &mut stock);
            0
        };
        if stock.available < 0 {
            let why = format!("{} units are granted and there are {}", stock.reserved + stock.sold, stock.allotted);
            self.find(Fault::SoldTwice, &change, why);
        }
        stock_state(&stock, self.life, &change.at).clone_into(&mut stock.state);
        if change.stock.is_some() && change.kind != "stock_adjusted" {
            self.revision += 1;
            stock.etag = Some(tag(self.revision));
        }
        if let Some(shown) = change.stock.as_ref().filter(|shown| !stock.is_shown_by(shown) || shown.state != stock.state) {
            self.find(Fault::NotConserved, &change, format!("it shows {shown:?} where the changes before it give {stock:?}"));
        }
        self.timeline.units.push(units);
        self.timeline.stocks.push((stock, self.life));
        self.timeline.changes.push(change);
    }

    fn stock(&mut self, change: &Change, place: usize, stock: &mut Stock) {
        let was = self.life;
        let allowed = match (change.kind.as_str(), &change.stock) {
            ("stock_created", Some(shown)) => {
                (stock.allotted, stock.available) = (shown.allotted, shown.allotted);
                take_settings(stock, shown);
                place == 1
            }
            ("stock_changed", Some(shown)) => {
                take_settings(stock, shown);
                !was.is_archived && *stock != self.timeline.stocks[place - 1].0
            }
            ("stock_adjusted", _) => {
                let delta = change.delta.unwrap_or(0);
                (stock.allotted, stock.available) = (stock.allotted + delta, stock.available + delta);
                delta != 0 && stock.available >= 0
            }
            ("stock_paused", _) => {
                self.life.is_paused = true;
                !was.is_paused && !was.is_archived
            }
            ("stock_reopened", _) => {
                (self.life.is_paused, self.life.is_closed) = (false, false);
                (was.is_paused || was.is_closed) && !was.is_archived
            }
            ("stock_closed", _) => {
                self.life.is_closed = true;
                !was.is_closed && !was.is_archived
            }
            ("stock_archived", _) => {
                self.life.is_archived = true;
                if stock.reserved > 0 || !matches!(stock_state(stock, was, &change.at), "closed" | "archived") {
                    self.find(
                        Fault::ArchivedInUse,
                        change,
                        format!("{} units of it are reserved, or it is on sale", stock.reserved),
                    );
                }
                !was.is_archived
            }
            _ => false,
        };
        if !allowed {
            self.find(Fault::NotAllowed, change, "the stock does not allow it, or the history has no such change".to_owned());
        }
    }

    /// Takes the change of a reservation in, and returns how many units it moved.
    fn reservation(&mut self, change: &Change, shown: &Reservation, place: usize, stock: &mut Stock) -> u32 {
        let before = self.timeline.reservations.get(&shown.id).and_then(|versions| versions.last()).cloned();
        let (counts, exit_before) = match &before {
            Some((_, before, exit)) => ([before.reserved, before.confirmed, before.released, before.returned], *exit),
            None => ([0, 0, 0, 0], Exit::None),
        };
        let [reserved, confirmed, released, returned] = counts;
        let kind = change.kind.as_str();
        // How many units went, and what the counts are then.
        let (units, after, exit) = match kind {
            "reserved" => (shown.quantity, [shown.quantity, 0, 0, 0], Exit::None),
            "confirmed" => {
                let units = shown.confirmed.saturating_sub(confirmed);
                (units, [reserved.saturating_sub(units), confirmed + units, released, returned], exit_before)
            }
            "released" | "expired" => {
                let units = shown.released.saturating_sub(released);
                let exit = if kind == "expired" { Exit::Expired } else { Exit::Released };
                (units, [reserved.saturating_sub(units), confirmed, released + units, returned], exit)
            }
            "returned" => {
                let units = shown.returned.saturating_sub(returned);
                (units, [reserved, confirmed.saturating_sub(units), released, returned + units], Exit::Returned)
            }
            _ => (0, counts, exit_before),
        };
        let found = [shown.reserved, shown.confirmed, shown.released, shown.returned];
        let is_whole = found.iter().map(|units| u64::from(*units)).sum::<u64>() == u64::from(shown.quantity);
        if found != after || !is_whole || shown.state != reservation_state(shown.reserved, shown.confirmed, exit) {
            let why = format!("it shows {found:?} of {}, {} where {after:?} follows", shown.quantity, shown.state);
            self.find(Fault::NotConserved, change, why);
        }
        self.check_allowed(change, shown, before.as_ref().map(|(_, before, _)| before), units, stock);

        let moved = i64::from(units);
        let user = match kind {
            "reserved" => {
                (stock.available, stock.reserved) = (stock.available - moved, stock.reserved + moved);
                moved
            }
            "confirmed" => {
                (stock.reserved, stock.sold) = (stock.reserved - moved, stock.sold + moved);
                0
            }
            "released" | "expired" => {
                (stock.reserved, stock.available) = (stock.reserved - moved, stock.available + moved);
                -moved
            }
            "returned" => {
                (stock.sold, stock.available) = (stock.sold - moved, stock.available + moved);
                -moved
            }
            _ => 0,
        };
        if user != 0 {
            let versions = self.timeline.users.entry(shown.user.clone()).or_default();
            let has = versions.last().map_or(0, |(_, has)| *has) + user;
            versions.push((place, has));
            if let Some(limit) = stock.per_user_limit.filter(|limit| user > 0 && has > i64::from(*limit)) {
                self.find(Fault::OverLimit, change, format!("{} has {has} units where the limit is {limit}", shown.user));
            }
        }
        if kind == "reserved" {
            for of in [None, Some(shown.user.clone())] {
                self.timeline.grants.entry(of).or_default().push((place, shown.id.clone()));
            }
        }
        self.timeline.reservations.entry(shown.id.clone()).or_default().push((place, shown.clone(), exit));
        units
    }

    fn check_allowed(&mut self, change: &Change, shown: &Reservation, before: Option<&Reservation>, units: u32, stock: &Stock) {
        let kind = change.kind.as_str();
        if kind == "reserved" {
            let due = self.timeline.grants.get(&None).map_or(0, Vec::len) as u64 + 1;
            if shown.sequence != due {
                self.find(Fault::GrantOutOfOrder, change, format!("it is grant {} where grant {due} is due", shown.sequence));
            }
            let state = stock_state(stock, self.life, &change.at);
            if !matches!(state, "open" | "sold_out") {
                self.find(Fault::GrantedWhileShut, change, format!("the stock is {state}"));
            }
            if before.is_some() || units == 0 {
                self.find(Fault::NotAllowed, change, "it was granted before, or grants nothing".to_owned());
            }
            return;
        }
        let Some(before) = before else {
            self.find(Fault::Invented, change, "the reservation was never granted".to_owned());
            return;
        };
        let is_due = change.at >= before.expires_at;
        let source = if kind == "returned" { before.confirmed } else { before.reserved };
        let is_over = units > source || source == 0;
        let fault = match kind {
            "confirmed" | "extended" if is_due || before.state == "expired" => Some(Fault::ConfirmedAfterLapse),
            "expired" if !is_due => Some(Fault::LapsedEarly),
            "expired" if units < source => Some(Fault::NotAllowed),
            "confirmed" | "released" | "expired" | "returned" if is_over || units == 0 => Some(Fault::NotAllowed),
            "confirmed" | "released" | "expired" | "returned" => None,
            "extended" if source > 0 => None,
            _ => Some(Fault::NotAllowed),
        };
        if let Some(fault) = fault {
            self.find(fault, change, format!("{units} of {source} units moved, and the hold was good until {}", before.expires_at));
        }
        let same = |one: &Reservation, other: &Reservation| {
            let names = (&one.user, &one.reference, &one.reserved_at) == (&other.user, &other.reference, &other.reserved_at);
            let until = kind == "extended" || one.expires_at == other.expires_at;
            names && until && (one.quantity, one.sequence) == (other.quantity, other.sequence)
        };
        if !same(before, shown) {
            self.find(Fault::NotConserved, change, "what should not change did".to_owned());
        }
    }
}

/// The settings that a change shows become those of the stock.
fn take_settings(stock: &mut Stock, shown: &Stock) {
    stock.per_user_limit = shown.per_user_limit;
    (stock.opens_at, stock.closes_at) = (shown.opens_at.clone(), shown.closes_at.clone());
}
