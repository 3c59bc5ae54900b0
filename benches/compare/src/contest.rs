//! Sides that do the same work in turns: one after the other, in one order in every even run and the other way round in every odd one,
//! because machine and disk drift from minute to minute. What is compared is compared within a run.

use serde::Serialize;
use tidegate_benches::error::BenchError;
use tidegate_benches::figure::{Percentiles, Run, median, medians};
use tidegate_benches::report::amount;
use tidegate_benches::signals;

use crate::shop::RunFigure;

/// One side of a contest.
pub struct Side<'a> {
    /// Who it is.
    pub name: &'static str,
    /// What its answers survive.
    pub durability: String,
    /// How it is asked.
    pub load: String,
    /// The place of Tidegate's side that it is compared with.
    pub rival: Option<usize>,
    /// Does one run on fresh data.
    pub run: Box<dyn Fn() -> Result<RunFigure, BenchError> + 'a>,
}

/// Sides that are compared.
pub struct Contest<'a> {
    /// What all of them do.
    pub name: &'static str,
    /// What is counted in a second.
    pub unit: &'static str,
    /// Who does it.
    pub sides: Vec<Side<'a>>,
}

/// A contest's figures.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// What all sides did.
    pub contest: &'static str,
    /// What is counted in a second.
    pub unit: &'static str,
    /// Each side.
    pub entries: Vec<Entry>,
}

/// What one side did.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// Who it is.
    pub side: &'static str,
    /// What its answers survive.
    pub durability: String,
    /// How it was asked.
    pub load: String,
    /// Commands in a second: the median of the runs.
    pub rate: f64,
    /// Fastest less slowest run, as a share of the median; 0 with one run.
    pub spread: f64,
    /// Latency of a command: the medians of the runs.
    pub latency: Percentiles,
    /// Processor time of all its processes for one command, in microseconds: the median of the runs.
    pub server_cpu_us: f64,
    /// Share of a core that the generator used: the median of the runs.
    pub generator_cores: f64,
    /// Tidegate's rate over this one's in the same run: the median of the ratios.
    pub tidegate_over: Option<f64>,
    /// Every run.
    pub runs: Vec<RunFigure>,
}

impl Contest<'_> {
    /// Runs it `runs` times. `said` gets a line about every run.
    pub fn run(&self, runs: usize, said: &mut dyn FnMut(&str)) -> Result<Outcome, BenchError> {
        let mut figures: Vec<Vec<RunFigure>> = self.sides.iter().map(|_| Vec::with_capacity(runs)).collect();
        for run in 0..runs {
            let mut turns: Vec<usize> = (0..self.sides.len()).collect();
            if run % 2 == 1 {
                turns.reverse();
            }
            for turn in turns {
                signals::check()?;
                let Side { name, durability, load, .. } = &self.sides[turn];
                let place = format!("{}, run {} of {runs}: {name}, durability {durability}, {load}", self.name, run + 1);
                let figure = (self.sides[turn].run)().map_err(|error| BenchError::Wrong(format!("{place}: {error}")))?;
                said(&format!("{place}: {} {}", amount(figure.rate), self.unit));
                figures[turn].push(figure);
            }
        }
        let entries =
            self.sides.iter().zip(&figures).map(|(side, own)| entry(side, own, side.rival.map(|rival| &figures[rival][..])));
        Ok(Outcome { contest: self.name, unit: self.unit, entries: entries.collect() })
    }
}

fn entry(side: &Side<'_>, own: &[RunFigure], rival: Option<&[RunFigure]>) -> Entry {
    let runs: Vec<Run> = own.iter().map(|run| Run { rate: run.rate, latency: run.latency }).collect();
    let (rate, spread, latency) = medians(&runs);
    let median_of = |pick: fn(&RunFigure) -> f64| median(&own.iter().map(pick).collect::<Vec<_>>());
    let ratios = rival.map(|rival| rival.iter().zip(own).map(|(rival, own)| rival.rate / own.rate).collect::<Vec<_>>());
    Entry {
        side: side.name,
        durability: side.durability.clone(),
        load: side.load.clone(),
        rate,
        spread,
        latency,
        server_cpu_us: median_of(|run| run.server_cpu_us),
        generator_cores: median_of(|run| run.generator_cores),
        tidegate_over: ratios.map(|ratios| median(&ratios)),
        runs: own.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn figure(rate: f64) -> RunFigure {
        let latency = Percentiles { p50_us: 1.0, p99_us: 2.0, p999_us: 3.0 };
        RunFigure { rate, latency, server_cpu_us: 1.0, generator_cores: 0.5, buyers: 1, granted: 1 }
    }

    #[test]
    fn sides_take_turns_and_are_compared_within_a_run() {
        let order = RefCell::new(String::new());
        let side = |name: &'static str, rival, rates: [f64; 3]| {
            let order = &order;
            let rates = RefCell::new(rates.into_iter());
            let run = move || {
                order.borrow_mut().push_str(name);
                Ok(figure(rates.borrow_mut().next().unwrap()))
            };
            Side { name, durability: String::new(), load: String::new(), rival, run: Box::new(run) }
        };
        let sides = vec![side("a", None, [100.0, 300.0, 200.0]), side("b", Some(0), [50.0, 100.0, 200.0])];
        let outcome = Contest { name: "c", unit: "/s", sides }.run(3, &mut |_| {}).unwrap();
        assert_eq!(*order.borrow(), "abbaab");
        // The ratios are 2, 3 and 1.
        assert_eq!(outcome.entries[1].tidegate_over, Some(2.0));
        assert_eq!(outcome.entries[0].tidegate_over, None);
        assert!((outcome.entries[0].rate - 200.0).abs() < 1e-9 && (outcome.entries[0].spread - 1.0).abs() < 1e-9);
    }
}
