//! The hot path in pieces: what every reservation, answer and read goes through, each for itself. The same seed gives the same work.

use std::fmt;
use std::hint::black_box;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tidegate_engine::{Cursor, ManualClock, Sealing, write_image};
use tidegate_persistence::record::{decode_value, encode_value};
use tidegate_persistence::{
    Actor, ChainHash, Durability, Group, GroupBuilder, GroupSequence, LogIndex, NodeId, RecordHeader, RecordKey, RecordKind,
    StreamId, Term,
};
use tidegate_stock::{Decision, Event, IdempotencyKey, Image, Ledger, Recall, Rejection, Request, decide};

use crate::door::OpenDoor;
use crate::error::BenchError;
use crate::load::RequestTemplate;
use crate::node::{Node, NodeParameters};
use crate::piece::{Again, BesideNode, Piece};
use crate::rules::{act, confirm};
use crate::sample::{RULES, SEED, START, actor, create, created, grant_id, request, reserve, reserved, secret, sku};

/// Events of the groups whose bytes are written and read: about as many as gather behind one sync at 256 callers.
const GROUP_EVENTS: u64 = 64;

/// Units of the hot product where a whole node sells them: more than any bench asks for.
const UNITS: u64 = 1_000_000_000;

/// A place in the feed of one stream, and its text.
const CURSOR: &str = "AQE5Aw";

/// One piece of the hot path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HotPath {
    /// Decide and apply: a unit is granted. From an empty stock on, so the tables grow meanwhile.
    ReserveGranted,
    /// Decide: nothing is left.
    ReserveSoldOut,
    /// Decide: a key is found, and what it was used for.
    ReserveRepeated,
    /// Decide and apply: a held unit is sold.
    Confirm,
    /// The fingerprints of a key and of its command.
    Fingerprint,
    /// The text of a reservation's id.
    IdSeal,
    /// The reservation of a text.
    IdUnseal,
    /// A group of [`GROUP_EVENTS`] grants with their images, as the shard's thread builds it.
    GroupEncode,
    /// The events of such a group, as a replay reads them.
    GroupDecode,
    /// The record of such a group with chain and checksum, as the log's thread makes it.
    RecordEncode,
    /// The same, read and checked.
    RecordDecode,
    /// A stock's committed view.
    StockRead,
    /// The text of a place in the feed.
    CursorWrite,
    /// The place of a text.
    CursorRead,
    /// A stock over HTTP, from the request's first byte to the answer's last.
    HttpStockRead,
    /// A unit is granted over HTTP: likewise.
    HttpReserveGranted,
    /// Nothing is left, over HTTP: likewise.
    HttpReserveSoldOut,
}

impl HotPath {
    /// All of them.
    pub const ALL: [Self; 17] = [
        Self::ReserveGranted,
        Self::ReserveSoldOut,
        Self::ReserveRepeated,
        Self::Confirm,
        Self::Fingerprint,
        Self::IdSeal,
        Self::IdUnseal,
        Self::GroupEncode,
        Self::GroupDecode,
        Self::RecordEncode,
        Self::RecordDecode,
        Self::StockRead,
        Self::CursorWrite,
        Self::CursorRead,
        Self::HttpStockRead,
        Self::HttpReserveGranted,
        Self::HttpReserveSoldOut,
    ];

