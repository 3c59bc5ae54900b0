//! The program that is built as ever has no deliberate defect in it, and the one that test builds have for `tidegate-proof mutants` has.

use std::fs;

/// The variable that switches a defect on.
const VARIABLE: &[u8] = b"MUTANT_OF_TIDEGATE";

#[test]
fn the_program_looks_for_a_defect_only_where_it_was_built_with_them() {
    let program = fs::read(env!("CARGO_BIN_EXE_tidegate")).unwrap();
    let looks = program.windows(VARIABLE.len()).any(|bytes| bytes == VARIABLE);
    assert_eq!(looks, cfg!(feature = "mutants"));
}
