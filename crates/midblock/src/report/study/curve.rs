//! Numbers of each layer as curves, and numbers with their intervals in words.

use super::{Point, Series};
use crate::study::Estimate;

/// A curve over the layers, the embedding first; layers without a number leave a gap.
pub(super) fn curve(name: &str, layers: impl ExactSizeIterator<Item = Option<Estimate>>) -> Series {
    let blocks = layers.len() - 1;
    let point = |(layer, estimate): (usize, Option<Estimate>)| Point {
        x: layer as f64,
        y: estimate.map(|estimate| estimate.value),
        lo: estimate.map(|estimate| estimate.lo),
        hi: estimate.map(|estimate| estimate.hi),
        label: layer_name(layer, blocks),
    };
    Series {
        name: name.to_owned(),
        points: layers.enumerate().map(point).collect(),
        line: true,
    }
}

/// "embedding", "block 3 of 30".
pub(super) fn layer_name(layer: usize, blocks: usize) -> String {
    match layer {
        0 => "embedding".into(),
        _ => format!("block {layer} of {blocks}"),
    }
}

/// "45.2 % (43.0 to 47.1)".
pub(super) fn share(Estimate { value, lo, hi }: Estimate) -> String {
    let [value, lo, hi] = [value, lo, hi].map(|share| 100.0 * share);
    format!("{value:.1}\u{a0}% ({lo:.1} to {hi:.1})")
}

/// "+3.1 points (+1.0 to +5.2)".
pub(super) fn points(Estimate { value, lo, hi }: Estimate) -> String {
    let [value, lo, hi] = [value, lo, hi].map(|share| 100.0 * share);
    signed(format!("{value:+.1} points ({lo:+.1} to {hi:+.1})"))
}

/// "+0.123 nats (+0.101 to +0.144)".
pub(super) fn nats_difference(Estimate { value, lo, hi }: Estimate) -> String {
    signed(format!("{value:+.3} nats ({lo:+.3} to {hi:+.3})"))
}

fn signed(text: String) -> String {
    text.replace('-', "−")
}