    /// What it goes by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ReserveGranted => "reserve_granted",
            Self::ReserveSoldOut => "reserve_sold_out",
            Self::ReserveRepeated => "reserve_repeated",
            Self::Confirm => "confirm",
            Self::Fingerprint => "fingerprint",
            Self::IdSeal => "id_seal",
            Self::IdUnseal => "id_unseal",
            Self::GroupEncode => "group_encode",
            Self::GroupDecode => "group_decode",
            Self::RecordEncode => "record_encode",
            Self::RecordDecode => "record_decode",
            Self::StockRead => "stock_read",
            Self::CursorWrite => "cursor_write",
            Self::CursorRead => "cursor_read",
            Self::HttpStockRead => "http_stock_read",
            Self::HttpReserveGranted => "http_reserve_granted",
            Self::HttpReserveSoldOut => "http_reserve_sold_out",
        }
    }

    /// Whether the work is done on the door's thread, and not on the one that has it done.
    pub const fn is_at_door(self) -> bool {
        matches!(self, Self::HttpStockRead | Self::HttpReserveGranted | Self::HttpReserveSoldOut)
    }

    /// How many operations are done in a row. Where state grows with them, an operation is the mean over so many.
    pub const fn at_once(self) -> u64 {
        match self {
            Self::GroupEncode | Self::GroupDecode | Self::RecordEncode | Self::RecordDecode => 256,
            Self::HttpStockRead | Self::HttpReserveGranted | Self::HttpReserveSoldOut => 512,
            _ => 4_096,
        }
    }

    /// The work.
    pub fn piece(self) -> Result<Box<dyn Piece>, BenchError> {
        Ok(match self {
            Self::ReserveGranted => Box::new(Deciding::new(Told::Granted)),
            Self::ReserveSoldOut => Box::new(Deciding::new(Told::SoldOut)),
            Self::ReserveRepeated => Box::new(Deciding::new(Told::Repeated)),
            Self::Confirm => Box::new(Deciding::new(Told::Confirmed)),
            Self::Fingerprint => {
                let (sealing, key, command) = (Sealing::new(&secret()), key(4_711), reserve(&sku(), 4_711));
                let first = sealing.fingerprint(&key, &command);
                Box::new(Again::new(move || Ok(sealing.fingerprint(black_box(&key), black_box(&command)) == first)))
            }
            Self::IdSeal => {
                let (sealing, id) = (Sealing::new(&secret()), grant_id(4_711));
                let first = sealing.seal(id);
                Box::new(Again::new(move || Ok(sealing.seal(black_box(id)) == first)))
            }
            Self::IdUnseal => {
                let (sealing, id) = (Sealing::new(&secret()), grant_id(4_711));
                let text = sealing.seal(id);
                Box::new(Again::new(move || Ok(sealing.unseal(black_box(&text)) == Some(id))))
            }
            Self::GroupEncode => group_encode(GROUP_EVENTS)?,
            Self::GroupDecode => group_decode(GROUP_EVENTS)?,
            Self::RecordEncode => {
                let (key, header, group) = (record_key(), record_header(), group_with_images(GROUP_EVENTS)?);
                let mut value = Vec::new();
                Box::new(Again::new(move || {
                    let chain = black_box(&header).chain(&group.payload);
                    encode_value(key, &header, true, black_box(&group.payload), &mut value);
                    Ok(chain != ChainHash::GENESIS && value.len() > group.payload.len())
                }))
            }
            Self::RecordDecode => {
                let (key, header, group) = (record_key(), record_header(), group_with_images(GROUP_EVENTS)?);
                let (chain, mut value) = (header.chain(&group.payload), Vec::new());
                encode_value(key, &header, true, &group.payload, &mut value);
                Box::new(Again::new(move || {
                    let (found, is_last, payload) = decode_value(black_box(key), &value).map_err(BenchError::wrong)?;
                    Ok(is_last && found.chain(payload) == chain)
                }))
            }
            Self::StockRead => {
                let (node, folder) = node()?;
                let (engine, sku) = (node.engine.clone(), sku());
                let piece =
                    Again::new(move || Ok(engine.stock(black_box(&sku)).is_some_and(|stock| stock.view.available == UNITS)));
                Box::new(BesideNode { piece, node, folder })
            }
            Self::CursorWrite => {
                let cursor: Cursor = CURSOR.parse().map_err(BenchError::wrong)?;
                Box::new(Again::new(move || Ok(black_box(&cursor).to_string() == CURSOR)))
            }
            Self::CursorRead => {
                let cursor: Cursor = CURSOR.parse().map_err(BenchError::wrong)?;
                Box::new(Again::new(move || Ok(black_box(CURSOR).parse().as_ref() == Ok(&cursor))))
            }
            Self::HttpStockRead => Box::new(Asking::new(Asked::Stock)?),
            Self::HttpReserveGranted => Box::new(Asking::new(Asked::Unit)?),
            Self::HttpReserveSoldOut => Box::new(Asking::new(Asked::UnitOfNone)?),
        })
    }
}

impl fmt::Display for HotPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for HotPath {
    type Err = BenchError;

