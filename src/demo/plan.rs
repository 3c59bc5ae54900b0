//! The script of the sale: what is sold, who comes when and does what. A pure function of the sale's shape and its seed.
//!
//! It must not know of nodes, sockets or clocks: times are offsets from the opening.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Where in the arrivals the last product is meant to sell out, as a fraction of them; earlier where units are too scarce for that.
const LAST_SOLD_OUT_AT: f64 = 0.75;

/// How early the first product sells out, at the least, as a fraction of the time the last one takes.
const FIRST_OF_LAST_MIN: f64 = 0.004;

/// Longest hold of the sale, in seconds. Short sales hold for a quarter of their length.
const HOLD_SECONDS_MAX: u32 = 5;

/// Most kills in one sale.
pub(crate) const KILLS_MAX: u8 = 5;

/// Units that are needed for each life of the node, so that there are grants before and after every kill.
const UNITS_PER_LIFE_MIN: u32 = 50;

/// The shape of a sale.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SaleShape {
    /// Buyers who come.
    pub(crate) buyers: u32,
    /// Units on sale, all products together.
    pub(crate) units: u32,
    /// Products.
    pub(crate) products: u16,
    /// Buyers who arrive each second, whatever becomes of those before them.
    pub(crate) rate: u32,
    /// How often the node is killed.
    pub(crate) kills: u8,
    /// Everything else follows from it.
    pub(crate) seed: u64,
}

/// Why a shape is no sale.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    /// A number that must not be zero is.
    #[error("{0} is 0 where at least 1 is needed")]
    Zero(&'static str),
    /// Some product would have nothing to sell.
    #[error("units is {units} where {products} products need at least one each")]
    UnitsBelowProducts {
        /// Units given.
        units: u32,
        /// Products to spread them over.
        products: u16,
    },
    /// More kills than a sale takes.
    #[error("kills is {0} where at most {KILLS_MAX} are possible")]
    Kills(u8),
    /// Some life of the node would see no grant.
    #[error("units is {units} where {kills} kills need at least {UNITS_PER_LIFE_MIN} before the first and after each")]
    UnitsBelowKills {
        /// Units given.
        units: u32,
        /// Kills to spread them around.
        kills: u8,
    },
}

/// A product on sale.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Product {
    /// Its name.
    pub(crate) sku: String,
    /// Its units.
    pub(crate) units: u64,
    /// Most units that one buyer may hold and own of it.
    pub(crate) per_user_limit: u32,
    /// The part of the buyers who want it or a more popular one.
    popularity_up_to: f64,
}

/// A sale, planned.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    /// Its shape.
    pub(crate) shape: SaleShape,
    /// Its products, the most popular first: they sell out one after the other, the first at once, the last late.
    pub(crate) products: Vec<Product>,
    /// How long an unpaid hold lives.
    pub(crate) hold_seconds: u32,
    /// After how many arrivals the node is to be killed: while the last product is meant to be on sale.
    pub(crate) kill_after_arrivals: Vec<u32>,
}

/// One buyer's script.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Visit {
    /// Who, counted from 0.
    pub(crate) buyer: u32,
    /// When, after the opening.
    pub(crate) arrives: Duration,
    /// Wants which product.
    pub(crate) product: u16,
    /// How many units of it.
    pub(crate) units: u32,
    /// How the reservation is asked for.
    pub(crate) click: Click,
    /// What becomes of a granted one.
    pub(crate) ending: Ending,
    /// For a buyer who finds nothing left: when to come back, counted from that answer. `None` gives up.
    pub(crate) comes_back_after: Option<Duration>,
}

/// How a buyer asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Click {
    /// Once.
    Once,
    /// Twice at the same time with the same key: one attempt.
    Twice,
    /// Once more with the same key, so long after the first answer: still the same attempt.
    Again(Duration),
    /// Once more with another key as soon as the first is granted: more than the limit allows.
    Greedy,
}

/// What a buyer does with a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Pays after a short while.
    Pays(Duration),
    /// Cancels after a short while.
    Cancels(Duration),
    /// Walks away.
    Lapses,
    /// Pays when the hold is over.
    PaysTooLate(Duration),
}

