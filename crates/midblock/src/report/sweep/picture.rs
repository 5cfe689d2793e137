//! The picture of a sweep without a browser. Each measure has a row of two panels on one scale: on the left a dot with its
//! interval for every pattern, on the right the same dots against the trained parameters; a dashed line is the pretrained model.
//!
//! Equal budgets give nearly equal parameters, so the left panel is the one to compare in, and the right one shows how equal they
//! are. Dots keep the colour of their pattern; labels stand on the left. Plain SVG 1.1 on white, text escaped.

use super::words::{group_name, measure_title, value_text};
use crate::{
    report::{html::escape, provenance::count},
    study::sweep::{Interval, Measure, Row, Table, Unit},
};
use std::fmt::Write as _;

/// Okabe and Ito's palette without yellow, which is too light on white.
const COLOURS: [&str; 7] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#30353b",
];
const WIDTH: f64 = 960.0;
const LABELS: f64 = 190.0;
const LINE: f64 = 24.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 44.0;
/// Left and right edges of the two panels.
const DOTS: [f64; 2] = [LABELS + 10.0, 590.0];
const SCATTER: [f64; 2] = [650.0, WIDTH - 20.0];

/// A linear scale from values to places.
struct Scale {
    from: [f64; 2],
    to: [f64; 2],
}

impl Scale {
    /// Holds all values, with a margin.
    fn over(values: impl Iterator<Item = f64>, to: [f64; 2]) -> Self {
        let bounds = values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], value| {
            [low.min(value), high.max(value)]
        });
        let [low, high] = if bounds[0] <= bounds[1] { bounds } else { [0.0, 1.0] };
        let margin = (0.06 * (high - low)).max(1e-3 * high.abs()).max(1e-9);
        Self {
            from: [low - margin, high + margin],
            to,
        }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value - self.from[0]) / (self.from[1] - self.from[0]);
        self.to[0] + share * (self.to[1] - self.to[0])
    }

    /// About `count` round numbers inside.
    fn ticks(&self, count: f64) -> Vec<f64> {
        let raw = (self.from[1] - self.from[0]) / count;
        let power = 10f64.powf(raw.log10().floor());
        let step = power
            * [1.0, 2.0, 5.0, 10.0]
                .into_iter()
                .find(|step| step * power >= raw)
                .unwrap_or(10.0);
        let first = (self.from[0] / step).ceil() as i64;
        let last = (self.from[1] / step).floor() as i64;
        (first..=last).map(|tick| tick as f64 * step).collect()
    }
}

/// An SVG of all measures, one below the other.
pub fn picture(table: &Table) -> String {
    let rows: Vec<&Row> = table.rows.iter().filter(|row| !row.is_reference()).collect();
    let panel = TOP + BOTTOM + LINE * rows.len() as f64;
    let height = panel * table.measures.len().max(1) as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"system-ui, Segoe UI, Roboto, Helvetica, sans-serif\" font-size=\"12\" fill=\"#16191d\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    for (number, measure) in table.measures.iter().enumerate() {
        let _ = writeln!(out, "<g transform=\"translate(0 {})\">", panel * number as f64);
        out += &panels(table, &rows, number, measure);
        out += "</g>\n";
    }
    if table.measures.is_empty() {
        out += "<text x=\"20\" y=\"28\">Nothing has been measured yet.</text>\n";
    }
    out + "</svg>\n"
}

