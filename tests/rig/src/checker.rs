//! What was promised against what is there.
//!
//! [`Books`] hold what a writer said it was given and what was acknowledged to it; [`StreamChecker`] compares the groups of one stream
//! with the history that they must be. Both only judge: they know nothing of how a log is read, of processes or of disks.

use std::collections::BTreeMap;

use tidegate_persistence::{Entry, GroupSequence};

use crate::history::{Content, History};
use crate::protocol::Line;

/// A promise that was not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Finding {
    #[error("stream {stream}: group {acknowledged} was acknowledged, and the log ends with group {found}")]
    Lost { stream: u16, acknowledged: u64, found: u64 },
    #[error("stream {stream}: group {found} is there, and only {issued} were ever written")]
    Invented { stream: u16, issued: u64, found: u64 },
    #[error("stream {stream}: group {found} stands where {expected} was expected")]
    OutOfOrder { stream: u16, expected: u64, found: u64 },
    #[error("stream {stream}: entry {entry} of group {sequence} is not the one that was written")]
    Differs { stream: u16, sequence: u64, entry: usize },
    #[error("stream {stream}: group {sequence} has {found} entries instead of {expected}")]
    Size { stream: u16, sequence: u64, expected: usize, found: usize },
    #[error("the directory of cluster {expected} is now of cluster {found}")]
    Replaced { expected: String, found: String },
    #[error("the directory was never seen open")]
    NotOpened,
    #[error("{0}")]
    Told(String),
}

impl Finding {
    /// Acknowledged groups that are gone.
    pub(crate) const fn lost_groups(&self) -> u64 {
        match self {
            Self::Lost { acknowledged, found, .. } => *acknowledged - *found,
            _ => 0,
        }
    }
}

/// Compares the groups of one stream, in the order in which the log holds them, with its history.
#[derive(Debug)]
pub(crate) struct StreamChecker {
    stream: u16,
    history: History,
    groups: u64,
}

impl StreamChecker {
    /// A checker of `stream` of a directory whose content comes from `seed`.
    pub(crate) fn new(seed: u64, stream: u16) -> Self {
        Self { stream, history: History::new(seed, stream), groups: 0 }
    }

    /// Checks the next group that the log holds.
    pub(crate) fn group(&mut self, sequence: GroupSequence, entries: &[Entry<'_>]) -> Result<(), Finding> {
        let stream = self.stream;
        let expected = self.groups + 1;
        if sequence.0 != expected {
            return Err(Finding::OutOfOrder { stream, expected, found: sequence.0 });
        }
        let Content { entries: written, .. } = self.history.next_group();
        if let Some(entry) = written.iter().zip(entries).position(|(written, found)| written != found) {
            return Err(Finding::Differs { stream, sequence: sequence.0, entry });
        }
        if written.len() != entries.len() {
            return Err(Finding::Size { stream, sequence: sequence.0, expected: written.len(), found: entries.len() });
        }
        self.groups = expected;
        Ok(())
    }

    /// Groups that were right so far.
    pub(crate) const fn groups(&self) -> u64 {
        self.groups
    }

    /// The history behind the groups so far.
    pub(crate) fn into_history(self) -> History {
        self.history
    }
}

/// What is known of one stream from outside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Promise {
    /// The last group that must be there.
    acknowledged: u64,
    /// The last group that may be there.
    issued: u64,
}

/// What a directory owes: its identity, and for each stream what must and what may be there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Books {
    cluster: Option<String>,
    streams: BTreeMap<u16, Promise>,
}

/// What an examination saw, summed up from its lines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) is_open: bool,
    /// The last good group of each stream.
    pub(crate) groups: BTreeMap<u16, u64>,
    pub(crate) events: u64,
    pub(crate) tail_parts: u64,
}

impl Seen {
    /// Takes in what the examination said.
    pub(crate) fn hear(&mut self, line: &Line) {
        match line {
            Line::Opened { .. } => self.is_open = true,
            Line::Recovered { stream, sequence, events, tail_parts } => {
                self.groups.insert(*stream, *sequence);
                self.events += events;
                self.tail_parts += u64::from(*tail_parts);
            }
            _ => {}
        }
    }
}

