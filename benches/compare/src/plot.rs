//! The figures as bars.

use tidegate_benches::plot::{Anchor, COLOURS, Drawing, INK};
use tidegate_benches::report::{amount, duration};

use crate::compare::{Subject, sides};
use crate::contest::{Entry, Outcome};

/// Sizes in pixels.
const WIDTH: f64 = 960.0;
const BARS_FROM: f64 = 400.0;
const BARS_WIDTH: f64 = 440.0;
const LINE: f64 = 22.0;
const BAR: f64 = 14.0;
const MARGIN: f64 = 24.0;

/// Colours: Tidegate, floors, everybody else.
const TIDEGATE: &str = COLOURS[0];
const FLOOR: &str = INK;
const PEER: &str = COLOURS[1];

/// A plain SVG: for each contest a group of bars as long as its rates, for latency as long as the 99th percentile.
pub fn svg(outcomes: &[Outcome], under: &str) -> String {
    let mut drawing = Drawing::default();
    let mut y = MARGIN;
    for outcome in outcomes {
        let is_latency = outcome.contest == Subject::Latency.name();
        let value = |entry: &Entry| if is_latency { entry.latency.p99_us } else { entry.rate };
        let longest = outcome.entries.iter().map(value).fold(f64::MIN_POSITIVE, f64::max);
        let what = if is_latency { "p99 at a steady pace, shorter is better" } else { outcome.unit };
        drawing.bold(MARGIN, y + BAR, Anchor::Start, &format!("{}: {what}", outcome.contest));
        y += LINE;
        for entry in &outcome.entries {
            let colour = match entry.side {
                sides::TIDEGATE => TIDEGATE,
                sides::AXUM | sides::SYNC => FLOOR,
                _ => PEER,
            };
            let length = (value(entry) / longest * BARS_WIDTH).max(1.0);
            let label = format!("{}, {}, {}", entry.side, entry.durability, entry.load);
            drawing.words(BARS_FROM - 8.0, y + BAR - 2.0, Anchor::End, &label);
            drawing.filled_box(BARS_FROM, y, length, BAR, colour);
            let shown = if is_latency { duration(value(entry)) } else { amount(value(entry)) };
            drawing.words(BARS_FROM + length + 6.0, y + BAR - 2.0, Anchor::Start, &shown);
            y += LINE;
        }
        y += LINE / 2.0;
    }
    drawing.words(MARGIN, y + BAR, Anchor::Start, under);
    drawing.svg(WIDTH, y + LINE + MARGIN, "Tidegate and its peers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_benches::figure::Percentiles;

    #[test]
    fn bars_are_as_long_as_their_rates() {
        let latency = Percentiles { p50_us: 1.0, p99_us: 2.0, p999_us: 3.0 };
        let entry = |side, rate| Entry {
            side,
            durability: "a < b".to_owned(),
            load: String::new(),
            rate,
            spread: 0.0,
            latency,
            server_cpu_us: 0.0,
            generator_cores: 0.0,
            tidegate_over: None,
            runs: Vec::new(),
        };
        let entries = vec![entry(sides::TIDEGATE, 200.0), entry(sides::AXUM, 100.0)];
        let picture = svg(&[Outcome { contest: "reserve", unit: "/s", entries }], "under & below");
        assert!(picture.contains(&format!(r#"width="440.0" height="14.0" fill="{TIDEGATE}""#)), "{picture}");
        assert!(picture.contains(&format!(r#"width="220.0" height="14.0" fill="{FLOOR}""#)), "{picture}");
        assert!(picture.contains("a &lt; b") && picture.contains("under &amp; below"), "{picture}");
    }
}
