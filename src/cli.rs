//! The command line: what can be asked of the program, with which words, and with which exit code it answers. The door of clap.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use serde::Serialize;
use tidegate_config::{CONFIG_VARIABLE, EffectiveSetting, Settings, SettingsError};
use tokio::runtime::Builder;

use crate::backup::{self, BackupError, BackupOptions};
use crate::cluster::{self, ClusterError, StatusOptions, TargetOptions};
use crate::demo::{self, DemoError, DemoOptions};
use crate::key::{self, KeyCommand};
use crate::load::{self, LoadError, LoadOptions};
use crate::log_lines::LogLines;
use crate::replay::{self, ReplayError, ReplayOptions};
use crate::telemetry::Telemetry;
use crate::verify::members::{self, Comparison};
use crate::verify::{Place, Report, VerifyError, verify};
use crate::{config_command, logging, manual, serve};

/// A stock authority for flash sales: decides, in order and without locks, who gets the last unit.
///
/// One place that never sells a unit twice, never forgets an answer it gave, and gives unpaid units back on time. Shops' frontends call
/// it over HTTP: they reserve units for a buyer, confirm what was paid, and release what was not.
#[derive(Parser)]
#[command(name = "tidegate", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What each command does. When to use it, examples, exit codes, environment and files are in `src/manual/pages.rs`.
#[derive(Subcommand)]
enum Command {
    /// Runs a whole flash sale on this machine and proves that nothing was oversold or lost.
    ///
    /// Starts a real node on a temporary directory, opens a sale, lets buyers rush it through the HTTP door, kills the node with SIGKILL
    /// while it grants, starts it again, goes on, and prints a table and the proof of `tidegate verify` and of the buyers' own answers.
    ///
    /// With `--nodes 3` it makes a cluster of three on this machine, of one shard, has buyers ask all of them, and kills whichever leads,
    /// several times. The table then tells how long nothing was granted after each kill, and how many answers were unknown and asked again,
    /// with the same key, at another node; the proof compares what each of the nodes has in the end. All nodes share this machine's cores and
    /// its disk, so the figures say how a failover goes, and not how fast a cluster of three machines is.
    Demo(DemoOptions),
    /// Runs a node: recovers its data directory, then answers HTTP until it is told to stop.
    ///
    /// Prints `listening on http://ADDRESS` to the standard output once connections are taken; /readyz answers 200 once the log is read.
    /// SIGTERM and SIGINT stop it in order: no new connection, everything admitted is finished and synced, exit code 0. Killed in any
    /// other way, it loses nothing that it acknowledged.
    Serve(NodeArguments),
    /// Prints the settings that a node would run with, and where each of them was given.
    ///
    /// Settings come from the file, over it from variables, over both from flags. Prints them as a settings file that can be loaded
    /// again; a comment behind each says whether it is the default or which file, variable or command line gave it. Secrets are not
    /// shown.
    Config(ConfigArguments),
    /// Reads a stopped node's whole data directory and checks everything that was promised.
    ///
    /// Re-reads every entry of every shard's log: checksums, order, the chain, the position that was durable; and of every event that no
    /// unit was given twice, no user got more than the limit, nothing was granted outside its window or sold after its hold was over, and that
    /// all units add up, with books that share no code with the node's own. No node may be using the directory. Nothing is repaired.
    Verify(VerifyArguments),
    /// Copies a running node's data directory, checks the copy, and leaves the node serving.
    ///
    /// Asks the node for new snapshots, the history and the log, and writes them into DIR, which appears only when everything is there,
    /// checked like `tidegate verify` does, and durable. Everything that was acknowledged before the command was given is in it. To
    /// restore, stop the original for good and start a node on the copy: `tidegate serve --data-dir DIR`. It goes on where the copy
    /// ends: with the same reservation ids, idempotency keys and cursors of the change feed, and without what was acknowledged
    /// afterwards. A copy and its original must never run side by side: they have the same identity, and would sell the same units twice.
    /// DIR holds the node's secret; keep it as safe as the data directory.
    Backup(BackupOptions),
    /// Loads a running authority as a sale would, measures its answers, checks every unit.
    #[command(long_about = load::ABOUT)]
    Load(LoadOptions),
    /// Puts a shop's real invoices through a real node and proves each unit was sold once.
    ///
    /// Stocks open with what the file buys of each product; every sale is reserved and confirmed, and what a cancellation takes back is
    /// returned, the newest units first. Lines that are neither are named and counted. Prints the figures, the final stocks beside what
    /// the file says of each, and the proof of `tidegate verify`.
    Replay(ReplayOptions),
    /// Makes a cluster of nodes: its first member, and the others that join it.
    ///
    /// In a cluster an answer leaves only when a majority of the nodes has it on its disks, and a sale goes on when a node is lost. What a
    /// member is told with `serve` stands in the section `[cluster]` of its settings.
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Cluster {
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Makes API keys, and the hashes by which a node knows them.
    ///
    /// A node with `auth.keys_file` lets in who brings one of the keys in that file: `authorization: Bearer KEY`. The file holds names,
    /// roles and hashes, never a key.
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Prints what a shell needs to complete this program's commands and flags.
    ///
    /// The script goes to the standard output; where it belongs differs from shell to shell, as the examples show.
    Completions(CompletionsArguments),
    /// Writes one man page for the program and one for each command.
    ///
    /// Makes the folder if it is missing, and replaces pages that are there.
    Manual(ManualArguments),
}

/// What can be done about a cluster.
#[derive(Subcommand)]
enum ClusterCommand {
    /// Makes the data directory of a stopped node the first member of a cluster, or a new one.
    ///
    /// The log of a node that stood alone becomes the beginning of the cluster's as it is: nothing is copied or changed, and who the members
    /// are is written behind it. There is no way back but a backup. Does nothing where it has been done.
    Init(NodeArguments),
    /// Joins a cluster that is running: makes the data directory of another member.
    ///
    /// Asks a member for it, which writes the new node into the log of every shard. Started with `tidegate serve`, it gets the log from
    /// whoever leads, and is counted for the majority once it has it. The folder must be new or empty; it holds the cluster's secret, as
    /// every member's does.
    Join(JoinArguments),
    /// Takes a node out of a cluster for good, whether it runs or is lost.
    ///
    /// Asks any other member, which takes it out of every shard if a majority of the others is there. Afterwards it counts for nothing; its
    /// directory is of no use any more. To replace a machine that is lost: this, and then `tidegate cluster join` on another one.
    Leave(LeaveArguments),
    /// Moves what a node leads to the others, before it is stopped.
    ///
    /// Any member may be asked. Afterwards the node leads nothing until it is started again, or with `--resume`; it keeps its share of the
    /// log, is counted, and answers requests. Fails, and goes on trying, where nobody else can lead.
    Drain(DrainArguments),
    /// Shows how a cluster stands: its nodes, and for each shard who leads it and who lacks what.
    ///
    /// Any member answers, also one that does not serve yet or has lost the others.
    Status(StatusOptions),
}

/// Who leaves.
#[derive(Args)]
struct LeaveArguments {
    #[command(flatten)]
    target: TargetOptions,

