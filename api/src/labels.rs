//! The routes: by which names they are matched and counted, and what each needs of its caller.

use http::Method;

use crate::keys::Role;

/// A route of the door, or none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Route {
    Unmatched,
    Stocks,
    Stock,
    Adjustments,
    Pause,
    Reopen,
    Close,
    Archive,
    Reservations,
    Reservation,
    Confirm,
    Release,
    Return,
    Extend,
    Batch,
    Events,
    Cluster,
    Members,
    Leave,
    Drain,
    Resume,
    Backup,
    Time,
    Livez,
    Readyz,
    Metrics,
    OpenApi,
    Docs,
}

/// What a call needs of its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: everybody may ask.
    Nothing,
    /// A key with this role.
    Role(Role),
}

impl Route {
    pub(crate) const ALL: [Self; 28] = [
        Self::Unmatched,
        Self::Stocks,
        Self::Stock,
        Self::Adjustments,
        Self::Pause,
        Self::Reopen,
        Self::Close,
        Self::Archive,
        Self::Reservations,
        Self::Reservation,
        Self::Confirm,
        Self::Release,
        Self::Return,
        Self::Extend,
        Self::Batch,
        Self::Events,
        Self::Cluster,
        Self::Members,
        Self::Leave,
        Self::Drain,
        Self::Resume,
        Self::Backup,
        Self::Time,
        Self::Livez,
        Self::Readyz,
        Self::Metrics,
        Self::OpenApi,
        Self::Docs,
    ];

    /// Its path; what stands in braces is its parameter.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Unmatched => "unmatched",
            Self::Stocks => "/v1/stocks",
            Self::Stock => "/v1/stocks/{sku}",
            Self::Adjustments => "/v1/stocks/{sku}/adjustments",
            Self::Pause => "/v1/stocks/{sku}/pause",
            Self::Reopen => "/v1/stocks/{sku}/reopen",
            Self::Close => "/v1/stocks/{sku}/close",
            Self::Archive => "/v1/stocks/{sku}/archive",
            Self::Reservations => "/v1/stocks/{sku}/reservations",
            Self::Reservation => "/v1/reservations/{id}",
            Self::Confirm => "/v1/reservations/{id}/confirm",
            Self::Release => "/v1/reservations/{id}/release",
            Self::Return => "/v1/reservations/{id}/return",
            Self::Extend => "/v1/reservations/{id}/extend",
            Self::Batch => "/v1/batch",
            Self::Events => "/v1/events",
            Self::Cluster => "/v1/cluster",
            Self::Members => "/v1/cluster/members",
            Self::Leave => "/v1/cluster/leave",
            Self::Drain => "/v1/cluster/drain",
            Self::Resume => "/v1/cluster/resume",
            Self::Backup => "/v1/backup",
            Self::Time => "/v1/time",
            Self::Livez => "/livez",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
            Self::OpenApi => "/openapi.json",
            Self::Docs => "/docs",
        }
    }

    /// What `method` needs of its caller here; nothing is said of a method that the path does not know. A handler for one that is not
    /// in this table answers nobody, so no call can be forgotten here.
    pub(crate) fn need(self, method: &Method) -> Option<Need> {
        const ANYBODY: Option<Need> = Some(Need::Nothing);
        const READ: Option<Need> = Some(Need::Role(Role::Read));
        const FRONTEND: Option<Need> = Some(Need::Role(Role::Frontend));
        const OPERATOR: Option<Need> = Some(Need::Role(Role::Operator));
        const ADMIN: Option<Need> = Some(Need::Role(Role::Admin));
        match self {
            Self::Unmatched => None,
            Self::Stock => match *method {
                Method::GET | Method::HEAD => READ,
                Method::PUT | Method::PATCH => OPERATOR,
                _ => None,
            },
            Self::Adjustments | Self::Pause | Self::Reopen | Self::Close | Self::Archive => match *method {
                Method::POST => OPERATOR,
                _ => None,
            },
            Self::Reservations => match *method {
                Method::GET | Method::HEAD => READ,
                Method::POST => FRONTEND,
                _ => None,
            },
            Self::Confirm | Self::Release | Self::Return | Self::Extend | Self::Batch => match *method {
                Method::POST => FRONTEND,
                _ => None,
            },
            Self::Stocks | Self::Reservation | Self::Events | Self::Cluster | Self::Metrics => match *method {
                Method::GET | Method::HEAD => READ,
                _ => None,
            },
            Self::Members | Self::Leave | Self::Drain | Self::Resume => match *method {
                Method::POST => ADMIN,
                _ => None,
            },
            Self::Backup => match *method {
                Method::GET | Method::HEAD => ADMIN,
                _ => None,
            },
            Self::Time | Self::Livez | Self::Readyz | Self::OpenApi | Self::Docs => match *method {
                Method::GET | Method::HEAD => ANYBODY,
                _ => None,
            },
        }
    }

    /// The parameters that a query may have here; `None` where nobody looks at one.
    pub(crate) fn parameters(self, method: &Method) -> Option<&'static [&'static str]> {
        match self {
            Self::Unmatched | Self::Time | Self::Livez | Self::Readyz | Self::Metrics | Self::OpenApi | Self::Docs => None,
            Self::Stocks => Some(&["limit", "cursor", "consistency"]),
            Self::Stock if *method == Method::GET || *method == Method::HEAD => Some(&["consistency"]),
            Self::Events => Some(&["after", "limit"]),
            Self::Backup => Some(&["feed"]),
            Self::Reservations if *method != Method::POST => Some(&["user", "state", "limit", "cursor"]),
            _ => Some(&[]),
        }
    }

    /// The route whose path is `path`.
    pub(crate) fn of(path: &str) -> Self {
        Self::ALL.into_iter().find(|route| route.path() == path).unwrap_or(Self::Unmatched)
    }
}

// A route is kept as its number.
const _: () = {
    let mut number = 0;
    while number < Route::ALL.len() {
        assert!(Route::ALL[number] as usize == number);
        number += 1;
    }
};