impl Plan {
    /// Plans a sale of `shape`.
    pub(crate) fn new(shape: SaleShape) -> Result<Self, PlanError> {
        let numbers = [("buyers", shape.buyers), ("products", u32::from(shape.products)), ("rate", shape.rate)];
        if let Some((name, _)) = numbers.iter().find(|(_, number)| *number == 0) {
            return Err(PlanError::Zero(name));
        }
        if shape.units < u32::from(shape.products) {
            return Err(PlanError::UnitsBelowProducts { units: shape.units, products: shape.products });
        }
        if shape.kills > KILLS_MAX {
            return Err(PlanError::Kills(shape.kills));
        }
        if shape.kills > 0 && shape.units < UNITS_PER_LIFE_MIN * (u32::from(shape.kills) + 1) {
            return Err(PlanError::UnitsBelowKills { units: shape.units, kills: shape.kills });
        }
        let harmonic: f64 = (1..=shape.products).map(|rank| 1.0 / f64::from(rank)).sum();
        let wanted: Vec<f64> = (0..shape.products).map(|index| 1.0 / f64::from(index + 1) / harmonic).collect();
        let demand: Vec<f64> = (0..).zip(&wanted).map(|(index, part)| f64::from(shape.buyers) * part * mean_units(index)).collect();
        let (sold_out_at, last) = stagger(&demand, f64::from(shape.units));
        let expected: Vec<f64> = demand.iter().zip(&sold_out_at).map(|(demand, at)| demand * at).collect();
        let units = share_out(shape.units, &expected);
        let mut up_to = 0.0;
        let products = (0..)
            .zip(wanted.iter().zip(units))
            .map(|(index, (part, units))| {
                up_to += part;
                let per_user_limit = per_user_limit(index);
                Product { sku: format!("flash-{}", index + 1), units, per_user_limit, popularity_up_to: up_to }
            })
            .collect();
        let sale_seconds = shape.buyers / shape.rate;
        Ok(Self {
            shape,
            products,
            hold_seconds: (sale_seconds / 4).clamp(1, HOLD_SECONDS_MAX),
            kill_after_arrivals: (1..=shape.kills).map(|kill| kill_after(shape, kill, last)).collect(),
        })
    }

    /// The visits in the order of arrival, made one by one. The same plan gives the same visits.
    pub(crate) fn visits(&self) -> impl Iterator<Item = Visit> + Send + 'static {
        let plan = self.clone();
        let mut random = StdRng::seed_from_u64(self.shape.seed);
        let mut arrives = 0.0;
        (0..self.shape.buyers).map(move |buyer| {
            // Independent buyers: the gaps between them are exponential.
            arrives += -(1.0 - random.random::<f64>()).ln() / f64::from(plan.shape.rate);
            plan.visit(buyer, Duration::from_secs_f64(arrives), &mut random)
        })
    }

    fn visit(&self, buyer: u32, arrives: Duration, random: &mut StdRng) -> Visit {
        let hold_ms = u64::from(self.hold_seconds) * 1_000;
        let short_while = Duration::from_millis(random.random_range(50..=(hold_ms * 6 / 10).min(1_500)));
        let later = Duration::from_millis(random.random_range(200..=hold_ms));
        let too_late = Duration::from_millis(hold_ms + random.random_range(300..=800));
        let back = Duration::from_millis(hold_ms + random.random_range(200..=1_700));
        let wanted: f64 = random.random();
        let product = self.products.iter().position(|product| wanted < product.popularity_up_to).unwrap_or(self.products.len() - 1);
        let limit = self.products[product].per_user_limit;
        let click = match random.random_range(0..100) {
            0..88 => Click::Once,
            88..93 => Click::Twice,
            93..96 => Click::Again(later),
            _ => Click::Greedy,
        };
        let asked = random.random_range(1..=limit);
        let units = if click == Click::Greedy { limit } else { asked };
        let ending = match random.random_range(0..100) {
            0..76 => Ending::Pays(short_while),
            76..87 => Ending::Cancels(short_while),
            87..98 => Ending::Lapses,
            _ => Ending::PaysTooLate(too_late),
        };
        let comes_back_after = random.random_bool(0.2).then_some(back);
        let product = u16::try_from(product).expect("there are at most 65,535 products");
        Visit { buyer, arrives, product, units, click, ending, comes_back_after }
    }
}

/// Limits of 1 and 2 in turn.
const fn per_user_limit(index: u16) -> u32 {
    1 + (index % 2) as u32
}

/// What a buyer of the product asks for on average; the few greedy ones do not matter here.
fn mean_units(index: u16) -> f64 {
    f64::midpoint(1.0, f64::from(per_user_limit(index)))
}

