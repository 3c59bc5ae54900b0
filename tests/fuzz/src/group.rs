//! Payloads of groups: what a builder wrote is read as it was given; what else is read, written again, reads the same; and nothing is
//! larger in memory than the bytes it came from allow.

use arbitrary::{Result, Unstructured};
use tidegate_engine::{decode_image, write_image};
use tidegate_persistence::{Actor, ActorName, Entry, GroupBuilder, GroupSequence, decode_entries};
use tidegate_stock::{Event, Timestamp};

use crate::made;

const TIME: Timestamp = Timestamp::from_unix_ms(1_800_000_000_000);

/// Tries `data` as a payload, as an image, and as what a payload is made of.
pub fn run(data: &[u8]) {
    payload(data);
    image(data);
    // Input that is used up gives zeros, so this never fails.
    let _ = written(&mut Unstructured::new(data));
}

fn payload(payload: &[u8]) {
    let Ok(entries) = decode_entries(payload, TIME) else { return };
    let mut read: Vec<Entry<'_>> = Vec::new();
    for entry in entries {
        let Ok(entry) = entry else { return };
        // An entry takes bytes, so a payload cannot announce more than it holds.
        assert!(read.len() < payload.len());
        if let Event::Expired { reservations } = &entry.event {
            assert!(reservations.len() <= payload.len());
        }
        image(entry.image);
        read.push(entry);
    }
    // What a node writes is in the order of time.
    if !read.is_sorted_by_key(|entry| entry.at) {
        return;
    }
    let group = build(&read);
    assert!(group.payload.len() <= payload.len(), "what a node writes is the shortest form");
    let again: Vec<Entry<'_>> =
        group.entries().expect("it has a head").collect::<std::result::Result<_, _>>().expect("it is whole");
    assert_eq!(again, read);
    assert_eq!(build(&again).payload, group.payload);
}

fn build(entries: &[Entry<'_>]) -> tidegate_persistence::Group {
    let mut builder = GroupBuilder::new(GroupSequence(1), TIME);
    for entry in entries {
        builder.push(&entry.event, &entry.actor, entry.at, entry.image);
    }
    assert_eq!(builder.events() as usize, entries.len());
    builder.finish()
}

fn image(bytes: &[u8]) {
    let Ok(image) = decode_image(bytes) else { return };
    let mut written = Vec::new();
    write_image(&mut written, &image);
    assert_eq!(decode_image(&written), Ok(image));
    assert!(written.len() <= bytes.len(), "what a node writes is the shortest form, and nothing follows it");
}

fn written(input: &mut Unstructured<'_>) -> Result<()> {
    let names = ["shop", "till-1", "warehouse"].map(|name| ActorName::new(name).expect("a name"));
    let count = input.int_in_range(0..=6)?;
    let mut given = Vec::new();
    let mut at = TIME.unix_ms();
    for _ in 0..count {
        at += u64::from(input.arbitrary::<u16>()?);
        let actor = input.choose(&[None, Some(0), Some(1), Some(2)])?.map_or(Actor::Clock, |name| Actor::Key(names[name].clone()));
        let image = vec![7; input.int_in_range(0..=200)?];
        given.push((made::event(input)?, actor, Timestamp::from_unix_ms(at), image));
    }
    let mut builder = GroupBuilder::new(GroupSequence(1), TIME);
    for (event, actor, at, image) in &given {
        builder.push(event, actor, *at, image);
    }
    let group = builder.finish();
    let read: Vec<Entry<'_>> = group.entries().expect("it has a head").collect::<std::result::Result<_, _>>().expect("it is whole");
    let expected: Vec<Entry<'_>> = given
        .iter()
        .map(|(event, actor, at, image)| Entry { at: *at, actor: actor.clone(), event: event.clone(), image })
        .collect();
    assert_eq!(read, expected);
    // A payload that lost its end, or has something behind it, is none.
    let is_whole = |payload: &[u8]| decode_entries(payload, TIME).is_ok_and(|mut entries| entries.all(|entry| entry.is_ok()));
    assert!(!is_whole(&group.payload[..group.payload.len() - 1]));
    assert!(!is_whole(&[&group.payload[..], &[0]].concat()));
    Ok(())
}
