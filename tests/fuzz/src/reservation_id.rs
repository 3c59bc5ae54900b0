//! Reservation ids: what a secret sealed is known again, by that secret alone, and no other text is ever taken for an id.

use arbitrary::{Result, Unstructured};
use tidegate_engine::Sealing;
use tidegate_stock::{GrantSequence, Partition, ReservationId, StockId, StockNumber};

/// The secret that the seeds were sealed with.
pub const SECRET: [u8; 32] = *b"the secret of the seeds, 32 byte";

/// Tries `data` as a text, and as what an id and a forgery are made of.
pub fn run(data: &[u8]) {
    text(&String::from_utf8_lossy(data));
    // Input that is used up gives zeros, so this never fails.
    let _ = sealed(&mut Unstructured::new(data));
}

fn text(text: &str) {
    let sealing = Sealing::new(&SECRET);
    // Only a text that this very secret makes is an id; and no other secret knows it.
    if let Some(id) = sealing.unseal(text) {
        assert_eq!(sealing.seal(id), text);
        assert_eq!(Sealing::new(&[7; 32]).unseal(text), None, "{text}");
    }
}

fn sealed(input: &mut Unstructured<'_>) -> Result<()> {
    let secret: [u8; 32] = input.arbitrary()?;
    let sealing = Sealing::new(&secret);
    let id = ReservationId {
        stock: StockId { partition: Partition(input.arbitrary()?), number: StockNumber(input.arbitrary()?) },
        sequence: GrantSequence(input.arbitrary()?),
    };
    let text = sealing.seal(id);
    assert!((1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    assert_eq!(sealing.unseal(&text), Some(id));

    // One character more, less, or another in its place.
    let mut forged = text.clone().into_bytes();
    let at = input.choose_index(forged.len())?;
    let other: u8 = input.int_in_range(0x20..=0x7e)?;
    match input.int_in_range(0..=2)? {
        0 => forged[at] = other,
        1 => forged.insert(at, other),
        _ => drop(forged.remove(at)),
    }
    let forged = String::from_utf8_lossy(&forged);
    assert!(forged == text || sealing.unseal(&forged).is_none(), "{forged} is taken, and {text} was given out");
    // One bit of the secret.
    let mut wrong = secret;
    wrong[usize::from(other) % 32] ^= 1 << (at % 8);
    assert_eq!(Sealing::new(&wrong).unseal(&text), None);
    Ok(())
}
