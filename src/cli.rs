//! The command line: what can be asked of the program, with which words, and with which exit code it answers. The door of clap.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use tidegate_config::{CONFIG_VARIABLE, SHIPPED_FILE, Settings, SettingsError};
use tokio::runtime::Builder;

use crate::demo::{self, DemoError, DemoOptions};
use crate::replay::{self, ReplayError, ReplayOptions};
use crate::verify::{Place, Report, VerifyError, verify};
use crate::{logging, serve};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  it failed, or something was found: the reason is on the standard error
  2  the command line, a TIDEGATE_ variable or the settings file is wrong";

/// A stock authority for flash sales: decides, in order and without locks, who gets the last unit.
///
/// One place that never sells a unit twice, never forgets an answer it gave, and gives unpaid units back on time. Shops' frontends call
/// it over HTTP: they reserve units for a buyer, confirm what was paid, and release what was not.
#[derive(Parser)]
#[command(name = "tidegate", version, after_help = EXIT_CODES, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a node: recovers what its data directory holds, and answers HTTP until it is told to stop.
    ///
    /// Prints `listening on http://ADDRESS` to the standard output once connections are taken; /readyz answers 200 once the log is read.
    /// SIGTERM and SIGINT stop it in order: no new connection, everything admitted is finished and synced, exit code 0. Killed in any
    /// other way, it loses nothing that it acknowledged.
    #[command(after_help = EXIT_CODES, after_long_help = settings_help())]
    Serve(ServeArguments),
    /// Reads a whole data directory offline and checks everything that was promised about it.
    ///
    /// Re-reads every entry of every shard's log: checksums, order, the chain, the position that was durable; and of every event that no
    /// unit was given twice, no user got more than the limit, nothing was granted outside its window or sold after its hold was over, and that
    /// all units add up, with books that share no code with the node's own. No node may be using the directory. Nothing is repaired.
    #[command(after_help = EXIT_CODES)]
    Verify(VerifyArguments),
    /// Runs a whole flash sale on this machine and proves that nothing was oversold, lost or invented.
    ///
    /// Starts a real node on a temporary directory, opens a sale, lets buyers rush it through the HTTP door, kills the node with SIGKILL
    /// while it grants, starts it again, goes on, and prints a table and the proof of `tidegate verify` and of the buyers' own answers.
    #[command(after_help = EXIT_CODES)]
    Demo(DemoOptions),
    /// Puts a shop's real invoices through the door of a real node and proves that every unit was sold once.
    ///
    /// Stocks open with what the file buys of each product; every line is reserved and confirmed. Lines that are no sale are named and
    /// counted. Prints the figures, the final stocks and the proof of `tidegate verify`.
    #[command(after_help = EXIT_CODES)]
    Replay(ReplayOptions),
}

/// Where settings come from.
#[derive(Args)]
struct SettingsArguments {
    /// The settings file, in TOML. Without it every setting has its default
    #[arg(long, value_name = "FILE", env = CONFIG_VARIABLE, hide_env_values = true)]
    config: Option<PathBuf>,

    /// Any setting by its name, over the file's and the environment's; may be repeated
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE", value_parser = parse_pair)]
    pairs: Vec<(String, String)>,
}

#[derive(Args)]
struct ServeArguments {
    #[command(flatten)]
    settings: SettingsArguments,

    /// The folder that holds everything durable; made if it is missing [setting: `node.data_dir`, default: `tidegate-data`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,

    /// Where to listen: a loopback address, with port 0 for any free one [setting: `http.listen`, default: `127.0.0.1:8700`]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,

    /// How many shards a new directory gets; an existing one must have as many [setting: `node.shards`, default: what the directory has, half the cores for a new one]
    #[arg(long, value_name = "NUMBER")]
    shards: Option<String>,

    /// What an acknowledged change survives: `power_loss`, `process_crash` or `none` [setting: `log.durability`, default: `power_loss`]
    #[arg(long, value_name = "LEVEL")]
    durability: Option<String>,

    /// How the program's log looks: `human` or `json` [setting: `output.format`, default: `human`]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,

    /// What of it is worth saying: a level, or a list by module [setting: `output.filter`, default: `info`]
    #[arg(long, value_name = "FILTER")]
    log_filter: Option<String>,
}

#[derive(Args)]
struct VerifyArguments {
    /// The data directory
    #[arg(value_name = "DATA_DIR")]
    directory: PathBuf,

    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    settings: SettingsArguments,
}

