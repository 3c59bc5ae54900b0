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
mod wake;

use std::fmt::Write;
use std::io::Write as _;

use crate::model::{Check, Weakened};

/// Checks that together meet every ordering of the modules that are taken apart here, quick ones first.
const CHECKS: &[&Check] = &[
    &commit::DURABLE,
    &commit::FAILURE,
    &published::TOGETHER,
    &published::POSITION,
    &changes::HEARD,
    &wake::HEARD,
    &inbox::TAKEN,
    &ring::ENDED,
];

#[test]
fn every_ordering_is_needed() {
    let weakened = Check::weaken_each(CHECKS);
    let mut text = String::new();
    for Weakened { site, caught } in &weakened {
        let source = source_line(site.file, site.line);
        let by = caught.map_or_else(|| "NOTHING FAILS".to_owned(), |(name, schedule)| format!("schedule {schedule} of: {name}"));
        writeln!(text, "  {}:{}  {source}\n      {by}", site.file, site.line).expect("a string takes a line");
    }
    writeln!(std::io::stdout(), "{} orderings, each weakened in turn:\n{text}", weakened.len()).expect("the output takes it");
    let files = ["changes.rs", "commit.rs", "published.rs", "ring.rs", "wake.rs"];
    for file in files {
        assert!(weakened.iter().any(|weakened| weakened.site.file.ends_with(file)), "no check meets an ordering of {file}");
    }
    assert!(weakened.iter().all(|weakened| weakened.caught.is_some()), "an ordering that no check needs:\n{text}");
}

/// A line of this package's source, as it was compiled.
fn source_line(file: &str, line: u32) -> String {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let text = std::fs::read_to_string(format!("{root}/{file}")).unwrap_or_default();
    text.lines().nth(line as usize - 1).unwrap_or_default().trim().to_owned()
}
