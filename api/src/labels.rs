//! The routes, by the names under which they are matched and counted.

/// A route of the door, or none of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Route {
    Unmatched,
    Stock,
    Reservations,
    Reservation,
    Confirm,
    Release,
    Time,
    Livez,
    Readyz,
    Metrics,
}

impl Route {
    pub(crate) const ALL: [Self; 10] = [
        Self::Unmatched,
        Self::Stock,
        Self::Reservations,
        Self::Reservation,
        Self::Confirm,
        Self::Release,
        Self::Time,
        Self::Livez,
        Self::Readyz,
        Self::Metrics,
    ];

    /// Its path; what stands in braces is its parameter.
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Unmatched => "unmatched",
            Self::Stock => "/v1/stocks/{sku}",
            Self::Reservations => "/v1/stocks/{sku}/reservations",
            Self::Reservation => "/v1/reservations/{id}",
            Self::Confirm => "/v1/reservations/{id}/confirm",
            Self::Release => "/v1/reservations/{id}/release",
            Self::Time => "/v1/time",
            Self::Livez => "/livez",
            Self::Readyz => "/readyz",
            Self::Metrics => "/metrics",
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