    /// The node's number in the cluster, 1 to 1000000
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    node: u64,
}

/// Who is drained.
#[derive(Args)]
struct DrainArguments {
    #[command(flatten)]
    target: TargetOptions,

    /// The node's number in the cluster, 1 to 1000000
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    node: u64,

    /// Let it lead again instead
    #[arg(long)]
    resume: bool,
}

/// How a node joins.
#[derive(Args)]
struct JoinArguments {
    #[command(flatten)]
    target: TargetOptions,

    /// The node's number in the cluster, 1 to 1000000 [default: the next that is free]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    node: Option<u64>,

    #[command(flatten)]
    settings: SettingsArguments,

    /// The folder that becomes the data directory [setting: `node.data_dir`, default: `tidegate-data`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
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

/// What a node is started with.
#[derive(Args)]
struct NodeArguments {
    #[command(flatten)]
    settings: SettingsArguments,

    /// The folder that holds everything durable; made if it is missing [setting: `node.data_dir`, default: `tidegate-data`]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,

    /// Where to listen: a loopback address, with port 0 for any free one [setting: `http.listen`, default: `127.0.0.1:8700`]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,

    /// How many shards a new directory gets; an existing one must have as many [setting: `node.shards`, default: `auto`: what the directory has, half the cores for a new one]
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
struct ConfigArguments {
    /// Print nothing: only say by the exit code, and by an error, whether the settings are good
    #[arg(long, conflicts_with = "json")]
    check: bool,