/// Runs what the command line asks for.
pub(crate) fn run() -> ExitCode {
    // Wrong arguments end the process here, with code 2.
    let result = match Arguments::parse().command {
        Command::Serve(arguments) => serve(&arguments),
        Command::Verify(arguments) => run_verify(&arguments),
        Command::Demo(options) => demo::run(&options).map_err(Into::into),
        Command::Replay(options) => run_client(replay::run(options)),
    };
    result.unwrap_or_else(|error| {
        // Nothing is left to be done when the standard error is closed.
        let _ = writeln!(io::stderr(), "error: {}", with_sources(&*error));
        ExitCode::from(if is_usage(&*error) { 2 } else { 1 })
    })
}

/// Whether what was asked for was wrong, and not what came of it.
fn is_usage(error: &(dyn Error + 'static)) -> bool {
    error.is::<SettingsError>()
        || error.is::<logging::FilterError>()
        || matches!(error.downcast_ref(), Some(DemoError::Plan(_)))
        || matches!(error.downcast_ref(), Some(ReplayError::Target { .. }))
}

fn serve(arguments: &ServeArguments) -> Result<ExitCode, Box<dyn Error>> {
    let listen = arguments.listen.map(|address| address.to_string());
    let flags = [
        ("node.data_dir", &arguments.data_dir),
        ("http.listen", &listen),
        ("node.shards", &arguments.shards),
        ("log.durability", &arguments.durability),
        ("output.format", &arguments.log_format),
        ("output.filter", &arguments.log_filter),
    ];
    let named = flags.iter().filter_map(|(key, value)| Some((*key, value.as_deref()?)));
    let settings = arguments.settings.load(named)?;
    logging::start(&settings.output)?;
    serve::run(settings)?;
    Ok(ExitCode::SUCCESS)
}

fn run_verify(arguments: &VerifyArguments) -> Result<ExitCode, Box<dyn Error>> {
    let settings = arguments.settings.load([])?;
    logging::start(&settings.output)?;
    let result = verify(&arguments.directory, &settings);
    if arguments.json {
        writeln!(io::stdout(), "{}", serde_json::to_string(&verdict(&result))?)?;
    } else if let Ok(report) = &result {
        writeln!(io::stdout(), "{report}")?;
    }
    result?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a command that talks to a node, here or elsewhere.
fn run_client<E: Error + 'static>(command: impl Future<Output = Result<(), E>>) -> Result<ExitCode, Box<dyn Error>> {
    Builder::new_multi_thread().thread_name("client").enable_all().build()?.block_on(command)?;
    Ok(ExitCode::SUCCESS)
}

impl SettingsArguments {
    /// The settings, with `flags` over everything else.
    fn load<'a>(&'a self, flags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Settings, SettingsError> {
        let pairs = self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        Settings::load(self.config.as_deref(), std::env::vars_os(), pairs.chain(flags))
    }
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    pair.ok_or_else(|| "a setting and a value are needed, as in http.listen=127.0.0.1:8700".to_owned())
}

/// What `verify --json` prints.
#[derive(Serialize)]
struct Verdict<'a> {
    good: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<&'a Report>,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<Place>,
}

fn verdict(result: &Result<Report, VerifyError>) -> Verdict<'_> {
    match result {
        Ok(report) => Verdict { good: true, report: Some(report), what: None, place: None },
        Err(VerifyError::Finding { place, what }) => {
            Verdict { good: false, report: None, what: Some(what.clone()), place: Some(*place) }
        }
        Err(error) => Verdict { good: false, report: None, what: Some(with_sources(error)), place: None },
    }
}

/// What went wrong, and what was behind it, outermost first.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        // Some errors repeat their source in their own words.
        let said = error.to_string();
        if !text.contains(&said) {
            let _ = write!(text, ": {said}");
        }
        source = error.source();
    }
    text
}

fn settings_help() -> String {
    format!(
        "{EXIT_CODES}\n\nSettings come from the file, then from variables, then from flags. Below is the settings file that holds every default:\n\n{SHIPPED_FILE}"
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn undocumented(command: &clap::Command) -> Vec<String> {
        let arguments =
            command.get_arguments().filter(|argument| argument.get_help().is_none()).map(|argument| argument.get_id().to_string());
        let own = command.get_about().is_none().then(|| command.get_name().to_owned());
        own.into_iter().chain(arguments).chain(command.get_subcommands().flat_map(undocumented)).collect()
    }

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_is_explained() {
        assert_eq!(undocumented(&Arguments::command()), Vec::<String>::new());
    }

    #[test]
    fn an_error_is_told_with_its_sources_and_none_of_them_twice() {
        let source = io::Error::other("no space");
        let error = serve::ServeError::Setup(source);
        assert_eq!(with_sources(&error), "the process could not be set up: no space");
        let repeated = tidegate_persistence::OpenError::Io { path: "place".into(), source: io::Error::other("no space") };
        assert_eq!(with_sources(&repeated), "place: no space");
    }
}
