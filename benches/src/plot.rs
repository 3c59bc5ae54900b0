//! Drawing in SVG: words, lines and boxes in colours that can be read on white and on black, because the page behind is not ours to choose.
//! It knows no figures.

use std::fmt::Write;

/// What is drawn for itself: words, axes.
pub const INK: &str = "#737b85";

/// What stands behind what is drawn: the lines of a grid.
pub const FAINT: &str = "#8b949e55";

/// What things are told apart by, the first one first.
pub const COLOURS: [&str; 4] = ["#2f81f7", "#d29922", "#e5534b", "#3fa45b"];

/// Why writing into a text is never checked.
const WRITES: &str = "writing to a text does not fail";

/// Where words stand to their place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// They begin there.
    Start,
    /// They have their middle there.
    Middle,
    /// They end there.
    End,
}

impl Anchor {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Middle => "middle",
            Self::End => "end",
        }
    }
}

/// What has been drawn so far. Sizes are in pixels, from the upper left corner.
#[derive(Debug, Clone, Default)]
pub struct Drawing(String);

impl Drawing {
    /// Words on the line whose foot is at `y`.
    pub fn words(&mut self, x: f64, y: f64, anchor: Anchor, words: &str) {
        self.text(x, y, anchor, "", words);
    }

    /// The same, bold.
    pub fn bold(&mut self, x: f64, y: f64, anchor: Anchor, words: &str) {
        self.text(x, y, anchor, r#" font-weight="bold""#, words);
    }

    /// The same, in a colour.
    pub fn coloured(&mut self, x: f64, y: f64, anchor: Anchor, colour: &str, words: &str) {
        self.text(x, y, anchor, &format!(r#" fill="{colour}""#), words);
    }

    fn text(&mut self, x: f64, y: f64, anchor: Anchor, style: &str, words: &str) {
        let (anchor, words) = (anchor.name(), escaped(words));
        writeln!(self.0, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}"{style}>{words}</text>"#).expect(WRITES);
    }

    /// A box full of a colour.
    pub fn filled_box(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str) {
        writeln!(self.0, r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" fill="{colour}"/>"#).expect(WRITES);
    }

    /// A thin line from one place to another.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        writeln!(self.0, r#"<line x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}" stroke="{colour}"/>"#).expect(WRITES);
    }

    /// A line through many places, each with a dot.
    pub fn curve(&mut self, places: &[(f64, f64)], colour: &str) {
        let through: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        writeln!(self.0, r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/>"#, through.join(" "))
            .expect(WRITES);
        for (x, y) in places {
            writeln!(self.0, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3" fill="{colour}"/>"#).expect(WRITES);
        }
    }

    /// The picture of that size, with what it is in words for who cannot see it. There is nothing behind what was drawn.
    pub fn svg(&self, width: f64, height: f64, what: &str) -> String {
        let what = escaped(what);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\" \
             fill=\"{INK}\" role=\"img\">\n<title>{what}</title>\n{}</svg>\n",
            self.0
        )
    }
}

fn escaped(words: &str) -> String {
    words.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_in_the_picture() {
        let mut drawing = Drawing::default();
        drawing.bold(1.0, 2.0, Anchor::End, "a < b & c");
        drawing.filled_box(0.0, 0.0, 10.0, 4.0, COLOURS[0]);
        drawing.curve(&[(1.0, 2.0), (3.0, 4.5)], COLOURS[1]);
        let picture = drawing.svg(20.0, 10.0, "x < y");
        assert!(picture.starts_with("<svg") && picture.contains(r#"viewBox="0 0 20 10""#), "{picture}");
        assert!(picture.contains(r#"text-anchor="end" font-weight="bold">a &lt; b &amp; c</text>"#), "{picture}");
        assert!(picture.contains("<title>x &lt; y</title>") && picture.contains(r#"points="1.0,2.0 3.0,4.5""#), "{picture}");
    }
}
