//! Which test is known to catch each deliberate defect: what the long form found, or the quickest of several.

use std::collections::BTreeSet;
use std::fmt;

use tidegate_mutants::Mutant;

use super::programs::Level;

/// The log over a failing disk.
const DISK: Known = Known { level: Level::Disk, target: "disk", test: None };

/// The random tests of the rules.
const MODEL: &str = "random_commands_fare_as_in_a_naive_ledger";
/// Of what the kernel is asked for.
const BEFORE_THE_SYNC: &str = "no_answer_to_a_change_leaves_and_nothing_is_called_durable_before_the_log_is_synced";
const INVERSES: &str = "undoing_the_newest_events_gives_the_ledger_that_was_before_them";

/// A test that is known to catch a defect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) level: Level,
    /// The test program.
    pub(super) target: &'static str,
    /// The test in it; `None` for a level of the proof, which is one.
    pub(super) test: Option<&'static str>,
}

impl fmt::Display for Known {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {}", self.level.name(), self.target, self.test.unwrap_or_default())
    }
}

/// The test programs that the known tests of `mutants` are in.
pub(super) fn targets(mutants: &[Mutant]) -> BTreeSet<String> {
    let known = mutants.iter().map(|mutant| Known::of(*mutant));
    known.filter(|known| known.test.is_some()).map(|known| known.target.to_owned()).collect()
}

const fn rules(target: &'static str, test: &'static str) -> Known {
    Known { level: Level::Rules, target, test: Some(test) }
}

const fn log(target: &'static str, test: &'static str) -> Known {
    Known { level: Level::Log, target, test: Some(test) }
}

const fn engine(target: &'static str, test: &'static str) -> Known {
    Known { level: Level::Engine, target, test: Some(test) }
}

const fn quorum(target: &'static str, test: &'static str) -> Known {
    Known { level: Level::Quorum, target, test: Some(test) }
}

const fn door(target: &'static str, test: &'static str) -> Known {
    Known { level: Level::Door, target, test: Some(test) }
}

const fn system(target: &'static str, test: &'static str) -> Known {
    Known { level: Level::System, target, test: Some(test) }
}

