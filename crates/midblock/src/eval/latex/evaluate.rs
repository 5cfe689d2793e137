//! The value of an expression in double precision, with a bound on what rounding did to it.

use super::{
    complex::Complex,
    expression::{Expression, Function, Scale},
};
use std::{collections::BTreeMap, f64::consts};

/// A value and the size of its rounding error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Approximate {
    pub(super) value: Complex,
    pub(super) noise: f64,
}

impl Approximate {
    const NAN: Self = Self {
        value: Complex::NAN,
        noise: 0.0,
    };

    fn rounded(value: Complex, noise: f64) -> Self {
        Self {
            value,
            noise: noise + f64::EPSILON * value.abs(),
        }
    }

    /// Finite, and known to nine digits or to within 10⁻⁹.
    pub(super) fn is_usable(self) -> bool {
        self.value.is_finite() && self.noise <= 1e-9 * self.value.abs().max(1.0)
    }

    /// `function` of this value; the error grows as the function's own slope says.
    fn map(self, function: impl Fn(Complex) -> Complex) -> Self {
        let value = function(self.value);
        let slope = |step: f64| (function(self.value + Complex::real(step)) - value).abs();
        let (up, down) = (slope(self.noise), slope(-self.noise));
        // at the edge of a domain only one side exists
        let noise = if up.is_nan() {
            down
        } else if down.is_nan() {
            up
        } else {
            up.max(down)
        };
        Self::rounded(value, noise)
    }

    /// The real value, moved to the whole number that it is but for rounding.
    fn snapped(self) -> f64 {
        if !self.value.is_real() {
            return f64::NAN;
        }
        let whole = self.value.re.round();
        if (self.value.re - whole).abs() <= 4.0 * self.noise {
            whole
        } else {
            self.value.re
        }
    }

    fn whole(self) -> Option<f64> {
        let x = self.snapped();
        (x.fract() == 0.0).then_some(x)
    }
}

/// Where an expression is evaluated.
pub(super) struct Point<'a> {
    /// The variables' values.
    pub(super) variables: BTreeMap<&'a str, f64>,
    /// Whether roots and logarithms of negative numbers exist.
    pub(super) complex: bool,
}

/// The value of `expression` at `point`; NaN where it has none.
pub(super) fn evaluate(expression: &Expression, point: &Point) -> Approximate {
    let at = |e: &Expression| evaluate(e, point);
    match expression {
        Expression::Number(digits) => constant(digits.parse().unwrap_or(f64::NAN)),
        Expression::Variable(name) => {
            let value = point.variables.get(name.as_str()).copied().unwrap_or(f64::NAN);
            Approximate {
                value: Complex::real(value),
                noise: 0.0,
            }
        }
        Expression::Pi => constant(consts::PI),
        Expression::Euler => constant(consts::E),
        Expression::Imaginary => Approximate {
            value: Complex { re: 0.0, im: 1.0 },
            noise: 0.0,
        },
        Expression::Infinity => constant(f64::INFINITY),
        Expression::Sum(terms) => terms.iter().map(at).fold(constant(0.0), |a, b| {
            Approximate::rounded(a.value + b.value, a.noise + b.noise)
        }),
        Expression::Product(factors) => factors.iter().fold(constant(1.0), |product, (factor, divides)| {
            let factor = at(factor);
            if *divides {
                quotient(product, factor)
            } else {
                times(product, factor)
            }
        }),
        Expression::Negative(x) => {
            let x = at(x);
            Approximate {
                value: -x.value,
                noise: x.noise,
            }
        }
        Expression::PlusMinus(..) => Approximate::NAN, // both signs are answers of their own
        Expression::Power(base, exponent) => power(at(base), at(exponent), point.complex),
        Expression::Root(index, radicand) => root(at(index), at(radicand), point.complex),
        Expression::Logarithm(base, x) => {
            let ln = |x: Approximate| {
                x.map(|z| {
                    if z.re < 0.0 && !point.complex {
                        Complex::NAN
                    } else {
                        z.ln()
                    }
                })
            };
            quotient(ln(at(x)), ln(at(base)))
        }
        Expression::Binomial(n, k) => binomial(at(n), at(k)),
        Expression::Call(function, arguments) => call(*function, &arguments.iter().map(at).collect::<Vec<_>>()),
        Expression::Scaled(Scale::Percent, x) => quotient(at(x), constant(100.0)),
        Expression::Scaled(Scale::Degree, x) => times(at(x), constant(consts::PI / 180.0)),
    }
}

fn constant(value: f64) -> Approximate {
    Approximate {
        value: Complex::real(value),
        noise: f64::EPSILON * value.abs(),
    }
}

fn times(a: Approximate, b: Approximate) -> Approximate {
    Approximate::rounded(a.value * b.value, a.value.abs() * b.noise + b.value.abs() * a.noise)
}

fn quotient(a: Approximate, b: Approximate) -> Approximate {
    let value = a.value / b.value;
    Approximate::rounded(value, (a.noise + value.abs() * b.noise) / b.value.abs())
}

