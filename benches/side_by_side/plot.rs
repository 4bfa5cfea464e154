//! Plots of a figure against the number of images, as SVG: several panels side by side, both axes
//! logarithmic.
//!
//! The background is transparent, and all colours have enough contrast on white and on near-black, so that
//! one file suits light and dark pages. Each line has a marker of its own shape, for readers who cannot tell
//! the colours apart.

use std::fmt::Write as _;

use super::results::{Who, count};

const PANEL: [f64; 2] = [250.0, 220.0];
/// Left of a panel (the labels of its axis), above (title and legend), below (labels), and right of it.
const MARGIN: [f64; 4] = [64.0, 66.0, 50.0, 30.0];
const INK: &str = "#6e7781";

#[derive(Clone, Debug)]
pub(super) struct Plot {
    pub(super) title: String,
    /// The plot in a sentence, for readers who do not see it.
    pub(super) description: String,
    pub(super) panels: Vec<Panel>,
    /// Writes a value at a tick.
    pub(super) label: fn(f64) -> String,
}

#[derive(Clone, Debug)]
pub(super) struct Panel {
    pub(super) title: String,
    pub(super) lines: Vec<Line>,
}

/// Points of one program: number of images, figure.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) who: Who,
    pub(super) points: Vec<[f64; 2]>,
}

/// A logarithmic axis from one power of ten to another.
#[derive(Clone, Copy)]
struct Axis {
    first: i32,
    last: i32,
    /// Where the axis begins and ends in the picture.
    from: f64,
    to: f64,
}

impl Axis {
    /// Returns an axis with room for all values.
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values.fold((f64::INFINITY, 0.0_f64), |(l, h), v| (l.min(v), h.max(v)));
        let (low, high) = if high > 0.0 { (low, high) } else { (1.0, 10.0) };
        let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
        Self { first, last: last.max(first + 1), from, to }
    }

    fn at(self, value: f64) -> f64 {
        let share = (value.log10() - f64::from(self.first)) / f64::from(self.last - self.first);
        self.from + share * (self.to - self.from)
    }

    fn ticks(self) -> impl Iterator<Item = f64> {
        (self.first..=self.last).map(|power| 10_f64.powi(power))
    }
}

/// Returns the text of an SVG file.
pub(super) fn svg(plot: &Plot) -> String {
    let [left, above, below, right] = MARGIN;
    let width = plot.panels.len() as f64 * (left + PANEL[0] + right);
    let height = above + PANEL[1] + below;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" font-family=\"sans-serif\" font-size=\"12\" fill=\"{INK}\">\n\
         <title>{}</title>\n<desc>{}</desc>\n",
        plot.title, plot.description
    );
    let _ = writeln!(svg, "<text x=\"{left}\" y=\"16\" font-weight=\"bold\">{}</text>", plot.title);
    legend(&mut svg, plot);
    // The panels share the axes, so that they can be compared.
    let points = || plot.panels.iter().flat_map(|panel| &panel.lines).flat_map(|line| &line.points);
    let vertical = Axis::around(points().map(|point| point[1]), above + PANEL[1], above);
    for (at, panel) in plot.panels.iter().enumerate() {
        let from = at as f64 * (left + PANEL[0] + right) + left;
        let horizontal = Axis::around(points().map(|point| point[0]), from, from + PANEL[0]);
        draw(&mut svg, panel, plot.label, [horizontal, vertical]);
    }
    svg + "</svg>\n"
}

/// Draws the names of all programs that have a line.
fn legend(svg: &mut String, plot: &Plot) {
    let mut shown: Vec<Who> = Vec::new();
    for line in plot.panels.iter().flat_map(|panel| &panel.lines) {
        if !shown.contains(&line.who) {
            shown.push(line.who);
        }
    }
    let mut x = MARGIN[0];
    for who in shown {
        let colour = colour(who);
        let _ = writeln!(
            svg,
            "<path d=\"M{x} 34h24\" stroke=\"{colour}\" stroke-width=\"2\"/>{}\
             <text x=\"{}\" y=\"38\">{}</text>",
            marker(who, [x + 12.0, 34.0]),
            x + 30.0,
            who.label()
        );
        x += 150.0;
    }
}

fn draw(svg: &mut String, panel: &Panel, label: fn(f64) -> String, [horizontal, vertical]: [Axis; 2]) {
    let [left, right] = [horizontal.from, horizontal.to];
    let [bottom, top] = [vertical.from, vertical.to];
    let _ = writeln!(svg, "<text x=\"{left}\" y=\"{}\">{}</text>", top - 8.0, panel.title);
    for value in horizontal.ticks() {
        let x = horizontal.at(value);
        let _ = writeln!(
            svg,
            "<path d=\"M{x:.1} {top}V{bottom}\" stroke=\"{INK}\" stroke-opacity=\"0.3\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            count(value as usize)
        );
    }
    for value in vertical.ticks() {
        let y = vertical.at(value);
        let _ = writeln!(
            svg,
            "<path d=\"M{left} {y:.1}H{right}\" stroke=\"{INK}\" stroke-opacity=\"0.3\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 6.0,
            y + 4.0,
            label(value)
        );
    }
    let middle = f64::midpoint(left, right);
    let below = bottom + 38.0;
    let _ = writeln!(svg, "<text x=\"{middle}\" y=\"{below}\" text-anchor=\"middle\">entries</text>");
    for line in &panel.lines {
        let points: Vec<[f64; 2]> =
            line.points.iter().map(|[x, y]| [horizontal.at(*x), vertical.at(*y)]).collect();
        let list: Vec<String> = points.iter().map(|[x, y]| format!("{x:.1},{y:.1}")).collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\"/>",
            list.join(" "),
            colour(line.who)
        );
        for point in points {
            let _ = writeln!(svg, "{}", marker(line.who, point));
        }
    }
}

/// Returns a colour with a contrast of at least 3 on white and on near-black.
fn colour(who: Who) -> &'static str {
    match who {
        Who::Ours => "#2f7de1",
        Who::Bare => "#7d8590",
        _ => "#cf6a1d",
    }
}

fn marker(who: Who, [x, y]: [f64; 2]) -> String {
    let colour = colour(who);
    match who {
        Who::Ours => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>"),
        Who::Bare => format!(
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"7\" height=\"7\" fill=\"{colour}\"/>",
            x - 3.5,
            y - 3.5
        ),
        _ => format!("<path d=\"M{x:.1} {:.1}l5 9h-10z\" fill=\"{colour}\"/>", y - 6.0),
    }
}