/// When each product is to sell out, as fractions of all arrivals, and when the last one is: in geometric steps up to
/// [`LAST_SOLD_OUT_AT`], so that together they take `units`. Where even the steepest steps take more, or none less, all is moved.
fn stagger(demand: &[f64], units: f64) -> (Vec<f64>, f64) {
    let steps = i32::try_from(demand.len()).unwrap_or(i32::MAX) - 1;
    let fractions = |ratio: f64| -> Vec<f64> { (0..=steps).rev().map(|step| LAST_SOLD_OUT_AT * ratio.powi(step)).collect() };
    let taken = |fractions: &[f64]| -> f64 { demand.iter().zip(fractions).map(|(demand, at)| demand * at).sum() };
    let (mut low, mut high) = (FIRST_OF_LAST_MIN.powf(1.0 / f64::from(steps.max(1))), 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if taken(&fractions(middle)) < units { low = middle } else { high = middle }
    }
    let fractions = fractions(low);
    let scale = units / taken(&fractions);
    let fractions: Vec<f64> = fractions.iter().map(|at| at * scale).collect();
    let last = fractions.last().copied().unwrap_or(LAST_SOLD_OUT_AT).min(1.0);
    (fractions, last)
}

/// Whole units in proportion to `expected`, at least one each, `units` together.
fn share_out(units: u32, expected: &[f64]) -> Vec<u64> {
    let spare = f64::from(units) - f64::from(u32::try_from(expected.len()).unwrap_or(u32::MAX));
    let total: f64 = expected.iter().sum();
    let mut up_to = 0.0;
    let mut shared = 0;
    expected
        .iter()
        .map(|part| {
            // Rounding the running sum keeps the parts' sum exact.
            up_to += part;
            let shared_now = whole(spare * up_to / total);
            let own = shared_now - shared;
            shared = shared_now;
            1 + own
        })
        .collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "callers give numbers between 0 and 2^32")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

