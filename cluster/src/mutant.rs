//! Deliberate defects of test builds: `mutant!(Name)` says whether one is on. Without the feature `mutants`, which no manifest switches
//! on, it is the constant `false`. The list is in `tests/mutants`.

#[cfg(feature = "mutants")]
macro_rules! mutant {
    ($name:ident) => {
        tidegate_mutants::is_on(tidegate_mutants::Mutant::$name)
    };
}

#[cfg(not(feature = "mutants"))]
macro_rules! mutant {
    ($name:ident) => {
        $crate::mutant::none()
    };
}

/// No defect is on. A call, so that lints do not take a condition that it stands in for a mistake.
#[cfg(not(feature = "mutants"))]
pub(crate) const fn none() -> bool {
    false
}
