//! What was asked, what was answered and what changed, as plain values. Knows neither where they come from nor what is right.

use serde::Deserialize;

/// Nanoseconds since the run began, by one clock for all clients.
pub type Moment = u64;

/// What a call asks for. All of one history are about the same stock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Op {
    /// `reference` is the caller's own name for what it wants; no two wants share one.
    Reserve {
        /// Who buys.
        user: String,
        /// Units.
        quantity: u32,
        /// How long they are held.
        hold_seconds: u32,
        /// The want's name.
        reference: String,
    },
    /// Pays.
    Confirm {
        /// The reservation.
        id: String,
        /// Units; all that remain where it says nothing.
        quantity: Option<u32>,
    },
    /// Gives held units back.
    Release {
        /// The reservation.
        id: String,
        /// Units; all that remain where it says nothing.
        quantity: Option<u32>,
    },
    /// Gives sold units back.
    Return {
        /// The reservation.
        id: String,
        /// Units; all that remain where it says nothing.
        quantity: Option<u32>,
    },
    /// Holds for longer.
    Extend {
        /// The reservation.
        id: String,
        /// For how long, from now.
        hold_seconds: u32,
    },
    /// `reason` names the want, as a reservation's reference does.
    Adjust {
        /// Units more, or fewer.
        delta: i64,
        /// The want's name.
        reason: String,
    },
    /// Lets the stock grant nothing.
    Pause,
    /// Lets it grant again.
    Reopen,
    /// Looks at the stock.
    ReadStock,
    /// Looks at a reservation.
    ReadReservation {
        /// The reservation.
        id: String,
    },
}

impl Op {
    /// The kind of change that it may bring about; `None` for a read.
    pub const fn kind(&self) -> Option<&'static str> {
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
    pub fn reservation(&self) -> Option<&str> {
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
    pub fn tag(&self) -> Option<&str> {
        match self {
            Self::Reserve { reference, .. } => Some(reference),
            Self::Adjust { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

/// A reservation as the node shows it. Times are texts of one width, so they compare as times do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Hash)]
#[expect(missing_docs, reason = "the names are the contract's own")]
pub struct Reservation {
    pub id: String,
    pub user: String,
    pub quantity: u32,
    pub reserved: u32,
    pub confirmed: u32,
    pub released: u32,
    pub returned: u32,
    pub state: String,
    pub sequence: u64,
    pub reference: Option<String>,
    pub reserved_at: String,
    pub expires_at: String,
    pub resolved_at: Option<String>,
}

/// A stock as the node shows it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Hash)]
#[expect(missing_docs, reason = "the names are the contract's own")]
pub struct Stock {
    pub allotted: i64,
    pub available: i64,
    pub reserved: i64,
    pub sold: i64,
    pub per_user_limit: Option<u32>,
    pub state: String,
}

/// What a call was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Yes, with the reservation. `created`: with status 201. `replayed`: as the repeat of an earlier call.
    #[expect(missing_docs, reason = "told above")]
    Reservation { created: bool, replayed: bool, shown: Reservation },
    /// Yes, with the stock.
    #[expect(missing_docs, reason = "told above")]
    Stock { replayed: bool, shown: Stock },
    /// No, and nothing changed.
    Rejected {
        /// The reason's name.
        code: String,
    },
    /// Nobody knows: the connection broke, the wait was over, or the node says so.
    Unknown,
}

impl Answer {
    /// Whether it is marked as the repeat of an earlier call's.
    pub const fn is_replayed(&self) -> bool {
        matches!(self, Self::Reservation { replayed: true, .. } | Self::Stock { replayed: true, .. })
    }
}

/// One call of one client.
#[derive(Debug, Clone)]
pub struct Call {
    /// Whose it is.
    pub client: usize,
    /// What it asks for.
    pub op: Op,
    /// Its idempotency key.
    pub key: Option<String>,
    /// Before anything of it was sent.
    pub began: Moment,
    /// After all of its answer was read. Of an unknown one: when the process that it was sent to was gone.
    pub ended: Moment,
    /// What it was answered.
    pub answer: Answer,
}

impl Call {
    /// The name by which the node knows its client.
    pub fn actor(&self) -> String {
        actor(self.client)
    }

    /// Itself in one line.
    pub fn line(&self) -> String {
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
pub fn actor(client: usize) -> String {
    format!("client-{client}")
}

/// A change as the feed tells it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[expect(missing_docs, reason = "the names are the contract's own")]
pub struct Change {
    pub id: String,
    pub kind: String,
    pub sku: String,
    pub sku_sequence: u64,
    pub at: String,
    pub actor: String,
    pub delta: Option<i64>,
    pub reason: Option<String>,
    pub stock: Option<Stock>,
    pub reservation: Option<Reservation>,
}

impl Change {
    /// The name that its maker gave it.
    pub fn tag(&self) -> Option<&str> {
        match self.kind.as_str() {
            "reserved" => self.reservation.as_ref()?.reference.as_deref(),
            "stock_adjusted" => self.reason.as_deref(),
            _ => None,
        }
    }

    /// Itself in one line.
    pub fn line(&self) -> String {
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
