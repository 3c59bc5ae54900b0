//! The manual: what `--help` says below the options, the man pages and the shell completions. The door of `clap_complete` and
//! `clap_mangen`.
//!
//! It owns how the texts of [`pages`] are shown, so that help and man page cannot differ. What a command takes is the command line's.

mod pages;

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use tidegate_config::SHIPPED_FILE;

use self::pages::{GROUPS, PAGES, Page};

/// Columns that help fits in, whatever the terminal's width.
const WIDTH_MAX: usize = 100;

/// Gives `program` and all its commands the texts of their pages, and lists the commands by group.
pub(crate) fn dress(program: Command) -> Command {
    let groups = listed(&program);
    let template = format!("{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{groups}\nOptions:\n{{options}}{{after-help}}");
    dress_one(program, "").help_template(template)
}

fn dress_one(command: Command, path: &str) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let mut command = command.max_term_width(WIDTH_MAX);
    for name in names {
        let below = format!("{path} {name}");
        command = command.mut_subcommand(name, |sub| dress_one(sub, below.trim_start()));
    }
    let Some(page) = PAGES.iter().find(|page| page.command == path) else { return command };
    let more = format!(
        "tidegate{}{path} --help tells more: when to use it, examples, exit codes, files.",
        if path.is_empty() { "" } else { " " }
    );
    command.after_help(more).after_long_help(page.text())
}

/// The commands by group, each with its first line.
fn listed(program: &Command) -> String {
    let mut text = String::new();
    for (title, names) in GROUPS {
        let _ = writeln!(text, "\n{title}:");
        for command in names.iter().filter_map(|name| program.find_subcommand(name)) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {:<12} {about}", command.get_name());
        }
    }
    text
}

/// Writes the completions of `program` for `shell` to `out`.
pub(crate) fn complete(mut program: Command, shell: Shell, out: &mut dyn Write) -> io::Result<()> {
    let mut text = Vec::new();
    let name = program.get_name().to_owned();
    // Into memory first: the generator panics where the output fails.
    clap_complete::generate(shell, &mut program, name, &mut text);
    out.write_all(&text)
}

/// Writes one man page for `program` and for each of its commands into `folder`, which is made if it is missing. Pages that are there
/// already are replaced. Returns how many were written.
pub(crate) fn write_pages(program: Command, folder: &Path) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    let mut program = program.disable_help_subcommand(true);
    program.build();
    write_page(&program, "", folder)
}

fn write_page(command: &Command, path: &str, folder: &Path) -> io::Result<usize> {
    let man = Man::new(command.clone()).source(concat!("tidegate ", env!("CARGO_PKG_VERSION"))).manual("Tidegate");
    fs::write(folder.join(man.get_filename()), page(&man, command, path)?)?;
    let mut count = 1;
    for sub in command.get_subcommands() {
        let below = format!("{path} {}", sub.get_name());
        count += write_page(sub, below.trim_start(), folder)?;
    }
    Ok(count)
}

fn page(man: &Man, command: &Command, path: &str) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    if let Some(page) = PAGES.iter().find(|page| page.command == path) {
        page.roff().to_writer(&mut out)?;
    }
    see_also(command, path).to_writer(&mut out)?;
    Ok(out)
}

fn see_also(command: &Command, path: &str) -> Roff {
    let above = path.rsplit_once(' ').map_or("", |(above, _)| above);
    let mut names: Vec<String> = command.get_subcommands().map(|sub| format!("tidegate {path} {}", sub.get_name())).collect();
    if !path.is_empty() {
        names.insert(0, format!("tidegate {above}"));
    }
    let names: Vec<String> = names.iter().map(|name| name.split_whitespace().collect::<Vec<_>>().join("-") + "(1)").collect();
    let mut roff = Roff::new();
    roff.control("SH", ["SEE ALSO"]).text([roman(names.join(", "))]);
    roff
}

