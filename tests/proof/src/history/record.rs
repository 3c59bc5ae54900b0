//! What was asked, what was answered and what changed, as plain values. Knows neither where they come from nor what is right.

use serde::Deserialize;

pub(crate) use crate::site::Moment;

/// What a call asks for. All of one history are about the same stock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    /// `reference` is the caller's own name for what it wants; no two wants share one.
    Reserve {
        user: String,
        quantity: u32,
        hold_seconds: u32,
        reference: String,
    },
    /// Of `quantity` units, or of all that remain.
    Confirm {
        id: String,
        quantity: Option<u32>,
    },
    Release {
        id: String,
        quantity: Option<u32>,
    },
    Return {
        id: String,
        quantity: Option<u32>,
    },
    Extend {
        id: String,
        hold_seconds: u32,
    },
    /// `reason` names the want, as a reservation's reference does.
    Adjust {
        delta: i64,
        reason: String,
    },
    Pause,
    Reopen,
    ReadStock,
    ReadReservation {
        id: String,
    },
}

impl Op {
    /// The kind of change that it may bring about; `None` for a read.
    pub(crate) const fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Reserve { .. } => Some("reserved"),
            Self::Confirm { .. } => Some("confirmed"),
            Self::Release { .. } => Some("released"),
            Self::Return { .. } => Some("returned"),
            Self::Extend { .. } => Some("extended"),
            Self::Adjust { .. } => Some("stock_adjusted"),
            Self::Pause => Some("stock_paused"),
            Self::Reopen => Some("stock_reopened"),
            Self::ReadStock | Self::ReadReservation { .. } => None,
        }
    }

    /// The reservation that it names.
    pub(crate) fn reservation(&self) -> Option<&str> {
        match self {
            Self::Confirm { id, .. }
            | Self::Release { id, .. }
            | Self::Return { id, .. }
            | Self::Extend { id, .. }
            | Self::ReadReservation { id } => Some(id),
            Self::Reserve { .. } | Self::Adjust { .. } | Self::Pause | Self::Reopen | Self::ReadStock => None,
        }
    }

    /// The name by which its change is known among all changes.
    pub(crate) fn tag(&self) -> Option<&str> {
        match self {
            Self::Reserve { reference, .. } => Some(reference),
            Self::Adjust { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

/// A reservation as the node shows it. Times are texts of one width, so they compare as times do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Hash)]
pub(crate) struct Reservation {
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) quantity: u32,
    pub(crate) reserved: u32,
    pub(crate) confirmed: u32,
    pub(crate) released: u32,
    pub(crate) returned: u32,
    pub(crate) state: String,
    pub(crate) sequence: u64,
    pub(crate) reference: Option<String>,
    pub(crate) reserved_at: String,
    pub(crate) expires_at: String,
    pub(crate) resolved_at: Option<String>,
}

/// A stock as the node shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Hash)]
pub(crate) struct Stock {
    pub(crate) allotted: i64,
    pub(crate) available: i64,
    pub(crate) reserved: i64,
    pub(crate) sold: i64,
    pub(crate) per_user_limit: Option<u32>,
    pub(crate) state: String,
}

/// What a call was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Yes, with the reservation. `created`: with status 201. `replayed`: as the repeat of an earlier call.
    Reservation { created: bool, replayed: bool, shown: Reservation },
    /// Yes, with the stock.
    Stock { replayed: bool, shown: Stock },
    /// No, and nothing changed.
    Rejected { code: String },
    /// Nobody knows: the connection broke, the wait was over, or the node says so.
    Unknown,
}

impl Answer {
    pub(crate) const fn is_replayed(&self) -> bool {
        matches!(self, Self::Reservation { replayed: true, .. } | Self::Stock { replayed: true, .. })
    }
}

/// One call of one client.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) client: usize,
    pub(crate) op: Op,
    pub(crate) key: Option<String>,
    /// Before anything of it was sent.
    pub(crate) began: Moment,
    /// After all of its answer was read. Of an unknown one: when the process that it was sent to was gone.
    pub(crate) ended: Moment,
    pub(crate) answer: Answer,
}

impl Call {
    /// The name by which the node knows its client.
    pub(crate) fn actor(&self) -> String {
        actor(self.client)
    }

    /// Itself in one line.
    pub(crate) fn line(&self) -> String {
        let key = self.key.as_ref().map(|key| format!(" key {key}")).unwrap_or_default();
        let answer = match &self.answer {
            Answer::Reservation { created, replayed, shown } => {
                format!("{}{}: {}", if *created { 201 } else { 200 }, if *replayed { " replayed" } else { "" }, short(shown))
            }
            Answer::Stock { replayed, shown } => format!("200{}: {}", if *replayed { " replayed" } else { "" }, short_stock(shown)),
            Answer::Rejected { code } => code.clone(),
            Answer::Unknown => "unknown".to_owned(),
        };
        let us = |moment: Moment| moment / 1_000;
        format!("call   {} us..{} us {} {:?}{key} -> {answer}", us(self.began), us(self.ended), self.actor(), self.op)
    }
}

/// The name of the API key of a client.
pub(crate) fn actor(client: usize) -> String {
    format!("client-{client}")
}

/// A change as the feed tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Change {
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) sku: String,
    pub(crate) sku_sequence: u64,
    pub(crate) at: String,
    pub(crate) actor: String,
    pub(crate) delta: Option<i64>,
    pub(crate) reason: Option<String>,
    pub(crate) stock: Option<Stock>,
    pub(crate) reservation: Option<Reservation>,
}

impl Change {
    /// The name that its maker gave it.
    pub(crate) fn tag(&self) -> Option<&str> {
        match self.kind.as_str() {
            "reserved" => self.reservation.as_ref()?.reference.as_deref(),
            "stock_adjusted" => self.reason.as_deref(),
            _ => None,
        }
    }

    /// Itself in one line.
    pub(crate) fn line(&self) -> String {
        let shown = self.reservation.as_ref().map(short).or_else(|| self.stock.as_ref().map(short_stock)).unwrap_or_default();
        format!("change {} {} by {} at {}: {shown}", self.sku_sequence, self.kind, self.actor, self.at)
    }
}

fn short(shown: &Reservation) -> String {
    let Reservation { id, user, quantity, reserved, confirmed, released, returned, state, sequence, expires_at, .. } = shown;
    format!(
        "grant {sequence} ({id}) of {quantity} to {user}, {state}: {reserved} reserved, {confirmed} confirmed, {released} released, \
         {returned} returned, expires {expires_at}"
    )
}

fn short_stock(shown: &Stock) -> String {
    let Stock { allotted, available, reserved, sold, state, .. } = shown;
    format!("{state}: {allotted} allotted, {available} available, {reserved} reserved, {sold} sold")
}
