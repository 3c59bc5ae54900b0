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
        false
    };
}
