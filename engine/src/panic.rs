//! What a panic does: it ends the process.
//!
//! An actor's runtime swallows a panic and would leave a closed mailbox behind a filling ring, and a broken invariant must stop the
//! node, not one task of it.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::process;

/// Makes every panic, on any thread, log itself and abort the process. `except` says whether the current thread is in one of the few
/// places where a foreign panic is expected and caught; there the previous hook runs instead. `before_abort` sees to it that the log is
/// written; it must return by itself, whoever does not read.
pub fn abort_on_panic(except: fn() -> bool, before_abort: impl Fn() + Send + Sync + 'static) {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if except() {
            previous(panic);
            return;
        }
        let thread = std::thread::current();
        let backtrace = Backtrace::capture();
        let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(&backtrace));
        tracing::error!(thread = thread.name().unwrap_or("unnamed"), %panic, backtrace, "a broken invariant stops the node");
        before_abort();
        process::abort();
    }));
}
