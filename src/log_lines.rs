//! The thread that writes the program's log lines, so that nobody who has something to say waits for whoever reads it: a pipe that is not
//! read any more must not stop a sale. Knows nothing of what the lines say.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;
use tracing_subscriber::fmt::MakeWriter;

/// Longest wait, at the end of the process, for the lines that were said last.
const LAST_LINES_WAIT_MAX: Duration = Duration::from_secs(1);

/// A way to the thread that writes. Clones share it. Each write to it is one line, or several whole ones; what finds no room is dropped
/// and counted.
#[derive(Debug, Clone)]
pub(crate) struct LogLines {
    sender: SyncSender<Piece>,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug)]
enum Piece {
    Line(Vec<u8>),
    /// Says so once everything before is written.
    Flush(mpsc::Sender<()>),
}

impl LogLines {
    /// Starts the thread, which writes to `output` in order. At most `waiting_max` lines wait for it.
    pub(crate) fn start(output: impl Write + Send + 'static, waiting_max: usize) -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(waiting_max);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&dropped);
        thread::Builder::new().name("log lines".to_owned()).spawn(move || write_lines(&receiver, output, &counted))?;
        Ok(Self { sender, dropped })
    }

    /// Returns once everything that was said before is written, or after a second: at the end of the process.
    pub(crate) fn flush_at_end(&self) {
        let (written, is_written) = mpsc::channel();
        // Without room for this nobody has been reading for long.
        if self.sender.try_send(Piece::Flush(written)).is_ok() {
            let _ = is_written.recv_timeout(LAST_LINES_WAIT_MAX);
        }
    }

    /// Adds the count of dropped lines to `registry`, under the prefix that it carries.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
    }
}

impl Collector for LogLines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let dropped = ConstCounter::new(self.dropped.load(Ordering::Relaxed));
        let help = "Lines of the log that were dropped because they were not read.";
        dropped.encode(encoder.encode_descriptor("log_lines_dropped", help, None, dropped.metric_type())?)
    }
}

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.sender.try_send(Piece::Line(bytes.to_owned())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogLines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

fn write_lines(pieces: &Receiver<Piece>, mut output: impl Write, dropped: &AtomicU64) {
    let mut told = 0;
    for piece in pieces {
        match piece {
            // There is nowhere left to complain.
            Piece::Line(line) => drop(output.write_all(&line)),
            Piece::Flush(written) => drop(written.send(())),
        }
        let count = dropped.load(Ordering::Relaxed);
        if count > told {
            // Takes the room of the line just written.
            tracing::warn!(lines = count - told, "lines of the log were dropped, because they were not read");
            told = count;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// An output that takes a line only when it is let.
    struct Reluctant {
        begun: mpsc::Sender<()>,
        let_go: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Reluctant {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.begun.send(()).unwrap();
            self.let_go.recv().unwrap();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_an_output_that_takes_nothing() {
        let (begun, begins) = mpsc::channel();
        let (let_go, is_let_go) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let output = Reluctant { begun, let_go: is_let_go, written: Arc::clone(&written) };
        let mut lines = LogLines::start(output, 2).unwrap();
        lines.write_all(b"1").unwrap();
        begins.recv().unwrap();
        for line in [b"2", b"3", b"4", b"5"] {
            lines.write_all(line).unwrap();
        }
        assert_eq!(lines.dropped.load(Ordering::Relaxed), 2);
        for _ in 0..3 {
            let_go.send(()).unwrap();
        }
        let mut flushed = false;
        while !flushed {
            // Room for the flush comes as lines are written.
            let (written, is_written) = mpsc::channel();
            flushed = lines.sender.try_send(Piece::Flush(written)).is_ok() && is_written.recv().is_ok();
        }
        assert_eq!(*written.lock().unwrap(), b"123");
        lines.flush_at_end();
    }
}
