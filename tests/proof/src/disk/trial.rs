//! One seed: its run, and everything that can happen at each of its points.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate_persistence::{Durability, RecordKey, RecoveredStream, Sidecar, StreamId};

use super::check::{Chains, Found, Ledgers, Recovered};
use super::session::{Noted, Point, Session, Start, Wrap};
use super::store::{Call, Change, Disk, Fault, FaultKind, Opening, torn};
use super::workload::{Plan, Size};

/// What goes on after a crash.
const GOING_ON: Size = Size { groups: 4, events_max: 12 };

/// Of the points, one in so many also has calls that fail after its crash.
const FAULTS_SHARE: usize = 4;

/// How much is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) size: Size,
    /// Disks of a point that go on and are crashed again, at most.
    pub(crate) going_on_max: usize,
    /// Flipped bits, and lost tails, at each point.
    pub(crate) flips: usize,
    pub(crate) tails: usize,
    /// Cuts of each torn change.
    pub(crate) cuts: usize,
    /// Calls that fail after each first crash.
    pub(crate) faults: usize,
}

/// What was tried, and what was found.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) seeds: u64,
    pub(crate) points: u64,
    pub(crate) writes: u64,
    pub(crate) syncs: u64,
    pub(crate) losses: u64,
    pub(crate) torn: u64,
    pub(crate) second: u64,
    pub(crate) errors: u64,
    /// Calls that failed after a first crash.
    pub(crate) errors_after: u64,
    /// Sidecars that lagged, were torn, cut or zeroed.
    pub(crate) sidecars: u64,
    pub(crate) full: u64,
    pub(crate) flips: u64,
    pub(crate) flips_named: u64,
    pub(crate) tails: u64,
    pub(crate) tails_named: u64,
    pub(crate) unread: u64,
    pub(crate) ledgers: u64,
    pub(crate) findings: Vec<Finding>,
}

/// Something that must not be, and how to see it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) seed: u64,
    pub(crate) point: usize,
    pub(crate) what: String,
}

/// What a crash leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Loss {
    /// So many changes.
    Kept(usize),
    /// So many changes, and so many bytes of the next, which the store notices.
    TornNoticed(usize, usize),
    /// The same, unnoticed.
    TornServed(usize, usize),
}

/// One seed.
pub(crate) struct Trial<'a> {
    wrap: Wrap,
    seed: u64,
    effort: Effort,
    folder: &'a Path,
    plan: Plan,
    session: Session,
    chains: Chains,
    ledgers: Ledgers,
    /// What was tried already: a later crash that loses more leaves the same disk.
    tried: BTreeSet<(Loss, Vec<usize>)>,
}

/// The life of a log and what may be found of it afterwards.
#[derive(Clone, Copy)]
struct Life<'a> {
    wrap: Wrap,
    folder: &'a Path,
    session: &'a Session,
    plan: &'a Plan,
    chains: &'a Chains,
}

impl<'a> Trial<'a> {
    /// Writes the history of `seed` once.
    pub(crate) fn new(wrap: Wrap, seed: u64, effort: Effort, folder: &'a Path) -> io::Result<Self> {
        let plan = Plan::new(&mut StdRng::seed_from_u64(seed), effort.size);
        let start = Start::nothing(plan.history.0.keys().copied());
        let session = Session::run(wrap, &start, &plan, None, folder)?;
        let chains = Chains::of(&session.changes);
        Ok(Self { wrap, seed, effort, folder, plan, session, chains, ledgers: Ledgers::default(), tried: BTreeSet::new() })
    }

    /// Tries everything at every point, or at `only` one.
    pub(crate) fn run(&mut self, only: Option<usize>, tally: &mut Tally) -> io::Result<()> {
        tally.seeds += 1;
        for what in &self.session.wrong {
            tally.findings.push(Finding { seed: self.seed, point: 0, what: what.clone() });
        }
        let points: Vec<Point> = self.session.points.clone();
        for (number, point) in points.iter().enumerate() {
            if only.is_some_and(|only| only != number) {
                continue;
            }
            tally.points += 1;
            tally.writes += u64::from(matches!(point.call, Some(Call::Append | Call::Remove)));
            tally.syncs += u64::from(matches!(point.call, Some(Call::Sync | Call::Flush)));
            let mut found = Vec::new();
            // Each has its own randomness, so that a point alone gives what it gives among others.
            self.crash(number, point, tally, &mut found)?;
            self.damage(point, &mut self.random(number, 1), tally, &mut found);
            if number + 1 < points.len() {
                self.fail(number, &mut self.random(number, 2), tally, &mut found)?;
            }
            tally.findings.extend(found.into_iter().map(|what| Finding { seed: self.seed, point: number, what }));
        }
        tally.ledgers += self.ledgers.compared() as u64;
        Ok(())
    }

