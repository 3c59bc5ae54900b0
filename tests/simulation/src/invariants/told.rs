//! What is told is so: an answer about a reservation shows it as it stood at some moment between question and answer, so it knows everything that
//! was acknowledged before; and whoever hears that nothing is left hears it of a moment at which nothing was.

use std::collections::BTreeMap;

use tidegate_stock::{Command, Event, Rejection, ReservationId, Sku, StockId};

use super::Case;
use super::oversell::{Count, Units};
use crate::evidence::{Call, Outcome};

/// How a reservation stands: held, sold.
type Stands = (u32, u32);

pub(super) fn check(case: &Case<'_>) -> Vec<String> {
    let (mut skus, mut reservations, mut stocks) = (BTreeMap::new(), Reservations::default(), Vec::new());
    let mut count = Count::default();
    for happened in &case.history {
        if let Event::StockCreated { stock, sku, .. } = &happened.event {
            skus.insert(sku.clone(), *stock);
        }
        count.take(&happened.event);
        stocks.push((happened.group.0, count.stocks.clone()));
        reservations.take(happened.group.0, &happened.event);
    }
    let mut findings = Vec::new();
    for call in &case.evidence.calls {
        let window = case.known_by(call.began_ms.saturating_sub(1)).0..=case.known_by(call.ended_ms).0;
        let finding = match &call.outcome {
            Outcome::Reservation(view) => {
                let told = (view.reserved, view.confirmed);
                let seen = reservations.within(view.id, *window.start(), *window.end());
                (!seen.contains(&told)).then(|| format!("{told:?} held and sold of {:?}, where it was {seen:?}", view.id))
            }
            Outcome::Rejected(Rejection::SoldOut { asked, .. }) => {
                sold_out(&skus, &stocks, call, *asked, *window.start(), *window.end())
            }
            _ => None,
        };
        findings.extend(finding.map(|what| {
            let asked = call.key.as_deref().unwrap_or("a read");
            format!(
                "node {} told {asked} between groups {window:?}, {} ms to {} ms: {what}",
                call.node, call.began_ms, call.ended_ms
            )
        }));
    }
    findings
}

fn sold_out(
    skus: &BTreeMap<Sku, StockId>,
    stocks: &[(u64, BTreeMap<StockId, Units>)],
    call: &Call,
    asked: u32,
    first: u64,
    last: u64,
) -> Option<String> {
    let Command::Reserve { sku, .. } = &call.command else { return None };
    let stock = skus.get(sku)?;
    // The newest state at the beginning, and every one since.
    let before = stocks.partition_point(|(group, _)| *group <= first).saturating_sub(1);
    let after = stocks.partition_point(|(group, _)| *group <= last);
    let available = |units: &Units| units.allotted - units.held - units.sold;
    let seen: Vec<i64> = stocks[before..after].iter().filter_map(|(_, stocks)| stocks.get(stock)).map(available).collect();
    (!seen.iter().any(|available| *available < i64::from(asked)))
        .then(|| format!("no {asked} units of {sku} are left, where there were {seen:?}"))
}

/// How all reservations stood, change by change.
#[derive(Default)]
struct Reservations(BTreeMap<ReservationId, Vec<(u64, Stands)>>);

impl Reservations {
    fn take(&mut self, group: u64, event: &Event) {
        let mut change = |id: ReservationId, change: &dyn Fn(Stands) -> Stands| {
            let row = self.0.entry(id).or_default();
            let now = row.last().map_or((0, 0), |(_, stands)| *stands);
            row.push((group, change(now)));
        };
        match event {
            Event::Reserved { stock, sequence, quantity, .. } => {
                change(ReservationId { stock: *stock, sequence: *sequence }, &|_| (quantity.units(), 0));
            }
            Event::Confirmed { reservation, quantity, .. } => {
                let units = quantity.units();
                change(*reservation, &|(held, sold)| (held.saturating_sub(units), sold + units));
            }
            Event::Released { reservation, quantity, .. } => {
                change(*reservation, &|(held, sold)| (held.saturating_sub(quantity.units()), sold));
            }
            Event::Expired { reservations } => reservations.iter().for_each(|id| change(*id, &|(_, sold)| (0, sold))),
            Event::Returned { reservation, quantity, .. } => {
                change(*reservation, &|(held, sold)| (held, sold.saturating_sub(quantity.units())));
            }
            _ => {}
        }
    }

    /// How one stood from group `first` to group `last`.
    fn within(&self, id: ReservationId, first: u64, last: u64) -> Vec<Stands> {
        let Some(row) = self.0.get(&id) else { return Vec::new() };
        let before = row.partition_point(|(group, _)| *group <= first).saturating_sub(1);
        let after = row.partition_point(|(group, _)| *group <= last);
        row[before.min(after)..after].iter().map(|(_, stands)| *stands).collect()
    }
}