impl Books {
    /// Takes in what a writer or an examination said, and whether it contradicts what was said before.
    pub(crate) fn hear(&mut self, line: &Line) -> Result<(), Finding> {
        match line {
            Line::Opened { cluster } => match &self.cluster {
                None => self.cluster = Some(cluster.clone()),
                Some(known) if known == cluster => {}
                Some(known) => return Err(Finding::Replaced { expected: known.clone(), found: cluster.clone() }),
            },
            Line::Issued { stream, sequence } => {
                let promise = self.streams.entry(*stream).or_default();
                promise.issued = promise.issued.max(*sequence);
            }
            Line::Standing { stream, sequence } | Line::Committed { stream, sequence } => {
                let promise = self.streams.entry(*stream).or_default();
                promise.acknowledged = promise.acknowledged.max(*sequence);
                if promise.acknowledged > promise.issued {
                    return Err(Finding::Invented { stream: *stream, issued: promise.issued, found: promise.acknowledged });
                }
            }
            Line::Finding(text) => return Err(Finding::Told(text.clone())),
            Line::Opening | Line::Recovered { .. } | Line::Failed(_) | Line::Done => {}
        }
        Ok(())
    }

    /// Groups that must be there, over all streams.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.streams.values().map(|promise| promise.acknowledged).sum()
    }

    /// Whether a directory must be there at all.
    pub(crate) const fn is_created(&self) -> bool {
        self.cluster.is_some()
    }

    /// Compares the promises with what an examination saw. Afterwards nothing more may be there than was seen.
    pub(crate) fn judge(&mut self, seen: &Seen) -> Vec<Finding> {
        let mut findings = Vec::new();
        if !seen.is_open {
            findings.push(Finding::NotOpened);
        }
        for (&stream, promise) in &mut self.streams {
            // What cannot be read is as good as gone.
            let found = seen.groups.get(&stream).copied().unwrap_or(0);
            let Promise { acknowledged, issued } = *promise;
            if found < acknowledged {
                findings.push(Finding::Lost { stream, acknowledged, found });
            }
            if found > issued {
                findings.push(Finding::Invented { stream, issued, found });
            }
            promise.issued = found;
        }
        for (&stream, &found) in &seen.groups {
            if found > 0 && !self.streams.contains_key(&stream) {
                findings.push(Finding::Invented { stream, issued: 0, found });
            }
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 11;

    fn written(groups: usize) -> Vec<Content> {
        let mut history = History::new(SEED, 0);
        (0..groups).map(|_| history.next_group()).collect()
    }

    /// Feeds a log of `groups` and gives the number of good ones, with what is wrong about the first that is not.
    fn check(groups: &[Content]) -> (u64, Option<Finding>) {
        let mut checker = StreamChecker::new(SEED, 0);
        let finding = groups.iter().find_map(|group| checker.group(group.sequence, &group.entries).err());
        (checker.groups(), finding)
    }

    fn books(acknowledged: u64, issued: u64) -> Books {
        let mut books = Books::default();
        books.hear(&Line::Opened { cluster: "a".to_owned() }).unwrap();
        books.hear(&Line::Issued { stream: 0, sequence: issued }).unwrap();
        books.hear(&Line::Committed { stream: 0, sequence: acknowledged }).unwrap();
        books
    }

    fn seen(groups: u64) -> Seen {
        Seen { is_open: true, groups: BTreeMap::from([(0, groups)]), ..Seen::default() }
    }

    #[test]
    fn a_whole_log_is_right() {
        assert_eq!(check(&written(12)), (12, None));
    }

    #[test]
    fn a_lost_group_in_the_middle_is_found() {
        let mut groups = written(12);
        groups.remove(4);
        assert_eq!(check(&groups), (4, Some(Finding::OutOfOrder { stream: 0, expected: 5, found: 6 })));
    }

    #[test]
    fn two_groups_in_the_wrong_order_are_found() {
        let mut groups = written(12);
        groups.swap(6, 7);
        assert_eq!(check(&groups), (6, Some(Finding::OutOfOrder { stream: 0, expected: 7, found: 8 })));
    }

    #[test]
    fn two_groups_that_changed_their_places_and_numbers_are_found() {
        let mut groups = written(12);
        let (left, right) = groups.split_at_mut(7);
        std::mem::swap(&mut left[6].entries, &mut right[0].entries);
        let (good, finding) = check(&groups);
        assert_eq!(good, 6);
        assert!(matches!(finding, Some(Finding::Differs { sequence: 7, .. })), "{finding:?}");
    }

    #[test]
    fn half_a_group_is_found() {
        let mut groups = written(40);
        let large = groups.iter().position(|group| group.entries.len() > 100).unwrap();
        let whole = groups[large].entries.len();
        groups[large].entries.truncate(whole / 2);
        let size = Finding::Size { stream: 0, sequence: large as u64 + 1, expected: whole, found: whole / 2 };
        assert_eq!(check(&groups), (large as u64, Some(size)));
    }

    #[test]
    fn an_event_too_many_is_found() {
        let mut groups = written(3);
        let more = groups[0].entries[0].clone();
        groups[2].entries.push(more);
        let whole = groups[2].entries.len();
        assert_eq!(check(&groups).1, Some(Finding::Size { stream: 0, sequence: 3, expected: whole - 1, found: whole }));
    }

    #[test]
    fn a_group_that_was_never_written_is_found() {
        let mut groups = written(12);
        groups[9].entries = History::new(SEED + 1, 0).next_group().entries;
        assert!(check(&groups).1.is_some());
    }

    #[test]
    fn a_log_between_acknowledged_and_issued_is_right() {
        for groups in 5..=8 {
            assert_eq!(books(5, 8).judge(&seen(groups)), []);
        }
    }

    #[test]
    fn a_lost_end_is_found() {
        assert_eq!(books(5, 8).judge(&seen(4)), [Finding::Lost { stream: 0, acknowledged: 5, found: 4 }]);
    }

    #[test]
    fn more_groups_than_were_issued_are_found() {
        assert_eq!(books(5, 8).judge(&seen(9)), [Finding::Invented { stream: 0, issued: 8, found: 9 }]);
        let mut stranger = seen(5);
        stranger.groups.insert(1, 1);
        assert_eq!(books(5, 8).judge(&stranger), [Finding::Invented { stream: 1, issued: 0, found: 1 }]);
    }

    #[test]
    fn a_group_that_was_gone_and_comes_back_is_found() {
        let mut books = books(5, 8);
        assert_eq!(books.judge(&seen(6)), []);
        assert_eq!(books.judge(&seen(7)), [Finding::Invented { stream: 0, issued: 6, found: 7 }]);
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_issued_is_found() {
        let mut books = books(5, 8);
        let finding = books.hear(&Line::Committed { stream: 0, sequence: 9 });
        assert_eq!(finding, Err(Finding::Invented { stream: 0, issued: 8, found: 9 }));
    }

    #[test]
    fn another_directory_in_the_place_of_an_acknowledged_one_is_found() {
        let mut books = books(5, 8);
        let finding = books.hear(&Line::Opened { cluster: "b".to_owned() });
        assert_eq!(finding, Err(Finding::Replaced { expected: "a".to_owned(), found: "b".to_owned() }));
    }

    #[test]
    fn a_directory_that_does_not_open_and_a_stream_that_is_not_replayed_are_found() {
        let all = Finding::Lost { stream: 0, acknowledged: 5, found: 0 };
        assert_eq!(books(5, 8).judge(&Seen::default()), [Finding::NotOpened, all.clone()]);
        let nothing = Seen { is_open: true, ..Seen::default() };
        assert_eq!(books(5, 8).judge(&nothing), [all]);
    }

    #[test]
    fn a_finding_that_was_told_is_one() {
        let told = Books::default().hear(&Line::Finding("a blob".to_owned()));
        assert_eq!(told, Err(Finding::Told("a blob".to_owned())));
    }
}
