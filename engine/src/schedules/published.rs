//! A view is never torn, and holds as of what it says.

use std::sync::Arc;

use tidegate_persistence::{GroupSequence, StreamId};
use tidegate_stock::{HoldSeconds, Life, Partition, Revision, Sku, StockId, StockNumber, StockTerms, StockView, Timestamp};

use crate::model::{Check, spawn};
use crate::published::Published;

const STREAM: StreamId = StreamId(0);

pub(super) const TOGETHER: Check = Check {
    name: "the words of a view are read as they were written",
    preemptions: 2,
    body: || read_while_written(as_the_shard_does),
};

pub(super) const POSITION: Check =
    Check { name: "a view holds as of the group that it names", preemptions: 2, body: read_positions_while_settings_change };

/// The view of a stock as it stands after `group`: each of its numbers tells which.
fn view(group: u64, revision: u64) -> StockView {
    let hold_seconds = HoldSeconds::new(60).expect("a legal hold");
    StockView {
        id: StockId { partition: Partition(0), number: StockNumber(0) },
        sku: Sku::new("lamp").expect("a legal name"),
        allotted: 3 * group,
        available: group,
        reserved: group,
        sold: group,
        terms: StockTerms {
            per_user_limit: None,
            hold_seconds,
            hold_seconds_max: hold_seconds.default_max(),
            opens_at: None,
            closes_at: None,
        },
        life: Life::default(),
        revision: Revision(revision),
    }
}

fn group_of(view: &StockView) -> u64 {
    let StockView { allotted, available, reserved, sold, .. } = *view;
    assert!(available == reserved && reserved == sold && allotted == 3 * sold, "a torn view: {view:?}");
    sold
}

/// Shows a group's view, and that all of the group's are shown.
type Show = fn(&Published, StockView, u64);

fn as_the_shard_does(published: &Published, view: StockView, group: u64) {
    published.publish([view], STREAM, GroupSequence(group));
    published.show_up_to(STREAM, GroupSequence(group));
}

fn the_group_first(published: &Published, view: StockView, group: u64) {
    published.show_up_to(STREAM, GroupSequence(group));
    published.publish([view], STREAM, GroupSequence(group));
}

fn read_while_written(show: Show) {
    let published = Arc::new(Published::new(1));
    as_the_shard_does(&published, view(1, 0), 1);
    {
        let published = Arc::clone(&published);
        spawn(move || show(&published, view(2, 0), 2));
    }
    spawn(move || {
        let sku = Sku::new("lamp").expect("a legal name");
        let answer = published.get(&sku, Timestamp::from_unix_ms(0)).expect("it was published before");
        assert_eq!(answer.as_of.group.0, group_of(&answer.view), "a view as of another group");
    });
}

/// Each group changes the settings or the counters.
fn read_positions_while_settings_change() {
    let published = Arc::new(Published::new(1));
    {
        let published = Arc::clone(&published);
        spawn(move || {
            for (group, revision) in [(1, 0), (2, 1)] {
                as_the_shard_does(&published, view(group, revision), group);
            }
        });
    }
    spawn(move || {
        let sku = Sku::new("lamp").expect("a legal name");
        let answer = published.get(&sku, Timestamp::from_unix_ms(0));
        if let Some(answer) = &answer {
            assert_eq!(answer.as_of.group.0, group_of(&answer.view), "a view as of another group");
            assert_eq!(answer.view.revision.0, group_of(&answer.view) - 1, "counters with other settings");
        }
        // Whoever finds a name finds the view.
        for name in published.names(None, 1) {
            assert!(published.get(&name, Timestamp::from_unix_ms(0)).is_some(), "a name without a view");
        }
    });
}

#[test]
fn a_view_is_never_torn() {
    TOGETHER.holds();
}

#[test]
fn a_view_holds_as_of_the_group_that_it_names() {
    POSITION.holds();
}

#[test]
fn a_group_that_is_said_to_be_shown_before_its_views_is_found_out() {
    let body = || read_while_written(the_group_first);
    Check { name: "wrong: a group shown before its views", preemptions: 2, body }.fails_with("a view as of another group");
}
