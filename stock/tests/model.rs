//! The ledger against a naive one, step by step, over seeded random commands and times.
//!
//! `TIDEGATE_MODEL_SEED` runs one seed instead of several, `TIDEGATE_MODEL_STEPS` sets how many steps are taken in all. A failure
//! names its seed, which runs it again, and how many steps went well.

use std::collections::BTreeMap;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::SmallRng;

#[path = "model/compare.rs"]
mod compare;
#[path = "model/lives.rs"]
mod lives;
#[path = "model/pick.rs"]
mod pick;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/rows.rs"]
mod rows;
#[path = "support/seeds.rs"]
mod seeds;
#[path = "support/sum.rs"]
mod sum;
#[path = "model/translate.rs"]
mod translate;
#[path = "model/whole.rs"]
mod whole;
#[path = "model/world.rs"]
mod world;

use seeds::{Place, number_from, seeds_from};
use world::World;

const SEED: &str = "TIDEGATE_MODEL_SEED";
const STEPS_DEFAULT: u64 = 1_000_000;
const SEEDS_DEFAULT: std::ops::RangeInclusive<u64> = 1..=8;
/// Steps before a fresh ledger is taken, so that the linear scans of the naive one stay short.
const WORLD_STEPS: u64 = 1_000;
/// Steps between two comparisons of the sums over everything.
const DIGEST_STEPS: u64 = 25;
/// Steps between two comparisons of everything in full.
const FULL_COMPARE_STEPS: u64 = 500;
/// Below so many steps in all, what is rare may not occur.
const COVERAGE_STEPS_MIN: u64 = 100_000;
/// Each rejection, each event and each kind of repeat occurs at least once in so many steps.
const RAREST_STEPS: u64 = 20_000;
/// Each pair of reasons to reject, of which the first must be given, likewise.
const RAREST_PAIR_STEPS: u64 = 100_000;

#[test]
fn random_commands_fare_as_in_a_naive_ledger() {
    let steps = number_from("TIDEGATE_MODEL_STEPS").unwrap_or(STEPS_DEFAULT);
    let seeds = seeds_from(SEED, SEEDS_DEFAULT);
    let began = Instant::now();
    let mut tally = Seen::default();
    let steps_each = steps / seeds.len() as u64;
    for seed in &seeds {
        run(*seed, steps_each, &mut tally);
    }
    let count = |(what, count): (&&str, &u64)| format!("{what} {count}");
    let single: Vec<String> = tally.single.iter().map(count).collect();
    let pairs: Vec<String> = tally.pairs.iter().map(|((given, next), count)| format!("{given} before {next} {count}")).collect();
    println!("seeds {seeds:?}, {steps_each} steps each, {} ms", began.elapsed().as_millis());
    println!("{}\n{}", single.join(", "), pairs.join(", "));
    for what in EVERYTHING.into_iter().filter(|_| steps >= COVERAGE_STEPS_MIN) {
        let count = tally.single.get(what).copied().unwrap_or(0);
        assert!(count * RAREST_STEPS >= steps, "{what} occurred {count} times in {steps} steps, so the run says little about it");
    }
    for pair in PRECEDENCE.into_iter().filter(|_| steps >= COVERAGE_STEPS_MIN) {
        let count = tally.pairs.get(&pair).copied().unwrap_or(0);
        assert!(count * RAREST_PAIR_STEPS >= steps, "{pair:?} occurred {count} times in {steps} steps");
    }
}

fn run(seed: u64, steps: u64, tally: &mut Seen) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut place = Place { variable: SEED, seed, done: 0, counted: "steps" };
    while place.done < steps {
        let mut world = World::new(&mut rng, tally);
        for step in place.done + 1..=steps.min(place.done + WORLD_STEPS) {
            world.step(&mut rng);
            if step.is_multiple_of(FULL_COMPARE_STEPS) {
                world.compare_everything();
            } else if step.is_multiple_of(DIGEST_STEPS) {
                world.compare_digest();
            }
            place.done = step;
        }
        world.finish();
    }
}

/// How often what occurred.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    single: BTreeMap<&'static str, u64>,
    /// Reasons to reject that held at once, the one given first.
    pairs: BTreeMap<(&'static str, &'static str), u64>,
}

impl Seen {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.single.entry(what).or_default() += 1;
    }

    pub(crate) fn count_pair(&mut self, given: &'static str, next: &'static str) {
        *self.pairs.entry((given, next)).or_default() += 1;
    }
}

/// Reasons that follow each other directly where both hold.
const PRECEDENCE: [(&str, &str); 26] = [
    ("idempotency key reused", "hold over max"),
    ("idempotency key reused", "closed"),
    ("idempotency key reused", "paused"),
    ("idempotency key reused", "not open"),
    ("idempotency key reused", "limit reached"),
    ("idempotency key reused", "sold out"),
    ("hold over max", "closed"),
    ("hold over max", "paused"),
    ("hold over max", "not open"),
    ("hold over max", "limit reached"),
    ("hold over max", "sold out"),
    ("closed", "paused"),
    ("closed", "not open"),
    ("closed", "limit reached"),
    ("closed", "sold out"),
    ("paused", "not open"),
    ("paused", "limit reached"),
    ("paused", "sold out"),
    ("not open", "limit reached"),
    ("not open", "sold out"),
    ("limit reached", "sold out"),
    ("precondition failed", "closed"),
    ("precondition failed", "terms contradict by hold"),
    ("precondition failed", "terms contradict by window"),
    ("closed", "terms contradict by hold"),
    ("closed", "terms contradict by window"),
];

const EVERYTHING: [&str; 67] = [
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
    "gone on from the log",
    "lost with the process",
    "in memory and in the history",
    "event taken back",
    "lapse taken back",
    "recall taken back",
    "archiving taken back",
    "done again",
];
