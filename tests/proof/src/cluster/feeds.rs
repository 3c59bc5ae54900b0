//! What every node's change feed tells, and whether they tell the same. Pure but for the reading.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::Value;

use super::fleet::Fleet;
use tidegate_witness::node::{FEED_PAGE, FeedPage, NodeError};
use tidegate_witness::record::Change;
use tidegate_witness::wire::Request;

/// Differences that are told, at most.
const DIFFERENCES_MAX: usize = 5;

/// The changes of each stock, by their numbers.
pub(crate) type Changes = HashMap<String, BTreeMap<u64, Change>>;

/// One node's feed as far as it was read.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    cursor: Option<String>,
    pub(crate) changes: Changes,
}

/// What was judged of a stock whose sale is over.
#[derive(Debug)]
struct Past {
    /// A digest of each change, by its number.
    changes: BTreeMap<u64, u64>,
    grants: u64,
    sold: u64,
}

/// The feeds of all nodes, and what was judged of stocks whose sale is over.
#[derive(Debug)]
pub(crate) struct Feeds {
    pub(crate) nodes: Vec<Feed>,
    past: BTreeMap<String, Past>,
}

impl Feeds {
    /// Nothing is read yet.
    pub(crate) fn new(count: usize) -> Self {
        Self { nodes: (0..count).map(|_| Feed::default()).collect(), past: BTreeMap::new() }
    }

    /// The node at `place` is another one now, or all is to be read anew.
    pub(crate) fn forget(&mut self, place: usize) {
        self.nodes[place] = Feed::default();
    }

    /// Reads on to the end of every node's feed. Gives what is wrong with what was read.
    pub(crate) fn read(&mut self, fleet: &Fleet) -> Result<Vec<String>, NodeError> {
        let mut broken = Vec::new();
        for (place, feed) in self.nodes.iter_mut().enumerate() {
            feed.read(fleet, place, &mut broken)?;
        }
        Ok(broken)
    }

    /// All changes of `sku` from its first on: a node that took a snapshot lacks what lies before that, so what all of them have is put together.
    /// `None` where some are on no node.
    pub(crate) fn whole(&self, sku: &str) -> Option<Vec<Change>> {
        let mut all: BTreeMap<u64, &Change> = BTreeMap::new();
        for changes in self.nodes.iter().filter_map(|feed| feed.changes.get(sku)) {
            all.extend(changes.iter().map(|(number, change)| (*number, change)));
        }
        let newest = *all.keys().next_back()?;
        (all.len() as u64 == newest).then(|| all.into_values().cloned().collect())
    }

    /// What was judged of `sku` is remembered as digests and sums alone.
    pub(crate) fn close(&mut self, sku: &str, judged: &[Change]) {
        let mut newest: HashMap<&str, u64> = HashMap::new();
        for shown in judged.iter().filter_map(|change| change.reservation.as_ref()) {
            newest.insert(&shown.id, shown.confirmed.into());
        }
        let past = Past {
            changes: judged.iter().map(|change| (change.sku_sequence, digest(change))).collect(),
            grants: judged.iter().filter(|change| change.kind == "reserved").count() as u64,
            sold: newest.values().sum(),
        };
        self.past.insert(sku.to_owned(), past);
        for feed in &mut self.nodes {
            feed.changes.remove(sku);
        }
    }

    /// After everything was read anew: whether what was judged is still told, where it is told at all; and, if `is_whole`, on every node, because
    /// none began with a snapshot.
    pub(crate) fn hold_past(&self, is_whole: bool) -> Vec<String> {
        let mut broken = Vec::new();
        for (sku, Past { changes, .. }) in &self.past {
            for (place, feed) in self.nodes.iter().enumerate() {
                let told = feed.changes.get(sku);
                let of = |number: &u64| told.and_then(|told| told.get(number));
                let lacking = changes.keys().filter(|number| of(number).is_none()).count();
                if is_whole && lacking > 0 {
                    broken.push(format!("{sku}: place {place} lacks {lacking} of {} changes that were judged", changes.len()));
                }
                let differs = |(number, judged): &(&u64, &u64)| of(number).is_some_and(|told| digest(told) != **judged);
                if let Some((number, _)) = changes.iter().find(differs) {
                    broken.push(format!("{sku}: place {place} tells another change {number} than when it was judged"));
                }
            }
        }
        broken.truncate(DIFFERENCES_MAX);
        broken
    }

