//! Memory of open reservations: many users with one unit of the hot product each, all held at once, in a node or in the bare ledger.
//!
//! Each kind is filled in a process of its own. What counts is what the process grew by between the first grant and the last, so the
//! node's log, its cache and its threads are in it, and the program itself is not.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tidegate_engine::Sealing;
use tidegate_persistence::Durability;
use tidegate_stock::{Command, IdempotencyKey, Ledger, Recall, Request, Rules, decide};

use crate::callers::fill;
use crate::child::{self, Part};
use crate::error::{BenchError, expect_equal};
use crate::figure::{Detail, Figure, number, per_second};
use crate::machine::Resident;
use crate::node::{Node, NodeParameters};
use crate::sample::{RULES, START, create, named_reference, reserve_named, secret, sku};

/// What reservations carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Carried {
    /// A user.
    User,
    /// A user and an idempotency key.
    Key,
    /// A user and a reference.
    Reference,
}

/// What to measure.
#[derive(Debug, Clone)]
pub struct MemoryParameters {
    /// Where data directories are made.
    pub directory: Option<PathBuf>,
    /// This program, which is its own child.
    pub program: PathBuf,
    /// Open reservations.
    pub reservations: u64,
    /// The ledger alone, without engine and log.
    pub ledger_only: bool,
    /// What an answer survives.
    pub durability: Durability,
}

impl MemoryParameters {
    /// For figures: ten million, in a node whose answers survive a loss of power.
    pub fn full(program: PathBuf, directory: Option<PathBuf>) -> Self {
        Self { directory, program, reservations: 10_000_000, ledger_only: false, durability: Durability::PowerLoss }
    }

    /// For tests: 20,000.
    pub fn tiny(program: PathBuf, directory: Option<PathBuf>) -> Self {
        Self { reservations: 20_000, ..Self::full(program, directory) }
    }
}

/// What a child fills.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Filling {
    directory: Option<PathBuf>,
    reservations: u64,
    carried: Carried,
    ledger_only: bool,
    durability: String,
}

/// What it took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Filled {
    seconds: f64,
    before: Resident,
    after: Resident,
}

/// Measures. Fails unless every reservation is held in the end.
pub fn run(parameters: &MemoryParameters) -> Result<Vec<Figure>, BenchError> {
    [Carried::User, Carried::Key, Carried::Reference].into_iter().map(|carried| figure(parameters, carried)).collect()
}

fn figure(parameters: &MemoryParameters, carried: Carried) -> Result<Figure, BenchError> {
    let filling = Filling {
        directory: parameters.directory.clone(),
        reservations: parameters.reservations,
        carried,
        ledger_only: parameters.ledger_only,
        durability: parameters.durability.to_string(),
    };
    let Filled { seconds, before, after } = child::run(&parameters.program, &Part::Fill(filling))?;
    let with = match carried {
        Carried::User => "no key and no reference",
        Carried::Key => "idempotency keys",
        Carried::Reference => "references",
    };
    let (place, durability) =
        if parameters.ledger_only { ("the bare ledger", "-".to_owned()) } else { ("a node", parameters.durability.to_string()) };
    let each = |bytes: u64| number(bytes.saturating_sub(before.bytes)) / number(parameters.reservations);
    let mib = |bytes: u64| number(bytes) / 1_048_576.0;
    Ok(Figure {
        bench: "memory",
        what: format!("{} open reservations in {place}, {with}", parameters.reservations),
        durability,
        group_events: None,
        unit: "reservations/s",
        rate: per_second(parameters.reservations, Duration::from_secs_f64(seconds)),
        runs: 1,
        spread: 0.0,
        latency: None,
        against: None,
        more: vec![
            Detail { name: "bytes_per_reservation", value: each(after.bytes) },
            Detail { name: "peak_bytes_per_reservation", value: each(after.peak_bytes) },
            Detail { name: "resident_mib", value: mib(after.bytes) },
            Detail { name: "peak_mib", value: mib(after.peak_bytes) },
            Detail { name: "resident_before_mib", value: mib(before.bytes) },
        ],
    })
}

/// Fills, in this process.
pub fn measure(filling: &Filling) -> Result<Filled, BenchError> {
    if filling.ledger_only { fill_ledger(filling) } else { fill_node(filling) }
}

/// No key that a bench sends is refused for want of room.
fn rules(reservations: u64) -> Rules {
    let idempotency_keys_max = usize::try_from(reservations).unwrap_or(usize::MAX).max(RULES.idempotency_keys_max);
    Rules { idempotency_keys_max, ..RULES }
}

/// Grant number `grant` from 0 on.
fn command(carried: Carried, grant: u64) -> (Command, Option<IdempotencyKey>) {
    let mut command = reserve_named(&sku(), grant);
    match (carried, &mut command) {
        (Carried::Key, _) => {
            let key = IdempotencyKey::new(named_reference(grant).as_str()).expect("a reference is an identifier");
            (command, Some(key))
        }
        (Carried::Reference, Command::Reserve { reference, .. }) => {
            *reference = Some(named_reference(grant));
            (command, None)
        }
        _ => (command, None),
    }
}

fn fill_ledger(filling: &Filling) -> Result<Filled, BenchError> {
    let sealing = Sealing::new(&secret());
    let mut ledger = Ledger::new(rules(filling.reservations), sealing.table_seed());
    let mut grant = |(command, key): (Command, Option<IdempotencyKey>)| {
        let idempotency = key.map(|key| sealing.fingerprint(&key, &command));
        let decision = decide(&ledger, &Request { command, idempotency }, START, Recall::NotTried);
        let decision = decision.map_err(|needed| BenchError::Wrong(format!("{needed:?}")))?;
        let (Ok(_), Some(event)) = (&decision.outcome, &decision.event) else {
            return Err(BenchError::Wrong(format!("{:?} where a grant was expected", decision.outcome)));
        };
        drop(ledger.apply(event, START));
        Ok(())
    };
    grant((create(filling.reservations), None))?;
    let (before, start) = (Resident::look(), Instant::now());
    for number in 0..filling.reservations {
        grant(command(filling.carried, number))?;
    }
    let (seconds, after) = (start.elapsed().as_secs_f64(), Resident::look());
    expect_equal("open reservations", ledger.open_holds(), filling.reservations)?;
    Ok(Filled { seconds, before, after })
}

fn fill_node(filling: &Filling) -> Result<Filled, BenchError> {
    let durability = filling.durability.parse().map_err(BenchError::wrong)?;
    let rules = rules(filling.reservations);
    let (node, _folder) = Node::start(&NodeParameters { rules, ..NodeParameters::new(filling.directory.clone(), durability) })?;
    node.accept(create(filling.reservations))?;
    let (before, start) = (Resident::look(), Instant::now());
    fill(&node, (0..filling.reservations).map(|number| command(filling.carried, number)))?;
    let (seconds, after) = (start.elapsed().as_secs_f64(), Resident::look());
    expect_equal("open reservations", node.report()?.open_holds, filling.reservations)?;
    node.stop()?;
    Ok(Filled { seconds, before, after })
}
