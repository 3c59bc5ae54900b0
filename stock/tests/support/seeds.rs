//! Which seeds a random test tries, and where in one of them it failed. Also for the tests of other rooms.

use std::ops::RangeInclusive;

/// The number that an environment variable gives, if it is set.
pub(crate) fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is {text:?} where a number is wanted")))
}

/// The one seed that `variable` gives, or all of `default`.
pub(crate) fn seeds_from(variable: &str, default: RangeInclusive<u64>) -> Vec<u64> {
    number_from(variable).map_or_else(|| default.collect(), |seed| vec![seed])
}

/// Says where a failure happened, whichever assertion it was.
pub(crate) struct Place {
    /// The variable that gives the seed.
    pub(crate) variable: &'static str,
    pub(crate) seed: u64,
    pub(crate) done: u64,
    /// What is counted.
    pub(crate) counted: &'static str,
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { variable, seed, done, counted } = self;
            eprintln!("failed with {variable}={seed} after {done} {counted}");
        }
    }
}
