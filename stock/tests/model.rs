//! The ledger against a naive one, step by step, over seeded random commands and times.
//!
//! `TIDEGATE_MODEL_SEED` runs one seed instead of several, `TIDEGATE_MODEL_STEPS` sets how many steps are taken in all. A failure
//! names seed and step; the same two run it again.

use std::collections::BTreeMap;

use rand::SeedableRng;
use rand::rngs::StdRng;

#[path = "model/compare.rs"]
mod compare;
#[path = "model/copies.rs"]
mod copies;
#[path = "model/pick.rs"]
mod pick;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/translate.rs"]
mod translate;
#[path = "model/world.rs"]
mod world;

use world::World;

const STEPS_DEFAULT: u64 = 300_000;
const SEEDS_DEFAULT: std::ops::RangeInclusive<u64> = 1..=8;
/// Steps before a fresh ledger is taken, so that the linear scans of the reference stay short.
const WORLD_STEPS: u64 = 1_000;
/// Steps between two comparisons of everything.
const FULL_COMPARE_STEPS: u64 = 50;
/// Below so many steps in all, what is rare may not occur.
const COVERAGE_STEPS_MIN: u64 = 100_000;
/// Each rejection, each event and each kind of repeat occurs at least once in so many steps.
const RAREST_STEPS: u64 = 20_000;

#[test]
fn random_commands_fare_as_in_a_naive_ledger() {
    let steps = number_from("TIDEGATE_MODEL_STEPS").unwrap_or(STEPS_DEFAULT);
    let seeds: Vec<u64> = match number_from("TIDEGATE_MODEL_SEED") {
        Some(seed) => vec![seed],
        None => SEEDS_DEFAULT.collect(),
    };
    let mut tally = Seen::default();
    let steps_each = steps / seeds.len() as u64;
    for seed in &seeds {
        run(*seed, steps_each, &mut tally);
    }
    println!("seeds {seeds:?}, {steps_each} steps each: {:#?}", tally.0);
    for what in EVERYTHING.into_iter().filter(|_| steps >= COVERAGE_STEPS_MIN) {
        let count = tally.0.get(what).copied().unwrap_or(0);
        assert!(count * RAREST_STEPS >= steps, "{what} occurred {count} times in {steps} steps, so the run says little about it");
    }
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?} where a number is wanted")))
}

fn run(seed: u64, steps: u64, tally: &mut Seen) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut place = Place { seed, step: 0 };
    while place.step < steps {
        let mut world = World::new(&mut rng, tally);
        for _ in 0..WORLD_STEPS.min(steps - place.step) {
            place.step += 1;
            world.step(&mut rng);
            if place.step.is_multiple_of(FULL_COMPARE_STEPS) {
                world.compare_everything();
            }
        }
        world.finish();
    }
}

/// Says where a failure happened, whichever assertion it was.
struct Place {
    seed: u64,
    step: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with TIDEGATE_MODEL_SEED={} at step {}", self.seed, self.step);
        }
    }
}

/// How often what occurred.
#[derive(Default)]
pub(crate) struct Seen(BTreeMap<&'static str, u64>);

impl Seen {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

const EVERYTHING: [&str; 65] = [
    "unknown sku",
    "unknown reservation",
    "stock exists",
    "idempotency key reused",
    "hold over max",
    "closed",
    "not open",
    "limit reached",
    "sold out",
    "reservation released",
    "reservation expired",
    "reservation confirmed",
    "quantity over remaining",
    "event stock created",
    "event reserved",
    "event confirmed",
    "event released",
    "event expired by the clock",
    "event expired by a command",
    "stock again",
    "replayed reserve",
    "replayed confirm",
    "replayed release",
    "replayed after the hold ended",
    "replayed while nothing is granted any more",
    "confirmed again without a key",
    "released again without a key",
    "keys forgotten",
    "paused",
    "reservation returned",
    "reservation not confirmed",
    "extend over max",
    "stock in use",
    "insufficient stock",
    "allotted over max",
    "precondition failed",
    "terms contradict by hold",
    "terms contradict by window",
    "event returned",
    "event extended",
    "event stock changed",
    "event stock adjusted",
    "event stock paused",
    "event stock reopened",
    "event stock closed",
    "event stock archived",
    "event recalled",
    "replayed adjust",
    "replayed return",
    "replayed extend",
    "found in the history",
    "gone from the history",
    "answered late from the history",
    "left memory",
    "changed on its way out",
    "users forgotten",
    "copied",
    "copied amid changes",
    "gone on from a copy",
    "in memory and in the history",
    "event taken back",
    "lapse taken back",
    "recall taken back",
    "archiving taken back",
    "done again",
];
