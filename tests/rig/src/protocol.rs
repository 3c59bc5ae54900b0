//! What a writer or an examination says to the rig: one line each on its standard output, outside the file system that is cut.
//!
//! A line is written in one piece, so the end of the process loses a line or leaves it whole.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

/// One thing said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    /// The directory is about to be opened, or created.
    Opening,
    /// The directory is open: from here on it must exist.
    Opened { cluster: String },
    /// A stream was replayed, was right up to `sequence`, and had so many events and parts of an unfinished group behind its end.
    Recovered { stream: u16, sequence: u64, events: u64, tail_parts: u32 },
    /// What was recovered is as safe as what is committed.
    Standing { stream: u16, sequence: u64 },
    /// A group is about to be handed to the log.
    Issued { stream: u16, sequence: u64 },
    /// The log said that a group is committed.
    Committed { stream: u16, sequence: u64 },
    /// Something is not as it must be.
    Finding(String),
    /// The log stopped: expected once the power is gone.
    Failed(String),
    /// The examination is through.
    Done,
}

impl fmt::Display for Line {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A text of several lines would be several things said.
        let one_line = |text: &str| text.replace(['\n', '\r'], " ");
        match self {
            Self::Opening => formatter.write_str("opening"),
            Self::Opened { cluster } => write!(formatter, "opened {cluster}"),
            Self::Recovered { stream, sequence, events, tail_parts } => {
                write!(formatter, "recovered {stream} {sequence} {events} {tail_parts}")
            }
            Self::Standing { stream, sequence } => write!(formatter, "standing {stream} {sequence}"),
            Self::Issued { stream, sequence } => write!(formatter, "issued {stream} {sequence}"),
            Self::Committed { stream, sequence } => write!(formatter, "committed {stream} {sequence}"),
            Self::Finding(text) => write!(formatter, "finding {}", one_line(text)),
            Self::Failed(text) => write!(formatter, "failed {}", one_line(text)),
            Self::Done => formatter.write_str("done"),
        }
    }
}

/// A line that is none of these.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown line {0:?}")]
pub(crate) struct LineError(String);

impl FromStr for Line {
    type Err = LineError;

    fn from_str(line: &str) -> Result<Self, LineError> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let numbers = rest.split(' ').map(str::parse).collect::<Result<Vec<u64>, _>>().unwrap_or_default();
        let stream = |number: u64| u16::try_from(number).map_err(|_| LineError(line.to_owned()));
        Ok(match (word, numbers.as_slice()) {
            ("opening", _) => Self::Opening,
            ("opened", _) => Self::Opened { cluster: rest.to_owned() },
            ("recovered", &[first, sequence, events, tail_parts]) => Self::Recovered {
                stream: stream(first)?,
                sequence,
                events,
                tail_parts: u32::try_from(tail_parts).map_err(|_| LineError(line.to_owned()))?,
            },
            ("standing", &[first, sequence]) => Self::Standing { stream: stream(first)?, sequence },
            ("issued", &[first, sequence]) => Self::Issued { stream: stream(first)?, sequence },
            ("committed", &[first, sequence]) => Self::Committed { stream: stream(first)?, sequence },
            ("finding", _) => Self::Finding(rest.to_owned()),
            ("failed", _) => Self::Failed(rest.to_owned()),
            ("done", _) => Self::Done,
            _ => return Err(LineError(line.to_owned())),
        })
    }
}

/// Says `line`. The process ends when nobody listens any more: then the rig is gone.
pub(crate) fn say(line: &Line) {
    let text = format!("{line}\n");
    let mut output = io::stdout().lock();
    if output.write_all(text.as_bytes()).and_then(|()| output.flush()).is_err() {
        std::process::exit(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood_as_it_was_said() {
        let lines = [
            (Line::Opening, "opening"),
            (Line::Opened { cluster: "c1".to_owned() }, "opened c1"),
            (Line::Recovered { stream: 2, sequence: 9, events: 70, tail_parts: 3 }, "recovered 2 9 70 3"),
            (Line::Standing { stream: 2, sequence: 9 }, "standing 2 9"),
            (Line::Issued { stream: 0, sequence: 1 }, "issued 0 1"),
            (Line::Committed { stream: 0, sequence: 1 }, "committed 0 1"),
            (Line::Finding("a b".to_owned()), "finding a b"),
            (Line::Failed("disk gone".to_owned()), "failed disk gone"),
            (Line::Done, "done"),
        ];
        for (line, text) in lines {
            assert_eq!(line.to_string(), text);
            assert_eq!(text.parse(), Ok(line));
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for text in ["", "committed", "committed 1", "committed 1 x", "committed 70000 1", "recovered 1 2 3", "hello 1 2"] {
            assert!(text.parse::<Line>().is_err(), "{text:?}");
        }
    }
}