fn power(base: Approximate, exponent: Approximate, complex: bool) -> Approximate {
    let (b, e) = (base.value, exponent.value);
    let undefined = (b.re < 0.0 && !complex && e.re.fract() != 0.0) || (b.abs() == 0.0 && e.re <= 0.0);
    if undefined {
        return Approximate::NAN; // 0⁰ too: graders do not agree on it
    }
    let of_base = base.map(|z| z.pow(e));
    let of_exponent = exponent.map(|z| b.pow(z)).noise;
    // a whole exponent is exact; a step away from it would leave the domain
    let noise = if e.is_real() && e.re.fract() == 0.0 || of_exponent.is_nan() {
        0.0
    } else {
        of_exponent
    };
    Approximate {
        noise: of_base.noise + noise,
        ..of_base
    }
}

/// The real root where there is one, of a negative number by an odd index too.
fn root(index: Approximate, radicand: Approximate, complex: bool) -> Approximate {
    let Some(n) = index.whole().filter(|n| (1.0..=1000.0).contains(n)) else {
        return Approximate::NAN;
    };
    radicand.map(|z| match () {
        () if z.is_real() && z.re >= 0.0 && n == 2.0 => Complex::real(z.re.sqrt()),
        () if z.is_real() && z.re >= 0.0 => Complex::real(z.re.powf(1.0 / n)),
        () if z.is_real() && n % 2.0 == 1.0 => Complex::real(-(-z.re).powf(1.0 / n)),
        () if z.is_real() && n == 2.0 && complex => Complex {
            re: 0.0,
            im: (-z.re).sqrt(),
        },
        () if complex => z.pow(Complex::real(1.0 / n)),
        () => Complex::NAN,
    })
}

fn binomial(n: Approximate, k: Approximate) -> Approximate {
    match (n.whole(), k.whole()) {
        (Some(n), Some(k)) if (0.0..=1000.0).contains(&n) && (0.0..=n).contains(&k) => {
            let k = k.min(n - k) as usize;
            constant((0..k).fold(1.0, |product, i| product * (n - i as f64) / (i as f64 + 1.0)))
        }
        _ => Approximate::NAN,
    }
}

fn call(function: Function, arguments: &[Approximate]) -> Approximate {
    let Some(&x) = arguments.first() else {
        return Approximate::NAN;
    };
    let one = Complex::real(1.0);
    let real = |f: fn(f64) -> f64| {
        x.map(|z| {
            if z.is_real() {
                Complex::real(f(z.re))
            } else {
                Complex::NAN
            }
        })
    };
    let whole = |f: fn(f64, f64) -> f64| {
        let all = arguments.iter().map(|a| a.whole().filter(|x| x.abs() < 1e15));
        let folded = all.reduce(|a, b| Some(f(a?, b?))).flatten();
        folded.map_or(Approximate::NAN, constant)
    };
    let ordered = |f: fn(f64, f64) -> f64| {
        let all = arguments
            .iter()
            .map(|a| if a.value.is_real() { a.value.re } else { f64::NAN });
        let folded = all.reduce(|a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { f(a, b) });
        constant(folded.unwrap_or(f64::NAN))
    };
    match function {
        Function::Sin => x.map(Complex::sin),
        Function::Cos => x.map(Complex::cos),
        Function::Tan => x.map(|z| z.sin() / z.cos()),
        Function::Cot => x.map(|z| z.cos() / z.sin()),
        Function::Sec => x.map(|z| one / z.cos()),
        Function::Csc => x.map(|z| one / z.sin()),
        Function::Arcsin => inverse(x, f64::asin),
        Function::Arccos => inverse(x, f64::acos),
        Function::Arctan => real(f64::atan),
        Function::Sinh => real(f64::sinh),
        Function::Cosh => real(f64::cosh),
        Function::Tanh => real(f64::tanh),
        Function::Exp => x.map(Complex::exp),
        Function::Ln => x.map(Complex::ln),
        Function::Abs => x.map(|z| Complex::real(z.abs())),
        Function::Floor => constant(x.snapped().floor()),
        Function::Ceiling => constant(x.snapped().ceil()),
        Function::Factorial => x.whole().map_or(Approximate::NAN, factorial),
        Function::Max => ordered(f64::max),
        Function::Min => ordered(f64::min),
        Function::Gcd => whole(gcd),
        Function::Lcm => whole(|a, b| {
            if a == 0.0 || b == 0.0 {
                0.0
            } else {
                (a / gcd(a, b) * b).abs()
            }
        }),
    }
}

/// An inverse sine or cosine. At ±1 its slope is infinite, so rounding there is undone first.
fn inverse(x: Approximate, function: fn(f64) -> f64) -> Approximate {
    match x.whole() {
        Some(whole) => constant(function(whole)),
        None => x.map(|z| {
            if z.is_real() {
                Complex::real(function(z.re))
            } else {
                Complex::NAN
            }
        }),
    }
}

fn factorial(n: f64) -> Approximate {
    if !(0.0..=170.0).contains(&n) {
        return Approximate::NAN; // negative, or beyond double precision
    }
    constant((1..=n as u32).map(f64::from).product())
}

fn gcd(a: f64, b: f64) -> f64 {
    let (mut a, mut b) = (a.abs(), b.abs());
    while b > 0.0 {
        (a, b) = (b, a % b);
    }
    a
}