impl Page {
    /// Its lists, with their titles.
    fn lists(&self) -> [(&'static str, &'static [(&'static str, &'static str)]); 3] {
        [("Exit codes", self.exit_codes), ("Environment", self.environment), ("Files", self.files)]
    }

    /// The page as help shows it.
    fn text(&self) -> String {
        let mut text = format!("When to use it:\n  {}\n\nExamples:\n", self.when);
        for (what, line) in self.examples {
            let _ = writeln!(text, "  {what}:\n      {line}");
        }
        for (title, entries) in self.lists() {
            let _ = writeln!(text, "\n{title}:");
            for (name, meaning) in entries {
                let _ = writeln!(text, "  {name}\n      {meaning}");
            }
        }
        if self.shows_settings {
            let _ = write!(text, "\nSettings, as the shipped file has them, each at its default:\n\n{SHIPPED_FILE}");
        }
        text.truncate(text.trim_end().len());
        text
    }

    /// The same as sections of a man page.
    fn roff(&self) -> Roff {
        let mut roff = Roff::new();
        roff.control("SH", ["WHEN TO USE IT"]).text([roman(self.when)]);
        roff.control("SH", ["EXAMPLES"]);
        for (what, line) in self.examples {
            // Not filled: a command line is copied as it stands.
            roff.control("TP", []).text([roman(format!("{what}:"))]).control("nf", []).text([bold(*line)]).control("fi", []);
        }
        for (title, entries) in self.lists() {
            let title = if title == "Exit codes" { "EXIT STATUS".to_owned() } else { title.to_uppercase() };
            roff.control("SH", [title.as_str()]);
            for (name, meaning) in entries {
                roff.control("TP", []).text([bold(*name)]).text([roman(*meaning)]);
            }
        }
        if self.shows_settings {
            roff.control("SH", ["SETTINGS"]).text([roman("As the shipped file has them, each at its default:")]);
            roff.control("PP", []).control("nf", []);
            for line in SHIPPED_FILE.lines() {
                roff.text([roman(line)]);
            }
            roff.control("fi", []);
        }
        roff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(command: &Command, path: &str) -> Vec<String> {
        let below = command.get_subcommands().flat_map(|sub| paths(sub, format!("{path} {}", sub.get_name()).trim_start()));
        std::iter::once(path.to_owned()).chain(below).collect()
    }

    #[test]
    fn every_command_has_a_page_and_every_page_a_command() {
        let pages: Vec<&str> = PAGES.iter().map(|page| page.command).collect();
        let mut sorted = pages.clone();
        sorted.sort_unstable();
        let mut commands = paths(&crate::cli::program(), "");
        commands.sort_unstable();
        assert_eq!(sorted, commands);
    }

    #[test]
    fn every_command_is_in_one_group() {
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
        grouped.sort_unstable();
        let program = crate::cli::program();
        let mut commands: Vec<&str> = program.get_subcommands().map(Command::get_name).collect();
        commands.sort_unstable();
        assert_eq!(grouped, commands);
    }

    #[test]
    fn no_page_leaves_anything_out() {
        for page in PAGES {
            let lists = page.lists().map(|(_, entries)| entries.len());
            assert!(
                !page.when.is_empty() && !page.examples.is_empty() && lists.iter().all(|length| *length > 0),
                "{}",
                page.command
            );
        }
    }

    #[test]
    fn every_example_is_a_command_line_that_is_understood() {
        for page in PAGES {
            for (_, line) in page.examples {
                let asked = line.split_whitespace().take_while(|word| !matches!(*word, ">" | "|" | "&&"));
                if let Err(error) = crate::cli::program().try_get_matches_from(asked) {
                    assert!(error.kind() == clap::error::ErrorKind::DisplayHelp, "{line}: {error}");
                }
                let own = format!("tidegate {}", page.command);
                assert!(line.starts_with(own.trim_end()), "{line} stands with {own}");
            }
        }
    }
}
