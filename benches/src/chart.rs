//! Curves over one common axis: a title, panels side by side, each with a scale of its own, and below them what one must know to read them.

use crate::plot::{Anchor, COLOURS, Drawing, FAINT, INK};

/// Sizes in pixels.
const WIDTH: f64 = 960.0;
const MARGIN: f64 = 16.0;
const LINE: f64 = 17.0;
const PANEL_WIDTH: f64 = (WIDTH - 3.0 * MARGIN) / 2.0;
const PANEL_HEIGHT: f64 = 300.0;
const SCALE_WIDTH: f64 = 66.0;
const SCALE_HEIGHT: f64 = 46.0;
const LETTER_WIDTH: f64 = 6.4;
const WHISKER: f64 = 3.0;

/// Letters that fit into the width of the whole and of a panel.
const LETTERS_WHOLE: usize = 140;
const LETTERS_PANEL: usize = 66;

/// Ticks of an axis at most, when it is divided evenly.
const TICKS_MAX: f64 = 6.0;

/// Decades of an axis up to which 2 and 5 have ticks too.
const DECADES_FINE: f64 = 2.0;

/// Room above the largest value, as a share of it.
const HEAD_ROOM: f64 = 1.06;

/// How values become lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From zero on, evenly.
    Linear,
    /// Each tenfold as long as any other. Values of zero and less have no place.
    Log,
}

/// What is counted along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A number of things.
    Count,
    /// A time, in microseconds.
    Microseconds,
    /// Memory, in MiB.
    Mebibytes,
}

/// One value with where it was found, and what lay around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    /// Place on the common axis.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// The least that was seen there.
    pub low: f64,
    /// The most that was seen there.
    pub high: f64,
}

/// One curve.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What it is; the only one of a panel needs no name.
    pub name: &'static str,
    /// Its values, by place.
    pub marks: Vec<Mark>,
}

/// Curves of one kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// What they show, with its unit.
    pub title: String,
    /// How values become heights.
    pub scale: Scale,
    /// What they are counted in.
    pub unit: Unit,
    /// The curves, four at most.
    pub series: Vec<Series>,
}

/// Panels over a common axis.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// What is along the common axis, with its unit.
    pub x_label: &'static str,
    /// How places become lengths.
    pub x_scale: Scale,
    /// The panels, two in a row.
    pub panels: Vec<Panel>,
    /// The conditions, a paragraph each.
    pub caption: Vec<String>,
}

impl Chart {
    /// The chart as an SVG. The caption takes the last panel's place where that is free.
    pub fn svg(&self) -> String {
        let mut drawing = Drawing::default();
        drawing.bold(MARGIN, MARGIN + 12.0, Anchor::Start, &self.title);
        let top = MARGIN + 2.0 * LINE;
        let xs = self.panels.iter().flat_map(|panel| &panel.series).flat_map(|series| &series.marks).map(|mark| mark.x);
        let x_axis = Axis::over(self.x_scale, xs, 1.0);
        let corner = |place: usize| {
            let (row, column) = (f64::from(u32::try_from(place / 2).unwrap_or(0)), f64::from(u32::from(place % 2 == 1)));
            (MARGIN + column * (PANEL_WIDTH + MARGIN), top + row * (PANEL_HEIGHT + MARGIN))
        };
        for (place, panel) in self.panels.iter().enumerate() {
            panel.draw(&mut drawing, corner(place), &x_axis, self.x_label);
        }
        let (left, from) = corner(self.panels.len());
        let letters = if self.panels.len() % 2 == 1 { LETTERS_PANEL } else { LETTERS_WHOLE };
        let mut y = from + 12.0;
        for paragraph in &self.caption {
            for line in lines(paragraph, letters) {
                drawing.words(left, y, Anchor::Start, &line);
                y += LINE;
            }
            y += LINE / 3.0;
        }
        let (_, bottom) = corner(self.panels.len().next_multiple_of(2));
        drawing.svg(WIDTH, y.max(bottom) + MARGIN / 2.0, &self.title)
    }
}

