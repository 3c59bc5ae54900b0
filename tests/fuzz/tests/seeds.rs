//! Every target over its seeds, and over seeded mutations of them, without a fuzzer: so that targets and seeds cannot rot.
//!
//! `TIDEGATE_FUZZ_SEED=N` tries the mutations of another seed, `TIDEGATE_FUZZ_MUTATIONS=N` more or fewer of them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{env, fs};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidegate_fuzz::{TARGETS, Target};

/// Mutations of each target.
const MUTATIONS_DEFAULT: u64 = 2_000;

/// Longest input in bytes.
const INPUT_BYTES_MAX: usize = 4_096;

fn setting<T: FromStr>(name: &str, default: T) -> T {
    env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?} where a number is needed")))
}

/// The seeds of a target, by name.
fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a seed can be read"))).collect()
}

/// Runs `target`, and says of which input it was if it panics.
fn run(target: Target, input: &[u8], what: &dyn Fn() -> String) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        eprintln!("that was {}: {}", what(), input.escape_ascii());
        resume_unwind(panic);
    }
}

#[test]
fn every_target_has_seeds_and_holds_over_them() {
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(seeds.len() >= 3, "{name} has {} seeds", seeds.len());
        for (path, bytes) in &seeds {
            assert!(bytes.len() <= INPUT_BYTES_MAX, "{} has {} bytes", path.display(), bytes.len());
            run(target, bytes, &|| path.display().to_string());
        }
        run(target, b"", &|| "the empty input".to_owned());
    }
}

#[test]
fn every_target_holds_over_mutations_of_its_seeds() {
    let seed: u64 = setting("TIDEGATE_FUZZ_SEED", 1);
    let mutations: u64 = setting("TIDEGATE_FUZZ_MUTATIONS", MUTATIONS_DEFAULT);
    println!("TIDEGATE_FUZZ_SEED={seed} TIDEGATE_FUZZ_MUTATIONS={mutations}");
    for (name, target) in TARGETS {
        let seeds: Vec<Vec<u8>> = seeds(name).into_iter().map(|(_, bytes)| bytes).collect();
        for number in 0..mutations {
            // Each by itself, so that one can be tried again without those before it.
            let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number));
            let input = mutated(&seeds, &mut random);
            run(target, &input, &|| format!("mutation {number} of {name} with TIDEGATE_FUZZ_SEED={seed}"));
        }
    }
}

/// A seed with one to eight changes.
fn mutated(seeds: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    /// What breaks readers: ends of ranges, and what has a meaning in texts.
    const TELLING: &[&[u8]] = &[
        b"0",
        b"-1",
        b"1e9",
        b"9223372036854775808",
        b"0.5",
        b"null",
        b"\"",
        b"{",
        b"]",
        b",",
        b";",
        b"\r\n",
        b"\n",
        b"\\u0000",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\xc3\x28",
        b"\xf0\x9f\x92\xa9",
    ];
    let mut input = seeds[random.random_range(0..seeds.len())].clone();
    for _ in 0..random.random_range(1..=8) {
        let at = random.random_range(0..=input.len());
        match random.random_range(0..6) {
            0 if at < input.len() => input[at] ^= 1 << random.random_range(0..8),
            1 if at < input.len() => input[at] = random.random(),
            2 => {
                let telling = TELLING[random.random_range(0..TELLING.len())];
                input.splice(at..at, telling.iter().copied());
            }
            3 => {
                let end = random.random_range(at..=input.len());
                input.drain(at..end.min(at + 16));
            }
            4 => {
                let other = &seeds[random.random_range(0..seeds.len())];
                let (from, to) = (random.random_range(0..=other.len()), random.random_range(0..=other.len()));
                input.splice(at..at, other[from.min(to)..from.max(to)].iter().copied());
            }
            _ => input.truncate(at.max(input.len() / 2)),
        }
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}
