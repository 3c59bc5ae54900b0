//! Writes the seeds that are made of real bytes, `cargo run -p tidegate-fuzz --example make_seeds`: a small sale is decided by the rules, and
//! its events, images, records, items, ids and cursors are written as a node writes them; bodies are the examples of the contract, and
//! invoices the first lines of a real shop's. What fuzzing found has names of its own, which this leaves alone.

use std::fs;
use std::path::{Path, PathBuf};

use tidegate_api::fuzzing;
use tidegate_engine::{Sealing, partition_of, write_image};
use tidegate_fuzz::SECRET;
use tidegate_persistence::record::encode_value;
use tidegate_persistence::{
    Actor, ActorName, ChainHash, GroupBuilder, GroupSequence, LogIndex, NodeId, RecordHeader, RecordKey, RecordKind, StreamId, Term,
};
use tidegate_stock::{
    Allotment, Command, CopyProgress, Delta, Event, GrantSequence, HoldSeconds, IdempotencyKey, Ledger, LifeStep, Quantity, Reason,
    Recall, Reference, Request, ReservationId, ReservationState, Rules, Sku, SnapshotItem, StockTerms, TermsPatch, Timestamp,
    UserId, decide, decide_lapse,
};

const BEGIN_MS: u64 = 1_800_000_000_000;
/// Lines of the invoices, the header included.
const INVOICE_LINES: usize = 25;

