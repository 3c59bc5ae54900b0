//! How many units each product gets, so that about the wanted share of requests finds nothing left. Pure.

use super::zipf::Zipf;

/// Units of a product that is never to be sold out: the contract's largest first quantity.
pub(crate) const UNITS_MAX: u64 = 1_000_000_000;

/// What decides how many units are needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Demand {
    /// Reservations that will be asked for, all products together.
    pub(crate) reservations: f64,
    /// Units in each.
    pub(crate) quantity: u32,
    /// The share of them that is to find nothing left, 0 to 1. At 0 nothing runs out.
    pub(crate) sold_out: f64,
    /// The share of grants that are given back at once, and so are granted again, below 1 unless everything is.
    pub(crate) released: f64,
}

/// Units for each product, most popular first: expected reservations of the product x (1 - sold out) x (1 - released), in whole
/// reservations, times the quantity. Fractions are carried over to the next product, so that the sum is right however rare each is.
/// Each is at most [`UNITS_MAX`].
pub(crate) fn units(zipf: &Zipf, products: usize, demand: &Demand) -> Vec<u64> {
    if demand.sold_out <= 0.0 {
        return vec![UNITS_MAX; products];
    }
    let grants = demand.reservations * (1.0 - demand.sold_out) * (1.0 - demand.released);
    let quantity = u64::from(demand.quantity);
    let grants_max = UNITS_MAX / quantity;
    let mut wanted = 0.0;
    let mut given = 0;
    (0..products)
        .map(|rank| {
            wanted += grants * zipf.share(rank);
            let own = whole(wanted).saturating_sub(given);
            given += own;
            own.min(grants_max) * quantity
        })
        .collect()
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "what is expected is positive and below 2^52")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand { reservations: 25_000.0, quantity: 1, sold_out: 0.9, released: 0.0 };

    #[test]
    fn units_are_the_expected_reservations_that_are_to_be_granted() {
        // Shares 12/25, 6/25, 4/25 and 3/25 of 25,000; a tenth of each is to be granted.
        let zipf = Zipf::new(4, 1.0);
        assert_eq!(units(&zipf, 4, &DEMAND), [1_200, 600, 400, 300]);
        assert_eq!(units(&zipf, 4, &Demand { quantity: 3, ..DEMAND }), [3_600, 1_800, 1_200, 900]);
        // Half of the grants come back and are granted again.
        assert_eq!(units(&zipf, 4, &Demand { released: 0.5, ..DEMAND }), [600, 300, 200, 150]);
    }

    #[test]
    fn with_everything_sold_out_there_is_nothing_and_with_nothing_there_is_plenty() {
        let zipf = Zipf::new(4, 1.0);
        assert_eq!(units(&zipf, 4, &Demand { sold_out: 1.0, ..DEMAND }), [0; 4]);
        assert_eq!(units(&zipf, 4, &Demand { sold_out: 0.0, ..DEMAND }), [1_000_000_000; 4]);
    }

    #[test]
    fn rare_products_share_whole_units_between_them() {
        // 40 grants over 100 products alike: 0.4 each.
        let zipf = Zipf::new(100, 0.0);
        let given = units(&zipf, 100, &Demand { reservations: 400.0, ..DEMAND });
        assert_eq!(given.iter().sum::<u64>(), 40);
        assert!(given.iter().all(|units| *units <= 1));
    }

    #[test]
    fn no_stock_is_larger_than_the_contract_allows() {
        let zipf = Zipf::new(1, 1.0);
        assert_eq!(units(&zipf, 1, &Demand { reservations: 1e12, quantity: 7, sold_out: 0.1, released: 0.0 }), [999_999_994]);
    }
}