    fn random(&self, point: usize, what: u64) -> StdRng {
        StdRng::seed_from_u64(
            self.seed.wrapping_mul(1_000_003).wrapping_add(point as u64).wrapping_mul(1_000_003).wrapping_add(what),
        )
    }

    /// Everything ends at `point`: every loss that is allowed, then on, and the same again.
    fn crash(&mut self, number: usize, point: &Point, tally: &mut Tally, found: &mut Vec<String>) -> io::Result<()> {
        let mut going_on = 0;
        let here = losses(&self.session.changes, point, self.effort.cuts, self.seed);
        for (place, loss) in here.into_iter().enumerate() {
            let random = &mut self.random(number, 3 + place as u64);
            if !self.tried.insert((loss, point.acknowledged.values().copied().collect())) {
                continue;
            }
            count_loss(loss, tally);
            let life =
                Life { wrap: self.wrap, folder: self.folder, session: &self.session, plan: &self.plan, chains: &self.chains };
            let Some(reopened) = reopen(life, point, loss, &mut self.ledgers, random, tally, found)? else { continue };
            let is_torn = !matches!(loss, Loss::Kept(_));
            if is_torn || going_on >= self.effort.going_on_max {
                continue;
            }
            going_on += 1;
            let held = self.plan.history.prefix(&reopened.counts);
            let plan = self.plan.going_on(random, held, GOING_ON);
            let session = Session::run(self.wrap, &reopened.start(), &plan, None, self.folder)?;
            found.extend(session.wrong.iter().map(|what| format!("{loss:?}, gone on: {what}")));
            let chains = Chains::of(&session.changes);
            let life = Life { wrap: self.wrap, folder: self.folder, session: &session, plan: &plan, chains: &chains };
            let mut tried = BTreeSet::new();
            let mut ledgers = Ledgers::default();
            for (number, second) in session.points.iter().enumerate() {
                for again in losses(&session.changes, second, 1, self.seed) {
                    if !tried.insert((again, second.acknowledged.values().copied().collect::<Vec<_>>())) {
                        continue;
                    }
                    tally.second += 1;
                    let mut found_again = Vec::new();
                    reopen(life, second, again, &mut ledgers, random, tally, &mut found_again)?;
                    found.extend(
                        found_again
                            .into_iter()
                            .map(|what| format!("{loss:?}, gone on, crashed again at its point {number}: {what}")),
                    );
                }
            }
            // The log that went on meets a call that fails, and everything ends once more.
            let calls = session.points.len() - 1;
            let faults = if number.is_multiple_of(FAULTS_SHARE) { self.effort.faults.min(calls) } else { 0 };
            for _ in 0..faults {
                let kinds = [FaultKind::Nothing, FaultKind::Torn, FaultKind::Whole, FaultKind::Full];
                let fault = Fault { call: random.random_range(0..calls), kind: kinds[random.random_range(0..kinds.len())] };
                tally.errors_after += 1;
                let session = Session::run(self.wrap, &reopened.start(), &plan, Some(fault), self.folder)?;
                found.extend(session.wrong.iter().map(|what| format!("{loss:?}, gone on, {fault:?}: {what}")));
                let chains = Chains::of(&session.changes);
                let life = Life { wrap: self.wrap, folder: self.folder, session: &session, plan: &plan, chains: &chains };
                let last = session.last();
                for again in losses(&session.changes, last, 1, self.seed) {
                    let mut found_again = Vec::new();
                    reopen(life, last, again, &mut ledgers, random, tally, &mut found_again)?;
                    found.extend(
                        found_again.into_iter().map(|what| format!("{loss:?}, gone on, {fault:?}, then {again:?}: {what}")),
                    );
                }
            }
            tally.ledgers += ledgers.compared() as u64;
        }
        Ok(())
    }