fn seed(target: &str, name: &str, bytes: &[u8]) {
    let folder = root().join("seeds").join(target);
    fs::create_dir_all(&folder).expect("the folder can be made");
    fs::write(folder.join(name), bytes).expect("the seed can be written");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn identifier<T, E: std::fmt::Debug>(text: &str, new: impl Fn(&str) -> Result<T, E>) -> T {
    new(text).expect("the text is an identifier")
}

/// The commands of a small sale, each with the second in which it comes.
fn commands() -> Vec<(u64, Command)> {
    let sku = identifier("sneaker-42", Sku::new);
    let units = |units| Quantity::new(units).expect("a quantity");
    let hold = |seconds| HoldSeconds::new(seconds).expect("a hold");
    let terms = StockTerms {
        per_user_limit: Some(units(5)),
        hold_seconds: hold(600),
        hold_seconds_max: hold(3_600),
        opens_at: None,
        closes_at: Some(Timestamp::from_unix_ms(BEGIN_MS + 1_000_000_000)),
    };
    let stock = |partition| tidegate_stock::StockId { partition, number: tidegate_stock::StockNumber(1) };
    let grant = |sequence| ReservationId { stock: stock(partition_of(&sku)), sequence: GrantSequence(sequence) };
    let reserve = |user: &str, quantity, reference: Option<&str>| Command::Reserve {
        sku: sku.clone(),
        user: identifier(user, UserId::new),
        quantity: units(quantity),
        hold_seconds: None,
        reference: reference.map(|reference| identifier(reference, Reference::new)),
    };
    let step = |step| Command::StepStock { sku: sku.clone(), step };
    vec![
        (
            0,
            Command::CreateStock {
                partition: partition_of(&sku),
                sku: sku.clone(),
                quantity: Allotment::new(10).expect("an allotment"),
                terms,
            },
        ),
        (1, reserve("u1", 2, Some("order-7"))),
        (1, reserve("u2", 3, None)),
        (2, reserve("u3", 1, None)),
        (3, Command::Confirm { reservation: grant(1), quantity: None }),
        (4, Command::Release { reservation: grant(2), quantity: Some(units(1)) }),
        (5, Command::Return { reservation: grant(1), quantity: Some(units(1)) }),
        (6, Command::Extend { reservation: grant(2), hold_seconds: hold(900) }),
        (
            7,
            Command::ChangeStock {
                sku: sku.clone(),
                patch: TermsPatch { per_user_limit: Some(None), ..TermsPatch::default() },
                if_revision: None,
            },
        ),
        (
            8,
            Command::AdjustStock {
                sku: sku.clone(),
                delta: Delta::new(-2).expect("a delta"),
                reason: Reason::new("damaged").expect("a reason"),
            },
        ),
        (9, step(LifeStep::Pause)),
        (10, step(LifeStep::Reopen)),
        // The holds that nobody paid for lapse.
        (2_000, step(LifeStep::Close)),
        (2_001, step(LifeStep::Archive)),
    ]
}

fn main() {
    let sealing = Sealing::new(&SECRET);
    let actor = Actor::Key(ActorName::new("shop").expect("a name"));
    let rules = Rules {
        idempotency_seconds: 86_400,
        idempotency_keys_max: 1_000,
        retention_seconds: 604_800,
        reservations_in_memory_max: 1_000,
        users_in_memory_max: 1_000,
    };
    let mut ledger = Ledger::new(rules, sealing.table_seed());
    let mut chain = ChainHash::GENESIS;
    for (number, (second, command)) in (1..).zip(commands()) {
        let now = Timestamp::from_unix_ms(BEGIN_MS + second * 1_000);
        let mut group = GroupBuilder::new(GroupSequence(number), now);
        let mut push = |ledger: &mut Ledger, event: Event, actor: &Actor| {
            drop(ledger.apply(&event, now));
            let mut image = Vec::new();
            write_image(&mut image, &ledger.image(&event));
            group.push(&event, actor, now, &image);
        };
        while let Some(event) = decide_lapse(&ledger, now) {
            push(&mut ledger, event, &Actor::Clock);
        }
        let key = identifier(&format!("k{number}"), IdempotencyKey::new);
        let takes_key = !matches!(command, Command::CreateStock { .. } | Command::ChangeStock { .. } | Command::StepStock { .. });
        let idempotency = takes_key.then(|| sealing.fingerprint(&key, &command));
        let decision = decide(&ledger, &Request { command, idempotency }, now, Recall::NotTried).expect("everything is in memory");
        if let Some(event) = decision.event {
            push(&mut ledger, event, &actor);
        }
        let group = group.finish();
        seed("group", &format!("group-{number:02}"), &group.payload);

        let header = RecordHeader {
            kind: RecordKind::Group,
            term: Term(1),
            leader: NodeId(1),
            sequence: group.sequence,
            predecessor: chain,
            time: group.time,
        };
        chain = header.chain(&group.payload);
        let record_key = RecordKey { stream: StreamId::log(0), index: LogIndex(number + 1), part: 0 };
        let mut value = Vec::new();
        encode_value(record_key, &header, true, &group.payload, &mut value);
        if number % 3 == 1 {
            seed("record", &format!("group-{number:02}"), &[&record_key.encode()[..], &value].concat());
        }
        if number % 4 == 0 {
            let mut items: Vec<SnapshotItem> = Vec::new();
            ledger.begin_copy();
            while ledger.copy_slice(100, |item| items.push(item)) == CopyProgress::More {}
            let block: Vec<u8> = items.iter().flat_map(|item| postcard::to_allocvec(item).expect("plain data")).collect();
            seed("snapshot", &format!("block-{number:02}"), &block);
        }
    }
    texts(&sealing, &ledger);
    bodies();
    invoices();
}

fn texts(sealing: &Sealing, ledger: &Ledger) {
    for (number, reservation) in ledger.reservations().enumerate() {
        seed("reservation_id", &format!("id-{number}"), sealing.seal(reservation.id).as_bytes());
    }
    let (sku, user) = (identifier("sneaker-42", Sku::new), identifier("u1", UserId::new));
    let list = (&sku, Some(&user), Some(ReservationState::Reserved));
    for (name, text) in [
        ("feed", "AQIBAKwC6Ac".to_owned()),
        ("change", "3.57.12".to_owned()),
        ("as-of", "0.8".to_owned()),
        ("stocks", fuzzing::stock_cursor(&sku)),
        ("reservations", fuzzing::reservation_cursor(list, GrantSequence(7))),
    ] {
        seed("cursor", name, text.as_bytes());
    }
}

fn bodies() {
    let contract = fs::read(root().join("../../api/openapi.json")).expect("the contract is there");
    let contract: serde_json::Value = serde_json::from_slice(&contract).expect("the contract is JSON");
    for call in contract["paths"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, calls)| calls.as_object())
        .flatten()
        .map(|(_, call)| call)
    {
        for (media_type, form) in call["requestBody"]["content"].as_object().into_iter().flatten() {
            let name = call["operationId"].as_str().expect("every call has a name");
            let example = form["example"].to_string();
            match (name, media_type.as_str()) {
                ("batch", "application/json") => seed("batch", "document", example.as_bytes()),
                ("batch", _) => {
                    let others =
                        ["{\"op\":\"extend\",\"id\":\"x\",\"hold_seconds\":300}", "{\"op\":\"release\",\"id\":\"y\"}", "[1]"];
                    seed("batch", "lines", [&[example.as_str()][..], &others[..]].concat().join("\n").as_bytes());
                    seed("batch", "one", example.as_bytes());
                }
                _ => seed("bodies", name, example.as_bytes()),
            }
        }
    }
}

fn invoices() {
    let path = root().join("../data/online-retail-10k.csv");
    let text = fs::read_to_string(path).expect("the invoices are there");
    let lines: Vec<&str> = text.lines().take(INVOICE_LINES).collect();
    seed("invoices", "shop", (lines.join("\n") + "\n").as_bytes());
    seed("invoices", "semicolons", (lines[..5].join("\r\n").replace(',', ";") + "\r\n").as_bytes());
    seed("invoices", "one-line", [lines[0], lines[1]].join("\n").as_bytes());
}
