//! `tidegate verify` on logs that a node would never write: each breaks one promise, and is named with its place.

use tempfile::TempDir;
use tidegate_persistence::{DataDirectory, DirectoryOptions};
use tidegate_stock::{Event, Fingerprint, GrantSequence, Idempotency, Quantity, ReservationId};

mod support;

use support::log::{BOOK_PARTITION, at, created, reserved, stock, write};
use support::run;

fn confirmed(sequence: u64) -> Event {
    let reservation = ReservationId { stock: stock(BOOK_PARTITION), sequence: GrantSequence(sequence) };
    Event::Confirmed { reservation, quantity: Quantity::ONE, idempotency: None }
}

/// Verifies a directory with one shard that holds `groups`.
#[track_caller]
fn check(groups: &[Vec<(u64, Event)>], more: &[&str], code: i32, said: &[&str]) {
    let folder = TempDir::new().expect("a temporary folder can be made");
    write(folder.path(), 1, 0, groups);
    let path = folder.path().to_str().expect("temporary paths are UTF-8");
    run(&[&["verify", path], more].concat()).expect(code, said);
}

#[test]
fn a_log_that_keeps_every_promise_is_good() {
    check(
        &[
            vec![(0, created(BOOK_PARTITION, 2))],
            vec![(1, reserved(1, "a", 1, 1)), (1, reserved(2, "b", 1, 1))],
            vec![(2, confirmed(1))],
        ],
        &[],
        0,
        &[],
    );
}

#[test]
fn an_oversold_stock_is_found_at_its_event() {
    check(
        &[
            vec![(0, created(BOOK_PARTITION, 2))],
            vec![(1, reserved(1, "a", 1, 1)), (1, reserved(2, "b", 1, 1)), (1, reserved(3, "c", 1, 1))],
        ],
        &[],
        1,
        &["grant 3 of book gives 1 units where 0 are available", "stream 0, entry 2, group 2, event 3"],
    );
}

#[test]
fn a_user_over_the_limit_is_found_at_the_event() {
    check(
        &[vec![(0, created(BOOK_PARTITION, 2)), (1, reserved(1, "a", 1, 1))], vec![(2, reserved(2, "a", 1, 2))]],
        &[],
        1,
        &["grant 2 of book", "limit is 1", "stream 0, entry 2, group 2, event 1"],
    );
}

#[test]
fn a_sale_after_the_hold_was_over_is_found() {
    check(
        &[vec![(0, created(BOOK_PARTITION, 2)), (1, reserved(1, "a", 1, 1))], vec![(601, confirmed(1))]],
        &[],
        1,
        &["grant 1 of book was confirmed", "entry 2, group 2, event 1"],
    );
}

#[test]
fn a_grant_out_of_order_is_found() {
    check(
        &[vec![(0, created(BOOK_PARTITION, 2)), (1, reserved(2, "a", 1, 1))]],
        &[],
        1,
        &["grant 2 of book", "entry 1, group 1, event 2"],
    );
}

#[test]
fn the_first_finding_is_told_and_not_what_follows_from_it() {
    check(
        &[vec![(0, created(BOOK_PARTITION, 2))], vec![(1, reserved(1, "a", 3, 1))], vec![(2, confirmed(7))]],
        &[],
        1,
        &["grant 1 of book", "entry 2, group 2, event 1"],
    );
}

#[test]
fn a_product_in_a_partition_that_is_not_its_own_is_found() {
    check(
        &[vec![(0, created(BOOK_PARTITION + 1, 2))]],
        &[],
        1,
        &["book is in partition 305 and belongs to 304", "entry 1, group 1, event 1"],
    );
}

#[test]
fn a_product_in_the_log_of_a_shard_that_is_not_its_own_is_found() {
    // Of two shards, the first owns partitions 0 to 511.
    let folder = TempDir::new().unwrap();
    write(folder.path(), 2, 1, &[vec![(0, created(BOOK_PARTITION, 2))]]);
    run(&["verify", folder.path().to_str().unwrap()])
        .expect(1, &["book", "another shard's log", "stream 1, entry 1, group 1, event 1"]);
}

#[test]
fn how_long_a_key_was_remembered_decides_whether_it_was_used_twice() {
    let keyed = |sequence, user, second| {
        let Event::Reserved { stock, sequence, user, quantity, expires_at, reference, .. } = reserved(sequence, user, 1, second)
        else {
            unreachable!("a grant is a grant")
        };
        let idempotency = Some(Idempotency { key: Fingerprint(7), request: Fingerprint(9) });
        Event::Reserved { stock, sequence, user, quantity, expires_at, reference, idempotency }
    };
    let groups = [vec![(0, created(BOOK_PARTITION, 2)), (1, keyed(1, "a", 1))], vec![(100, keyed(2, "b", 100))]];
    let folder = TempDir::new().unwrap();
    write(folder.path(), 1, 0, &groups);
    let path = folder.path().to_str().unwrap();
    run(&["verify", path]).expect(1, &["a key of book", "entry 2, group 2, event 1"]);
    run(&["verify", path, "--set", "rules.idempotency_seconds=60"]).expect(1, &["a key of book"]);
    // Only that a node really remembered keys for less makes the second use right; what is set for the reader does not.
    let shorter = DirectoryOptions { idempotency_seconds: Some(60), ..DirectoryOptions::new(at(0)) };
    drop(DataDirectory::open(folder.path(), &shorter).unwrap());
    run(&["verify", path]).expect(0, &[]);
}