    /// Print one JSON object by section and name, each setting with its value, origin and variable
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    node: NodeArguments,
}

#[derive(Args)]
struct CompletionsArguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

#[derive(Args)]
struct ManualArguments {
    /// The folder that the pages are written to
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

#[derive(Args)]
struct VerifyArguments {
    /// The data directory; of several members of one cluster, all of them, which are held against each other too
    #[arg(value_name = "DATA_DIR", required = true)]
    directories: Vec<PathBuf>,

    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    settings: SettingsArguments,
}

/// The command line as clap knows it, with the manual's texts.
pub(crate) fn program() -> clap::Command {
    manual::dress(Arguments::command())
}

/// Runs what the command line asks for.
pub(crate) fn run() -> ExitCode {
    // Wrong arguments end the process here, with code 2.
    let arguments = Arguments::from_arg_matches(&program().get_matches()).unwrap_or_else(|error| error.exit());
    let result = match arguments.command {
        Command::Serve(arguments) => serve(&arguments),
        Command::Config(arguments) => run_config(&arguments),
        Command::Cluster { command } => run_cluster(&command),
        Command::Key { command } => key::run(&command).map(|()| ExitCode::SUCCESS).map_err(Into::into),
        Command::Completions(arguments) => done(manual::complete(program(), arguments.shell, &mut io::stdout())),
        Command::Manual(arguments) => write_manual(&arguments),
        Command::Verify(arguments) => run_verify(&arguments),
        Command::Demo(options) => demo::run(&options).map_err(Into::into),
        Command::Backup(options) => backup::run(&options).map_err(Into::into),
        Command::Load(options) => load::run(options).map_err(Into::into),
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
        || error.downcast_ref().is_some_and(LoadError::is_usage)
        || error.downcast_ref().is_some_and(BackupError::is_usage)
        || error.downcast_ref().is_some_and(ClusterError::is_usage)
        || error.downcast_ref().is_some_and(ReplayError::is_usage)
}

fn serve(arguments: &NodeArguments) -> Result<ExitCode, Box<dyn Error>> {
    let listen = arguments.listen.map(|address| address.to_string());
    let settings = arguments.settings.load(arguments.flags(listen.as_ref()))?;
    let telemetry = Telemetry::start(&settings.telemetry)?;
    let waiting_max = usize::try_from(settings.output.lines_waiting_max).expect("the setting's bounds fit a machine word");
    let lines = LogLines::start(io::stderr(), waiting_max)?;
    logging::start_serving(&settings.output, &lines, telemetry.as_ref())?;
    let result = serve::run(settings, telemetry, &lines);
    if let Err(error) = &result {
        // Whoever collects the log reads its lines, and not what a command says to a terminal.
        tracing::error!(error = with_sources(error), "the node has ended");
    }
    lines.flush_at_end();
    result?;
    Ok(ExitCode::SUCCESS)
}

fn run_cluster(command: &ClusterCommand) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        ClusterCommand::Init(node) => {
            let listen = node.listen.map(|address| address.to_string());
            let settings = node.settings.load(node.flags(listen.as_ref()))?;
            logging::start(&settings.output)?;
            cluster::init(&settings)?;
        }
        ClusterCommand::Join(JoinArguments { target, node, settings, data_dir }) => {
            let data_dir = data_dir.as_ref().map(|path| ("node.data_dir", path.as_str()));
            let settings = settings.load(data_dir)?;
            logging::start(&settings.output)?;
            cluster::join(&settings, target, *node)?;
        }
        ClusterCommand::Leave(LeaveArguments { target, node }) => cluster::leave(target, *node)?,
        ClusterCommand::Drain(DrainArguments { target, node, resume }) => cluster::drain(target, *node, *resume)?,
        ClusterCommand::Status(options) => cluster::status(options)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run_config(arguments: &ConfigArguments) -> Result<ExitCode, Box<dyn Error>> {
    let node = &arguments.node;
    let listen = node.listen.map(|address| address.to_string());
    // What `serve` checks before it makes anything.
    logging::start(&node.settings.load(node.flags(listen.as_ref()))?.output)?;
    if arguments.check {
        return Ok(ExitCode::SUCCESS);
    }
    let (path, pairs) = node.settings.layers(node.flags(listen.as_ref()));
    let settings = EffectiveSetting::all(path, std::env::vars_os(), pairs)?;
    if arguments.json {
        done(writeln!(io::stdout(), "{}", config_command::as_json(&settings)))
    } else {
        done(write!(io::stdout(), "{}", config_command::as_toml(&settings)))
    }
}

fn write_manual(arguments: &ManualArguments) -> Result<ExitCode, Box<dyn Error>> {
    let folder = arguments.folder.display();
    let count = manual::write_pages(program(), &arguments.folder)
        .map_err(|error| io::Error::new(error.kind(), format!("man pages cannot be written to {folder}: {error}")))?;
    done(writeln!(io::stdout(), "{count} pages written to {folder}"))
}

fn done(result: io::Result<()>) -> Result<ExitCode, Box<dyn Error>> {
    result?;
    Ok(ExitCode::SUCCESS)
}

fn run_verify(arguments: &VerifyArguments) -> Result<ExitCode, Box<dyn Error>> {
    let settings = arguments.settings.load([])?;
    logging::start(&settings.output)?;
    let [directory] = &arguments.directories[..] else { return verify_members(arguments, &settings) };
    let result = verify(directory, &settings);
    if arguments.json {
        writeln!(io::stdout(), "{}", serde_json::to_string(&verdict(&result, directory))?)?;
    } else if let Ok(report) = &result {
        writeln!(io::stdout(), "{report}")?;
    }
    result?;
    Ok(ExitCode::SUCCESS)
}

/// Each directory by itself, and then all of them against each other, whatever the first said.
fn verify_members(arguments: &VerifyArguments, settings: &Settings) -> Result<ExitCode, Box<dyn Error>> {
    let results: Vec<_> = arguments.directories.iter().map(|directory| (directory, verify(directory, settings))).collect();
    let comparison = members::compare(&arguments.directories, settings);
    let differ = comparison.as_ref().map_or(Ok(()), members::verdict);
    let mut out = io::stdout().lock();
    if arguments.json {
        let told = MembersVerdict {
            good: comparison.is_ok() && differ.is_ok() && results.iter().all(|(_, result)| result.is_ok()),
            directories: results.iter().map(|(directory, result)| OfDirectory::new(directory, result)).collect(),
            comparison: comparison.as_ref().ok(),
            what: comparison.as_ref().err().map(|error| with_sources(error)),
            place: comparison.as_ref().err().and_then(members::place).map(|path| path.display().to_string()),
        };
        writeln!(out, "{}", serde_json::to_string(&told)?)?;
    } else {
        for (directory, result) in &results {
            match result {
                Ok(report) => writeln!(out, "{}\n{report}\n", directory.display())?,
                Err(error) => writeln!(out, "{}\nnot good: {}\n", directory.display(), with_sources(error))?,
            }
        }
        if let Ok(comparison) = &comparison {
            writeln!(out, "{comparison}")?;
        }
    }
    out.flush()?;
    drop(out);
    for (_, result) in results {
        result?;
    }
    comparison?;
    differ?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a command that talks to a node, here or elsewhere.
fn run_client<E: Error + 'static>(command: impl Future<Output = Result<(), E>>) -> Result<ExitCode, Box<dyn Error>> {
    Builder::new_multi_thread().thread_name("client").enable_all().build()?.block_on(command)?;
    Ok(ExitCode::SUCCESS)
}

impl NodeArguments {
    /// The flags that stand for a setting, where they were given.
    fn flags<'a>(&'a self, listen: Option<&'a String>) -> impl Iterator<Item = (&'a str, &'a str)> {
        let flags = [
            ("node.data_dir", self.data_dir.as_ref()),
            ("http.listen", listen),
            ("node.shards", self.shards.as_ref()),
            ("log.durability", self.durability.as_ref()),
            ("output.format", self.log_format.as_ref()),
            ("output.filter", self.log_filter.as_ref()),
        ];
        flags.into_iter().filter_map(|(key, value)| Some((key, value?.as_str())))
    }
}

impl SettingsArguments {
    /// The settings, with `flags` over everything else.
    fn load<'a>(&'a self, flags: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Settings, SettingsError> {
        let (path, pairs) = self.layers(flags);
        Settings::load(path, std::env::vars_os(), pairs)
    }

