//! `tidegate backup`: a copy of a running node's data directory, made over HTTP and checked.
//!
//! It owns the course of a backup and what is said of it. What an archive is and how a directory is made of one is the disk's; what a node
//! puts into one is [`source`]'s. Restoring is starting a node on the copy.

mod fetch;
mod source;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Instant;

use clap::Args;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use serde::Serialize;
use tidegate_config::Settings;
use tidegate_persistence::{ArchiveTotals, RestoreError};
use tokio::runtime::Builder;
use tokio::task::spawn_blocking;

use self::fetch::FetchError;
pub(crate) use self::source::{BackupParts, Backups, MemberBackup};
use crate::child::interrupted;
use crate::target::{Target, TargetError};
use crate::verify::{Report, VerifyError, verify};

/// What the name of an unfinished copy ends with.
const PARTIAL_SUFFIX: &str = ".partial";

/// What is appended to that while it is removed.
const REMOVED_SUFFIX: &str = ".removed";

/// What is to be copied, and where to.
#[derive(Debug, Args)]
pub(crate) struct BackupOptions {
    /// The folder that the copy becomes: not there yet, or empty
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// The node: http:// or https:// and HOST[:PORT]
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8700")]
    target: String,

    /// The file that holds the API key, which needs the role admin [default: the variable `TIDEGATE_KEY`, or no key]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,

    /// The certificates to trust, in PEM, instead of this machine's own
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// Copy of the log only what the snapshots do not hold: consumers of the change feed cannot resume on the copy from older cursors
    #[arg(long)]
    without_feed: bool,

    /// Do not check the copy
    #[arg(long)]
    no_verify: bool,

    /// Print one JSON object instead of a line
    #[arg(long)]
    json: bool,
}

/// Why there is no backup. What was begun is gone again, but for a copy that did not pass its check.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BackupError {
    /// The target is none.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The folder cannot be used.
    #[error("{}: {what}", .path.display())]
    Place {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The operating system failed.
    #[error("{}: cannot be {done}", .path.display())]
    System {
        /// The file or folder.
        path: PathBuf,
        /// What was attempted.
        done: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The node gave no backup.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// No data directory could be made of what it gave.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The copy is not good.
    #[error("the copy in {} did not pass its check", .path.display())]
    Check {
        /// The copy.
        path: PathBuf,
        /// What was found.
        source: Box<VerifyError>,
    },
    /// A signal asked to end.
    #[error("interrupted: there is no backup")]
    Interrupted,
}

impl BackupError {
    /// Whether what was asked for is wrong, and not what came of it.
    pub(crate) const fn is_usage(&self) -> bool {
        match self {
            Self::Target(error) => error.is_usage(),
            Self::Place { .. } => true,
            _ => false,
        }
    }

    fn system(path: &Path, done: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::System { path, done, source }
    }
}

/// What was copied.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    directory: &'a Path,
    target: &'a str,
    with_feed: bool,
    bytes: u64,
    snapshots: u64,
    history_records: u64,
    groups: u64,
    elapsed_ms: u64,
    /// What the check found; null when there was none.
    verified: Option<Report>,
}

/// Makes a backup and says so. The copy is complete, checked and durable at return. Makes a runtime of its own, so it must not be called
/// in one.
///
/// # Errors
/// When there is no backup. The folder is then as it was.
pub(crate) fn run(options: &BackupOptions) -> Result<ExitCode, BackupError> {
    let began = Instant::now();
    let target = Target::find(&options.target, options.key_file.as_deref(), options.ca_file.as_deref())?;
    check_place(&options.directory)?;
    let partial = Partial::create(&options.directory)?;
    let bar = bar();
    let runtime = Builder::new_current_thread().enable_all().build().map_err(BackupError::system(&partial.path, "written"))?;
    let copied = runtime.block_on(async {
        let mut interrupted = pin!(async { interrupted().await.map_err(BackupError::system(&partial.path, "written")) });
        let (totals, bytes) = fetch::fetch(&target, !options.without_feed, &partial.path, &bar, interrupted.as_mut()).await?;
        let verified = if options.no_verify { None } else { Some(check(&partial, &bar, interrupted).await?) };
        Ok::<_, BackupError>((totals, bytes, verified))
    });
    // A check that was interrupted is not waited for.
    runtime.shutdown_background();
    let (totals, bytes, verified) = copied?;
    partial.finish(&options.directory)?;
    bar.finish_and_clear();
    let ArchiveTotals { snapshots, history_records, groups, .. } = totals;
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let summary = Summary {
        directory: &options.directory,
        target: &target.url,
        with_feed: !options.without_feed,
        bytes,
        snapshots,
        history_records,
        groups,
        elapsed_ms,
        verified,
    };
    print(&summary, options.json).map_err(BackupError::system(Path::new("the standard output"), "written"))?;
    Ok(ExitCode::SUCCESS)
}

