//! What was asked, what was answered and what changed, as plain values. Knows neither where they come from nor what is right.

use std::collections::HashMap;

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
    /// Other settings, if the stock's entity tag is the one named, if one is.
    Patch {
        /// The settings.
        patch: Patch,
        /// The entity tag.
        if_match: Option<String>,
    },
    /// Lets the stock grant nothing.
    Pause,
    /// Lets it grant again.
    Reopen,
    /// Ends the sale.
    Close,
    /// Puts a closed stock away.
    Archive,
    /// Looks at the stock.
    ReadStock,
    /// Looks at a reservation.
    ReadReservation {
        /// The reservation.
        id: String,
    },
    /// The newest reservations, of one user or of all, in one state or in any.
    List {
        /// Of whom.
        user: Option<String>,
        /// In which state.
        state: Option<String>,
        /// How many at most.
        limit: usize,
    },
}

/// Which settings become what; the ends of the window can be taken away.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Patch {
    /// Most units of a user.
    pub per_user_limit: Option<u32>,
    /// When the window opens.
    pub opens_at: Option<Option<String>>,
    /// When it closes.
    pub closes_at: Option<Option<String>>,
}

impl Patch {
    /// Lays itself over a stock's settings.
    pub fn lay_over(&self, stock: &mut Stock) {
        stock.per_user_limit = self.per_user_limit.or(stock.per_user_limit);
        stock.opens_at = self.opens_at.clone().unwrap_or_else(|| stock.opens_at.clone());
        stock.closes_at = self.closes_at.clone().unwrap_or_else(|| stock.closes_at.clone());
    }
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
            Self::Patch { .. } => Some("stock_changed"),
            Self::Pause => Some("stock_paused"),
            Self::Reopen => Some("stock_reopened"),
            Self::Close => Some("stock_closed"),
            Self::Archive => Some("stock_archived"),
            Self::ReadStock | Self::ReadReservation { .. } | Self::List { .. } => None,
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
            _ => None,
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
    pub opens_at: Option<String>,
    pub closes_at: Option<String>,
    pub state: String,
    /// Its entity tag, where one comes with it.
    #[serde(skip)]
    pub etag: Option<String>,
}

impl Stock {
    /// Whether `shown` is the same stock, whatever its state, which can follow from the time alone.
    pub fn is_shown_by(&self, shown: &Self) -> bool {
        let counts = |stock: &Self| (stock.allotted, stock.available, stock.reserved, stock.sold, stock.per_user_limit);
        let is_tagged = shown.etag.is_none() || shown.etag == self.etag;
        counts(self) == counts(shown) && (&self.opens_at, &self.closes_at) == (&shown.opens_at, &shown.closes_at) && is_tagged
    }

    /// The same without its entity tag: the feed tells none.
    #[must_use]
    pub fn untagged(&self) -> Self {
        Self { etag: None, ..self.clone() }
    }
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
    /// Yes, with reservations; whether there may be more.
    #[expect(missing_docs, reason = "told above")]
    List { shown: Vec<Reservation>, more: bool },
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
    /// The client's batch that it was part of. Of the calls of one batch on one stock, each is decided before the next.
    pub batch: Option<u64>,
}

/// For each call the one before it in its batch.
pub fn behind(calls: &[Call]) -> Vec<Option<usize>> {
    let mut last = HashMap::new();
    let batch = |call: &Call| call.batch.map(|batch| (call.client, batch));
    calls.iter().enumerate().map(|(index, call)| batch(call).and_then(|batch| last.insert(batch, index))).collect()
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
            Answer::List { shown, more } => {
                let shown: Vec<String> = shown.iter().map(|one| format!("grant {} {}", one.sequence, one.state)).collect();
                format!("200: {}{}", shown.join(", "), if *more { " ..." } else { "" })
            }
            Answer::Rejected { code } => code.clone(),
            Answer::Unknown => "unknown".to_owned(),
        };
        let us = |moment: Moment| moment / 1_000;
        let batch = self.batch.map(|batch| format!(" in batch {batch}")).unwrap_or_default();
        format!("call   {} us..{} us {} {:?}{key}{batch} -> {answer}", us(self.began), us(self.ended), self.actor(), self.op)
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
