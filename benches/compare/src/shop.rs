//! A side under measurement as all of them look: it opens a product, sells it to a crowd, and shows its books. And the judge, who
//! compares what buyers were told with the books: a side that oversells, forgets or invents gives no figure.

use std::time::Duration;

use serde::Serialize;
use tidegate_benches::error::{BenchError, expect_equal};
use tidegate_benches::exchange::{Crowd, Seen};
use tidegate_benches::figure::{Percentiles, mean, per_second};
use tidegate_benches::signals;
use tidegate_benches::wire::Outcomes;

use crate::process;

/// The hot product.
pub const HOT: &str = "hot-product";

/// Buyers of a proof at least, and as a multiple of the commands in a request.
const PROOF_BUYERS: u64 = 800;
const PROOF_REQUESTS: u64 = 2;

/// Connections of a proof at most.
const PROOF_CONNECTIONS: usize = 16;

/// A running side.
pub trait Shop {
    /// Opens a product of `units`, one to a user.
    fn open(&mut self, sku: &str, units: u64) -> Result<(), BenchError>;

    /// Lets a crowd of buyers numbered from 1 reserve one unit each.
    fn sell(&mut self, sku: &str, crowd: &Crowd) -> Result<Seen, BenchError>;

    /// What the side itself says of a product.
    fn books(&mut self, sku: &str) -> Result<Books, BenchError>;

    /// The processes that it began with.
    fn processes(&self) -> Vec<u32>;
}

/// What a side itself says of a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Books {
    /// Units that are left.
    pub available: u64,
    /// Everything that counts the units sold, each by its name.
    pub sold: Vec<(&'static str, u64)>,
}

/// What one run of a side gave.
#[derive(Debug, Clone, Serialize)]
pub struct RunFigure {
    /// Commands in a second.
    pub rate: f64,
    /// Latency of a command.
    pub latency: Percentiles,
    /// Processor time of all the side's processes for one command, in microseconds.
    pub server_cpu_us: f64,
    /// Share of a core that the generator used.
    pub generator_cores: f64,
    /// Buyers in all, those of the warm-up too.
    pub buyers: u64,
    /// Of them, those who got a unit.
    pub granted: u64,
}

/// Proves that the side keeps the rules, then measures one crowd at the hot product of `units`, and checks the books.
pub fn measure(shop: &mut dyn Shop, crowd: &Crowd, units: u64) -> Result<RunFigure, BenchError> {
    prove(shop, crowd)?;
    shop.open(HOT, units)?;
    let roots = shop.processes();
    let cpu_before = process::cpu(&roots);
    let seen = shop.sell(HOT, crowd)?;
    let server_cpu = process::cpu(&roots).saturating_sub(cpu_before);
    signals::check()?;
    judge(shop, HOT, units, &seen)?;
    expect_equal("duplicates among buyers who came once", seen.outcomes.duplicates, 0)?;
    Ok(figure(&seen, server_cpu.as_secs_f64()))
}

/// The figure of a run whose work was right.
pub fn figure(seen: &Seen, server_cpu_seconds: f64) -> RunFigure {
    RunFigure {
        rate: per_second(seen.answers, seen.measured),
        latency: seen.latencies.percentiles(),
        server_cpu_us: mean(server_cpu_seconds * 1e6, seen.outcomes.total()),
        generator_cores: seen.generator_cpu.as_secs_f64() / seen.elapsed.as_secs_f64().max(f64::MIN_POSITIVE),
        buyers: seen.outcomes.total(),
        granted: seen.outcomes.granted,
    }
}

/// The same rules everywhere: fewer units than buyers sell to the last one and no further, and whoever comes twice gets nothing more.
fn prove(shop: &mut dyn Shop, crowd: &Crowd) -> Result<(), BenchError> {
    let buyers = PROOF_BUYERS.max(PROOF_REQUESTS * crowd.commands as u64);
    let crowd = Crowd {
        connections: crowd.connections.min(PROOF_CONNECTIONS),
        pace: None,
        warm_up: Duration::ZERO,
        measured: Duration::from_mins(1),
        buyers_max: buyers,
        ..*crowd
    };
    let few = buyers * 3 / 8;
    shop.open("few", few)?;
    let rush = shop.sell("few", &crowd)?;
    judge(shop, "few", few, &rush)?;
    expect(rush.outcomes, Outcomes { granted: few, sold_out: buyers - few, duplicates: 0 })?;

    let many = buyers * 2;
    shop.open("twice", many)?;
    let first = shop.sell("twice", &crowd)?;
    expect(first.outcomes, Outcomes { granted: buyers, sold_out: 0, duplicates: 0 })?;
    let second = shop.sell("twice", &crowd)?;
    expect(second.outcomes, Outcomes { granted: 0, sold_out: 0, duplicates: buyers })?;
    judge(shop, "twice", many, &first)
}

