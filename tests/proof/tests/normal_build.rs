//! A normal build has no deliberate defect in it: no manifest switches the feature `mutants` on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::{Table, Value};

const FEATURE: &str = "mutants";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn manifest(folder: &Path) -> Table {
    fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest is there").parse().expect("a manifest is TOML")
}

/// The workspace's own manifest and those of its members.
fn manifests() -> Vec<(String, Table)> {
    let workspace = manifest(&root());
    let members = workspace["workspace"]["members"].as_array().expect("the members are a list").clone();
    let members = members.iter().map(|member| member.as_str().expect("a member is a folder").to_owned());
    let members = members.map(|member| (member.clone(), manifest(&root().join(&member))));
    [(".".to_owned(), workspace.clone())].into_iter().chain(members).collect()
}

/// Every text in `value` that switches the feature on for what it names, and how it is reached.
fn switches(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::String(text) if at.contains(".features") && (text == FEATURE || text.ends_with("/mutants")) => {
            found.push(at.to_owned());
        }
        Value::Array(values) => values.iter().for_each(|value| switches(value, at, found)),
        Value::Table(table) => table.iter().for_each(|(name, value)| switches(value, &format!("{at}.{name}"), found)),
        _ => {}
    }
}

#[test]
fn no_manifest_switches_a_defect_on() {
    let mut with_feature = 0;
    for (member, manifest) in manifests() {
        let mut found = Vec::new();
        switches(&Value::Table(manifest.clone()), "", &mut found);
        // One feature passes it on to the next room; whoever asks for none of them gets none.
        found.retain(|at| at != ".features.mutants");
        assert_eq!(found, Vec::<String>::new(), "{member}");
        with_feature += usize::from(manifest.get("features").is_some_and(|features| features.get(FEATURE).is_some()));
    }
    assert_eq!(with_feature, 7, "stock, persistence, engine, cluster, api, the program and the proof");
}

#[test]
fn every_room_but_the_proof_depends_on_the_list_only_with_the_feature() {
    for (member, manifest) in manifests() {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(dependency) = manifest.get(kind).and_then(|of| of.get("tidegate-mutants")) else { continue };
            let is_optional = dependency.get("optional").and_then(Value::as_bool) == Some(true);
            assert!(is_optional || member == "tests/proof", "{member}");
        }
    }
}

#[test]
fn the_proof_says_which_defects_there_are() {
    let output = Command::new(env!("CARGO_BIN_EXE_tidegate-proof")).args(["mutants", "--list"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let listed = String::from_utf8(output.stdout).unwrap();
    assert_eq!(listed.lines().count(), tidegate_mutants::Mutant::ALL.len());
    let unknown = Command::new(env!("CARGO_BIN_EXE_tidegate-proof")).args(["mutants", "no-such-defect"]).output().unwrap();
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}
