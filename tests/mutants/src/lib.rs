//! The closed list of deliberate defects: what each breaks, and in which room. A test that passes with a defect switched on would also
//! have passed without the code that the defect breaks.
//!
//! The rooms ask [`is_on`] through a macro of their own, which is the constant `false` unless their feature `mutants` is on; no manifest
//! switches that on. This crate knows neither the code that is broken nor the tests that find it.

use std::fmt;
use std::sync::OnceLock;

/// The variable that names the defect of a process. It has not the prefix of the settings, so that a node that a test starts keeps it.
pub const VARIABLE: &str = "MUTANT_OF_TIDEGATE";

/// Where a defect is. Nothing that does not depend on that room can find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// `stock/`
    Stock,
    /// `persistence/`
    Persistence,
    /// `engine/`
    Engine,
    /// `cluster/`
    Cluster,
    /// `api/`
    Api,
    /// `src/`
    Assembly,
}

macro_rules! mutants {
    ($($room:ident { $($name:ident $breaks:literal)+ })+) => {
        /// A deliberate defect.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant {
            $($(#[doc = $breaks] $name,)+)+
        }

        impl Mutant {
            /// Every defect, room by room.
            pub const ALL: &[Self] = &[$($(Self::$name,)+)+];

            /// What is wrong with it on.
            pub const fn breaks(self) -> &'static str {
                match self { $($(Self::$name => $breaks,)+)+ }
            }

            /// Where it is.
            pub const fn room(self) -> Room {
                match self { $($(Self::$name => Room::$room,)+)+ }
            }
        }
    };
}

mutants! {
    Stock {
        LimitOffByOne "a user is granted one unit over the limit"
        OversellByOne "a grant is given one unit more than there is"
        PausedStockGrants "a paused stock grants"
        OpensTooEarly "a stock grants before it opens"
        ClosesTooLate "a stock still grants at the moment at which it closes"
        ConfirmAfterLapse "units still held at their end are sold afterwards"
        PartialConfirmTakesAll "a confirm of some units sells all that are held"
        ReleaseOfSold "a release of units that are sold says yes"
        ReturnBeyondSold "more comes back than was sold"
        ExtendPastMaximum "a hold is extended past its longest"
        ArchiveOverHolds "a stock is archived with units reserved"
        ReplayReapplies "a repeat with a known key is done once more"
        KeyMeansAnything "a known key with other values is answered as a repeat"
        KeyForgottenTooEarly "a key is forgotten a millisecond before its time"
        KeysForgottenAtArchiving "archiving a stock forgets its keys"
        GrantNumberReused "a grant is given the number of the one before it"
        ExpiryAppliedTwice "what lapses comes back twice"
        WheelTickSkipped "the holds of one tick in ten never lapse"
        LapsedUnitsCountForUser "units that lapsed still count towards their user's limit"
        UndoSkipped "taking an event back does nothing"
        UndoKeepsKey "the key of an event that was taken back stays known"
        UndoKeepsGrantNumber "the number of a grant that was taken back is not given again"
        KeyTableDroppedAtSnapshot "a snapshot has no keys"
        BeforeImageLost "what changes before its slice of a snapshot is not in it"
        StaleRecordDecides "what the history said counts though the reservation is in memory again"
        ChangedOnItsWayOut "a reservation leaves memory though it was changed after it was copied"
        StockNumberFallsBack "a ledger from a snapshot gives a stock's number twice"
        UserForgottenWithUnits "a user is forgotten with units, so the limit is too"
        LapseMisnumbered "the changes of one lapse share a place in the feed"
        SumMissesExtension "the sum of a ledger does not see that a hold was extended"
    }
    Persistence {
        SkipSync "the log tells of a sync that it never asked for"
        SyncWithoutFdatasync "a sync of sled is its flush alone"
        WriteThroughOff "sled's file does not write through"
        SidecarBeforeSync "the sidecar says durable before the sync"
        FailedSyncRetried "a sync that failed is tried again"
        SyncFailureSwallowed "a sync that failed is told as done"
        FolderNotSynced "the names in a folder are not made to last"
        SegmentLeftUnsynced "the log goes on in a new segment before the last one lasts"
        SealUnchecked "a sealed segment is opened whatever became of it"
        ValuesBecomeBlobs "values are large enough for a blob of sled's"
        HoleInLog "every fourth group leaves an index out"
        ChainNotContinued "every fourth group names the group before its predecessor"
        ChainUnchecked "recovery takes a group that continues another log"
        ChecksumUnchecked "a value's checksum is not looked at"
        TailLostAtOpen "the last value of the log is not there at its opening"
        ShortLogTaken "a log that ends below what was durable is taken"
        UnfinishedTailKept "the parts of an unfinished group are not removed"
        RemovesForwards "an unfinished group is removed from its first part on"
        SegmentBorderLoses "reading from the last entry of a segment on does not find it"
        CompactsOneTooFar "giving space back takes one segment too many"
        SnapshotNamedAtOnce "a snapshot has its name before it is whole"
        SnapshotNotSynced "a snapshot gets its name before it is durable"
        SnapshotUnchecked "a damaged snapshot is taken"
        HistoryNotPersisted "the history says that it lasts and does not"
        HistoryForgetsHalf "every second reservation of a write is not kept by the history"
    }
    Engine {
        ReplyBeforeDurable "an answer leaves before its group is committed"
        KnownNotNoted "whoever is granted something, and the key of it, stay strangers to who says that it is sold out"
        UnderWayForgotten "a repeat is told that something is sold out while its first attempt waits to be decided"
        KnownForgottenAtRestart "after a restart everybody, and every key, is a stranger to who says that it is sold out"
        RejectionBeforeObserved "a rejection leaves before what it saw is committed"
        ReplyBeforeView "an answer leaves before its view is shown"
        ViewBeforeCommit "a view shows what is not committed"
        ReplyToAStranger "an answer shows the reservation that was granted before"
        TimeBackwards "a batch is stamped with the clock, though it was set back"
        FingerprintIgnoresOperation "a key tells no operation from another"
        ForgedIdTaken "the tag of a reservation's id is not looked at"
        BatchOrderBroken "commands of a batch on one sku are decided last first"
        RecallNotLogged "what was taken back from the history is not in the log"
        LeavesUncommitted "a reservation goes to the history before what was done to it is committed"
        HeldWorkOvertakes "later work of a batch overtakes work that waits for the history"
        LapseOverslept "the next lapse is looked for three seconds late"
        FeedLosesAtPageBorder "the feed loses the change behind a full page"
        CursorSkips "reading on behind a stock's position skips a group"
        FeedHidesGap "a reader whose changes are gone is not told"
        CopyBeforeCommit "a snapshot counts before its last group is committed"
        AdmittedLostAtStop "a stop does not wait for what was admitted"
        WakeLost "nothing wakes a shard that sleeps"
        DiskLowIgnored "a disk without room takes commands"
        SumNotCompared "a ledger that comes to something else than the log says goes on"
        FollowerShowsItsOwn "a node that decides no longer answers reads by what it has"
    }
    Cluster {
        UnchainedTaken "a group is applied that does not continue the one before it"
        DecidedUnsettled "a leader decides before all that was decided before it is settled"
        VotesAtOnce "a node that starts again elects another leader though its old one may rely on it"
        HandedOverUnresigned "a leader that hands over is read until it hears that another one leads"
    }
    Api {
        RoleSkipped "archiving asks for no role"
        ExpiredKeyOpens "an API key opens after its end"
        IfMatchIgnored "a change is done whatever if-match says"
        LineSwallowed "an unreadable line of a batch gets no answer"
        PageSkips "a page of stocks begins one too late"
        BatchIgnoresKeys "the keys of a batch's commands are not looked at"
    }
    Assembly {
        SnapshotBeforeHistory "a snapshot counts before the history that it leaves out lasts"
        LogGivenBackTooFar "the log is given back though the older snapshot needs it"
        LateRequestTaken "a request that another node sent in a term before is taken in a later one"
        NodeNumberReused "a node that is counted is given a directory once more, though it has forgotten how it voted"
        DivergedStartsAgain "a node whose ledger was another starts again as if nothing had been"
    }
}

