//! The figures as bars: one picture of its own making, because bars and labels need no library.

use std::fmt::Write;

use tidegate_benches::report::{amount, duration};

use crate::compare::{Subject, sides};
use crate::contest::{Entry, Outcome};

/// Sizes in pixels.
const WIDTH: usize = 960;
const BARS_FROM: usize = 400;
const BARS_WIDTH: f64 = 440.0;
const LINE: usize = 22;
const BAR: usize = 14;
const MARGIN: usize = 24;

/// Colours: Tidegate, floors, everybody else; each readable on white and on black.
const TIDEGATE: &str = "#2f81f7";
const FLOOR: &str = "#8b949e";
const PEER: &str = "#d29922";

/// A plain SVG: for each contest a group of bars as long as its rates, for latency as long as the 99th percentile.
pub fn svg(outcomes: &[Outcome], under: &str) -> String {
    let mut body = String::new();
    let mut y = MARGIN;
    for outcome in outcomes {
        let is_latency = outcome.contest == Subject::Latency.name();
        let value = |entry: &Entry| if is_latency { entry.latency.p99_us } else { entry.rate };
        let longest = outcome.entries.iter().map(value).fold(f64::MIN_POSITIVE, f64::max);
        let what = if is_latency { "p99 at a steady pace, shorter is better" } else { outcome.unit };
        text(&mut body, MARGIN, y + BAR, "start", "font-weight=\"bold\"", &format!("{}: {what}", outcome.contest));
        y += LINE;
        for entry in &outcome.entries {
            let colour = match entry.side {
                sides::TIDEGATE => TIDEGATE,
                sides::AXUM | sides::SYNC => FLOOR,
                _ => PEER,
            };
            let length = (value(entry) / longest * BARS_WIDTH).max(1.0);
            let label = format!("{}, {}, {}", entry.side, entry.durability, entry.load);
            text(&mut body, BARS_FROM - 8, y + BAR - 2, "end", "", &label);
            writeln!(body, r#"<rect x="{BARS_FROM}" y="{y}" width="{length:.1}" height="{BAR}" fill="{colour}"/>"#).expect(WRITES);
            let shown = if is_latency { duration(value(entry)) } else { amount(value(entry)) };
            let end = format!("{:.1}", length + 6.0);
            writeln!(body, r#"<text x="{BARS_FROM}" dx="{end}" y="{}">{}</text>"#, y + BAR - 2, escaped(&shown)).expect(WRITES);
            y += LINE;
        }
        y += LINE / 2;
    }
    text(&mut body, MARGIN, y + BAR, "start", "", under);
    let height = y + LINE + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\" \
         fill=\"#1f2328\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
    )
}

/// Why writing into a text is never checked.
const WRITES: &str = "writing to a text does not fail";

fn text(body: &mut String, x: usize, y: usize, anchor: &str, style: &str, words: &str) {
    writeln!(body, r#"<text x="{x}" y="{y}" text-anchor="{anchor}" {style}>{}</text>"#, escaped(words)).expect(WRITES);
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;")
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
        assert!(picture.contains(r##"width="440.0" height="14" fill="#2f81f7""##), "{picture}");
        assert!(picture.contains(r##"width="220.0" height="14" fill="#8b949e""##), "{picture}");
        assert!(picture.contains("a &lt; b") && picture.contains("under &amp; below"), "{picture}");
    }
}
