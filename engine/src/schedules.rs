//! What must hold of the engine's threads whatever their schedule, checked by loom over the real code on the primitives of
//! [`crate::model`]; and that each check can fail. What a shard as a whole promises is in `shard/schedules.rs`.
//!
//! Of something wrong there is a check beside the right one, which must fail with its own message. Beyond that every ordering that the
//! code asks for, fences included, is weakened in turn, and some check must fail for it.

mod changes;
mod commit;
mod inbox;
mod published;
mod ring;
mod strangers;
mod wake;

use std::fmt::Write;
use std::io::Write as _;

use tidegate_stock::{Event, Ledger, Recall, Request, Rules, Timestamp, decide};

use crate::model::{Check, Weakened};

/// Checks that together meet every ordering of the modules that are taken apart here, quick ones first.
const CHECKS: &[&Check] = &[
    &commit::DURABLE,
    &commit::FAILURE,
    &published::TOGETHER,
    &published::POSITION,
    &strangers::BUYER,
    &strangers::REPEAT,
    &strangers::NEW_FILTER,
    &strangers::HELD,
    &strangers::LAPSED,
    &changes::HEARD,
    &wake::HEARD,
    &inbox::TAKEN,
    &ring::ENDED,
];

/// Orderings without which no check fails, and why they are asked for all the same.
const BEYOND_THE_CHECKS: &[(&str, &str)] = &[
    (
        "self.failed.store(true, Ordering::Release);",
        "the fence behind the last commit orders that too, but not what comes after it",
    ),
    (
        "self.shown[usize::from(stream.0)].store(group.0, Ordering::Release);",
        "loom keeps stores in the order of the program; a machine may let one overtake the release of the lock before it",
    ),
    (
        "let shown = self.shown[usize::from(stream.0)].load(Ordering::Acquire);",
        "loom keeps loads in the order of the program; a machine may delay one behind the lock after it",
    ),
    (
        "self.due_ms[usize::from(stream.0)].store(in_ms(due), Ordering::Release);",
        "loom keeps stores in the order of the program; a machine may let one overtake the counters before it",
    ),
    (
        "let is_due = || due_ms.load(Ordering::Acquire) <= now.unix_ms();",
        "loom keeps loads in the order of the program; a machine may delay one behind the counters after it",
    ),
];

#[test]
fn every_ordering_is_needed() {
    let Some(weakened) = Check::weaken_each(CHECKS) else { return };
    let mut text = String::new();
    for Weakened { site, caught } in &weakened {
        let source = source_line(site.file, site.line);
        let beyond = BEYOND_THE_CHECKS.iter().find(|(line, _)| *line == source).map_or("no check fails", |(_, why)| *why);
        let by = caught.map_or_else(|| beyond.to_owned(), |(name, schedule)| format!("schedule {schedule} of: {name}"));
        writeln!(text, "  {}:{}  {source}\n      {by}", site.file, site.line).expect("a string takes a line");
    }
    writeln!(std::io::stdout(), "{} orderings, each weakened in turn:\n{text}", weakened.len()).expect("the output takes it");
    let files = ["changes.rs", "commit.rs", "published.rs", "ring.rs", "under_way.rs", "wake.rs"];
    for file in files {
        assert!(weakened.iter().any(|weakened| weakened.site.file.ends_with(file)), "no check meets an ordering of {file}");
    }
    for Weakened { site, caught } in &weakened {
        let source = source_line(site.file, site.line);
        let is_beyond = BEYOND_THE_CHECKS.iter().any(|(line, _)| *line == source);
        assert_eq!(caught.is_none(), is_beyond, "whether a check needs `{source}` is not as it was:\n{text}");
    }
}

/// A line of this package's source, as it was compiled.
fn source_line(file: &str, line: u32) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let text = std::fs::read_to_string(format!("{root}/{file}")).unwrap_or_default();
    text.lines().nth(line as usize - 1).unwrap_or_default().trim().to_owned()
}

/// A ledger with room for all that a check does.
pub(crate) fn empty_ledger() -> Ledger {
    let rules = Rules {
        idempotency_seconds: 86_400,
        idempotency_keys_max: 1_000,
        retention_seconds: 604_800,
        reservations_in_memory_max: 1_000,
        users_in_memory_max: 1_000,
    };
    Ledger::new(rules, 7)
}

/// Decides what must be accepted and change something, and applies it.
pub(crate) fn decide_and_apply(ledger: &mut Ledger, request: &Request, now: Timestamp) -> Event {
    let decision = decide(ledger, request, now, Recall::NotTried).unwrap_or_else(|_| panic!("all is in memory"));
    let event = decision.event.expect("an accepted command changes something");
    drop(ledger.apply(&event, now));
    event
}