/// The kills are spread evenly over the time in which the last product is on sale.
fn kill_after(shape: SaleShape, kill: u8, last_sold_out_at: f64) -> u32 {
    let at = f64::from(shape.buyers) * last_sold_out_at * f64::from(kill) / f64::from(shape.kills + 1);
    u32::try_from(whole(at)).unwrap_or(shape.buyers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULT: SaleShape = SaleShape { buyers: 200_000, units: 20_000, products: 8, rate: 8_000, kills: 1, seed: 1 };

    #[test]
    fn the_same_seed_gives_the_same_sale_and_another_seed_another() {
        let visits = |seed| Plan::new(SaleShape { buyers: 500, units: 100, seed, ..DEFAULT }).unwrap().visits().collect::<Vec<_>>();
        assert_eq!(visits(7), visits(7));
        assert_ne!(visits(7), visits(8));
    }

    #[test]
    fn buyers_come_one_by_one_at_the_rate() {
        let visits: Vec<Visit> = Plan::new(DEFAULT).unwrap().visits().collect();
        assert_eq!(visits.len(), 200_000);
        assert!((0..).zip(&visits).all(|(number, visit): (u32, _)| visit.buyer == number));
        assert!(visits.is_sorted_by_key(|visit| visit.arrives));
        let last = visits.last().unwrap().arrives.as_secs_f64();
        assert!((24.5..25.5).contains(&last), "200,000 buyers at 8,000 a second came in {last} s");
    }

    #[test]
    fn the_units_are_shared_out_to_the_last_whatever_the_shape() {
        for (buyers, units, products) in [(200_000, 20_000, 8), (4_000, 500, 3), (1_000, 8, 8), (100, 5_000, 7), (10, 10, 1)] {
            let plan = Plan::new(SaleShape { buyers, units, products, kills: 0, ..DEFAULT }).unwrap();
            assert_eq!(plan.products.len(), usize::from(products));
            assert_eq!(plan.products.iter().map(|product| product.units).sum::<u64>(), u64::from(units), "{units} over {products}");
            assert!(plan.products.iter().all(|product| product.units >= 1));
        }
    }

    #[test]
    fn products_sell_out_one_after_the_other_and_the_kill_falls_before_the_last() {
        for shape in [DEFAULT, SaleShape { buyers: 4_000, units: 500, products: 3, rate: 1_000, ..DEFAULT }] {
            let plan = Plan::new(shape).unwrap();
            let mut left: Vec<u64> = plan.products.iter().map(|product| product.units).collect();
            let mut sold_out_after = vec![shape.buyers; left.len()];
            for visit in plan.visits() {
                let product = usize::from(visit.product);
                left[product] = left[product].saturating_sub(u64::from(visit.units));
                if left[product] == 0 {
                    sold_out_after[product] = sold_out_after[product].min(visit.buyer);
                }
            }
            assert!(sold_out_after.is_sorted(), "{sold_out_after:?}");
            assert!(sold_out_after[0] < shape.buyers / 5, "{sold_out_after:?}");
            let [kill] = plan.kill_after_arrivals[..] else { panic!("one kill was asked for") };
            assert!(
                sold_out_after[0] < kill && kill + shape.buyers / 5 < *sold_out_after.last().unwrap(),
                "{kill} {sold_out_after:?}"
            );
        }
    }

    #[test]
    fn every_kind_of_buyer_comes() {
        let plan = Plan::new(DEFAULT).unwrap();
        let visits: Vec<Visit> = plan.visits().collect();
        let percent = |chosen: &dyn Fn(&Visit) -> bool| visits.iter().filter(|visit| chosen(visit)).count() * 100 / visits.len();
        assert!((3..=5).contains(&percent(&|visit| visit.click == Click::Twice)));
        assert!((2..=4).contains(&percent(&|visit| matches!(visit.click, Click::Again(_)))));
        assert!((3..=5).contains(&percent(&|visit| visit.click == Click::Greedy)));
        assert!((75..=77).contains(&percent(&|visit| matches!(visit.ending, Ending::Pays(_)))));
        assert!((10..=12).contains(&percent(&|visit| matches!(visit.ending, Ending::Cancels(_)))));
        assert!((10..=12).contains(&percent(&|visit| visit.ending == Ending::Lapses)));
        assert!((1..=3).contains(&percent(&|visit| matches!(visit.ending, Ending::PaysTooLate(_)))));
        assert!((19..=21).contains(&percent(&|visit| visit.comes_back_after.is_some())));
        // Of eight products the most popular gets 1 / (1 + 1/2 + ... + 1/8) = 36.8 % of the buyers.
        assert!((36..=37).contains(&percent(&|visit| visit.product == 0)));
    }

    #[test]
    fn nobody_asks_for_more_than_the_limit_and_only_the_late_pay_after_the_hold() {
        let plan = Plan::new(DEFAULT).unwrap();
        assert_eq!(plan.hold_seconds, 5);
        let hold = Duration::from_secs(5);
        for visit in plan.visits().take(20_000) {
            let limit = plan.products[usize::from(visit.product)].per_user_limit;
            assert!((1..=limit).contains(&visit.units), "{visit:?}");
            assert!(visit.click != Click::Greedy || visit.units == limit, "{visit:?}");
            match visit.ending {
                Ending::Pays(after) | Ending::Cancels(after) => assert!(after < hold, "{visit:?}"),
                Ending::PaysTooLate(after) => assert!(after > hold, "{visit:?}"),
                Ending::Lapses => {}
            }
            assert!(visit.comes_back_after.is_none_or(|after| after > hold), "{visit:?}");
        }
    }

    #[test]
    fn several_kills_are_spread_over_the_sale() {
        let plan = Plan::new(SaleShape { kills: 3, ..DEFAULT }).unwrap();
        assert_eq!(plan.kill_after_arrivals, [37_500, 75_000, 112_500]);
    }

    #[test]
    fn impossible_shapes_are_named() {
        let error = |shape| Plan::new(shape).unwrap_err();
        assert_eq!(error(SaleShape { buyers: 0, ..DEFAULT }), PlanError::Zero("buyers"));
        assert_eq!(error(SaleShape { rate: 0, ..DEFAULT }), PlanError::Zero("rate"));
        assert_eq!(error(SaleShape { units: 7, ..DEFAULT }), PlanError::UnitsBelowProducts { units: 7, products: 8 });
        assert_eq!(error(SaleShape { kills: 6, ..DEFAULT }), PlanError::Kills(6));
        assert_eq!(error(SaleShape { kills: 2, units: 149, ..DEFAULT }), PlanError::UnitsBelowKills { units: 149, kills: 2 });
        assert!(Plan::new(SaleShape { kills: 2, units: 150, ..DEFAULT }).is_ok());
    }
}