impl Mutant {
    /// The defect of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|mutant| mutant.to_string() == name)
    }

    /// Whether a test that never ends is what it would bring about.
    pub const fn hangs(self) -> bool {
        matches!(self, Self::WakeLost)
    }
}

impl fmt::Display for Mutant {
    /// Its name in small letters, with hyphens.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = format!("{self:?}");
        let mut text = String::with_capacity(2 * name.len());
        for letter in name.chars() {
            if letter.is_ascii_uppercase() && !text.is_empty() {
                text.push('-');
            }
            text.push(letter.to_ascii_lowercase());
        }
        formatter.pad(&text)
    }
}

/// Whether `mutant` is the defect of this process: that which [`VARIABLE`] names, read once.
///
/// # Panics
/// When the variable names none.
pub fn is_on(mutant: Mutant) -> bool {
    static ON: OnceLock<Option<Mutant>> = OnceLock::new();
    let on = ON.get_or_init(|| {
        let name = std::env::var(VARIABLE).ok()?;
        Some(Mutant::named(&name).unwrap_or_else(|| panic!("{VARIABLE} is {name:?}, which is no deliberate defect")))
    });
    *on == Some(mutant)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_defect_is_found_by_its_name_and_says_what_it_breaks() {
        assert!(Mutant::ALL.len() >= 25);
        for mutant in Mutant::ALL {
            assert_eq!(Mutant::named(&mutant.to_string()), Some(*mutant));
            let same = Mutant::ALL.iter().filter(|other| other.breaks() == mutant.breaks()).count();
            assert_eq!(same, 1, "{mutant}");
        }
        assert_eq!(Mutant::LimitOffByOne.to_string(), "limit-off-by-one");
        assert_eq!(Mutant::named("LimitOffByOne"), None);
    }

    #[test]
    fn no_defect_is_on_where_none_is_named() {
        if std::env::var_os(VARIABLE).is_none() {
            assert!(Mutant::ALL.iter().all(|mutant| !is_on(*mutant)));
        }
    }
}