fn panels(table: &Table, rows: &[&Row], number: usize, measure: &Measure) -> String {
    let bottom = TOP + LINE * rows.len() as f64;
    let known = |row: &&Row| row.values[number];
    let intervals: Vec<Interval> = table.rows.iter().filter_map(|row| row.values[number]).collect();
    let ends = || intervals.iter().flat_map(|own| [own.mean, own.lo, own.hi]);
    let across = Scale::over(ends(), DOTS);
    let up = Scale::over(ends(), [bottom, TOP]);
    let parameters = Scale::over(rows.iter().map(|row| row.parameters as f64), SCATTER);
    let mut out = format!(
        "<text x=\"{}\" y=\"24\" font-size=\"15\" font-weight=\"600\">{}</text>\n<text x=\"{}\" y=\"24\" fill=\"#59616b\">\
         the same against trained parameters</text>\n",
        DOTS[0],
        escape(&measure_title(measure)),
        SCATTER[0],
    );
    for tick in across.ticks(6.0) {
        let (x, y) = (across.at(tick), up.at(tick));
        let text = tick_text(measure, tick);
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} {TOP}V{bottom}M{} {y:.1}H{}\" stroke=\"#eceef1\"/><text x=\"{x:.1}\" y=\"{}\" \
             text-anchor=\"middle\" fill=\"#59616b\">{text}</text><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" \
             fill=\"#59616b\">{text}</text>",
            SCATTER[0],
            SCATTER[1],
            bottom + 18.0,
            SCATTER[0] - 6.0,
            y + 4.0,
        );
    }
    for tick in parameters.ticks(3.0) {
        let x = parameters.at(tick);
        let text = count(tick.max(0.0) as u64);
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" fill=\"#59616b\">{text}</text>",
            bottom + 18.0
        );
    }
    for reference in table
        .rows
        .iter()
        .filter(|row| row.is_reference())
        .filter_map(|row| known(&row))
    {
        let (x, y) = (across.at(reference.mean), up.at(reference.mean));
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} {TOP}V{bottom}M{} {y:.1}H{}\" stroke=\"#59616b\" stroke-dasharray=\"5 4\"><title>pretrained</title></path>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\" font-size=\"11\" fill=\"#59616b\">pretrained</text>",
            SCATTER[0],
            SCATTER[1],
            TOP - 5.0,
        );
    }
    for (line, row) in rows.iter().enumerate() {
        out += &marks(table, row, known(row), measure, (line, [&across, &up, &parameters]));
    }
    out
}

/// Label and dots of one pattern; `place` is its line and the three scales.
fn marks(table: &Table, row: &Row, value: Option<Interval>, measure: &Measure, place: (usize, [&Scale; 3])) -> String {
    let (line, [across, up, parameters]) = place;
    let colour = COLOURS[line % COLOURS.len()];
    let y = TOP + LINE * (line as f64 + 0.5);
    let group = group_name(table, &row.group);
    let name = if group.is_empty() {
        row.pattern.clone()
    } else {
        format!("{} · {group}", row.pattern)
    };
    let label = escape(&shortened(&name, 28));
    let mut out = format!(
        "<text x=\"{LABELS}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>\n",
        y + 4.0
    );
    let Some(own) = value else { return out };
    let text = |value| value_text(measure, value);
    let title = escape(&format!(
        "{name}: {} ({} to {})",
        text(own.mean),
        text(own.lo),
        text(own.hi)
    ));
    for (path, x, y) in [
        (
            format!("M{:.1} {y:.1}H{:.1}", across.at(own.lo), across.at(own.hi)),
            across.at(own.mean),
            y,
        ),
        {
            let x = parameters.at(row.parameters as f64);
            (
                format!("M{x:.1} {:.1}V{:.1}", up.at(own.lo), up.at(own.hi)),
                x,
                up.at(own.mean),
            )
        },
    ] {
        let _ = writeln!(
            out,
            "<g stroke=\"{colour}\" fill=\"{colour}\"><title>{title}</title><path d=\"{path}\" stroke-width=\"2\" \
             stroke-opacity=\"0.55\"/><circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"/></g>"
        );
    }
    out
}

fn tick_text(measure: &Measure, value: f64) -> String {
    let value = if measure.unit == Unit::Share {
        100.0 * value
    } else {
        value
    };
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".to_owned()
    } else {
        text.replace('-', "−")
    }
}

/// At most so many characters.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let scale = Scale::over([0.113, 0.287].into_iter(), [0.0, 100.0]);
        let ticks = scale.ticks(6.0);
        assert_eq!(
            ticks.iter().map(|tick| (tick * 1000.0).round()).collect::<Vec<_>>(),
            [150.0, 200.0, 250.0]
        );
        let one = Scale::over([3.0].into_iter(), [0.0, 100.0]);
        assert!((one.at(3.0) - 50.0).abs() < 1e-6);
        let none = Scale::over([].into_iter(), [10.0, 20.0]);
        assert!(none.at(0.5) > 14.0 && none.at(0.5) < 16.0);
    }

    #[test]
    fn long_names_are_cut_by_characters() {
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöüß", 3), "äö…");
    }
}