    /// Holds what a node's directory has in the end, by the program's own check, against what was judged: of stocks whose sale is over nothing is
    /// granted or sold any more.
    pub(crate) fn hold_stocks(&self, stocks: &Value) -> Vec<String> {
        let mut broken = Vec::new();
        for (sku, Past { grants, sold, .. }) in &self.past {
            let stock = stocks.as_array().and_then(|stocks| stocks.iter().find(|stock| stock["sku"] == sku.as_str()));
            let has = stock.map(|stock| (stock["grants"].as_u64(), stock["sold"].as_u64()));
            if has != Some((Some(*grants), Some(*sold))) {
                let has = stock.map_or_else(|| "nothing".to_owned(), ToString::to_string);
                broken.push(format!("{sku}: {grants} grants and {sold} units sold were judged, and the directory has {has}"));
            }
        }
        broken.truncate(DIFFERENCES_MAX);
        broken
    }
}

impl Feed {
    fn read(&mut self, fleet: &Fleet, place: usize, broken: &mut Vec<String>) -> Result<(), NodeError> {
        loop {
            let after = self.cursor.as_ref().map(|cursor| format!("&after={cursor}")).unwrap_or_default();
            let path = format!("/v1/events?limit={FEED_PAGE}{after}");
            let mut answer = None;
            fleet.wait_until(place, "its feed cannot be read", || {
                answer = fleet.ask(place, Request::get(&path)).filter(|response| matches!(response.status, 200 | 410));
                Ok(answer.is_some())
            })?;
            let Some(answer) = answer else { continue };
            if answer.status == 410 {
                // It took a snapshot, and what lies before that is not its any more.
                self.cursor = None;
                continue;
            }
            let page = serde_json::from_slice::<FeedPage>(&answer.body);
            let page = page.map_err(|error| fleet.trouble(place, &format!("its feed is not as expected: {error}")))?;
            let is_end = page.events.is_empty();
            self.cursor = Some(page.next_cursor);
            for change in page.events {
                self.add(change, fleet.number(place), broken);
            }
            if is_end {
                return Ok(());
            }
        }
    }

    /// At least once, so the same may come again; another under its number may not.
    pub(crate) fn add(&mut self, change: Change, node: u64, broken: &mut Vec<String>) {
        let changes = self.changes.entry(change.sku.clone()).or_default();
        if let Some(known) = changes.get(&change.sku_sequence).filter(|known| **known != change) {
            broken.push(format!("node {node} tells two changes under one number: {} and {}", known.line(), change.line()));
        }
        changes.insert(change.sku_sequence, change);
    }
}

fn digest(change: &Change) -> u64 {
    let mut hasher = DefaultHasher::new();
    format!("{change:?}").hash(&mut hasher);
    hasher.finish()
}

/// Where two nodes tell another change under the same number of the same stock.
pub(crate) fn differences(one: (u64, &Changes), other: (u64, &Changes)) -> Vec<String> {
    let mut found = Vec::new();
    for (sku, changes) in one.1 {
        let Some(others) = other.1.get(sku) else { continue };
        for (number, change) in changes {
            if let Some(told) = others.get(number).filter(|told| *told != change) {
                found.push(format!("node {} tells {:?}, and node {} {:?}", one.0, change, other.0, told));
            }
        }
    }
    found.sort_unstable();
    found.truncate(DIFFERENCES_MAX);
    found
}
