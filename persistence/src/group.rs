//! The payload of a group: who did what, when.
//!
//! ```text
//!   0  4  number of entries, big-endian
//!   4     entries until the end, each:
//!           varint  actor: 0 the clock; n the n-th name of this payload; one more than the names so far introduces the next:
//!                   varint length and UTF-8 bytes of the name follow
//!           varint  milliseconds from the group's time
//!           event   as postcard writes it
//!           varint  length of the image, then the image's bytes
//! ```
//!
//! An image is how the event left what it is about, for whoever shows changes to others. It is opaque here, may be empty, and replay
//! neither copies nor looks at it. It counts towards the bound of a group's payload like everything else.
//!
//! Varints are little-endian groups of seven bits. A group is built on the shard's thread, so an entry is appended straight to one
//! buffer. This file knows nothing of keys, checksums or the store.

use std::fmt;
use std::sync::Arc;

use postcard::ser_flavors::Flavor;
use tidegate_stock::values::check_identifier;
use tidegate_stock::{Event, IdentifierError, LedgerSum, Timestamp};

use crate::record::GroupSequence;

/// Bytes of the number of entries in front of a payload.
const COUNT_BYTES: usize = 4;

/// The name of the API key that acted: an identifier. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActorName(Arc<str>);

impl ActorName {
    /// Takes `name` if it is an identifier.
    pub fn new(name: &str) -> Result<Self, IdentifierError> {
        check_identifier(name)?;
        Ok(Self(Arc::from(name)))
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ActorName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Who caused an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// Time passed.
    Clock,
    /// A caller with this API key.
    Key(ActorName),
}

/// A group that is being built. Belongs to one thread.
#[derive(Debug)]
pub struct GroupBuilder {
    sequence: GroupSequence,
    time: Timestamp,
    last: Timestamp,
    events: u32,
    names: Vec<ActorName>,
    payload: Vec<u8>,
}

impl GroupBuilder {
    /// An empty group that will be the `sequence`-th of its stream, opened at `time`.
    pub fn new(sequence: GroupSequence, time: Timestamp) -> Self {
        Self { sequence, time, last: time, events: 0, names: Vec::new(), payload: vec![0; COUNT_BYTES] }
    }

    /// Adds one event with its image.
    ///
    /// # Panics
    /// When `at` is before the event added last, or before the group's time: the log's time never runs backwards.
    pub fn push(&mut self, event: &Event, actor: &Actor, at: Timestamp, image: &[u8]) {
        assert!(at >= self.last, "event at {} ms after one at {} ms", at.unix_ms(), self.last.unix_ms());
        self.last = at;
        self.push_actor(actor);
        push_varint(&mut self.payload, at.unix_ms() - self.time.unix_ms());
        postcard::serialize_with_flavor(event, Append(&mut self.payload)).expect("events hold nothing that postcard cannot write");
        push_varint(&mut self.payload, image.len() as u64);
        self.payload.extend_from_slice(image);
        self.events += 1;
    }

    /// The number of events so far.
    pub const fn events(&self) -> u32 {
        self.events
    }

    /// The payload's bytes so far.
    pub const fn bytes(&self) -> usize {
        self.payload.len()
    }

    /// Whether there is no event yet.
    pub const fn is_empty(&self) -> bool {
        self.events == 0
    }

    /// The group.
    pub fn finish(mut self) -> Group {
        self.payload[..COUNT_BYTES].copy_from_slice(&self.events.to_be_bytes());
        Group { sequence: self.sequence, time: self.time, events: self.events, payload: self.payload }
    }

    fn push_actor(&mut self, actor: &Actor) {
        let Actor::Key(name) = actor else { return self.payload.push(0) };
        // Callers pass clones of one name per API key, so comparing pointers finds nearly all of them.
        let known = self.names.iter().position(|known| Arc::ptr_eq(&known.0, &name.0));
        let known = known.or_else(|| self.names.iter().position(|known| known == name));
        if let Some(place) = known {
            return push_varint(&mut self.payload, place as u64 + 1);
        }
        self.names.push(name.clone());
        push_varint(&mut self.payload, self.names.len() as u64);
        push_varint(&mut self.payload, name.0.len() as u64);
        self.payload.extend_from_slice(name.0.as_bytes());
    }
}

/// Events of one stream that become durable together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its place among the groups of its stream.
    pub sequence: GroupSequence,
    /// When it was opened; none of its events is earlier.
    pub time: Timestamp,
    /// The number of its events.
    pub events: u32,
    /// Its events, as this file's format writes them.
    pub payload: Vec<u8>,
}