/// Checks the copy. Ends early, with an error, when `interrupted` is done; a thread may then still be reading the copy.
async fn check(
    partial: &Partial,
    bar: &ProgressBar,
    interrupted: impl Future<Output = Result<(), BackupError>>,
) -> Result<Report, BackupError> {
    bar.set_prefix("checking");
    bar.set_message("the copy");
    bar.tick();
    let path = partial.path.clone();
    let checking = spawn_blocking(move || verify(&path, &Settings::default()));
    let checked = tokio::select! {
        checked = checking => checked,
        result = interrupted => return Err(result.err().unwrap_or(BackupError::Interrupted)),
    };
    checked.unwrap_or_else(|panicked| resume_unwind(panicked.into_panic())).map_err(|source| {
        partial.keep();
        BackupError::Check { path: partial.path.clone(), source: Box::new(source) }
    })
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:<9} {bar:28} {bytes:>11} {bytes_per_sec:>13}  {msg}");
    // Draws on the standard error, and nothing at all where that is no terminal.
    let bar = ProgressBar::new(1).with_style(style.expect("the template is well-formed").progress_chars("=> "));
    bar.set_prefix("snapshots");
    bar.set_message("the node makes new ones");
    bar.tick();
    bar
}

fn print(summary: &Summary<'_>, as_json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if as_json {
        serde_json::to_writer(&mut out, summary)?;
        writeln!(out)?;
    } else {
        let Summary { directory, target, bytes, snapshots, history_records, groups, elapsed_ms, verified, .. } = summary;
        writeln!(
            out,
            "backup of {target} in {}: {} in {elapsed_ms} ms; {snapshots} snapshots, {history_records} past reservations, {groups} groups of the log",
            directory.display(),
            HumanBytes(*bytes)
        )?;
        match verified {
            Some(report) => writeln!(out, "{report}")?,
            None => writeln!(out, "not checked: `tidegate verify {}` does", directory.display())?,
        }
        writeln!(out, "It holds the node's secret: keep it as safe as the data directory itself.")?;
    }
    out.flush()
}

/// Whether `directory` can become a copy.
pub(crate) fn check_place(directory: &Path) -> Result<(), BackupError> {
    let mut entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(BackupError::Place { path: directory.to_owned(), what: error.to_string() }),
    };
    if entries.next().is_none() {
        return Ok(());
    }
    let what = "is not empty; a new or an empty folder is needed".to_owned();
    Err(BackupError::Place { path: directory.to_owned(), what })
}

/// The folder of an unfinished copy, beside the one that it becomes. Dropped, it is removed.
pub(crate) struct Partial {
    path: PathBuf,
    is_kept: std::cell::Cell<bool>,
}

impl Partial {
    pub(crate) fn create(directory: &Path) -> Result<Self, BackupError> {
        let mut name = directory.file_name().map(OsString::from).ok_or_else(|| {
            let what = "names no folder that can be made".to_owned();
            BackupError::Place { path: directory.to_owned(), what }
        })?;
        name.push(PARTIAL_SUFFIX);
        let path = directory.with_file_name(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self { path, is_kept: false.into() }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let what = "is there: another command makes it, or one was killed; then remove it".to_owned();
                Err(BackupError::Place { path, what })
            }
            Err(error) => Err(BackupError::Place { path, what: error.to_string() }),
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// It stays where it is.
    fn keep(&self) {
        self.is_kept.set(true);
    }

    /// Gives the copy its name. Durable at return.
    pub(crate) fn finish(self, directory: &Path) -> Result<(), BackupError> {
        fs::rename(&self.path, directory).map_err(BackupError::system(directory, "given to the copy"))?;
        self.keep();
        let parent = match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(BackupError::system(parent, "made durable"))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if self.is_kept.get() {
            return;
        }
        // Where it is looked for there is nothing any more: an interrupted check that is still at work makes no file in what is removed.
        let mut removed = self.path.as_os_str().to_owned();
        removed.push(REMOVED_SUFFIX);
        let removed = if fs::rename(&self.path, &removed).is_ok() { Path::new(&removed) } else { &self.path };
        if let Err(error) = fs::remove_dir_all(removed) {
            // The error that ends the command is told; this one only helps to clean up.
            let _ = writeln!(io::stderr(), "warning: {} cannot be removed: {error}", removed.display());
        }
    }
}
