//! How many commands of each kind ended in which way. Every command is counted, on the shard's thread or at the door, so a counter that was
//! used once is found again by its place and not by its name, which would take a lock.

use std::sync::OnceLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tidegate_stock::{Command, LifeStep, Rejection};

use crate::answer::Answer;

/// Variants with the names that metrics have for them.
macro_rules! named {
    ($(#[$doc:meta])* $kind:ident { $($variant:ident = $name:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $kind {
            $($variant,)*
        }

        impl $kind {
            const NAMES: &'static [&'static str] = &[$($name,)*];

            const fn name(self) -> &'static str {
                Self::NAMES[self as usize]
            }
        }
    };
}

named! {
    /// What was asked for.
    Asked {
        CreateStock = "create_stock",
        Reserve = "reserve",
        Confirm = "confirm",
        Release = "release",
        Read = "read",
        Return = "return",
        Extend = "extend",
        ChangeStock = "change_stock",
        AdjustStock = "adjust_stock",
        PauseStock = "pause_stock",
        ReopenStock = "reopen_stock",
        CloseStock = "close_stock",
        ArchiveStock = "archive_stock",
    }
}

named! {
    /// What came of it.
    Came {
        Replayed = "replayed",
        Created = "created",
        Ok = "ok",
        UnknownSku = "unknown_sku",
        UnknownReservation = "unknown_reservation",
        StockExists = "stock_exists",
        IdempotencyKeyReused = "idempotency_key_reused",
        OutOfRange = "out_of_range",
        Paused = "paused",
        ReservationReturned = "reservation_returned",
        ReservationNotConfirmed = "reservation_not_confirmed",
        StockInUse = "stock_in_use",
        InsufficientStock = "insufficient_stock",
        PreconditionFailed = "precondition_failed",
        Closed = "closed",
        NotOpen = "not_open",
        LimitReached = "limit_reached",
        SoldOut = "sold_out",
        ReservationReleased = "reservation_released",
        ReservationExpired = "reservation_expired",
        ReservationConfirmed = "reservation_confirmed",
        InvalidQuantity = "invalid_quantity",
    }
}

impl Asked {
    pub(crate) const fn by(command: &Command) -> Self {
        match command {
            Command::CreateStock { .. } => Self::CreateStock,
            Command::Reserve { .. } => Self::Reserve,
            Command::Confirm { .. } => Self::Confirm,
            Command::Release { .. } => Self::Release,
            Command::ReadReservation { .. } => Self::Read,
            Command::Return { .. } => Self::Return,
            Command::Extend { .. } => Self::Extend,
            Command::ChangeStock { .. } => Self::ChangeStock,
            Command::AdjustStock { .. } => Self::AdjustStock,
            Command::StepStock { step, .. } => match step {
                LifeStep::Pause => Self::PauseStock,
                LifeStep::Reopen => Self::ReopenStock,
                LifeStep::Close => Self::CloseStock,
                LifeStep::Archive => Self::ArchiveStock,
            },
        }
    }
}

impl Came {
    pub(crate) const fn answered(answer: &Answer) -> Self {
        match (answer.replayed, answer.created) {
            (true, _) => Self::Replayed,
            (false, true) => Self::Created,
            (false, false) => Self::Ok,
        }
    }

    pub(crate) const fn rejected(rejection: Rejection) -> Self {
        match rejection {
            Rejection::UnknownSku => Self::UnknownSku,
            Rejection::UnknownReservation => Self::UnknownReservation,
            Rejection::StockExists => Self::StockExists,
            Rejection::IdempotencyKeyReused => Self::IdempotencyKeyReused,
            Rejection::HoldOverMax { .. }
            | Rejection::ExtendOverMax { .. }
            | Rejection::AllottedOverMax { .. }
            | Rejection::TermsContradict(_) => Self::OutOfRange,
            Rejection::Paused => Self::Paused,
            Rejection::ReservationReturned => Self::ReservationReturned,
            Rejection::ReservationNotConfirmed => Self::ReservationNotConfirmed,
            Rejection::StockInUse { .. } => Self::StockInUse,
            Rejection::InsufficientStock { .. } => Self::InsufficientStock,
            Rejection::PreconditionFailed => Self::PreconditionFailed,
            Rejection::Closed => Self::Closed,
            Rejection::NotOpen { .. } => Self::NotOpen,
            Rejection::LimitReached { .. } => Self::LimitReached,
            Rejection::SoldOut { .. } => Self::SoldOut,
            Rejection::ReservationReleased => Self::ReservationReleased,
            Rejection::ReservationExpired => Self::ReservationExpired,
            Rejection::ReservationConfirmed => Self::ReservationConfirmed,
            Rejection::QuantityOverRemaining { .. } => Self::InvalidQuantity,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CommandLabels {
    command: &'static str,
    outcome: &'static str,
}

/// The counters. What never happened is not shown.
#[derive(Debug)]
pub(crate) struct CommandCounts {
    shown: Family<CommandLabels, Counter>,
    /// Those that were used: a row of what came of it for each that was asked.
    used: Box<[OnceLock<Counter>]>,
}

impl Default for CommandCounts {
    fn default() -> Self {
        let places = Asked::NAMES.len() * Came::NAMES.len();
        Self { shown: Family::default(), used: (0..places).map(|_| OnceLock::new()).collect() }
    }
}

impl CommandCounts {
    /// What is to be registered.
    pub(crate) fn shown(&self) -> Family<CommandLabels, Counter> {
        self.shown.clone()
    }

    pub(crate) fn count(&self, asked: Asked, came: Came) {
        let labels = CommandLabels { command: asked.name(), outcome: came.name() };
        let place = asked as usize * Came::NAMES.len() + came as usize;
        self.used[place].get_or_init(|| self.shown.get_or_create(&labels).clone()).inc();
    }
}
