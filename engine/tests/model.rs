//! The whole engine against the naive ledger of the core's model: seeded commands, alone, many at once and in batches, through the real
//! rings, actors, log and history, with snapshots and new starts between them; every answer, view, list and change of the feed compared.
//!
//! `TIDEGATE_MODEL_SEED` runs one seed instead of several, `TIDEGATE_MODEL_COMMANDS` sets how many commands are decided in all. A failure
//! names its seed and how many commands of it were decided; what the engine's threads do when is not the seed's.

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up fails")]

mod support;

#[path = "model/node.rs"]
mod node;
#[path = "../../stock/tests/model/pick.rs"]
mod pick;
#[allow(dead_code, reason = "some of it is for the model of the core alone")]
#[path = "../../stock/tests/model/reference.rs"]
mod reference;
#[allow(dead_code, reason = "some of it is for the model of the core alone")]
#[path = "../../stock/tests/model/rows.rs"]
mod rows;
#[path = "../../stock/tests/support/seeds.rs"]
mod seeds;
#[path = "../../stock/tests/support/sum.rs"]
mod sum;
#[allow(dead_code, reason = "some of it is for the model of the core alone")]
#[path = "../../stock/tests/model/translate.rs"]
mod translate;
#[allow(dead_code, reason = "some of it is for the model of the core alone")]
#[path = "../../stock/tests/model/whole.rs"]
mod whole;
#[path = "model/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::time::Instant;

use rand::SeedableRng;
use rand::rngs::SmallRng;

use seeds::{Place, number_from, seeds_from};
use world::World;

const SEED: &str = "TIDEGATE_MODEL_SEED";
const COMMANDS_DEFAULT: u64 = 100_000;
const SEEDS_DEFAULT: std::ops::RangeInclusive<u64> = 1..=4;
/// Commands before a fresh engine is taken, so that the linear scans of the naive ledger stay short.
const WORLD_COMMANDS: u64 = 5_000;
/// Below so many commands in all, what is rare may not occur.
const COVERAGE_COMMANDS_MIN: u64 = 60_000;

#[tokio::test]
async fn random_commands_fare_as_in_a_naive_ledger() {
    let commands = number_from("TIDEGATE_MODEL_COMMANDS").unwrap_or(COMMANDS_DEFAULT);
    let seeds = seeds_from(SEED, SEEDS_DEFAULT);
    let began = Instant::now();
    let mut seen = Seen::default();
    let commands_each = commands / seeds.len() as u64;
    for seed in &seeds {
        run(*seed, commands_each, &mut seen).await;
    }
    let tally: Vec<String> = seen.0.iter().map(|(what, count)| format!("{what} {count}")).collect();
    println!("seeds {seeds:?}, {commands_each} commands each, {} ms\n{}", began.elapsed().as_millis(), tally.join(", "));
    for what in EVERYTHING.into_iter().filter(|_| commands >= COVERAGE_COMMANDS_MIN) {
        assert!(seen.0.contains_key(what), "{what} never occurred, so the run says little about it");
    }
}

async fn run(seed: u64, commands: u64, tally: &mut Seen) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut place = Place { variable: SEED, seed, done: 0, counted: "commands" };
    while place.done < commands {
        let mut world = World::new(&mut rng, tally);
        let until = commands.min(place.done + WORLD_COMMANDS);
        while place.done < until {
            place.done += world.step(&mut rng).await;
        }
        world.finish(&mut rng).await;
    }
}

/// How often what occurred.
#[derive(Debug, Default)]
pub(crate) struct Seen(BTreeMap<&'static str, u64>);

impl Seen {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

const EVERYTHING: [&str; 55] = [
    "unknown sku",
    "unknown reservation",
    "stock exists",
    "idempotency key reused",
    "hold over max",
    "closed",
    "paused",
    "not open",
    "limit reached",
    "sold out",
    "reservation released",
    "reservation expired",
    "reservation confirmed",
    "reservation returned",
    "reservation not confirmed",
    "quantity over remaining",
    "extend over max",
    "stock in use",
    "insufficient stock",
    "allotted over max",
    "precondition failed",
    "terms contradict by hold",
    "terms contradict by window",
    "change Created",
    "change Changed",
    "change Adjusted",
    "change Paused",
    "change Reopened",
    "change Closed",
    "change Archived",
    "change Reserved",
    "change Confirmed",
    "change Released",
    "change Lapsed",
    "change Returned",
    "change Extended",
    "lapsed by the clock",
    "lapsed by a command",
    "replayed",
    "alone",
    "batch",
    "many at once",
    "list",
    "list of several pages",
    "views",
    "the clock was set back",
    "snapshot",
    "snapshot amid changes",
    "begun with a snapshot",
    "begun with the log alone",
    "several shards",
    "recalled",
    "given up by the history",
    "out of memory at a new start",
    "read behind a position",
];