    /// The call behind point `number` fails, in every way; then everything ends.
    fn fail(&mut self, number: usize, random: &mut StdRng, tally: &mut Tally, found: &mut Vec<String>) -> io::Result<()> {
        for kind in [FaultKind::Nothing, FaultKind::Torn, FaultKind::Whole, FaultKind::Full] {
            match kind {
                FaultKind::Full => tally.full += 1,
                _ => tally.errors += 1,
            }
            let start = Start::nothing(self.plan.history.0.keys().copied());
            let session = Session::run(self.wrap, &start, &self.plan, Some(Fault { call: number, kind }), self.folder)?;
            found.extend(session.wrong.iter().map(|what| format!("call {number} failed ({kind:?}): {what}")));
            let chains = Chains::of(&session.changes);
            let life = Life { wrap: self.wrap, folder: self.folder, session: &session, plan: &self.plan, chains: &chains };
            let point = session.last();
            // What an earlier crash leaves was tried at its own point.
            let last = point.changes.saturating_sub(1);
            for loss in losses(&session.changes, point, 1, self.seed).into_iter().filter(|loss| kept(*loss) >= last) {
                let mut found_after = Vec::new();
                reopen(life, point, loss, &mut self.ledgers, random, tally, &mut found_after)?;
                found.extend(found_after.into_iter().map(|what| format!("call {number} failed ({kind:?}), then {loss:?}: {what}")));
            }
        }
        Ok(())
    }

    /// What lies on the disk at `point` is damaged.
    fn damage(&mut self, point: &Point, random: &mut StdRng, tally: &mut Tally, found: &mut Vec<String>) {
        let held = &self.session.changes[..point.changes];
        if held.is_empty() {
            return;
        }
        let noted = &self.session.sidecars[point.sidecar].1;
        for _ in 0..self.effort.flips {
            let (opening, place) = (pick_opening(random), random.random_range(0..held.len()));
            let mut changes = held.to_vec();
            let bit = flip(&mut changes[place], random);
            tally.flips += 1;
            let what = format!("bit {bit} of change {place} flipped, the store {opening:?} it");
            let is_named = self.look_at_damage(&changes, opening, point, noted, &what, found);
            tally.flips_named += u64::from(is_named);
            // A value that is not what was written is always seen. A key that is not may have taken an end away that was never promised.
            let is_live = held[place + 1..].iter().all(|later| later.key != held[place].key) && held[place].value.is_some();
            let is_in_value = changes[place].key == held[place].key;
            if opening == Opening::Serves && is_live && is_in_value && !is_named {
                found.push(format!("{what}: it is not named"));
            }
        }
        for _ in 0..self.effort.tails {
            let kept = random.random_range(0..held.len());
            tally.tails += 1;
            let what = format!("only {kept} of {} changes are left", held.len());
            let is_named = self.look_at_damage(&held[..kept], Opening::Cuts, point, noted, &what, found);
            tally.tails_named += u64::from(is_named);
            // A sidecar that lags knows less, but what it knows counts.
            let older = random.random_range(0..=point.sidecar);
            let noted = &self.session.sidecars[older].1;
            self.look_at_damage(&held[..kept], Opening::Cuts, point, noted, &format!("{what}, sidecar {older}"), found);
        }
        // Reading itself fails.
        let readable = random.random_range(0..=held.len());
        let disk = Disk::holding(held, Opening::Cuts);
        disk.fail_reading_after(readable);
        tally.unread += 1;
        let recovered = Recovered::read(&*(self.wrap)(disk), &self.plan.history, noted, &self.chains);
        found.extend(recovered.served_wrong.iter().map(|what| format!("reading failed after {readable} values: {what}")));
        for (stream, end) in &recovered.streams {
            if matches!(end, Found::Whole(_)) {
                found.push(format!("{stream}: reading failed after {readable} values, and it was taken for whole"));
            }
        }
    }

