//! What the contract's values look like in a JSON schema, with the bounds that the rules themselves have.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use tidegate_stock::limits::{
    ALLOTTED_MAX, HOLD_SECONDS_DEFAULT, HOLD_SECONDS_MAX, IDENTIFIER_CHARACTERS_MAX, QUANTITY_MAX, REASON_BYTES_MAX,
};

use crate::bounds::NODE_MAX;
use crate::documents::{RESERVATION_STATES, STOCK_STATES, state_name, stock_state_name};
use crate::events::{CHANGE_KINDS, kind_name};
use crate::query::{PAGE_DEFAULT, PAGE_MAX};
use crate::status::{Code, RESERVED_CODES};

/// Every code that there is or will be.
fn code_names() -> Vec<&'static str> {
    Code::ALL.iter().map(|code| code.name()).chain(RESERVED_CODES.iter().map(|(name, ..)| *name)).collect()
}

macro_rules! shapes {
    ($($(#[$doc:meta])* $name:ident $schema:tt)*) => {
        $(
            $(#[$doc])*
            pub(crate) struct $name;

            impl JsonSchema for $name {
                fn inline_schema() -> bool {
                    true
                }

                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($schema)
                }
            }
        )*
    };
}

shapes! {
    /// A sku, a user, a reference, an idempotency key.
    Identifier { "type": "string", "minLength": 1, "maxLength": IDENTIFIER_CHARACTERS_MAX, "pattern": "^[A-Za-z0-9._:~-]+$" }
    /// A reservation's id.
    ReservationIdText { "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._:~-]+$" }
    /// A moment.
    Moment { "type": "string", "format": "date-time" }
    /// How many units one command is about.
    Units { "type": "integer", "minimum": 1, "maximum": QUANTITY_MAX }
    /// How many units, where one is usual.
    UnitsOrOne { "type": "integer", "minimum": 1, "maximum": QUANTITY_MAX, "default": 1 }
    /// How many units a stock begins with.
    FirstUnits { "type": "integer", "minimum": 0, "maximum": QUANTITY_MAX }
    /// How many units there are of a stock.
    StockUnits { "type": "integer", "minimum": 0, "maximum": ALLOTTED_MAX }
    /// How many units there are of a reservation.
    PartUnits { "type": "integer", "minimum": 0, "maximum": QUANTITY_MAX }
    /// By how many units a stock is adjusted.
    DeltaUnits { "type": "integer", "minimum": -i64::from(QUANTITY_MAX), "maximum": QUANTITY_MAX, "not": { "const": 0 } }
    /// Why a stock is adjusted.
    ReasonText { "type": "string", "minLength": 1, "maxLength": REASON_BYTES_MAX, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]+$" }
    /// How long a hold lasts.
    Hold { "type": "integer", "minimum": 1, "maximum": HOLD_SECONDS_MAX }
    /// How long a hold of a new stock lasts.
    HoldOfStock { "type": "integer", "minimum": 1, "maximum": HOLD_SECONDS_MAX, "default": HOLD_SECONDS_DEFAULT }
    /// How long a hold of a new stock may last.
    HoldMaxOfStock { "type": "integer", "minimum": 1, "maximum": HOLD_SECONDS_MAX }
    /// The place of something in an order.
    Count { "type": "integer", "minimum": 0 }
    /// A node's number.
    NodeNumber { "type": "integer", "minimum": 1, "maximum": NODE_MAX }
    /// A stock's state.
    StockStateName { "type": "string", "enum": STOCK_STATES.map(stock_state_name) }
    /// A reservation's state.
    ReservationStateName { "type": "string", "enum": RESERVATION_STATES.map(state_name) }
    /// How new what is read must be.
    ConsistencyName { "type": "string", "enum": ["linearizable", "stale"], "default": "linearizable" }
    /// A kind of change.
    ChangeKindName { "type": "string", "enum": CHANGE_KINDS.map(kind_name) }
    /// A page's length.
    PageLimit { "type": "integer", "minimum": 1, "maximum": PAGE_MAX, "default": PAGE_DEFAULT }
    /// A document that describes itself.
    AnyDocument { "type": "object" }
    /// Something opaque.
    Opaque { "type": "string" }
    /// A cursor to go on from.
    CursorText { "type": "string", "pattern": "^[A-Za-z0-9._-]+$" }
    /// The status of an answer.
    StatusNumber { "type": "integer", "minimum": 200, "maximum": 599 }
    /// A problem's code.
    CodeName { "type": "string", "enum": code_names() }
    /// Something that is always so.
    Always { "type": "boolean", "const": true }
}
