//! Keyed values: reservation ids that cannot be guessed, fingerprints that cannot be made to meet. The door of siphasher's keyed use,
//! of data-encoding, and of postcard in this crate.

use std::hash::Hasher;

use data_encoding::BASE64URL_NOPAD;
use siphasher::sip128::{Hasher128, SipHasher24};
use tidegate_stock::{
    Command, Fingerprint, GrantSequence, Idempotency, IdempotencyKey, Partition, ReservationId, StockId, StockNumber,
};

const ID_BYTES: usize = 14;
const TAG_BYTES: usize = 8;
const SEALED_BYTES: usize = ID_BYTES + TAG_BYTES;
const SEALED_CHARACTERS: usize = (SEALED_BYTES * 4).div_ceil(3);
// The contract allows 64.
const _: () = assert!(SEALED_CHARACTERS <= 64);

/// Keys derived from the data directory's secret. The same secret gives the same ids and fingerprints after every restart.
#[derive(Clone)]
pub struct Sealing {
    id_tag: SipHasher24,
    idempotency_key: SipHasher24,
    request: SipHasher24,
    table_seed: u64,
}

impl std::fmt::Debug for Sealing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Sealing(secret)")
    }
}

impl Sealing {
    /// Derives the keys from `secret`, each for one use.
    pub fn new(secret: &[u8; 32]) -> Self {
        let derive = |purpose: &[u8]| {
            let mut hasher = SipHasher24::new_with_key(&first_half(secret));
            hasher.write(purpose);
            hasher.write(&secret[16..]);
            hasher.finish128().as_bytes()
        };
        let table_seed = derive(b"table seed");
        Self {
            id_tag: SipHasher24::new_with_key(&derive(b"reservation id")),
            idempotency_key: SipHasher24::new_with_key(&derive(b"idempotency key")),
            request: SipHasher24::new_with_key(&derive(b"idempotent request")),
            table_seed: u64::from_le_bytes(first_eight(&table_seed)),
        }
    }

    /// The seed of a ledger's hash tables.
    pub const fn table_seed(&self) -> u64 {
        self.table_seed
    }

    /// The text that callers know a reservation by: 30 characters of the identifier alphabet, partition first, with a tag of 64 bits
    /// that only the holder of the secret can make.
    pub fn seal(&self, id: ReservationId) -> String {
        let mut bytes = [0; SEALED_BYTES];
        bytes[..2].copy_from_slice(&id.stock.partition.0.to_be_bytes());
        bytes[2..6].copy_from_slice(&id.stock.number.0.to_be_bytes());
        bytes[6..ID_BYTES].copy_from_slice(&id.sequence.0.to_be_bytes());
        let tag = self.tag(&bytes[..ID_BYTES]);
        bytes[ID_BYTES..].copy_from_slice(&tag);
        BASE64URL_NOPAD.encode(&bytes)
    }

    /// The reservation that `text` names, if this secret sealed it. Anything else, a forged text included, is `None`.
    pub fn unseal(&self, text: &str) -> Option<ReservationId> {
        if text.len() != SEALED_CHARACTERS {
            return None;
        }
        let bytes: [u8; SEALED_BYTES] = BASE64URL_NOPAD.decode(text.as_bytes()).ok()?.try_into().ok()?;
        let (id, tag) = bytes.split_at(ID_BYTES);
        if self.tag(id) != tag && !mutant!(ForgedIdTaken) {
            return None;
        }
        Some(ReservationId {
            stock: StockId {
                partition: Partition(u16::from_be_bytes(id[..2].try_into().ok()?)),
                number: StockNumber(u32::from_be_bytes(id[2..6].try_into().ok()?)),
            },
            sequence: GrantSequence(u64::from_be_bytes(id[6..].try_into().ok()?)),
        })
    }

    /// What is remembered of `command` under `key`. Equal commands give equal fingerprints; a key's name space is its stock, which the
    /// ledger adds.
    pub fn fingerprint(&self, key: &IdempotencyKey, command: &Command) -> Idempotency {
        let mut request = self.request;
        let bytes = postcard::to_allocvec(command).expect("a command is plain data and always serialises");
        request.write(&bytes[usize::from(mutant!(FingerprintIgnoresOperation))..]);
        let mut hasher = self.idempotency_key;
        hasher.write(key.as_str().as_bytes());
        Idempotency { key: Fingerprint(hasher.finish128().as_u128()), request: Fingerprint(request.finish128().as_u128()) }
    }

    fn tag(&self, id: &[u8]) -> [u8; TAG_BYTES] {
        let mut hasher = self.id_tag;
        hasher.write(id);
        first_eight(&hasher.finish128().as_bytes())
    }
}

fn first_half(secret: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|index| secret[index])
}

fn first_eight(bytes: &[u8; 16]) -> [u8; 8] {
    std::array::from_fn(|index| bytes[index])
}