    /// Reopens a damaged disk. Says whether damage was named.
    fn look_at_damage(
        &self,
        changes: &[Change],
        opening: Opening,
        point: &Point,
        noted: &Noted,
        what: &str,
        found: &mut Vec<String>,
    ) -> bool {
        let disk = Disk::holding(changes, opening);
        let recovered = Recovered::read(&*(self.wrap)(disk), &self.plan.history, noted, &self.chains);
        found.extend(recovered.served_wrong.iter().map(|wrong| format!("{what}: {wrong}")));
        let is_current = noted == &self.session.sidecars[point.sidecar].1 && self.plan.durability == Durability::PowerLoss;
        let mut is_named = false;
        for (stream, end) in &recovered.streams {
            match end {
                Found::Damaged(_) => is_named = true,
                Found::Unread(error) => found.push(format!("{what}: {stream} could not be read: {error}")),
                Found::Whole(end) => {
                    let known = noted.get(stream).map_or(0, |durable| durable.index.0);
                    let acknowledged = if is_current { point.acknowledged[stream] as u64 } else { 0 };
                    let least = known.max(acknowledged);
                    if end.last_sequence.0 < least {
                        found.push(format!("{what}: {stream} lost group {least} and nothing is said of it"));
                    }
                }
            }
        }
        is_named
    }
}

/// A log that was reopened after a crash.
struct Reopened {
    counts: BTreeMap<StreamId, usize>,
    changes: Vec<Change>,
    opening: Opening,
    tails: Vec<RecoveredStream>,
    sidecar: Vec<u8>,
    acknowledged: BTreeMap<StreamId, usize>,
}

impl Reopened {
    /// Where it goes on, as often as one likes.
    fn start(&self) -> Start {
        Start {
            disk: Disk::holding(&self.changes, self.opening),
            held: self.changes.len(),
            tails: self.tails.clone(),
            sidecar: self.sidecar.clone(),
            acknowledged: self.acknowledged.clone(),
        }
    }
}

/// The sidecar that a crash at `point` leaves, and what it says: nobody syncs it, so it may lag as far as it likes, be torn between two of
/// its contents, be cut, or hold zeros.
fn worn_sidecar(
    life: Life<'_>,
    point: &Point,
    random: &mut StdRng,
    tally: &mut Tally,
    found: &mut Vec<String>,
) -> io::Result<(Vec<u8>, Noted)> {
    let contents = &life.session.sidecars[..=point.sidecar];
    let (current, noted) = &contents[point.sidecar];
    let older = &contents[random.random_range(0..contents.len())].0;
    let cut = random.random_range(0..=current.len());
    let bytes = match random.random_range(0..100) {
        0..90 => return Ok((current.clone(), noted.clone())),
        90..94 => older.clone(),
        94..97 => current[..cut].iter().chain(older.get(cut..).unwrap_or_default()).copied().collect(),
        97..99 => current[..cut].to_vec(),
        _ => vec![0; current.len()],
    };
    tally.sidecars += 1;
    let path = life.folder.join("worn");
    fs::write(&path, &bytes)?;
    let said = Sidecar::open(&path)?.streams().clone();
    if !said.is_empty() && contents.iter().all(|(_, noted)| *noted != said) {
        found.push(format!("a worn sidecar says {said:?}, which was never noted"));
    }
    Ok((bytes, said))
}

/// Reopens what `loss` leaves at `point`, and checks it. A crash alone is never damage.
fn reopen(
    life: Life<'_>,
    point: &Point,
    loss: Loss,
    ledgers: &mut Ledgers,
    random: &mut StdRng,
    tally: &mut Tally,
    found: &mut Vec<String>,
) -> io::Result<Option<Reopened>> {
    let (changes, opening) = left(&life.session.changes, loss);
    let store = (life.wrap)(Disk::holding(&changes, opening));
    let expected = &life.plan.history;
    let (sidecar, noted) = worn_sidecar(life, point, random, tally, found)?;
    let recovered = Recovered::read(&*store, expected, &noted, life.chains);
    found.extend(recovered.served_wrong.iter().map(|what| format!("{loss:?}: {what}")));
    let is_served = matches!(loss, Loss::TornServed(..));
    // Below a loss of power, what was only flushed was never promised.
    let is_promised = life.plan.durability == Durability::PowerLoss || kept(loss) >= point.flushed;
    let whole = whole_groups(&changes);
    for (stream, end) in &recovered.streams {
        match end {
            // A store that serves a torn value breaks its promise; nobody is served with it.
            Found::Damaged(_) if is_served => {}
            Found::Damaged(what) | Found::Unread(what) => found.push(format!("{loss:?}: a crash alone is told as damage: {what}")),
            Found::Whole(end) => {
                let groups = super::session::count(end.last_sequence.0);
                let acknowledged = point.acknowledged[stream];
                if is_promised && groups < acknowledged {
                    found.push(format!("{loss:?}: {stream} has {groups} groups, {acknowledged} were acknowledged"));
                }
                let on_disk = whole.get(stream).copied().unwrap_or(0);
                if groups != on_disk {
                    found.push(format!("{loss:?}: {stream} shows {groups} groups, {on_disk} lie whole on the disk"));
                }
            }
        }
    }
    let Some(counts) = recovered.counts().filter(|_| recovered.served_wrong.is_empty()) else { return Ok(None) };
    if let Err(what) = ledgers.compare(&*store, expected, &counts) {
        found.push(format!("{loss:?}: {what}"));
        return Ok(None);
    }
    let acknowledged = point.acknowledged.iter().map(|(stream, groups)| (*stream, (*groups).min(counts[stream]))).collect();
    Ok(Some(Reopened { counts, changes, opening, tails: recovered.tails(), sidecar, acknowledged }))
}

