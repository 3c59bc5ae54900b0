//! Points that take turns, each on a fresh node.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{ONCE_MAX, PictureParameters, Sample, Subject, Sweep, check_books, sell};
use crate::error::{BenchError, expect_equal};
use crate::exchange::{Crowd, exchange};
use crate::figure::number;
use crate::http::{SKU, UNITS_MAX};
use crate::sample::{HOLD_SECONDS, SEED};
use crate::server::{Server, stock_terms};
use crate::wire::{NO_PRODUCT, Request, Take, product_name, take_batch, take_opened, take_single};

/// Connections that open products.
const OPENING_CONNECTIONS: usize = 64;

/// Choices of a product that are made beforehand; when all are used up, the first comes again.
const CHOICES: usize = 1 << 20;

/// Connections from which on the node has enough to do at any time.
const CONNECTIONS_FLAT_FROM: u64 = 64;

/// Commands in a batch from which on what is done once for a batch is little.
const BATCH_FLAT_FROM: u64 = 100;

/// A line about a run: its place, and what came of it.
pub(super) type Said<'a> = dyn FnMut(&str, &Sample) + 'a;

/// Connections that send one command at a time.
pub(super) fn connections(parameters: &PictureParameters, said: &mut Said<'_>) -> Result<Sweep, BenchError> {
    let measure = |connections: u64| {
        let crowd = parameters.crowd(count(connections), 1);
        sell_hot(parameters, &Request::single(SKU), take_single, &crowd, connections)
    };
    let load = "one command a request, one hot product, a user of its own each".to_owned();
    let points = in_turns(&parameters.connections, parameters.runs, said, measure)?;
    Ok(Sweep::new(Subject::Connections, load, CONNECTIONS_FLAT_FROM, points))
}

/// Batches of all sizes.
pub(super) fn batches(parameters: &PictureParameters, said: &mut Said<'_>) -> Result<Sweep, BenchError> {
    let measure = |commands: u64| {
        let crowd = parameters.crowd(parameters.batch_connections, count(commands));
        sell_hot(parameters, &Request::batch(SKU, crowd.commands), take_batch, &crowd, commands)
    };
    let load = format!("batches from {} connections, one hot product, a user of its own each", parameters.batch_connections);
    let points = in_turns(&parameters.batches, parameters.runs, said, measure)?;
    Ok(Sweep::new(Subject::Batch, load, BATCH_FLAT_FROM, points))
}

/// Many products, of which the n-th is asked for 1/n as often as the first.
pub(super) fn products(parameters: &PictureParameters, said: &mut Said<'_>) -> Result<Sweep, BenchError> {
    let measure = |products: u64| {
        let server = Server::node(&parameters.tidegate, parameters.directory.as_ref())?;
        let opened = Crowd {
            connections: OPENING_CONNECTIONS,
            commands: 1,
            pace: None,
            warm_up: Duration::ZERO,
            measured: ONCE_MAX,
            first_buyer: 1,
            buyers_max: products,
        };
        let terms = stock_terms(UNITS_MAX, Some(1), HOLD_SECONDS);
        let opened = exchange(server.address(), &Request::open(&terms), take_opened, &opened)?;
        expect_equal("products that were opened", opened.outcomes.granted, products)?;
        let crowd = parameters.batches();
        let request = Request::batch(NO_PRODUCT, crowd.commands).for_products(choices(products));
        let sample = sell(&server, &request, take_batch, &crowd, u64::MAX, products)?;
        check_products(&server, &request, products, sample.granted)?;
        Ok(sample)
    };
    let Crowd { connections, commands, .. } = parameters.batches();
    let load = format!(
        "batches of {commands} from {connections} connections, the n-th product asked for 1/n as often as the first, a user of its own each"
    );
    let points = in_turns(&parameters.products, parameters.runs, said, measure)?;
    Ok(Sweep::new(Subject::Products, load, 1, points))
}

/// Measures every place as often as there are runs: in order in every even run and the other way round in every odd one, because machine
/// and disk drift from minute to minute. What comes back is by place, then by run.
fn in_turns(
    places: &[u64],
    runs: usize,
    said: &mut Said<'_>,
    mut measure: impl FnMut(u64) -> Result<Sample, BenchError>,
) -> Result<Vec<Vec<Sample>>, BenchError> {
    let mut points = vec![Vec::with_capacity(runs); places.len()];
    for run in 0..runs {
        let mut turns: Vec<usize> = (0..places.len()).collect();
        if run % 2 == 1 {
            turns.reverse();
        }
        for turn in turns {
            let place = format!("{}, run {} of {runs}", places[turn], run + 1);
            let sample = measure(places[turn]).map_err(|error| BenchError::Wrong(format!("{place}: {error}")))?;
            said(&place, &sample);
            points[turn].push(sample);
        }
    }
    Ok(points)
}

/// Sells the hot product of a fresh node.
fn sell_hot(parameters: &PictureParameters, request: &Request, take: Take, crowd: &Crowd, at: u64) -> Result<Sample, BenchError> {
    let server = Server::node(&parameters.tidegate, parameters.directory.as_ref())?;
    server.open_stock(SKU, parameters.units)?;
    let sample = sell(&server, request, take, crowd, parameters.units, at)?;
    check_books(&server, SKU, parameters.units, sample.granted)?;
    Ok(sample)
}

/// Which of `products` buyers ask for, one after the other: number n 1/n as often as number 1.
fn choices(products: u64) -> Arc<[u32]> {
    let mut sum = 0.0;
    let up_to: Vec<f64> = (1..=products)
        .map(|product| {
            sum += 1.0 / number(product);
            sum
        })
        .collect();
    let mut random = SmallRng::seed_from_u64(SEED);
    let choose = |_| {
        let chosen = random.random_range(0.0..sum);
        u32::try_from(up_to.partition_point(|up_to| *up_to <= chosen) + 1).unwrap_or(u32::MAX)
    };
    (0..CHOICES).map(choose).collect()
}

/// Every product has as many units reserved as buyers asked for it, and none left over.
fn check_products(server: &Server, request: &Request, products: u64, granted: u64) -> Result<(), BenchError> {
    let mut asked_for = vec![0_u64; count(products) + 1];
    for buyer in 1..=granted {
        asked_for[count(request.product_of(buyer))] += 1;
    }
    let stocks = server.stocks()?;
    expect_equal("products that are shown", stocks.len() as u64, products)?;
    for (stock, product) in stocks.iter().zip(1..) {
        let name = product_name(product);
        if stock["sku"] != name.as_str() {
            return Err(BenchError::Wrong(format!("{} is shown where {name} was expected", stock["sku"])));
        }
        let counter = |counter: &str| stock[counter].as_u64().unwrap_or(u64::MAX);
        expect_equal(&format!("reserved of {name}"), counter("reserved"), asked_for[count(product)])?;
        expect_equal(&format!("available of {name}"), counter("available"), UNITS_MAX - asked_for[count(product)])?;
    }
    Ok(())
}

/// A count as a length.
fn count(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_product_is_chosen_half_as_often_as_the_first() {
        let choices = choices(50);
        let times = |product: u32| number(choices.iter().filter(|choice| **choice == product).count() as u64);
        assert!(choices.iter().all(|choice| (1..=50).contains(choice)));
        assert!((times(2) / times(1) - 0.5).abs() < 0.01 && times(50) > 0.0, "{} {} {}", times(1), times(2), times(50));
    }
}
