//! What reads bytes that others made, tried with hostile ones: each target takes any bytes and panics when a promise of its reader breaks.
//! `fuzz_targets/` gives them to libFuzzer, `tests/seeds.rs` runs them without it.

mod batch;
mod bodies;
mod cursor;
mod group;
mod invoices;
mod json;
mod made;
mod record;
mod reservation_id;
mod snapshot;

pub use reservation_id::SECRET;

/// A target: takes any bytes, and panics when a promise breaks.
pub type Target = fn(&[u8]);

/// Every target by its name, which is that of its folder of seeds and of its program.
pub const TARGETS: [(&str, Target); 8] = [
    ("batch", batch::run),
    ("bodies", bodies::run),
    ("cursor", cursor::run),
    ("group", group::run),
    ("invoices", invoices::run),
    ("record", record::run),
    ("reservation_id", reservation_id::run),
    ("snapshot", snapshot::run),
];

/// Runs the target of this name.
///
/// # Panics
/// When a promise breaks, and when there is no such target.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("the target is one of the table");
    target(data);
}