/// Every loss that a crash at `point` may bring: any prefix of what is not safe is kept, and the next change may be torn. The end of the
/// process alone loses nothing that was flushed, and is one of them. `seed` says where it is torn.
fn losses(changes: &[Change], point: &Point, cuts: usize, seed: u64) -> Vec<Loss> {
    let mut losses = Vec::new();
    for kept in (point.synced..=point.changes).rev() {
        losses.push(Loss::Kept(kept));
        let Some(next) = changes[..point.changes].get(kept).and_then(|next| next.value.as_ref()) else { continue };
        let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(kept as u64));
        for _ in 0..cuts {
            losses.push(Loss::TornNoticed(kept, random.random_range(0..next.len())));
            losses.push(Loss::TornServed(kept, random.random_range(0..next.len())));
        }
    }
    losses
}

const fn kept(loss: Loss) -> usize {
    match loss {
        Loss::Kept(kept) | Loss::TornNoticed(kept, _) | Loss::TornServed(kept, _) => kept,
    }
}

fn left(changes: &[Change], loss: Loss) -> (Vec<Change>, Opening) {
    let mut left = changes[..kept(loss)].to_vec();
    match loss {
        Loss::Kept(_) => (left, Opening::Cuts),
        Loss::TornNoticed(kept, bytes) => {
            left.push(torn(&changes[kept], bytes));
            (left, Opening::Cuts)
        }
        Loss::TornServed(kept, bytes) => {
            left.push(torn(&changes[kept], bytes));
            (left, Opening::Serves)
        }
    }
}

fn count_loss(loss: Loss, tally: &mut Tally) {
    match loss {
        Loss::Kept(_) => tally.losses += 1,
        Loss::TornNoticed(..) | Loss::TornServed(..) => tally.torn += 1,
    }
}

/// How many groups of each stream lie whole on a disk, by the changes alone: the last part of each is marked in its flags.
fn whole_groups(changes: &[Change]) -> BTreeMap<StreamId, usize> {
    const FLAGS: usize = 2;
    let mut groups: BTreeMap<StreamId, BTreeSet<u64>> = BTreeMap::new();
    for change in changes.iter().filter(|change| !change.is_bad) {
        let Some(key) = RecordKey::decode(&change.key) else { continue };
        if change.value.as_ref().is_some_and(|value| value.get(FLAGS) == Some(&1)) {
            groups.entry(key.stream).or_default().insert(key.index.0);
        }
    }
    groups.into_iter().map(|(stream, indexes)| (stream, indexes.len())).collect()
}

fn pick_opening(random: &mut StdRng) -> Opening {
    if random.random_bool(0.5) { Opening::Cuts } else { Opening::Serves }
}

/// Flips one bit of a change, of its key or its value, and says which.
fn flip(change: &mut Change, random: &mut StdRng) -> usize {
    let mut bytes = change.value.as_ref().map_or_else(Vec::new, |value| value.to_vec());
    let key_bits = change.key.len() * 8;
    // A few flips hit the key.
    let bit = if bytes.is_empty() || random.random_bool(0.1) {
        random.random_range(0..key_bits)
    } else {
        key_bits + random.random_range(0..bytes.len() * 8)
    };
    let mask = 1 << (bit % 8);
    if bit < key_bits {
        change.key[bit / 8] ^= mask;
    } else {
        bytes[(bit - key_bits) / 8] ^= mask;
        change.value = Some(bytes.into());
    }
    change.is_bad = true;
    bit
}