fn expect(told: Outcomes, expected: Outcomes) -> Result<(), BenchError> {
    if told == expected {
        Ok(())
    } else {
        Err(BenchError::Wrong(format!("buyers were told {told:?} where {expected:?} was right")))
    }
}

/// As many grants as units or buyers, whichever are fewer, and the books say the same.
fn judge(shop: &mut dyn Shop, sku: &str, units: u64, seen: &Seen) -> Result<(), BenchError> {
    let Outcomes { granted, .. } = seen.outcomes;
    check(units, seen.outcomes, &shop.books(sku)?)
        .map_err(|error| BenchError::Wrong(format!("{error}; buyers of {sku} with {units} units got {granted} of them")))
}

fn check(units: u64, told: Outcomes, books: &Books) -> Result<(), BenchError> {
    expect_equal("grants", told.granted, units.min(told.granted + told.sold_out))?;
    expect_equal("units that are left", books.available, units - told.granted)?;
    books.sold.iter().try_for_each(|(what, count)| expect_equal(what, *count, told.granted))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use tidegate_benches::figure::Latencies;

    use super::*;

    /// What a shop of the tests does wrong.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Defect {
        None,
        /// Sells one unit more than it has.
        Oversells,
        /// Lets everybody come twice.
        ForgetsUsers,
        /// Sells, and does not write the last order down.
        LosesAnOrder,
        /// Says that it is sold out with a unit left.
        KeepsAUnit,
    }

    #[derive(Default)]
    struct Goods {
        available: u64,
        users: BTreeSet<u64>,
        orders: u64,
    }

    struct TestShop {
        defect: Defect,
        products: BTreeMap<String, Goods>,
    }

    impl Shop for TestShop {
        fn open(&mut self, sku: &str, units: u64) -> Result<(), BenchError> {
            self.products.insert(sku.to_owned(), Goods { available: units, ..Goods::default() });
            Ok(())
        }

        fn sell(&mut self, sku: &str, crowd: &Crowd) -> Result<Seen, BenchError> {
            let goods = self.products.get_mut(sku).unwrap();
            let mut outcomes = Outcomes::default();
            let mut more = u64::from(self.defect == Defect::Oversells);
            let kept = u64::from(self.defect == Defect::KeepsAUnit);
            for user in 1..=crowd.buyers_max {
                if goods.users.contains(&user) && self.defect != Defect::ForgetsUsers {
                    outcomes.duplicates += 1;
                } else if goods.available > kept || more > 0 {
                    more -= u64::from(goods.available == 0);
                    goods.available = goods.available.saturating_sub(1);
                    goods.users.insert(user);
                    goods.orders += 1;
                    outcomes.granted += 1;
                } else {
                    outcomes.sold_out += 1;
                }
            }
            let (answers, measured) = (outcomes.total(), Duration::from_secs(1));
            let latencies = Latencies::default();
            Ok(Seen { outcomes, answers, measured, latencies, generator_cpu: Duration::ZERO, elapsed: measured })
        }

        fn books(&mut self, sku: &str) -> Result<Books, BenchError> {
            let goods = &self.products[sku];
            let orders = goods.orders - u64::from(self.defect == Defect::LosesAnOrder);
            Ok(Books { available: goods.available, sold: vec![("users", goods.users.len() as u64), ("orders", orders)] })
        }

        fn processes(&self) -> Vec<u32> {
            Vec::new()
        }
    }

    fn measured(defect: Defect) -> Result<RunFigure, BenchError> {
        let (warm_up, measured) = (Duration::ZERO, Duration::from_secs(1));
        let crowd = Crowd { connections: 1, commands: 1, pace: None, warm_up, measured, first_buyer: 1, buyers_max: 500 };
        measure(&mut TestShop { defect, products: BTreeMap::new() }, &crowd, 300)
    }

    #[test]
    fn an_honest_shop_gives_a_figure() {
        let figure = measured(Defect::None).unwrap();
        assert_eq!((figure.buyers, figure.granted), (500, 300));
        assert!((figure.rate - 500.0).abs() < 1e-9, "{figure:?}");
    }

    #[test]
    fn a_shop_that_breaks_a_rule_gives_none() {
        for defect in [Defect::Oversells, Defect::ForgetsUsers, Defect::LosesAnOrder, Defect::KeepsAUnit] {
            assert!(measured(defect).is_err(), "{defect:?}");
        }
    }

    #[test]
    fn only_books_that_agree_with_the_buyers_pass() {
        let told = Outcomes { granted: 3, sold_out: 2, duplicates: 0 };
        let books = |available, users| Books { available, sold: vec![("orders", 3), ("users", users)] };
        assert!(check(3, told, &books(0, 3)).is_ok());
        assert!(check(3, told, &books(1, 3)).is_err(), "a unit is left that was sold");
        assert!(check(3, told, &books(0, 2)).is_err(), "a user is forgotten");
        assert!(check(2, told, &books(0, 3)).is_err(), "oversold");
        assert!(check(4, told, &books(1, 3)).is_err(), "sold out with a unit left");
    }
}