    /// The settings file, and what the command line lays over everything else.
    fn layers<'a>(
        &'a self,
        flags: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> (Option<&'a Path>, impl Iterator<Item = (&'a str, &'a str)>) {
        let pairs = self.pairs.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        (self.config.as_deref(), pairs.chain(flags))
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
    place: Option<Found>,
}

/// What `verify --json` prints of several directories.
#[derive(Serialize)]
struct MembersVerdict<'a> {
    good: bool,
    directories: Vec<OfDirectory<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<&'a Comparison>,
    /// Why they were not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
}

/// One of them.
#[derive(Serialize)]
struct OfDirectory<'a> {
    directory: String,
    #[serde(flatten)]
    verdict: Verdict<'a>,
}

impl<'a> OfDirectory<'a> {
    fn new(directory: &Path, result: &'a Result<Report, VerifyError>) -> Self {
        Self { directory: directory.display().to_string(), verdict: verdict(result, directory) }
    }
}

/// Where something is wrong.
#[derive(Serialize)]
#[serde(untagged)]
enum Found {
    /// In the log.
    Entry(Place),
    /// Elsewhere: the file or folder.
    Path(String),
}

fn verdict<'a>(result: &'a Result<Report, VerifyError>, directory: &Path) -> Verdict<'a> {
    match result {
        Ok(report) => Verdict { good: true, report: Some(report), what: None, place: None },
        Err(VerifyError::Finding { place, what }) => {
            Verdict { good: false, report: None, what: Some(what.clone()), place: Some(Found::Entry(*place)) }
        }
        Err(error) => {
            let place = error.path(directory).map(|path| Found::Path(path.display().to_string()));
            Verdict { good: false, report: None, what: Some(with_sources(error)), place }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The help of every command and argument, with where it is.
    fn helped(command: &clap::Command) -> Vec<(String, Option<String>)> {
        let told = |text: Option<&clap::builder::StyledStr>| text.map(ToString::to_string);
        let arguments = command.get_arguments().map(|argument| {
            let place = format!("{} {}", command.get_name(), argument.get_id());
            (place, told(argument.get_long_help().or(argument.get_help())))
        });
        let own = (command.get_name().to_owned(), told(command.get_about()));
        std::iter::once(own).chain(arguments).chain(command.get_subcommands().flat_map(helped)).collect()
    }

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        program().debug_assert();
    }

    #[test]
    fn every_command_and_argument_is_explained() {
        let silent: Vec<String> =
            helped(&program()).into_iter().filter(|(_, text)| text.is_none()).map(|(place, _)| place).collect();
        assert_eq!(silent, Vec::<String>::new());
    }

    #[test]
    fn every_command_says_in_one_line_what_it_does_and_then_more() {
        for command in program().get_subcommands() {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!((20..=85).contains(&about.len()), "{}: {about}", command.get_name());
            assert!(command.get_long_about().is_some(), "{} says no more than that", command.get_name());
        }
    }

    #[test]
    fn help_names_each_flags_setting_with_its_real_default() {
        let mut named = Vec::new();
        for (place, text) in helped(&program()) {
            let Some((_, rest)) = text.as_deref().and_then(|text| text.split_once("[setting: `")) else { continue };
            let (key, rest) = rest.split_once("`, default: `").expect("a default follows a setting");
            let (default, _) = rest.split_once('`').expect("a default ends");
            let setting = EffectiveSetting::defaults().into_iter().find(|setting| setting.key() == key);
            let value =
                setting.and_then(|setting| setting.value).unwrap_or_else(|| panic!("{place} names {key}, which is no setting"));
            assert_eq!(value.to_string().trim_matches('"'), default, "{place}");
            named.push(key.to_owned());
        }
        let line = "tidegate serve --data-dir a --listen 127.0.0.1:1 --shards 1 --durability b --log-format c --log-filter d";
        let matches = program().try_get_matches_from(line.split(' ')).unwrap();
        let Command::Serve(node) = Arguments::from_arg_matches(&matches).unwrap().command else { panic!("{line} is serve") };
        for (key, _) in node.flags(node.listen.map(|address| address.to_string()).as_ref()) {
            assert!(named.iter().any(|name| name == key), "no flag's help names {key}");
        }
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