impl Panel {
    fn draw(&self, drawing: &mut Drawing, corner: (f64, f64), x_axis: &Axis, x_label: &str) {
        let (left, top) = (corner.0 + SCALE_WIDTH, corner.1 + 2.5 * LINE);
        let (right, bottom) = (corner.0 + PANEL_WIDTH - 8.0, corner.1 + PANEL_HEIGHT - SCALE_HEIGHT);
        let seen = self.series.iter().flat_map(|series| &series.marks).flat_map(|mark| [mark.low, mark.y, mark.high]);
        let y_axis = Axis::over(self.scale, seen, HEAD_ROOM);
        let x_of = |value: f64| left + x_axis.share(value) * (right - left);
        let y_of = |value: f64| bottom - y_axis.share(value) * (bottom - top);

        drawing.bold(corner.0, corner.1 + 12.0, Anchor::Start, &self.title);
        if self.series.len() > 1 {
            let mut x = left;
            for (series, colour) in self.series.iter().zip(COLOURS) {
                drawing.filled_box(x, corner.1 + LINE + 5.0, 14.0, 4.0, colour);
                drawing.words(x + 19.0, corner.1 + LINE + 12.0, Anchor::Start, series.name);
                x += 36.0 + LETTER_WIDTH * f64::from(u32::try_from(series.name.chars().count()).unwrap_or(0));
            }
        }
        for tick in y_axis.ticks() {
            drawing.line((left, y_of(tick)), (right, y_of(tick)), FAINT);
            drawing.words(left - 6.0, y_of(tick) + 4.0, Anchor::End, &self.unit.short(tick));
        }
        for tick in x_axis.ticks() {
            drawing.line((x_of(tick), bottom), (x_of(tick), bottom + 4.0), INK);
            drawing.words(x_of(tick), bottom + LINE + 1.0, Anchor::Middle, &Unit::Count.short(tick));
        }
        drawing.line((left, bottom), (right, bottom), INK);
        drawing.words(f64::midpoint(left, right), bottom + 2.0 * LINE + 2.0, Anchor::Middle, x_label);
        for (series, colour) in self.series.iter().zip(COLOURS) {
            let shown = series.marks.iter().filter(|mark| x_axis.has(mark.x) && y_axis.has(mark.y));
            let mut places = Vec::new();
            for mark in shown {
                let (x, low, high) = (x_of(mark.x), y_of(y_axis.nearest(mark.low)), y_of(y_axis.nearest(mark.high)));
                drawing.line((x, low), (x, high), colour);
                drawing.line((x - WHISKER, low), (x + WHISKER, low), colour);
                drawing.line((x - WHISKER, high), (x + WHISKER, high), colour);
                places.push((x, y_of(mark.y)));
            }
            drawing.curve(&places, colour);
        }
    }
}

