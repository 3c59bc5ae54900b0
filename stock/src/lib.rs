//! The rules of a flash sale: who gets a unit, who keeps it, when it comes back.
//!
//! A [`Ledger`] holds the stocks and reservations of one shard. [`decide()`] is a pure function of ledger, request and time and says
//! which event follows, or why none does; [`Ledger::apply`] is the only mutator and cannot fail. This crate owns the domain and
//! nothing else: it knows no clock, no disk, no thread and no protocol, and the same inputs give the same outputs on every machine.

#[macro_use]
mod mutant;

pub mod ahead;
mod apply;
pub mod audit;
pub mod command;
pub mod decide;
pub mod event;
mod eviction;
mod grants;
pub mod image;
mod keys;
pub mod known;
pub mod ledger;
pub mod limits;
pub mod listing;
mod names;
pub mod record;
pub mod rejection;
mod reservation;
mod slab;
pub mod snapshot;
pub mod sum;
mod table;
pub mod values;
pub mod view;
mod wheel;

pub use audit::{AuditSummary, AuditedStock, Auditor, Finding};
pub use command::{Command, LifeStep, Request, StockTerms, TermsError, TermsPatch};
pub use decide::{Accepted, Decision, NeedsRecord, Recall, Subject, decide, decide_lapse, sold_out_to_a_stranger};
pub use event::Event;
pub use image::Image;
pub use known::{Known, KnownWalk};
pub use ledger::{Inverse, Ledger, NoRoom, Rules};
pub use listing::Listed;
pub use record::{KeyRecord, LastExit, ReservationRecord, StockRecord, UserRecord};
pub use rejection::Rejection;
pub use snapshot::{CopyProgress, LoadError, Loader, SnapshotItem};
pub use sum::LedgerSum;
pub use values::{
    Allotment, ChangeSequence, Delta, DeltaError, Fingerprint, GrantSequence, HoldSeconds, Idempotency, IdempotencyKey,
    IdentifierError, OutOfBounds, Partition, Quantity, Reason, ReasonError, Reference, ReservationId, Revision, Sku, StockId,
    StockNumber, Timestamp, UserId,
};
pub use view::{Life, ReservationState, ReservationView, StockState, StockView};
