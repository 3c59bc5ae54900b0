//! The stable codes and their status: the only place that knows what a rejection, a refusal or a fault is in HTTP.

use http::StatusCode;
use tidegate_engine::{Failure, Fault, Refusal};
use tidegate_stock::Rejection;

/// Something was done, or read.
pub(crate) const OK: StatusCode = StatusCode::OK;
/// Something is there that was not, now or when the call was made first.
pub(crate) const CREATED: StatusCode = StatusCode::CREATED;

/// Codes that the contract has and no call answers yet, with their status and title.
pub(crate) const RESERVED_CODES: [(&str, u16, &str); 1] = [("rate_limited", 429, "The caller asks too often")];

macro_rules! codes {
    ($($variant:ident $name:literal $status:ident $title:literal)*) => {
        /// Why a request did not get what it asked for; for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Code {
            $(#[doc = $title] $variant,)*
        }

        impl Code {
            /// Every code.
            pub(crate) const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// As it stands in a problem.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Its URI, that a problem is of this type.
            pub(crate) const fn uri(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!("urn:tidegate:problem:", $name),)*
                }
            }

            /// For people; the same for every problem with this code.
            pub(crate) const fn title(self) -> &'static str {
                match self {
                    $(Self::$variant => $title,)*
                }
            }

            /// Its HTTP status.
            pub(crate) const fn status(self) -> StatusCode {
                match self {
                    $(Self::$variant => StatusCode::$status,)*
                }
            }
        }
    };
}

codes! {
    InvalidRequest "invalid_request" BAD_REQUEST "The request is malformed"
    Unauthenticated "unauthenticated" UNAUTHORIZED "The request brings no valid API key"
    Forbidden "forbidden" FORBIDDEN "The API key may not do this"
    UnknownSku "unknown_sku" NOT_FOUND "No stock has this sku"
    UnknownReservation "unknown_reservation" NOT_FOUND "No reservation has this id"
    NotFound "not_found" NOT_FOUND "Nothing is at this path"
    MethodNotAllowed "method_not_allowed" METHOD_NOT_ALLOWED "The path does not know this method"
    SoldOut "sold_out" CONFLICT "Fewer units are available than were asked for"
    LimitReached "limit_reached" CONFLICT "The user would have more units than the stock allows"
    NotOpen "not_open" CONFLICT "The sale has not begun"
    Paused "paused" CONFLICT "The sale is paused"
    Closed "closed" CONFLICT "The sale is over"
    StockExists "stock_exists" CONFLICT "The stock exists and differs"
    StockInUse "stock_in_use" CONFLICT "The stock is not closed, or something of it is reserved"
    InsufficientStock "insufficient_stock" CONFLICT "Fewer units are available than would be taken away"
    ReservationReleased "reservation_released" CONFLICT "The reservation was released"
    ReservationExpired "reservation_expired" CONFLICT "The reservation expired"
    ReservationConfirmed "reservation_confirmed" CONFLICT "The reservation was confirmed"
    ReservationReturned "reservation_returned" CONFLICT "The reservation was returned"
    ReservationNotConfirmed "reservation_not_confirmed" CONFLICT "Nothing of the reservation is sold"
    MemberExists "member_exists" CONFLICT "Another node has this number in the cluster"
    CursorExpired "cursor_expired" GONE "What follows the cursor is no longer retained"
    PreconditionFailed "precondition_failed" PRECONDITION_FAILED "The stock has changed"
    BodyTooLarge "body_too_large" PAYLOAD_TOO_LARGE "The body is too large"
    UnsupportedMediaType "unsupported_media_type" UNSUPPORTED_MEDIA_TYPE "The body is not JSON"
    IdempotencyKeyReused "idempotency_key_reused" UNPROCESSABLE_ENTITY "The idempotency key was used for something else"
    InvalidQuantity "invalid_quantity" UNPROCESSABLE_ENTITY "The quantity is not possible"
    InvalidIdentifier "invalid_identifier" UNPROCESSABLE_ENTITY "The text is no identifier"
    OutOfRange "out_of_range" UNPROCESSABLE_ENTITY "The value is out of range"
    Internal "internal" INTERNAL_SERVER_ERROR "Something went wrong inside"
    Overloaded "overloaded" SERVICE_UNAVAILABLE "No room for the request right now"
    Timeout "timeout" SERVICE_UNAVAILABLE "The answer took too long; the request may have happened"
    OutcomeUnknown "outcome_unknown" SERVICE_UNAVAILABLE "The outcome is unknown; the request may have happened"
    Recovering "recovering" SERVICE_UNAVAILABLE "The node is not ready yet"
    NotLeader "not_leader" SERVICE_UNAVAILABLE "Another node decides for this stock"
    NoQuorum "no_quorum" SERVICE_UNAVAILABLE "Too few nodes can be reached"
    Stopping "stopping" SERVICE_UNAVAILABLE "The node is stopping"
}

impl Code {
    /// After how many seconds the same request may fare better; of codes that time alone does not mend, nothing.
    pub(crate) const fn retry_after_seconds(self) -> Option<u32> {
        match self.status() {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Some(1),
            _ => None,
        }
    }
}

impl From<Rejection> for Code {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::UnknownSku => Self::UnknownSku,
            Rejection::UnknownReservation => Self::UnknownReservation,
            Rejection::StockExists => Self::StockExists,
            Rejection::IdempotencyKeyReused => Self::IdempotencyKeyReused,
            Rejection::Closed => Self::Closed,
            Rejection::NotOpen { .. } => Self::NotOpen,
            Rejection::LimitReached { .. } => Self::LimitReached,
            Rejection::SoldOut { .. } => Self::SoldOut,
            Rejection::ReservationReleased => Self::ReservationReleased,
            Rejection::ReservationExpired => Self::ReservationExpired,
            Rejection::ReservationConfirmed => Self::ReservationConfirmed,
            Rejection::QuantityOverRemaining { .. } => Self::InvalidQuantity,
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
        }
    }
}

impl From<Refusal> for Code {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::RingFull { .. }
            | Refusal::DiskLow
            | Refusal::KeysFull { .. }
            | Refusal::MemoryFull { .. }
            | Refusal::UsersFull { .. }
            | Refusal::RecallsFull { .. }
            | Refusal::HistoryFailed => Self::Overloaded,
            Refusal::NotLeader => Self::NotLeader,
            Refusal::Stopping => Self::Stopping,
        }
    }
}

impl From<Fault> for Code {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::OutcomeUnknown => Self::OutcomeUnknown,
        }
    }
}

impl From<Failure> for Code {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Rejection(rejection) => rejection.into(),
            Failure::Refusal(refusal) => refusal.into(),
            Failure::Fault(fault) => fault.into(),
        }
    }
}