impl Known {
    /// The test that is known to catch `mutant`.
    #[expect(clippy::match_same_arms, reason = "a table, in the order of the list")]
    pub(super) const fn of(mutant: Mutant) -> Self {
        match mutant {
            Mutant::LimitOffByOne => rules("decision_table", "the_limit"),
            Mutant::OversellByOne => rules("decision_table", "reserving"),
            Mutant::PausedStockGrants => rules("decision_table", "stocks::pausing_and_reopening"),
            Mutant::OpensTooEarly => rules("decision_table", "the_window"),
            Mutant::ClosesTooLate => rules("decision_table", "the_window"),
            Mutant::ConfirmAfterLapse => rules("decision_table", "confirming"),
            Mutant::PartialConfirmTakesAll => rules("decision_table", "confirming"),
            Mutant::ReleaseOfSold => rules("decision_table", "releasing"),
            Mutant::ReturnBeyondSold => rules("decision_table", "after_sale::of_what_is_sold"),
            Mutant::ExtendPastMaximum => rules("decision_table", "after_sale::the_end_of_an_extended_hold"),
            Mutant::ArchiveOverHolds => rules("decision_table", "stocks::archiving"),
            Mutant::ReplayReapplies => rules("decision_table", "keys"),
            Mutant::KeyMeansAnything => rules("decision_table", "keys"),
            Mutant::KeyForgottenTooEarly => rules("decision_table", "a_key_is_forgotten_when_its_time_is_over"),
            Mutant::KeysForgottenAtArchiving => rules("decision_table", "stocks::what_is_forgotten_when_a_stock_is_archived"),
            Mutant::GrantNumberReused => rules("decision_table", "reserving"),
            Mutant::ExpiryAppliedTwice => rules("model", MODEL),
            Mutant::WheelTickSkipped => rules("decision_table", "the_clock"),
            Mutant::LapsedUnitsCountForUser => rules("decision_table", "the_limit"),
            Mutant::UndoSkipped => rules("inverses", INVERSES),
            Mutant::UndoKeepsKey => rules("inverses", INVERSES),
            Mutant::UndoKeepsGrantNumber => rules("inverses", INVERSES),
            Mutant::KeyTableDroppedAtSnapshot => rules("model", MODEL),
            Mutant::BeforeImageLost => rules("model", MODEL),
            Mutant::StaleRecordDecides => {
                rules("decision_table", "tiers::what_the_history_said_counts_for_nothing_once_it_is_in_memory")
            }
            Mutant::ChangedOnItsWayOut => rules("decision_table", "tiers::what_is_changed_on_its_way_out_stays"),
            Mutant::StockNumberFallsBack => rules("model", MODEL),
            Mutant::UserForgottenWithUnits => rules("model", MODEL),
            Mutant::SyncFailureSwallowed => log("wal", "a_failed_sync_stops_the_log_and_commits_nothing"),
            Mutant::FolderNotSynced => system("syscalls", "a_snapshot_has_its_name_only_after_all_that_it_stands_on_lasts"),
            Mutant::SegmentLeftUnsynced => {
                system("syscalls", "the_log_goes_on_in_a_new_segment_only_after_the_last_one_lasts_whatever_the_durability")
            }
            Mutant::SealUnchecked => {
                log("sealed", "damage_of_a_sealed_segment_is_found_where_it_is_read_unless_sled_would_overwrite_it")
            }
            Mutant::HistoryNotPersisted => system("syscalls", "a_snapshot_has_its_name_only_after_all_that_it_stands_on_lasts"),
            Mutant::LeavesUncommitted => engine("tiers", "nothing_goes_to_the_history_before_what_was_done_to_it_is_committed"),
            Mutant::HeldWorkOvertakes => engine("tiers", "a_batch_keeps_its_order_where_a_command_waits_for_the_history"),
            Mutant::SnapshotBeforeHistory => system("syscalls", "a_snapshot_has_its_name_only_after_all_that_it_stands_on_lasts"),
            Mutant::LapseMisnumbered | Mutant::SumMissesExtension => rules("model", MODEL),
            Mutant::SkipSync | Mutant::SidecarBeforeSync | Mutant::SyncWithoutFdatasync => system("syscalls", BEFORE_THE_SYNC),
            Mutant::WriteThroughOff => {
                log("write_through", "the_log_writes_through_from_its_first_byte_unless_a_loss_of_power_may_undo_it")
            }
            Mutant::FailedSyncRetried => DISK,
            Mutant::ValuesBecomeBlobs => log("wal", "a_large_group_is_split_and_comes_back_whole"),
            Mutant::HoleInLog => log("segments", "a_log_goes_on_in_new_segments_and_comes_back_whole"),
            Mutant::ChainNotContinued => log("segments", "a_log_goes_on_in_new_segments_and_comes_back_whole"),
            Mutant::ChainUnchecked => log("recovery", "a_broken_chain_is_damage_at_the_first_entry_that_does_not_continue"),
            Mutant::ChecksumUnchecked => log("record", "every_flipped_bit_of_a_value_is_noticed"),
            Mutant::TailLostAtOpen => log("segments", "a_log_goes_on_in_new_segments_and_comes_back_whole"),
            Mutant::ShortLogTaken => log("recovery", "a_log_that_ends_below_what_was_durable_is_damage"),
            Mutant::UnfinishedTailKept => log("directory", "an_unfinished_group_is_removed_before_the_next_is_written"),
            Mutant::RemovesForwards => log("sled_facts", "a_removal_goes_from_its_end_so_that_whatever_stops_it_leaves_no_hole"),
            Mutant::SegmentBorderLoses => log("segments", "a_removal_and_a_scan_go_over_all_segments"),
            Mutant::CompactsOneTooFar => log("compaction", "compaction_gives_the_space_of_whole_segments_back_and_the_rest_stays"),
            Mutant::SnapshotNamedAtOnce => log("snapshot", "what_was_not_finished_never_counts_and_goes"),
            Mutant::SnapshotNotSynced => system("syscalls", "a_snapshot_has_its_name_only_after_all_that_it_stands_on_lasts"),
            Mutant::SnapshotUnchecked => log("snapshot", "every_flipped_bit_is_noticed"),
            Mutant::HistoryForgetsHalf => log("history", "random_puts_and_removals_agree_with_a_map"),
            Mutant::ReplyBeforeDurable => engine("commit", "an_answer_and_its_view_appear_only_when_the_group_is_committed"),
            Mutant::KnownNotNoted => engine("sold_out", "who_is_known_is_never_taken_for_a_stranger"),
            Mutant::UnderWayForgotten => engine("sold_out", "a_repeat_waits_behind_its_first_attempt_that_nobody_has_decided_yet"),
            Mutant::KnownForgottenAtRestart => engine("sold_out", "after_a_restart_who_was_known_is_known"),
            Mutant::RejectionBeforeObserved => engine("commit", "a_rejection_waits_for_the_head_that_it_observed"),
            Mutant::ReplyBeforeView => engine("commit", "an_answer_and_its_view_appear_only_when_the_group_is_committed"),
            Mutant::ViewBeforeCommit => engine("commit", "an_answer_and_its_view_appear_only_when_the_group_is_committed"),
            Mutant::ReplyToAStranger => engine("commit", "commands_gather_in_one_group_while_the_allowed_groups_are_in_flight"),
            Mutant::TimeBackwards => engine("commit", "time_does_not_run_backwards_after_an_answer_that_wrote_nothing"),
            Mutant::FingerprintIgnoresOperation => engine("keyed", "fingerprints_tell_keys_and_requests_apart"),
            Mutant::ForgedIdTaken => engine("keyed", "an_id_that_was_changed_in_any_character_names_nothing"),
            Mutant::BatchOrderBroken => engine("tiers", "a_batch_keeps_its_order_where_a_command_waits_for_the_history"),
            Mutant::RecallNotLogged => engine("tiers", "the_log_gives_the_ledger_again_wherever_a_reservation_was_meanwhile"),
            Mutant::LapseOverslept => engine("loop", "unpaid_units_come_back_within_a_second_without_any_traffic"),
            Mutant::FeedLosesAtPageBorder => engine("feed", "pages_of_every_size_give_the_same_changes"),
            Mutant::CursorSkips => engine("feed", "a_stocks_position_and_a_changes_name_are_cursors_too"),
            Mutant::FeedHidesGap => {
                engine("feed", "a_cursor_before_what_is_retained_has_expired_and_one_that_missed_nothing_has_not")
            }
            Mutant::CopyBeforeCommit => engine("copies", "a_copy_counts_only_once_its_last_group_is_committed"),
            Mutant::AdmittedLostAtStop => engine("commit", "a_stop_waits_for_the_commit_of_what_was_admitted"),
            Mutant::WakeLost => engine("loop", "a_parked_shard_wakes_for_every_command"),
            Mutant::SumNotCompared => engine("quorum", "whoever_comes_to_another_sum_shows_nothing_more_and_says_so"),
            Mutant::FollowerShowsItsOwn => door("cluster", "whoever_decides_no_longer_shows_only_what_may_be_stale"),
            Mutant::LateRequestTaken => system("cluster", "a_request_of_a_term_before_is_not_taken_in_a_later_one"),
            Mutant::UnchainedTaken => quorum("nodes", "a_group_that_continues_nothing_is_set_aside_on_every_node"),
            Mutant::DecidedUnsettled => {
                Known { level: Level::Simulation, target: "seeds", test: Some("every_promise_holds_over_some_hundred_seeds") }
            }
            Mutant::VotesAtOnce => quorum("nodes", "whoever_starts_again_votes_for_nobody_but_whom_a_leader_has_chosen"),
            Mutant::HandedOverUnresigned => {
                quorum("engines", "whoever_hands_over_takes_and_shows_nothing_more_from_that_moment_on")
            }
            Mutant::NodeNumberReused => system("cluster", "a_node_that_is_lost_leaves_and_another_takes_its_place"),
            Mutant::DivergedStartsAgain => {
                system("cluster", "a_member_whose_ledger_is_another_stops_and_says_so_again_and_the_others_go_on")
            }
            Mutant::DiskLowIgnored => engine("commit", "a_low_disk_refuses_commands_and_still_answers_reads"),
            Mutant::RoleSkipped => door("keys", "every_other_call_takes_exactly_the_roles_that_it_needs"),
            Mutant::ExpiredKeyOpens => door("keys", "a_key_opens_until_the_moment_of_its_end"),
            Mutant::IfMatchIgnored => door("stock_life", "a_patch_with_if_match_is_done_only_to_the_version_that_it_names"),
            Mutant::LineSwallowed => door("batch", "unreadable_lines_disturb_no_other"),
            Mutant::PageSkips => door("lists", "stocks_come_in_pages_that_neither_miss_nor_repeat_one"),
            Mutant::BatchIgnoresKeys => door("batch", "a_repeated_command_is_replayed_in_the_batch_and_out_of_it"),
            Mutant::LogGivenBackTooFar => {
                system("tiers", "the_older_of_two_snapshots_is_enough_for_a_start_though_space_of_the_log_was_given_back")
            }
        }
    }
}
