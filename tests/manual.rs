//! What the program says of itself: help, man pages and completions, seen from outside.
//!
//! A tool that is not on this machine is named on the standard error, and its part of a test is left out.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

mod support;

use support::{finish, program, run};

/// Columns that help fits in.
const WIDTH_MAX: usize = 100;

/// The words of every command behind the program's name, told by its man pages: none for the program itself.
fn commands() -> Vec<Vec<String>> {
    let folder = TempDir::new().expect("a temporary folder can be made");
    run(&["manual", folder.path().to_str().expect("temporary paths are UTF-8")]).expect(0, &[]);
    let mut commands: Vec<Vec<String>> = names_in(folder.path())
        .iter()
        .map(|name| name.strip_suffix(".1").expect("a page is of section 1"))
        .map(|name| name.split('-').skip(1).map(str::to_owned).collect())
        .collect();
    commands.sort();
    commands
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder can be read");
    let names = entries.map(|entry| entry.expect("a folder can be read").file_name().into_string());
    names.map(|name| name.expect("a page's name is UTF-8")).collect()
}

/// What `tool` says of an input, or nothing where it is not on this machine.
fn tool(tool: &str, arguments: &[&str]) -> Option<support::Finished> {
    let mut command = Command::new(tool);
    command.args(arguments).env("MANWIDTH", "80").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    match command.spawn() {
        Ok(process) => Some(finish(process)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Not by a macro, whose output is kept back when a test passes.
            let _ = writeln!(io::stderr(), "SKIPPED: {tool} is not on this machine");
            None
        }
        Err(error) => panic!("{tool} cannot be started: {error}"),
    }
}

fn help(command: &[String], flag: &str) -> String {
    let mut process = program(&[]);
    // Wider than help may be.
    process.args(command).arg(flag).env("COLUMNS", "200");
    finish(process.spawn().expect("the program starts")).expect(0, &[]).stdout
}

#[test]
fn help_reads_like_documentation_and_fits_its_width() {
    for command in commands() {
        let (long, short) = (help(&command, "--help"), help(&command, "-h"));
        for part in ["Usage: ", "When to use it:", "Examples:", "Exit codes:", "Environment:", "Files:"] {
            assert!(long.contains(part), "{command:?} lacks {part:?}: {long}");
        }
        assert!(short.len() < long.len() && short.contains("--help"), "{command:?}: {short}");
        for line in long.lines().chain(short.lines()) {
            assert!(line.chars().count() <= WIDTH_MAX, "{command:?} has a line that is too long: {line}");
        }
    }
}

#[test]
fn help_of_serve_names_what_an_operator_looks_for() {
    let long = help(&["serve".to_owned()], "--help");
    for part in
        ["--data-dir", "--listen", "--durability", "--config", "SIGTERM", "[engine]", "ring_slots = 32768", "TIDEGATE_CONFIG"]
    {
        assert!(long.contains(part), "{part:?} is not in: {long}");
    }
}

#[test]
fn the_programs_help_lists_every_command_and_begins_with_the_first_steps() {
    let text = help(&[], "-h");
    let listed: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("  ") && !line.trim_start().starts_with('-'))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(listed.first(), Some(&"demo"), "{text}");
    assert_eq!(listed.get(1), Some(&"serve"), "{text}");
    let mut sorted = listed;
    sorted.sort_unstable();
    let mut expected: Vec<String> = commands().into_iter().filter(|words| words.len() == 1).flatten().collect();
    expected.sort();
    assert_eq!(sorted, expected);
}

#[test]
fn every_command_has_a_man_page_that_formatters_read_without_a_warning() {
    let folder = TempDir::new().unwrap();
    // A folder that is missing is made.
    let pages = folder.path().join("share/man1");
    run(&["manual", pages.to_str().unwrap()]).expect(0, &[]);
    let names = names_in(&pages);
    for name in ["tidegate.1", "tidegate-serve.1", "tidegate-verify.1", "tidegate-demo.1", "tidegate-replay.1", "tidegate-config.1"]
    {
        assert!(names.iter().any(|page| page == name), "{name} is missing: {names:?}");
    }
    for name in &names {
        let path = pages.join(name);
        let path = path.to_str().unwrap();
        let source = fs::read_to_string(path).unwrap();
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXAMPLES", "EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"]
        {
            let title = if section.contains(' ') { format!(".SH \"{section}\"") } else { format!(".SH {section}") };
            assert!(source.lines().any(|line| line == title), "{name} lacks {section}");
        }
        for (program, arguments) in [
            ("groff", vec!["-man", "-ww", "-z", "-Tutf8", path]),
            ("man", vec!["--warnings", "-l", path]),
            ("mandoc", vec!["-T", "lint", "-W", "warning", path]),
        ] {
            let Some(said) = tool(program, &arguments) else { continue };
            assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""), "{program} {name}: {}", said.stdout);
            assert!(program != "man" || said.stdout.contains("EXAMPLES"), "{name}: {}", said.stdout);
        }
    }
}

#[test]
fn a_manual_that_cannot_be_written_is_told_with_its_place() {
    let folder = TempDir::new().unwrap();
    let taken = folder.path().join("taken");
    fs::write(&taken, "").unwrap();
    run(&["manual", taken.to_str().unwrap()]).expect(1, &["man pages cannot be written to", taken.to_str().unwrap()]);
    run(&["manual"]).expect(2, &["DIR"]);
}

/// What bash offers for `words`, of which the last is being typed.
fn offered(script: &str, words: &[&str]) -> Option<Vec<String>> {
    let ask = r#"
        source "$1"
        shift
        COMP_WORDS=("$@")
        COMP_CWORD=$(($# - 1))
        handler=$(complete -p "$1" | sed -n 's/.*-F \([^ ]*\).*/\1/p')
        "$handler" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let said = tool("bash", &[&["--norc", "-c", ask, "bash", script], words].concat())?.expect(0, &[]);
    assert_eq!(said.stderr, "");
    Some(said.stdout.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}

#[test]
fn bash_completes_commands_and_flags() {
    let folder = TempDir::new().unwrap();
    let script = folder.path().join("tidegate.bash");
    fs::write(&script, run(&["completions", "bash"]).expect(0, &[]).stdout).unwrap();
    let script = script.to_str().unwrap();
    if let Some(checked) = tool("bash", &["-n", script]) {
        assert_eq!(checked.expect(0, &[]).stderr, "");
    }
    for (words, expected) in [
        (&["tidegate", "ser"][..], &["serve"][..]),
        (&["tidegate", "comp"], &["completions"]),
        (&["tidegate", "serve", "--data"], &["--data-dir"]),
        (&["tidegate", "completions", "fi"], &["fish"]),
    ] {
        if let Some(offered) = offered(script, words) {
            assert_eq!(offered, expected, "{words:?}");
        }
    }
}

#[test]
fn every_shell_gets_completions_that_name_the_commands() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(&["completions", shell]).expect(0, &[]).stdout;
        for word in ["serve", "verify", "data-dir"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    run(&["completions", "csh"]).expect(2, &["csh", "bash", "zsh"]);
}
