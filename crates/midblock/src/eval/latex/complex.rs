//! Complex numbers in double precision, as much as answers need. A real argument inside of a function's real domain gives
//! a real value, exactly: its imaginary part stays 0.

use std::ops::{Add, Div, Mul, Neg, Sub};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Complex {
    pub(super) re: f64,
    pub(super) im: f64,
}

impl Complex {
    pub(super) const NAN: Self = Self { re: f64::NAN, im: 0.0 };

    pub(super) const fn real(re: f64) -> Self {
        Self { re, im: 0.0 }
    }

    pub(super) fn is_real(self) -> bool {
        self.im == 0.0
    }

    pub(super) fn is_finite(self) -> bool {
        self.re.is_finite() && self.im.is_finite()
    }

    pub(super) fn abs(self) -> f64 {
        self.re.hypot(self.im)
    }

    pub(super) fn exp(self) -> Self {
        let radius = self.re.exp();
        if self.is_real() {
            return Self::real(radius);
        }
        let (sin, cos) = self.im.sin_cos();
        Self {
            re: radius * cos,
            im: radius * sin,
        }
    }

    /// The principal value; NaN at 0.
    pub(super) fn ln(self) -> Self {
        if self.abs() == 0.0 {
            return Self::NAN;
        }
        Self {
            re: self.abs().ln(),
            im: if self.is_real() && self.re > 0.0 {
                0.0
            } else {
                self.im.atan2(self.re)
            },
        }
    }

    pub(super) fn sin(self) -> Self {
        if self.is_real() {
            return Self::real(self.re.sin());
        }
        Self {
            re: self.re.sin() * self.im.cosh(),
            im: self.re.cos() * self.im.sinh(),
        }
    }

    pub(super) fn cos(self) -> Self {
        if self.is_real() {
            return Self::real(self.re.cos());
        }
        Self {
            re: self.re.cos() * self.im.cosh(),
            im: -self.re.sin() * self.im.sinh(),
        }
    }

    /// The principal value; a whole exponent keeps a real base real.
    pub(super) fn pow(self, exponent: Self) -> Self {
        if self.is_real() && exponent.is_real() {
            let whole = exponent.re.fract() == 0.0;
            if self.re >= 0.0 || whole {
                return Self::real(self.re.powf(exponent.re));
            }
        }
        if exponent.is_real() && exponent.re.fract() == 0.0 && exponent.re.abs() <= 64.0 {
            let steps = exponent.re.abs() as usize;
            let power = std::iter::repeat_n(self, steps).fold(Self::real(1.0), |product, x| product * x);
            return if exponent.re < 0.0 {
                Self::real(1.0) / power
            } else {
                power
            };
        }
        (exponent * self.ln()).exp()
    }
}

impl Add for Complex {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            re: self.re + other.re,
            im: self.im + other.im,
        }
    }
}

impl Sub for Complex {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self {
            re: self.re - other.re,
            im: self.im - other.im,
        }
    }
}

impl Neg for Complex {
    type Output = Self;
    fn neg(self) -> Self {
        Self {
            re: -self.re,
            im: if self.is_real() { 0.0 } else { -self.im },
        }
    }
}

impl Mul for Complex {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        if self.is_real() && other.is_real() {
            return Self::real(self.re * other.re);
        }
        Self {
            re: self.re * other.re - self.im * other.im,
            im: self.re * other.im + self.im * other.re,
        }
    }
}

impl Div for Complex {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        if other.is_real() {
            return Self {
                re: self.re / other.re,
                im: if self.is_real() { 0.0 } else { self.im / other.re },
            };
        }
        let square = other.re * other.re + other.im * other.im;
        let turned = self
            * Self {
                re: other.re,
                im: -other.im,
            };
        Self {
            re: turned.re / square,
            im: turned.im / square,
        }
    }
}