    fn from_str(name: &str) -> Result<Self, BenchError> {
        let found = Self::ALL.into_iter().find(|piece| piece.name() == name);
        found.ok_or_else(|| BenchError::Wrong(format!("{name} is no piece of the hot path")))
    }
}

/// A node that sells the hot product, whose clock stands still and whose log waits for no disk.
pub(crate) fn node_with(units: u64) -> Result<(Node, TempDir), BenchError> {
    let parameters = NodeParameters {
        has_history: false,
        clock: Arc::new(ManualClock::new(START)),
        ..NodeParameters::new(None, Durability::None)
    };
    let (node, folder) = Node::start(&parameters)?;
    node.accept(create(units))?;
    Ok((node, folder))
}

fn node() -> Result<(Node, TempDir), BenchError> {
    node_with(UNITS)
}

fn key(number: u64) -> IdempotencyKey {
    IdempotencyKey::new(&format!("order-{number:010}")).expect("letters, digits and hyphens are an identifier")
}

fn record_key() -> RecordKey {
    RecordKey { stream: StreamId::log(0), index: LogIndex(1), part: 0 }
}

const fn record_header() -> RecordHeader {
    RecordHeader {
        kind: RecordKind::Group,
        term: Term(0),
        leader: NodeId(1),
        sequence: GroupSequence(1),
        predecessor: ChainHash::GENESIS,
        time: START,
    }
}

/// Grants of the hot product with what they left, as the shard hands them to a group.
fn grants(events: u64) -> Vec<(Event, Image)> {
    let mut ledger = Ledger::new(RULES, SEED);
    drop(ledger.apply(&created(events), START));
    let grant = |grant| {
        let event = reserved(grant);
        drop(ledger.apply(&event, START));
        let image = ledger.image(&event);
        (event, image)
    };
    (1..=events).map(grant).collect()
}

fn encode(grants: &[(Event, Image)], actor: &Actor, bytes: &mut Vec<u8>) -> Group {
    let mut builder = GroupBuilder::new(GroupSequence(2), START);
    for (event, image) in grants {
        write_image(bytes, image);
        builder.push(event, actor, START, bytes);
    }
    builder.finish()
}

/// A group of `events` grants with their images.
pub(crate) fn group_with_images(events: u64) -> Result<Group, BenchError> {
    let group = encode(&grants(events), &Actor::Key(actor()), &mut Vec::new());
    if u64::from(group.events) == events { Ok(group) } else { Err(BenchError::wrong("the group is not whole")) }
}

/// Building a group of `events` grants.
pub(crate) fn group_encode(events: u64) -> Result<Box<dyn Piece>, BenchError> {
    let (grants, actor, whole) = (grants(events), Actor::Key(actor()), group_with_images(events)?.payload.len());
    let mut bytes = Vec::new();
    Ok(Box::new(Again::new(move || Ok(encode(black_box(&grants), &actor, &mut bytes).payload.len() == whole))))
}

/// Reading a group of `events` grants.
pub(crate) fn group_decode(events: u64) -> Result<Box<dyn Piece>, BenchError> {
    let group = group_with_images(events)?;
    Ok(Box::new(Again::new(move || {
        let mut found = 0;
        for entry in black_box(&group).entries().map_err(BenchError::wrong)? {
            let entry = entry.map_err(BenchError::wrong)?;
            found += u64::from(matches!(entry.event, Event::Reserved { .. }) && !entry.image.is_empty());
        }
        Ok(found == events)
    })))
}

/// What a decided command is told.
#[derive(Debug, Clone, Copy)]
enum Told {
    Granted,
    SoldOut,
    Repeated,
    Confirmed,
}

/// The rules alone, on a new ledger each time.
struct Deciding {
    told: Told,
    ledger: Ledger,
    requests: Vec<Request>,
}

impl Deciding {
    fn new(told: Told) -> Self {
        Self { told, ledger: Ledger::new(RULES, SEED), requests: Vec::new() }
    }

    /// Whether the decision is the one that was to be made; applies it.
    fn carry_out(&mut self, decision: &Decision) -> bool {
        match (self.told, &decision.outcome, &decision.event) {
            (Told::Granted | Told::Confirmed, Ok(accepted), Some(event)) => {
                drop(self.ledger.apply(event, START));
                !accepted.replayed
            }
            (Told::SoldOut, Err(Rejection::SoldOut { .. }), None) => true,
            (Told::Repeated, Ok(accepted), None) => accepted.replayed,
            _ => false,
        }
    }
}