impl Unit {
    /// A value that is a tick of an axis, as short as it goes.
    fn short(self, value: f64) -> String {
        let (divided, suffix) = match self {
            Self::Count if value >= 1e6 => (value / 1e6, " M"),
            Self::Count if value >= 1e4 => (value / 1e3, " k"),
            Self::Count => (value, ""),
            Self::Microseconds if value >= 1e6 => (value / 1e6, " s"),
            Self::Microseconds if value >= 1e3 => (value / 1e3, " ms"),
            Self::Microseconds => (value, " us"),
            Self::Mebibytes if value >= 1024.0 => (value / 1024.0, " GiB"),
            Self::Mebibytes => (value, " MiB"),
        };
        // Three digits are more than a tick has; what is left of a division's error goes.
        let digits = format!("{divided:.2}");
        format!("{}{suffix}", digits.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// From where to where an axis goes.
#[derive(Debug, Clone, Copy)]
struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Axis {
    /// An axis for `values`, which ends at `head_room` times the largest of them.
    fn over(scale: Scale, values: impl Iterator<Item = f64>, head_room: f64) -> Self {
        let is_shown = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
        let (low, high) = values.filter(is_shown).fold((f64::MAX, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        match scale {
            _ if high <= 0.0 => Self { scale: Scale::Linear, from: 0.0, to: 1.0 },
            Scale::Linear => Self { scale, from: 0.0, to: high * head_room },
            // One place alone needs some room as well.
            Scale::Log if low * 1.5 > high => Self { scale, from: low / 2.0, to: high * 2.0 },
            Scale::Log => Self { scale, from: low / head_room, to: high * head_room },
        }
    }

    fn has(&self, value: f64) -> bool {
        (self.from..=self.to).contains(&value)
    }

    fn nearest(&self, value: f64) -> f64 {
        value.clamp(self.from, self.to)
    }

    /// Where on the axis `value` is: 0 at its begin, 1 at its end.
    fn share(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Log => (value / self.from).ln() / (self.to / self.from).ln(),
        }
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = round_up((self.to - self.from) / TICKS_MAX);
                multiples(step).take_while(|tick| self.has(*tick)).collect()
            }
            Scale::Log => {
                let is_fine = (self.to / self.from).log10() <= DECADES_FINE;
                let steps: &[f64] = if is_fine { &[1.0, 2.0, 5.0] } else { &[1.0] };
                let decades = multiples(1.0).map(|exponent| 10_f64.powf(self.from.log10().floor() + exponent));
                let decades = decades.take_while(|decade| *decade <= self.to);
                decades.flat_map(|decade| steps.iter().map(move |step| decade * step)).filter(|tick| self.has(*tick)).collect()
            }
        }
    }
}

/// `step` times 0, 1, 2, and so on.
fn multiples(step: f64) -> impl Iterator<Item = f64> {
    (0_u32..).map(move |count| step * f64::from(count))
}

/// The next of 1, 2 and 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * decade);
    steps.into_iter().find(|step| *step >= value).unwrap_or(steps[3])
}

/// `paragraph` in lines of at most `letters`; a longer word has a line of its own.
fn lines(paragraph: &str, letters: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in paragraph.split(' ') {
        let last = lines.last_mut().expect("there is a line from the start");
        if last.is_empty() {
            last.push_str(word);
        } else if last.chars().count() + 1 + word.chars().count() <= letters {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_the_axis() {
        let ticks = |scale, values: &[f64]| Axis::over(scale, values.iter().copied(), 1.0).ticks();
        assert_eq!(ticks(Scale::Linear, &[3.0, 10.0]), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(ticks(Scale::Log, &[1.0, 1024.0]), [1.0, 10.0, 100.0, 1_000.0]);
        assert_eq!(ticks(Scale::Log, &[40.0, 300.0]), [50.0, 100.0, 200.0]);
        assert_eq!(ticks(Scale::Log, &[7.0]), [5.0, 10.0]);
        assert_eq!(ticks(Scale::Linear, &[]).len(), 6);
    }

    #[test]
    fn a_place_on_an_axis_is_a_share_of_it() {
        let log = Axis::over(Scale::Log, [1.0, 100.0].into_iter(), 1.0);
        assert!((log.share(10.0) - 0.5).abs() < 1e-9 && !log.has(0.5));
        let linear = Axis::over(Scale::Linear, [5.0, 8.0].into_iter(), 1.0);
        assert!((linear.share(2.0) - 0.25).abs() < 1e-9 && linear.has(0.0));
    }

    #[test]
    fn ticks_carry_their_unit() {
        let cases = [
            (Unit::Count, 0.0, "0"),
            (Unit::Count, 5_000.0, "5000"),
            (Unit::Count, 20_000.0, "20 k"),
            (Unit::Count, 2_500_000.0, "2.5 M"),
            (Unit::Microseconds, 0.5, "0.5 us"),
            (Unit::Microseconds, 20_000.0, "20 ms"),
            (Unit::Mebibytes, 512.0, "512 MiB"),
            (Unit::Mebibytes, 1_536.0, "1.5 GiB"),
        ];
        for (unit, value, text) in cases {
            assert_eq!(unit.short(value), text);
        }
    }

    #[test]
    fn a_paragraph_is_broken_between_words() {
        assert_eq!(lines("a bb ccc dddddddd e", 5), ["a bb", "ccc", "dddddddd", "e"]);
    }

    #[test]
    fn a_chart_shows_every_value_and_says_what_it_is() {
        let mark = |x, y| Mark { x, y, low: y / 2.0, high: y * 2.0 };
        let series = |name| Series { name, marks: vec![mark(1.0, 10.0), mark(10.0, 20.0), mark(0.0, 30.0)] };
        let panel = |title: &str, names: &[&'static str]| Panel {
            title: title.to_owned(),
            scale: Scale::Log,
            unit: Unit::Count,
            series: names.iter().map(|name| series(name)).collect(),
        };
        let chart = Chart {
            title: "the whole".to_owned(),
            x_label: "number of things",
            x_scale: Scale::Log,
            panels: vec![panel("one", &["a"]), panel("two", &["b", "c"]), panel("three", &["d"])],
            caption: vec!["the conditions".to_owned()],
        };
        let picture = chart.svg();
        for word in ["the whole", "one", "two", "three", "number of things", "the conditions", ">b<", ">c<"] {
            assert!(picture.contains(word), "{word} in {picture}");
        }
        // A place at zero is not on an axis of powers.
        assert_eq!((picture.matches("<polyline").count(), picture.matches("<circle").count()), (4, 8));
        assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
    }
}