impl Group {
    /// Its events in order.
    pub fn entries(&self) -> Result<Entries<'_>, PayloadError> {
        decode_entries(&self.payload, self.time)
    }
}

/// One event with its actor, time and image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// When it happened.
    pub at: Timestamp,
    /// Who caused it.
    pub actor: Actor,
    /// What happened.
    pub event: Event,
    /// How it left what it is about, as whoever added it wrote it; borrowed from the payload.
    pub image: &'a [u8],
}

/// Why bytes are no payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The payload ends within its head or an entry.
    #[error("payload ends within entry {0}")]
    Short(u32),
    /// An actor's number is beyond the names so far, or its name is none.
    #[error("actor of entry {0} is unknown")]
    Actor(u32),
    /// A number does not fit.
    #[error("number in entry {0} is too large")]
    Number(u32),
    /// The bytes are no event.
    #[error("event of entry {entry} is unreadable: {what}")]
    Event {
        /// Which entry.
        entry: u32,
        /// What the reader says.
        what: String,
    },
    /// Bytes are left behind the last entry.
    #[error("{0} bytes are left behind the last entry")]
    Trailing(usize),
    /// It says what the ledger of whoever decided came to, and that of whoever reads comes to something else.
    #[error("the ledger of the node that decided came to {logged}, and what was read before comes to {own}")]
    Sum {
        /// What it says.
        logged: LedgerSum,
        /// What was made of the log.
        own: LedgerSum,
    },
}

/// The number of entries that `payload` announces.
pub fn count_entries(payload: &[u8]) -> Result<u32, PayloadError> {
    payload.first_chunk::<COUNT_BYTES>().map(|count| u32::from_be_bytes(*count)).ok_or(PayloadError::Short(0))
}

/// Reads the entries of the payload of a group whose time is `time`, in order. Nothing follows an error.
pub fn decode_entries(payload: &[u8], time: Timestamp) -> Result<Entries<'_>, PayloadError> {
    let count = count_entries(payload)?;
    Ok(Entries { rest: &payload[COUNT_BYTES..], time, count, read: 0, names: Vec::new() })
}

/// The entries of a payload. Ends after the announced number, or after the first error.
#[derive(Debug)]
pub struct Entries<'a> {
    rest: &'a [u8],
    time: Timestamp,
    count: u32,
    read: u32,
    names: Vec<ActorName>,
}

impl<'a> Entries<'a> {
    fn read(&mut self) -> Result<Entry<'a>, PayloadError> {
        let actor = self.read_actor()?;
        let delay = self.read_varint()?;
        let at = self.time.unix_ms().checked_add(delay).ok_or(PayloadError::Number(self.read))?;
        let (event, rest) = postcard::take_from_bytes(self.rest)
            .map_err(|error| PayloadError::Event { entry: self.read, what: error.to_string() })?;
        self.rest = rest;
        let image = self.read_bytes()?;
        Ok(Entry { at: Timestamp::from_unix_ms(at), actor, event, image })
    }

    fn read_actor(&mut self) -> Result<Actor, PayloadError> {
        let number = usize::try_from(self.read_varint()?).map_err(|_| PayloadError::Actor(self.read))?;
        let Some(place) = number.checked_sub(1) else { return Ok(Actor::Clock) };
        if place == self.names.len() {
            let name = self.read_name()?;
            self.names.push(name);
        }
        self.names.get(place).cloned().map(Actor::Key).ok_or(PayloadError::Actor(self.read))
    }

    fn read_name(&mut self) -> Result<ActorName, PayloadError> {
        let name = std::str::from_utf8(self.read_bytes()?).ok().and_then(|name| ActorName::new(name).ok());
        name.ok_or(PayloadError::Actor(self.read))
    }

    /// Bytes with their length in front.
    fn read_bytes(&mut self) -> Result<&'a [u8], PayloadError> {
        let length = usize::try_from(self.read_varint()?).map_err(|_| PayloadError::Number(self.read))?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(PayloadError::Short(self.read))?;
        self.rest = rest;
        Ok(bytes)
    }

    fn read_varint(&mut self) -> Result<u64, PayloadError> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(PayloadError::Short(self.read))?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(PayloadError::Number(self.read))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, PayloadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.read == self.count {
            let left = std::mem::take(&mut self.rest).len();
            return (left > 0).then_some(Err(PayloadError::Trailing(left)));
        }
        let entry = self.read();
        if entry.is_ok() {
            self.read += 1;
        } else {
            self.count = self.read;
            self.rest = &[];
        }
        Some(entry)
    }
}

fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

/// Lets postcard append to the group's own buffer.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
