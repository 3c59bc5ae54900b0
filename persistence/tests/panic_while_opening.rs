//! A damaged store that makes sled panic while it opens: the panic is told apart from a broken invariant and reported as damage.
//!
//! In a file of its own, because the panic hook belongs to the whole process.

#![allow(clippy::unwrap_used, reason = "a test stops where it fails, its helpers too")]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::panic;
use std::sync::{Arc, Mutex};

use common::{open, segment, write_groups};
use tidegate_persistence::{OpenError, sled_store};

const SEGMENT_BYTES: usize = 512 * 1024;

#[test]
fn a_panic_while_opening_is_reported_as_damage_and_known_to_the_panic_hook() {
    let folder = tempfile::tempdir().unwrap();
    write_groups(folder.path(), 1, 60, 1_000);
    let log = segment(folder.path());
    // sled reads all segments anew, and finds one of them twice.
    for entry in fs::read_dir(&log).unwrap().map(Result::unwrap) {
        if entry.file_name().to_string_lossy().starts_with("snap.") {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let db = fs::OpenOptions::new().read(true).write(true).open(log.join("db")).unwrap();
    let mut bytes = vec![0; SEGMENT_BYTES];
    db.read_exact_at(&mut bytes, 0).unwrap();
    db.write_all_at(&bytes, SEGMENT_BYTES as u64).unwrap();

    let panics = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&panics);
    panic::set_hook(Box::new(move |panic| noted.lock().unwrap().push((sled_store::opening(), panic.to_string()))));
    let opened = open(folder.path());
    let _ = panic::take_hook();

    let panics = panics.lock().unwrap();
    assert!(!panics.is_empty());
    assert!(panics.iter().all(|(is_opening, _)| *is_opening), "{panics:?}");
    match opened {
        Err(OpenError::Damaged { place, what }) => {
            assert_eq!(place, log);
            assert!(what.starts_with("reading it panicked: "), "{what}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!sled_store::opening());
}
