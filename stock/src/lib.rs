//! The rules of a flash sale: who gets a unit, who keeps it, when it comes back.
//!
//! A [`Ledger`] holds the stocks and reservations of one shard. [`decide()`] is a pure function of ledger, request and time and says
//! which event follows, or why none does; [`Ledger::apply`] is the only mutator and cannot fail. This crate owns the domain and
//! nothing else: it knows no clock, no disk, no thread and no protocol, and the same inputs give the same outputs on every machine.

pub mod audit;
pub mod command;
pub mod decide;
pub mod event;
mod keys;
pub mod ledger;
pub mod limits;
pub mod rejection;
mod reservation;
mod slab;
mod table;
pub mod values;
pub mod view;
mod wheel;

pub use audit::{AuditSummary, AuditedStock, Auditor, Finding};
pub use command::{Command, Request, StockTerms, TermsError};
pub use decide::{Accepted, Decision, Subject, decide, decide_lapse};
pub use event::Event;
pub use ledger::{Inverse, Ledger, Rules};
pub use rejection::Rejection;
pub use values::{
    Allotment, Fingerprint, GrantSequence, HoldSeconds, Idempotency, IdempotencyKey, IdentifierError, OutOfBounds, Partition,
    Quantity, Reference, ReservationId, Sku, StockId, StockNumber, Timestamp, UserId,
};
pub use view::{ReservationState, ReservationView, StockState, StockView};
