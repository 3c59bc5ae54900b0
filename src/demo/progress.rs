//! What a watcher sees while the demo runs: a bar on a terminal, a line now and then elsewhere. The door of indicatif here.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

/// Pause between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// The rush at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Whether the node is away.
    pub(crate) is_out: bool,
    /// Kills so far.
    pub(crate) kills: usize,
    /// Buyers who have arrived.
    pub(crate) arrived: u32,
    /// Buyers who are asking again.
    pub(crate) waiting: u32,
    /// Grants that buyers know of.
    pub(crate) grants: usize,
    /// Answers `sold_out`.
    pub(crate) sold_out: u64,
    /// Unknown answers.
    pub(crate) unknown: u64,
}

/// Shows how the demo goes on the standard error.
pub(crate) struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    last_line: Mutex<Option<Instant>>,
}

impl Progress {
    /// A display for `buyers` arrivals.
    pub(crate) fn new(buyers: u32) -> Self {
        let is_terminal = io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr_with_hz(10) } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(u64::from(buyers)), target);
        let style = ProgressStyle::with_template("{prefix:<9} {bar:28} {human_pos:>7}/{human_len} {elapsed:>4}  {msg}");
        bar.set_style(style.expect("the template is well formed").progress_chars("=> "));
        Self { bar, is_terminal, last_line: Mutex::new(None) }
    }

    /// A new phase begins, with a few words about it.
    pub(crate) fn phase(&self, name: &str, words: &str) {
        self.bar.set_prefix(name.to_owned());
        self.bar.set_message(words.to_owned());
        self.bar.tick();
        self.line(&format!("{name}: {words}"));
    }

    /// How the rush stands.
    pub(crate) fn rush(&self, moment: &Moment) {
        let Moment { is_out, kills, arrived, waiting, grants, sold_out, unknown } = *moment;
        let name = match (is_out, kills) {
            (true, _) => "node down",
            (false, 0) => "rush",
            (false, _) => "rush on",
        };
        let words = format!("{grants} grants, {sold_out} sold out, {unknown} unknown, {waiting} asking again");
        self.bar.set_prefix(name);
        self.bar.set_position(u64::from(arrived));
        self.bar.set_message(words.clone());
        let is_due = self.last_line.lock().is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if is_due {
            self.line(&format!("{name}: {arrived} arrived, {words}"));
        }
    }

    /// Something happened that is worth a line of its own.
    pub(crate) fn event(&self, text: &str) {
        self.bar.println(text);
        self.line(text);
    }

    /// The demo is over: the display makes room.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    fn line(&self, text: &str) {
        if self.is_terminal {
            return;
        }
        *self.last_line.lock() = Some(Instant::now());
        // Nobody watches a closed standard error.
        let _ = writeln!(io::stderr(), "{text}");
    }
}
