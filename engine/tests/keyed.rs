//! Partitions, sealed ids and fingerprints are durable facts: the expected values here were computed by another implementation of
//! SipHash-2-4, checked against the algorithm's published test vector.

use tidegate_engine::{Router, Sealing, ShardNumber, partition_of};
use tidegate_persistence::PARTITIONS;
use tidegate_stock::{
    Command, Fingerprint, GrantSequence, IdempotencyKey, Partition, Quantity, ReservationId, Sku, StockId, StockNumber,
};

fn id(partition: u16, number: u32, sequence: u64) -> ReservationId {
    ReservationId {
        stock: StockId { partition: Partition(partition), number: StockNumber(number) },
        sequence: GrantSequence(sequence),
    }
}

#[test]
fn a_sku_hashes_to_the_same_partition_for_ever() {
    let expected = [("lamp", 297), ("iphone-16-pro:256", 682), ("a", 585), ("~", 875), ("85123A", 13)];
    for (sku, partition) in expected {
        assert_eq!(partition_of(&Sku::new(sku).unwrap()), Partition(partition), "{sku}");
    }
}

#[test]
fn every_partition_has_one_shard_and_shards_share_evenly() {
    for shards in [1, 2, 3, 7, 1_024] {
        let router = Router::new(shards);
        let mut owned = vec![0; usize::from(shards)];
        for partition in 0..PARTITIONS {
            owned[usize::from(router.shard_of(Partition(partition)).unwrap().0)] += 1;
        }
        let (least, most) = (*owned.iter().min().unwrap(), *owned.iter().max().unwrap());
        assert!(most - least <= 1, "{shards} shards own between {least} and {most} partitions");
    }
    assert_eq!(Router::new(2).shard_of(Partition(511)), Some(ShardNumber(0)));
    assert_eq!(Router::new(2).shard_of(Partition(512)), Some(ShardNumber(1)));
    assert_eq!(Router::new(2).shard_of(Partition(1_024)), None);
}

#[test]
fn a_sealed_id_is_the_same_after_every_restart() {
    let sealing = Sealing::new(&[7; 32]);
    assert_eq!(sealing.seal(id(0, 1, 1)), "AAAAAAABAAAAAAAAAAGORYYHiAZHcQ");
    assert_eq!(sealing.seal(id(777, 3, 123_456_789)), "AwkAAAADAAAAAAdbzRVGmjM3uQwj3Q");
    assert_eq!(sealing.unseal("AwkAAAADAAAAAAdbzRVGmjM3uQwj3Q"), Some(id(777, 3, 123_456_789)));
    assert_eq!(sealing.table_seed(), 13_535_293_418_088_736_360);
}

#[test]
fn an_id_that_was_changed_in_any_character_names_nothing() {
    let sealing = Sealing::new(&[7; 32]);
    let sealed = "AAAAAAABAAAAAAAAAAGORYYHiAZHcQ";
    for place in 0..sealed.len() {
        for other in "AZaz09-_.:~".chars() {
            let mut forged: Vec<char> = sealed.chars().collect();
            if forged[place] != other {
                forged[place] = other;
                let forged: String = forged.into_iter().collect();
                assert_eq!(sealing.unseal(&forged), None, "{forged}");
            }
        }
    }
    for text in ["", "A", "AAAAAAABAAAAAAAAAAGORYYHiAZHc", "AAAAAAABAAAAAAAAAAGORYYHiAZHcQA", "äöüäöüäöüäöüäöü"] {
        assert_eq!(sealing.unseal(text), None, "{text}");
    }
    assert_eq!(Sealing::new(&[8; 32]).unseal(sealed), None, "another cluster's id");
}

#[test]
fn fingerprints_tell_keys_and_requests_apart() {
    let sealing = Sealing::new(&[7; 32]);
    let click = IdempotencyKey::new("click").unwrap();
    let confirm = |sequence, quantity| Command::Confirm { reservation: id(1, 1, sequence), quantity };
    let first = sealing.fingerprint(&click, &confirm(1, None));
    assert_eq!(first.key, Fingerprint(0xa01c_ff53_c4fe_2749_28f6_ff02_97eb_2710));
    assert_eq!(first, sealing.fingerprint(&click, &confirm(1, None)));
    let others = [
        confirm(2, None),
        confirm(1, Some(Quantity::ONE)),
        Command::Release { reservation: id(1, 1, 1), quantity: None },
        Command::ReadReservation { reservation: id(1, 1, 1) },
    ];
    for other in others {
        let other = sealing.fingerprint(&click, &other);
        assert_eq!(other.key, first.key);
        assert_ne!(other.request, first.request);
    }
    assert_ne!(sealing.fingerprint(&IdempotencyKey::new("clack").unwrap(), &confirm(1, None)).key, first.key);
}
