//! Functions, their powers and what they apply to.

use super::{MAX_DEPTH, Parser, Token};
use crate::eval::latex::expression::{Expression, Function};

impl Parser {
    pub(super) fn rounded(&mut self, function: Function, close: &str) -> Option<Expression> {
        let bars = std::mem::take(&mut self.bars);
        let read = self.sum()?;
        self.bars = bars;
        self.take_command(close).then(|| Expression::Call(function, vec![read]))
    }

    /// `\log` without a base is natural, as in the graders that build on SymPy.
    pub(super) fn logarithm(&mut self, name: &str) -> Option<Expression> {
        let base = if self.take('_') {
            self.argument()?
        } else if name == "lg" {
            Expression::integer(10)
        } else {
            Expression::Euler
        };
        let power = if self.take('^') { Some(self.argument()?) } else { None };
        let argument = self.function_argument()?;
        let log = Expression::Logarithm(Box::new(base), Box::new(argument));
        Some(match power {
            Some(power) => Expression::Power(Box::new(log), Box::new(power)),
            None => log,
        })
    }

    pub(super) fn call(&mut self, function: Function) -> Option<Expression> {
        let power = if self.take('^') { Some(self.argument()?) } else { None };
        let several = matches!(function, Function::Max | Function::Min | Function::Gcd | Function::Lcm);
        let arguments = if several {
            self.arguments()?
        } else {
            vec![self.function_argument()?]
        };
        let minus_one = Expression::Negative(Box::new(Expression::integer(1)));
        match (power, function.inverse()) {
            (Some(power), Some(inverse)) if power == minus_one => Some(Expression::Call(inverse, arguments)),
            (Some(power), _) => Some(Expression::Power(
                Box::new(Expression::Call(function, arguments)),
                Box::new(power),
            )),
            (None, _) => Some(Expression::Call(function, arguments)),
        }
    }

    /// `(a, b, …)`, also in braces.
    pub(super) fn arguments(&mut self) -> Option<Vec<Expression>> {
        let close = match self.next()? {
            Token::Mark('(') => ')',
            Token::Mark('{') => '}',
            _ => return None,
        };
        let mut all = vec![self.sum()?];
        while self.take(',') {
            all.push(self.sum()?);
        }
        self.take(close).then_some(all)
    }

    /// Brackets, or the factors up to the next sign or function.
    pub(super) fn function_argument(&mut self) -> Option<Expression> {
        if self.is_mark('(') || self.is_mark('[') || self.is_mark('{') || self.is_mark('|') {
            return self.power_of_argument();
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut factors = vec![(self.signed()?, false)];
        while self.starts_atom() && !self.starts_function() {
            factors.push((self.power()?, false));
        }
        self.depth -= 1;
        if factors.len() == 1 {
            factors.pop().map(|(f, _)| f)
        } else {
            Some(Expression::Product(factors))
        }
    }

    /// Brackets after a function's name; a power behind them belongs to the value: `\sin(x)^2` is sin²x. The caller's
    /// postfix loop takes it, so nothing but the brackets is read here.
    pub(super) fn power_of_argument(&mut self) -> Option<Expression> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let read = self.atom();
        self.depth -= 1;
        read
    }

    pub(super) fn starts_function(&self) -> bool {
        let Some(Token::Command(c)) = self.peek() else {
            return false;
        };
        c == "log" || c == "lg" || Function::named(c).is_some()
    }
}
