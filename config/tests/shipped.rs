//! The shipped settings file says what the program does when it is not there.

use std::path::Path;

use tidegate_config::Settings;

fn shipped() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tidegate.toml")
}

#[test]
fn the_shipped_file_holds_the_defaults() {
    assert_eq!(Settings::load(Some(&shipped()), [], []).unwrap(), Settings::default());
}

#[test]
fn the_shipped_file_names_every_setting() {
    let text = std::fs::read_to_string(shipped()).unwrap();
    let table: toml::Table = text.parse().unwrap();
    let named: Vec<String> = table
        .iter()
        .flat_map(|(section, fields)| fields.as_table().unwrap().keys().map(move |name| format!("{section}.{name}")))
        .collect();
    let mut missing = Settings::keys();
    missing.retain(|key| !named.contains(key));
    assert!(missing.is_empty(), "the shipped file lacks {missing:?}");
}

#[test]
fn every_setting_of_the_shipped_file_has_a_comment_above_it() {
    let text = std::fs::read_to_string(shipped()).unwrap();
    let mut before = "";
    for line in text.lines() {
        assert!(!line.contains(" = ") || line.starts_with('#') || before.starts_with('#'), "{line} has no comment");
        before = line;
    }
}

#[test]
fn the_shipped_file_fits_the_help_that_shows_it() {
    let text = std::fs::read_to_string(shipped()).unwrap();
    assert_eq!(text.lines().find(|line| line.len() > 100), None, "help is wrapped at 100 characters");
}

#[test]
fn every_field_is_documented_with_its_default() {
    let source = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/settings.rs")).unwrap();
    for key in Settings::keys() {
        let (_, name) = key.split_once('.').unwrap();
        let lines: Vec<&str> = source.lines().collect();
        let field = lines.iter().position(|line| line.trim_start().starts_with(&format!("pub {name}: "))).unwrap();
        let doc = lines[..field].iter().rev().take_while(|line| line.trim_start().starts_with("///"));
        let doc: String = doc.copied().collect::<Vec<_>>().into_iter().rev().collect();
        let last = doc.rsplit("Default:").next().filter(|_| doc.contains("Default:"));
        assert!(last.is_some_and(|default| default.ends_with('.') && default.len() < 40), "{key} ends with no default: {doc}");
    }
}
