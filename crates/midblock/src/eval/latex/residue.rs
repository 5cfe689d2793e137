//! Exact arithmetic with rational numbers of any size: their residues modulo one prime of 61 bits.
//!
//! Two rational expressions are equal if and only if their residues are, but for a chance of about 2⁻⁶¹ per unit of degree
//! (Schwartz 1980 and Zippel 1979 for expressions in variables). So 2^{1009} is not 2^{1009} + 1, and 0.333 is not 1/3,
//! without ever writing a long number. Roots, logarithms and other irrational parts have no residue here.

use super::expression::{Expression, Function, Scale};
use std::collections::BTreeMap;

/// 2⁶¹ − 31, a prime.
const PRIME: u64 = (1 << 61) - 31;
/// Largest n of n! and of binomials.
const MAX_FACTORIAL: i128 = 20_000;

/// Whole numbers for the variables.
pub(super) type Integers<'a> = BTreeMap<&'a str, i64>;

/// The value of `expression` modulo the prime; `None` if it is not rational, undefined, or too large to be formed.
pub(super) fn residue(expression: &Expression, at: &Integers) -> Option<u64> {
    match expression {
        Expression::Number(digits) => decimal(digits),
        Expression::Variable(name) => Some(at.get(name.as_str())?.rem_euclid(PRIME as i64) as u64),
        Expression::Sum(terms) => terms.iter().try_fold(0, |sum, t| Some(add(sum, residue(t, at)?))),
        Expression::Product(factors) => factors.iter().try_fold(1, |product, (factor, divides)| {
            let factor = residue(factor, at)?;
            Some(multiply(product, if *divides { inverse(factor)? } else { factor }))
        }),
        Expression::Negative(x) => residue(x, at).map(negate),
        Expression::Power(base, exponent) => power(residue(base, at)?, integer(exponent, at)?),
        Expression::Scaled(Scale::Percent, x) => Some(multiply(residue(x, at)?, inverse(100)?)),
        Expression::Call(Function::Factorial, args) => falling(integer(args.first()?, at)?, None),
        Expression::Binomial(n, k) => {
            let (n, k) = (integer(n, at)?, integer(k, at)?);
            if k > n {
                return None;
            }
            Some(multiply(falling(n, Some(k))?, inverse(falling(k, None)?)?))
        }
        _ => None,
    }
}

/// The value of `expression` if it is a whole number that 128 bits hold.
fn integer(expression: &Expression, at: &Integers) -> Option<i128> {
    match expression {
        Expression::Number(digits) => digits.parse().ok(),
        Expression::Variable(name) => at.get(name.as_str()).map(|v| i128::from(*v)),
        Expression::Sum(terms) => terms.iter().try_fold(0_i128, |sum, t| sum.checked_add(integer(t, at)?)),
        Expression::Negative(x) => integer(x, at)?.checked_neg(),
        Expression::Product(factors) => {
            let (mut above, mut below) = (1_i128, 1_i128);
            for (factor, divides) in factors {
                let side = if *divides { &mut below } else { &mut above };
                *side = side.checked_mul(integer(factor, at)?)?;
            }
            (above.checked_rem(below)? == 0).then(|| above / below)
        }
        Expression::Power(base, exponent) => {
            let exponent = u32::try_from(integer(exponent, at)?).ok()?;
            integer(base, at)?.checked_pow(exponent)
        }
        _ => None,
    }
}

fn decimal(digits: &str) -> Option<u64> {
    let (mantissa, exponent) = digits.split_once('e').unwrap_or((digits, "0"));
    let mut exponent: i128 = exponent.parse().ok()?;
    let mut value = 0;
    let mut fraction = false;
    for c in mantissa.chars() {
        match c.to_digit(10) {
            Some(digit) => {
                value = add(multiply(value, 10), u64::from(digit));
                exponent -= i128::from(fraction);
            }
            None => fraction = true,
        }
    }
    Some(multiply(value, power(10, exponent)?))
}

/// n·(n − 1)⋯, `count` factors or all of them.
fn falling(n: i128, count: Option<i128>) -> Option<u64> {
    if !(0..=MAX_FACTORIAL).contains(&n) {
        return None;
    }
    let count = count.unwrap_or(n);
    (0..count).try_fold(1, |product, i| Some(multiply(product, u64::try_from(n - i).ok()?)))
}

fn add(a: u64, b: u64) -> u64 {
    (a + b) % PRIME
}

fn negate(a: u64) -> u64 {
    (PRIME - a) % PRIME
}

fn multiply(a: u64, b: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(PRIME)) as u64
}

fn power(base: u64, exponent: i128) -> Option<u64> {
    let mut square = if exponent < 0 { inverse(base)? } else { base };
    let mut left = exponent.unsigned_abs();
    let mut product = 1;
    while left > 0 {
        if left & 1 == 1 {
            product = multiply(product, square);
        }
        square = multiply(square, square);
        left >>= 1;
    }
    Some(product)
}

/// By Fermat's little theorem.
fn inverse(a: u64) -> Option<u64> {
    (a != 0).then(|| power(a, i128::from(PRIME) - 2)).flatten()
}
