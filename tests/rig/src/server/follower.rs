//! A consumer of the change feed that goes on through every crash and keeps all that it was ever told: what the feed has shown must stay.

use std::collections::HashMap;
use std::thread;
use std::time::Duration;

use tidegate_witness::node::{FeedPage, Node, NodeError};
use tidegate_witness::record::Change;
use tidegate_witness::wire::Wire;

use crate::error::RigError;

/// How long to wait before the end of the feed is looked at again.
const AGAIN: Duration = Duration::from_millis(5);

/// Everything that the feed ever said.
#[derive(Debug, Default)]
pub(super) struct Follower {
    by_sku: HashMap<String, Vec<Change>>,
    /// Reservations by stock, in the order of their grants.
    reservations: HashMap<String, Vec<String>>,
    /// The place of each change among those of its stock, by its id.
    places: HashMap<String, (String, usize)>,
    /// The ids in the order in which they came.
    order: Vec<String>,
    cursor: Option<String>,
    /// The cursor of an earlier look, and how much was known then.
    mark: Option<(String, usize)>,
    /// What it was told that cannot be.
    findings: Vec<String>,
    /// Changes that it was told of and that are gone.
    lost: u64,
}

impl Follower {
    /// Changes that it was told of.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The changes of one stock.
    pub(super) fn changes(&self, sku: &str) -> &[Change] {
        self.by_sku.get(sku).map_or(&[], Vec::as_slice)
    }

    /// The reservations of one stock.
    pub(super) fn reservations(&self, sku: &str) -> &[String] {
        self.reservations.get(sku).map_or(&[], Vec::as_slice)
    }

    /// Changes that it was told of and that are gone.
    pub(super) const fn lost(&self) -> u64 {
        self.lost
    }

    /// All stocks that it was told of.
    pub(super) fn skus(&self) -> impl Iterator<Item = &String> {
        self.by_sku.keys()
    }

    /// Reads on until the node is gone.
    pub(super) fn follow(&mut self, node: &Node) -> Result<(), RigError> {
        let Some(place) = node.place() else { return Ok(()) };
        let mut wire = Wire::new(place.address);
        // Without an answer the node is gone, or another look tells why not.
        while let Some(page) = node.feed_page(&mut wire, self.cursor.as_deref())? {
            if page.events.is_empty() {
                thread::park_timeout(AGAIN);
            }
            self.take(page);
        }
        Ok(())
    }

    /// Reads once more what it was told since the look before the last, which must still be so, and then up to the end. Gives what is
    /// wrong.
    pub(super) fn look(&mut self, node: &Node) -> Result<Vec<String>, RigError> {
        let Some(place) = node.place() else { return Ok(vec!["the node is gone".to_owned()]) };
        let mut wire = Wire::new(place.address);
        if let Some((cursor, known)) = self.mark.clone() {
            self.compare(node, &mut wire, cursor, known)?;
        }
        loop {
            let Some(page) = node.feed_page(&mut wire, self.cursor.as_deref())? else {
                self.findings.push(format!("the feed cannot be read on from {:?}", self.cursor));
                break;
            };
            if page.events.is_empty() {
                break;
            }
            self.take(page);
        }
        self.mark = self.cursor.clone().map(|cursor| (cursor, self.order.len()));
        Ok(std::mem::take(&mut self.findings))
    }

    /// Holds what the feed says behind `cursor` against what it said behind it before, which came after `known` changes.
    fn compare(&mut self, node: &Node, wire: &mut Wire, cursor: String, known: usize) -> Result<(), NodeError> {
        let mut again: HashMap<String, Change> = HashMap::new();
        let mut after = cursor;
        // A cursor that is retained no longer has no page; then what is new shows whether it goes on from there.
        while let Some(page) = node.feed_page(wire, Some(&after))? {
            if page.events.is_empty() {
                let missing = self.order[known..].iter().filter(|id| again.get(*id) != self.told(id));
                let lines: Vec<String> = missing.filter_map(|id| self.told(id)).map(Change::line).collect();
                if let Some(first) = lines.first() {
                    let count = lines.len();
                    self.lost += count as u64;
                    self.findings.push(format!("the feed no longer says {count} changes as it has said them, the first: {first}"));
                }
                return Ok(());
            }
            again.extend(page.events.into_iter().map(|change| (change.id.clone(), change)));
            after = page.next_cursor;
        }
        Ok(())
    }

    fn told(&self, id: &str) -> Option<&Change> {
        let (sku, place) = self.places.get(id)?;
        self.by_sku.get(sku)?.get(*place)
    }

    fn take(&mut self, page: FeedPage) {
        for change in page.events {
            if let Some(told) = self.told(&change.id) {
                // At least once.
                if *told != change {
                    let finding = format!("one id names two changes:\n    {}\n    {}", told.line(), change.line());
                    self.findings.push(finding);
                }
                continue;
            }
            let changes = self.by_sku.entry(change.sku.clone()).or_default();
            self.places.insert(change.id.clone(), (change.sku.clone(), changes.len()));
            self.order.push(change.id.clone());
            if let ("reserved", Some(shown)) = (change.kind.as_str(), &change.reservation) {
                self.reservations.entry(change.sku.clone()).or_default().push(shown.id.clone());
            }
            changes.push(change);
        }
        self.cursor = Some(page.next_cursor);
    }
}
