//! What a watcher sees while a load runs: a bar, on a terminal only. The door of indicatif here.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Shows how a load goes on the standard error, where that is a terminal.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A display for a run of this length.
    pub(crate) fn new(whole: Duration) -> Self {
        let style = ProgressStyle::with_template("{prefix:<9} {bar:28} {elapsed:>4}  {msg}").expect("the template is well-formed");
        // Draws on the standard error, and nothing at all where that is no terminal.
        let bar = ProgressBar::new(in_milliseconds(whole)).with_style(style.progress_chars("=> "));
        Self(bar)
    }

    /// A new phase begins, with a few words about it.
    pub(crate) fn phase(&self, name: &'static str, words: String) {
        self.0.set_prefix(name);
        self.0.set_message(words);
        self.0.tick();
    }

    /// How the run stands.
    pub(crate) fn run(&self, elapsed: Duration, per_second: u64, answers: u64, errors: u64) {
        self.0.set_position(in_milliseconds(elapsed));
        self.0.set_message(format!("{per_second} answers/s, {answers} answers, {errors} errors"));
    }

    /// The display makes room.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

fn in_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
