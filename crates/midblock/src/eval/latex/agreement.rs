//! Whether two expressions have the same value: exactly where both are rational, else in double precision, with variables
//! at random points.
//!
//! Points come from the stream ("latex", point) of seed 0, so a verdict never changes. Letters of the Latin lower case are
//! drawn with both signs; Greek letters, capitals and names with a subscript stand for magnitudes and are positive, so that
//! √(4ρr₀²) is 2r₀√ρ but √(x²) is not x. Where an expression rounds, counts or takes factorials, the points are whole
//! numbers. A point counts where both sides are finite (and real, unless i occurs): `\ln x` agrees with `\ln |x|`.

use super::{
    complex::Complex,
    evaluate::{Approximate, Point, evaluate},
    expression::Expression,
    residue::{Integers, residue},
};
use crate::rng;
use rand_chacha::rand_core::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// Points that must agree, and how many are enough where few are usable.
const WANTED: usize = 12;
const ENOUGH: usize = 4;
/// Points that are tried.
const TRIED: u64 = 160;
/// Relative difference below which two values in double precision are equal.
const RELATIVE: f64 = 1e-12;

/// Whether `a` and `b` have the same value; `tolerance` is a relative difference granted to constants.
pub(super) fn same_value(a: &Expression, b: &Expression, tolerance: f64) -> bool {
    if let (Some(left), Some(right)) = (infinite(a), infinite(b)) {
        return left == right;
    }
    if a == b {
        return true;
    }
    let constants = a.variables().is_empty() && b.variables().is_empty();
    match exactly(a, b) {
        Some(true) => true,
        Some(false) if tolerance == 0.0 || !constants => false,
        _ => numerically(a, b, if constants { tolerance } else { 0.0 }).unwrap_or(false),
    }
}

/// Whether `a` is a non-zero multiple of `b`, a positive one if `positive`: the equations a = 0 and b = 0 are then the same.
pub(super) fn proportional(a: &Expression, b: &Expression, positive: bool) -> bool {
    let mut first: Option<(Complex, Complex)> = None;
    let mut agreed = 0;
    let sampler = Sampler::new(a, b);
    for index in 0..TRIED {
        let point = sampler.point(index, sampler.discrete);
        let (left, right) = (evaluate(a, &point), evaluate(b, &point));
        if !left.is_usable() || !right.is_usable() {
            continue;
        }
        let Some((a0, b0)) = first else {
            let tiny = |x: Approximate| x.value.abs() <= 1e3 * x.noise;
            if tiny(left) != tiny(right) {
                return false;
            }
            if !tiny(left) {
                first = Some((left.value, right.value));
            }
            continue;
        };
        let crossed = |x: Approximate, y0: Complex| Approximate {
            value: x.value * y0,
            noise: x.noise * y0.abs(),
        };
        if !close(crossed(left, b0), crossed(right, a0), 1e-9) {
            return false;
        }
        agreed += 1;
        if agreed >= WANTED {
            break;
        }
    }
    let ratio_is_positive = first.is_some_and(|(a0, b0)| (a0 / b0).re > 0.0);
    agreed >= ENOUGH && (!positive || ratio_is_positive)
}

/// The value of an expression without variables, if it is a real number.
pub(super) fn constant_value(expression: &Expression) -> Option<f64> {
    let point = Point {
        variables: BTreeMap::new(),
        complex: true,
    };
    let result = evaluate(expression, &point);
    (expression.variables().is_empty() && result.is_usable() && result.value.is_real()).then_some(result.value.re)
}

/// The sign of ±∞.
fn infinite(expression: &Expression) -> Option<bool> {
    match expression {
        Expression::Infinity => Some(true),
        Expression::Negative(x) if **x == Expression::Infinity => Some(false),
        _ => None,
    }
}

/// Equality of residues at a few points; `None` where a side has none.
fn exactly(a: &Expression, b: &Expression) -> Option<bool> {
    let sampler = Sampler::new(a, b);
    let mut compared = 0;
    for index in 0..8 {
        let at = sampler.integers(index);
        if let (Some(left), Some(right)) = (residue(a, &at), residue(b, &at)) {
            if left != right {
                return Some(false);
            }
            compared += 1;
        }
        if compared == 3 || sampler.names.is_empty() {
            break;
        }
    }
    (compared > 0).then_some(true)
}

/// Equality in double precision; `None` if too few points are usable.
fn numerically(a: &Expression, b: &Expression, tolerance: f64) -> Option<bool> {
    let sampler = Sampler::new(a, b);
    if sampler.names.is_empty() {
        let point = sampler.point(0, false);
        let (left, right) = (evaluate(a, &point), evaluate(b, &point));
        return (left.is_usable() && right.is_usable()).then(|| close(left, right, tolerance.max(RELATIVE)));
    }
    // first as the variables are, then, for (-1)^n and the like, at whole numbers
    for whole in [sampler.discrete, true] {
        let mut agreed = 0;
        for index in 0..TRIED {
            let point = sampler.point(index, whole);
            let (left, right) = (evaluate(a, &point), evaluate(b, &point));
            if !left.is_usable() || !right.is_usable() {
                continue;
            }
            if !close(left, right, RELATIVE) {
                return Some(false);
            }
            agreed += 1;
            if agreed >= WANTED * if whole { 3 } else { 1 } {
                return Some(true);
            }
        }
        if agreed >= ENOUGH {
            return Some(true);
        }
    }
    None
}

fn close(a: Approximate, b: Approximate, relative: f64) -> bool {
    let difference = (a.value - b.value).abs();
    difference <= relative * a.value.abs().max(b.value.abs()) + 8.0 * (a.noise + b.noise)
}

/// Draws values for the variables of two expressions.
struct Sampler<'a> {
    names: BTreeSet<&'a str>,
    complex: bool,
    discrete: bool,
}

impl<'a> Sampler<'a> {
    fn new(a: &'a Expression, b: &'a Expression) -> Self {
        let names: BTreeSet<_> = a.variables().union(&b.variables()).copied().collect();
        let imaginary = [a, b].iter().any(|e| e.any(|e| matches!(e, Expression::Imaginary)));
        Self {
            complex: imaginary || names.is_empty(),
            discrete: a.is_discrete() || b.is_discrete(),
            names,
        }
    }

    fn integers(&self, index: u64) -> Integers<'a> {
        let mut rng = rng::stream(0, "latex", &[0, index]);
        let range = if self.discrete { 40 } else { 1_000_000 };
        let draw = |name| (name, 1 + (rng.next_u64() % range) as i64);
        self.names.iter().copied().map(draw).collect()
    }

    fn point(&self, index: u64, whole: bool) -> Point<'a> {
        let mut rng = rng::stream(0, "latex", &[1, index]);
        let scale = [1.0, 1.0, 1.0, 10.0, 0.1][(index % 5) as usize];
        let draw = |name: &'a str| {
            let unit = (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64; // in [0, 1)
            let signed = name.len() == 1 && name.bytes().all(|b| b.is_ascii_lowercase());
            let value = match () {
                () if whole => (1.0 + 30.0 * unit).floor(),
                () if signed => scale * (6.0 * unit - 3.0),
                () => scale * (0.1 + 2.9 * unit),
            };
            (name, value)
        };
        let variables = self.names.iter().copied().map(draw).collect();
        Point {
            variables,
            complex: self.complex,
        }
    }
}