impl Piece for Deciding {
    fn ready(&mut self, operations: u64) -> Result<(), BenchError> {
        let (sku, sealing) = (sku(), Sealing::new(&secret()));
        let buyers = || (1..=operations).map(|number| request(reserve(&sku, number)));
        self.ledger = Ledger::new(RULES, SEED);
        let units = if matches!(self.told, Told::SoldOut) { 1 } else { operations };
        act(&mut self.ledger, &request(create(units)))?;
        self.requests = buyers().collect();
        match self.told {
            Told::Granted => {}
            Told::SoldOut => act(&mut self.ledger, &request(reserve(&sku, 0)))?,
            Told::Repeated => {
                for (number, request) in (1..).zip(&mut self.requests) {
                    request.idempotency = Some(sealing.fingerprint(&key(number), &request.command));
                    act(&mut self.ledger, request)?;
                }
            }
            Told::Confirmed => {
                self.requests.iter().try_for_each(|request| act(&mut self.ledger, request))?;
                self.requests = (1..=operations).map(|grant| request(confirm(grant))).collect();
            }
        }
        Ok(())
    }

    fn run(&mut self) -> Result<u64, BenchError> {
        let (requests, mut right) = (std::mem::take(&mut self.requests), 0);
        for request in &requests {
            let decision = decide(&self.ledger, black_box(request), START, Recall::NotTried);
            let decision = decision.map_err(|needed| BenchError::Wrong(format!("{needed:?}")))?;
            right += u64::from(self.carry_out(&decision));
        }
        Ok(right)
    }

    fn stop(self: Box<Self>) -> Result<(), BenchError> {
        Ok(())
    }
}

/// What is asked for over HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Stock,
    Unit,
    UnitOfNone,
}

/// One caller at the door.
struct Asking {
    asked: Asked,
    door: OpenDoor,
    requests: Vec<Vec<u8>>,
    users: u64,
}

impl Asking {
    fn new(asked: Asked) -> Result<Self, BenchError> {
        let (node, folder) = node_with(if asked == Asked::UnitOfNone { 1 } else { UNITS })?;
        if asked == Asked::UnitOfNone {
            node.accept(reserve(&sku(), 0))?;
        }
        Ok(Self { asked, door: OpenDoor::open((node, folder))?, requests: Vec::new(), users: 0 })
    }
}

impl Piece for Asking {
    fn ready(&mut self, operations: u64) -> Result<(), BenchError> {
        self.requests.clear();
        let sku = sku();
        let read = format!("GET /v1/stocks/{sku} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").into_bytes();
        let mut template = RequestTemplate::reserve(sku.as_str());
        for _ in 0..operations {
            self.users += 1;
            template.set_user(self.users);
            self.requests.push(if self.asked == Asked::Stock { read.clone() } else { template.bytes().to_vec() });
        }
        Ok(())
    }

    fn run(&mut self) -> Result<u64, BenchError> {
        let expected = match self.asked {
            Asked::Stock => 200,
            Asked::Unit => 201,
            Asked::UnitOfNone => 409,
        };
        let mut right = 0;
        for request in &self.requests {
            right += u64::from(self.door.exchange(request)? == expected);
        }
        Ok(right)
    }

    fn stop(self: Box<Self>) -> Result<(), BenchError> {
        self.door.stop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::piece::timed;

    #[test]
    fn every_piece_does_what_it_should() {
        for path in HotPath::ALL {
            let mut piece = path.piece().unwrap();
            // Twice: what one round leaves behind must not be in the next one's way.
            timed(&mut *piece, 24, 16).unwrap_or_else(|error| panic!("{path}: {error}"));
            piece.stop().unwrap();
        }
    }

    #[test]
    fn every_piece_is_known_by_its_name() {
        for path in HotPath::ALL {
            assert_eq!(path.name().parse::<HotPath>().unwrap(), path);
            assert_eq!(serde_json::to_string(&path).unwrap(), format!("\"{path}\""));
        }
        assert!("nothing".parse::<HotPath>().is_err());
    }
}
