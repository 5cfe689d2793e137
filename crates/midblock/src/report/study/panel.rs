//! What a section of a study's page is made of: sentences, charts and tables, drawn by one script.

use crate::study::Estimate;
use serde::Serialize;

/// One kind of study on the page.
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Its anchor.
    pub id: &'static str,
    /// Its heading.
    pub title: String,
    /// How to read it, with the formula.
    pub about: String,
    /// What this data says, in plain sentences with numbers and intervals.
    pub findings: Vec<String>,
    /// Charts and tables.
    pub panels: Vec<Panel>,
}

/// A chart or a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Panel {
    /// Curves or points over a number.
    Lines(Lines),
    /// Values of named things, side by side.
    Bars(Bars),
    /// A matrix of coloured cells.
    Heat(Heat),
    /// Named places, each with the intervals of both its numbers.
    Plane(Plane),
    /// Text in rows and columns.
    Table(Table),
    /// Several panels, of which one is shown.
    Choice(Choice),
}

impl Panel {
    /// One panel for the only item, or one for each to choose from; `panel` makes it under a title.
    pub(super) fn each<T>(title: &str, items: &[(&str, T)], panel: impl Fn(&T, String) -> Self) -> Self {
        match items {
            [(_, only)] => panel(only, title.to_owned()),
            several => Self::Choice(Choice {
                title: title.to_owned(),
                options: (several.iter())
                    .map(|(name, item)| ((*name).to_owned(), panel(item, format!("{title}: {name}"))))
                    .collect(),
            }),
        }
    }
}

/// Curves or points over a number.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lines {
    /// Heading.
    pub title: String,
    /// Title of the x axis.
    pub x: String,
    /// Title of the y axis.
    pub y: String,
    /// Whether the y axis is logarithmic.
    pub log: bool,
    /// The curves.
    pub series: Vec<Series>,
    /// Dashed horizontal lines with their names.
    pub references: Vec<(String, f64)>,
}

/// A curve, or points without one.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// In the order in which they are joined.
    pub points: Vec<Point>,
    /// Whether they are joined.
    pub line: bool,
}

/// A value at a place.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Point {
    /// Place on the x axis; of a bar nothing.
    pub x: f64,
    /// Value; none where it is not defined.
    pub y: Option<f64>,
    /// Lower end of its interval.
    pub lo: Option<f64>,
    /// Upper end.
    pub hi: Option<f64>,
    /// What it is, for whoever points at it; may be empty.
    pub label: String,
}

/// Values of named things, side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Bars {
    /// Heading.
    pub title: String,
    /// Title of the axis of values.
    pub y: String,
    /// The things.
    pub names: Vec<String>,
    /// Named series with a value for each thing.
    pub groups: Vec<(String, Vec<Point>)>,
    /// Dashed lines with their names.
    pub references: Vec<(String, f64)>,
}

/// A matrix of coloured cells.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Heat {
    /// Heading.
    pub title: String,
    /// What the columns are.
    pub x: String,
    /// What the rows are.
    pub y: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Names of the rows, the first at the top.
    pub rows: Vec<String>,
    /// (rows, columns)
    pub cells: Vec<Vec<HeatCell>>,
    /// What colours mean.
    pub scale: Scale,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct HeatCell {
    /// Decides the colour; none leaves it empty.
    pub value: Option<f64>,
    /// Written in it; may be empty.
    pub text: String,
    /// What it is, for whoever points at it; may be empty.
    pub hint: String,
}

/// What colours mean.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Scale {
    /// From light at `min` to dark at `max`.
    Sequential {
        /// Lightest.
        min: f64,
        /// Darkest.
        max: f64,
    },
    /// From one colour at −`limit` over light at 0 to another at `limit`.
    Diverging {
        /// Where both are darkest.
        limit: f64,
    },
}

/// Named places, each with the intervals of both its numbers. More of x is better, and less of y.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plane {
    /// Heading.
    pub title: String,
    /// Title of the x axis.
    pub x: String,
    /// Title of the y axis.
    pub y: String,
    /// Name of the place at 0, 0.
    pub origin: String,
    /// The places.
    pub marks: Vec<Mark>,
    /// Numbers of those on the front, from the smallest x.
    pub front: Vec<usize>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mark {
    /// Name in the legend.
    pub name: String,
    /// Its x.
    pub x: Estimate,
    /// Its y.
    pub y: Estimate,
    /// What it is the mean of, shown as small points: (x, y) each.
    pub parts: Vec<(f64, f64)>,
    /// What it is, for whoever points at it; may be empty.
    pub label: String,
}

/// Text in rows and columns.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Table {
    /// Heading.
    pub title: String,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// Each begins with its name.
    pub rows: Vec<Vec<String>>,
}

/// Several panels, of which one is shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Choice {
    /// Heading of the choice.
    pub title: String,
    /// Their names.
    pub options: Vec<(String, Panel)>,
}
