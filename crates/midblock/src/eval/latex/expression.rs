//! What an answer's mathematics is, without how it was written.

use std::collections::BTreeSet;

/// An expression. Depth is bounded by the parser, so walking it by recursion is safe.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expression {
    /// Decimal digits, perhaps with point and exponent.
    Number(String),
    Variable(String),
    Pi,
    Euler,
    Imaginary,
    Infinity,
    Sum(Vec<Self>),
    /// Factors; `true` where one divides.
    Product(Vec<(Self, bool)>),
    Negative(Box<Self>),
    /// `±x`, or `∓x` if `true`.
    PlusMinus(bool, Box<Self>),
    Power(Box<Self>, Box<Self>),
    /// Index and radicand.
    Root(Box<Self>, Box<Self>),
    /// Base and argument.
    Logarithm(Box<Self>, Box<Self>),
    Binomial(Box<Self>, Box<Self>),
    Call(Function, Vec<Self>),
    /// `x°` and `x %`.
    Scaled(Scale, Box<Self>),
}

/// A function of one argument; `Max`, `Min`, `Gcd` and `Lcm` take several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Sin,
    Cos,
    Tan,
    Cot,
    Sec,
    Csc,
    Arcsin,
    Arccos,
    Arctan,
    Sinh,
    Cosh,
    Tanh,
    Exp,
    Ln,
    Abs,
    Floor,
    Ceiling,
    Factorial,
    Max,
    Min,
    Gcd,
    Lcm,
}

impl Function {
    /// The function that a control word names.
    pub(super) fn named(word: &str) -> Option<Self> {
        Some(match word {
            "sin" => Self::Sin,
            "cos" => Self::Cos,
            "tan" => Self::Tan,
            "cot" => Self::Cot,
            "sec" => Self::Sec,
            "csc" => Self::Csc,
            "arcsin" => Self::Arcsin,
            "arccos" => Self::Arccos,
            "arctan" => Self::Arctan,
            "sinh" => Self::Sinh,
            "cosh" => Self::Cosh,
            "tanh" => Self::Tanh,
            "exp" => Self::Exp,
            "ln" => Self::Ln,
            "max" => Self::Max,
            "min" => Self::Min,
            "gcd" => Self::Gcd,
            "lcm" => Self::Lcm,
            _ => return None,
        })
    }

    /// The inverse, for `\sin^{-1}`.
    pub(super) fn inverse(self) -> Option<Self> {
        match self {
            Self::Sin => Some(Self::Arcsin),
            Self::Cos => Some(Self::Arccos),
            Self::Tan => Some(Self::Arctan),
            _ => None,
        }
    }

    /// Whether it is meant for whole numbers.
    fn is_discrete(self) -> bool {
        matches!(
            self,
            Self::Floor | Self::Ceiling | Self::Factorial | Self::Gcd | Self::Lcm
        )
    }
}

/// A sign behind a number that scales it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// π / 180, inside of functions; a plain number elsewhere.
    Degree,
    /// 1 / 100.
    Percent,
}

impl Expression {
    pub(super) fn integer(value: u32) -> Self {
        Self::Number(value.to_string())
    }

    /// Calls `visit` on this expression and every one inside.
    pub(super) fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Self)) {
        visit(self);
        match self {
            Self::Number(_) | Self::Variable(_) | Self::Pi | Self::Euler | Self::Imaginary | Self::Infinity => {}
            Self::Sum(terms) | Self::Call(_, terms) => terms.iter().for_each(|t| t.walk(visit)),
            Self::Product(factors) => factors.iter().for_each(|(f, _)| f.walk(visit)),
            Self::Negative(x) | Self::PlusMinus(_, x) | Self::Scaled(_, x) => x.walk(visit),
            Self::Power(a, b) | Self::Root(a, b) | Self::Logarithm(a, b) | Self::Binomial(a, b) => {
                a.walk(visit);
                b.walk(visit);
            }
        }
    }

    /// Whether any expression inside, or this one, is as `test` says.
    pub(super) fn any(&self, test: impl Fn(&Self) -> bool) -> bool {
        let mut found = false;
        self.walk(&mut |e| found |= test(e));
        found
    }

    /// The names of all variables.
    pub(super) fn variables(&self) -> BTreeSet<&str> {
        let mut names = BTreeSet::new();
        self.walk(&mut |e| {
            if let Self::Variable(name) = e {
                names.insert(name.as_str());
            }
        });
        names
    }

    /// Whether its variables stand for whole numbers: it rounds them, counts with them or takes their factorial.
    pub(super) fn is_discrete(&self) -> bool {
        self.any(|e| matches!(e, Self::Binomial(..)) || matches!(e, Self::Call(f, _) if f.is_discrete()))
    }

    /// This expression with the upper (`true`) or the lower of all double signs; `None` if there is none.
    pub(super) fn with_sign(&self, upper: bool) -> Option<Self> {
        self.any(|e| matches!(e, Self::PlusMinus(..)))
            .then(|| self.signed(upper))
    }

    fn signed(&self, upper: bool) -> Self {
        let boxed = |x: &Self| Box::new(x.signed(upper));
        match self {
            Self::PlusMinus(flipped, x) if upper != *flipped => x.signed(upper),
            Self::PlusMinus(_, x) | Self::Negative(x) => Self::Negative(boxed(x)),
            Self::Sum(terms) => Self::Sum(terms.iter().map(|t| t.signed(upper)).collect()),
            Self::Call(f, args) => Self::Call(*f, args.iter().map(|t| t.signed(upper)).collect()),
            Self::Product(factors) => Self::Product(factors.iter().map(|(f, d)| (f.signed(upper), *d)).collect()),
            Self::Scaled(scale, x) => Self::Scaled(*scale, boxed(x)),
            Self::Power(a, b) => Self::Power(boxed(a), boxed(b)),
            Self::Root(a, b) => Self::Root(boxed(a), boxed(b)),
            Self::Logarithm(a, b) => Self::Logarithm(boxed(a), boxed(b)),
            Self::Binomial(a, b) => Self::Binomial(boxed(a), boxed(b)),
            plain => plain.clone(),
        }
    }
}
