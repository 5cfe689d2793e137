//! Numbers and names: mixed numbers, repeating decimals, digits in a base, subscripts, primes, accents.

use super::{Parser, Token};
use crate::eval::latex::expression::Expression;

impl Parser {
    /// After digits: a base, a repeating decimal, a mixed number, or the number alone.
    pub(super) fn number(&mut self, digits: String) -> Option<Expression> {
        if self.is_mark('_') {
            let base = self.subscript()?;
            return Some(Expression::Variable(format!("{digits}_{base}"))); // digits in a base are no decimal number
        }
        let whole = Expression::Number(digits.clone());
        if self.take_command("overline") {
            return self.repeating(&digits);
        }
        if digits.bytes().all(|b| b.is_ascii_digit()) {
            let start = (self.at, self.tokens.clone());
            match self.proper_fraction() {
                Some(fraction) => return Some(Expression::Sum(vec![whole, fraction])),
                None => (self.at, self.tokens) = start,
            }
        }
        Some(whole)
    }

    /// `\frac{b}{c}` or `b/c` of plain whole numbers, b < c.
    pub(super) fn proper_fraction(&mut self) -> Option<Expression> {
        let (above, below) = if self.take_command("frac") {
            (self.short_argument()?, self.short_argument()?)
        } else if matches!(self.peek(), Some(Token::Number(_))) {
            let above = self.next()?;
            let Token::Number(above) = above else { return None };
            let true = self.take('/') else { return None };
            let Token::Number(below) = self.next()? else {
                return None;
            };
            (Expression::Number(above), Expression::Number(below))
        } else {
            return None;
        };
        let (Expression::Number(a), Expression::Number(b)) = (&above, &below) else {
            return None;
        };
        let (a, b): (u64, u64) = (a.parse().ok()?, b.parse().ok()?);
        let power_follows = self.is_mark('^') || self.is_mark('!');
        (a < b && !power_follows).then(|| Expression::Product(vec![(above, false), (below, true)]))
    }

    /// `0.1\overline{6}`: the digits under the line repeat for ever.
    pub(super) fn repeating(&mut self, digits: &str) -> Option<Expression> {
        let Expression::Number(period) = self.argument()? else {
            return None;
        };
        let decimals = digits.split_once('.').map_or(0, |(_, decimals)| decimals.len());
        let plain = period.bytes().all(|b| b.is_ascii_digit()) && period.len() <= 18 && decimals <= 18;
        let nines = "9".repeat(period.len()) + &"0".repeat(decimals);
        let tail = Expression::Product(vec![
            (Expression::Number(period), false),
            (Expression::Number(nines), true),
        ]);
        plain.then(|| Expression::Sum(vec![Expression::Number(digits.to_owned()), tail]))
    }

    /// After a letter: its subscript, primes, and whether it is a constant.
    pub(super) fn name(&mut self, mut name: String) -> Option<Expression> {
        match name.as_str() {
            "pi" if !self.is_mark('_') => return Some(Expression::Pi),
            "e" if !self.is_mark('_') => return Some(Expression::Euler),
            "i" if !self.is_mark('_') => return Some(Expression::Imaginary),
            _ => {}
        }
        for _ in 0..4 {
            if self.is_mark('_') {
                name = format!("{name}_{}", self.subscript()?);
            } else if self.take('\'') || self.prime_power() {
                name.push('\'');
            } else {
                break;
            }
        }
        if let Some(argument) = self.constant_argument() {
            name = format!("{name}({argument})"); // the value of a function at a point is no product
        }
        Some(Expression::Variable(name))
    }

    /// Takes `^{\prime}` or `^\prime`.
    pub(super) fn prime_power(&mut self) -> bool {
        let mark = |i: usize, c: char| self.tokens.get(self.at + i) == Some(&Token::Mark(c));
        let length = match () {
            () if mark(0, '^') && mark(1, '\'') => 2,
            () if mark(0, '^') && mark(1, '{') && mark(2, '\'') && mark(3, '}') => 4,
            () => 0,
        };
        self.at += length;
        length > 0
    }

    /// Takes `(0)` after a letter.
    pub(super) fn constant_argument(&mut self) -> Option<String> {
        let [Token::Mark('('), Token::Number(digits), Token::Mark(')')] = self.tokens.get(self.at..self.at + 3)? else {
            return None;
        };
        let digits = digits.clone();
        self.at += 3;
        Some(digits)
    }

    /// Takes `_x` or `_{…}` as text.
    pub(super) fn subscript(&mut self) -> Option<String> {
        self.at += 1;
        let mut text = String::new();
        let mut depth = 0_usize;
        loop {
            match self.next()? {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => depth = depth.checked_sub(1)?,
                Token::Mark(c) => text.push(c),
                Token::Number(s) | Token::Name(s) | Token::Text(s) | Token::Command(s) => text.push_str(&s),
            }
            if depth == 0 {
                return (!text.is_empty()).then_some(text);
            }
        }
    }

    /// A letter under an accent is a variable of its own.
    pub(super) fn accented(&mut self, accent: &str) -> Option<Expression> {
        let start = self.at;
        self.argument()?;
        let letters = self.tokens[start..self.at].iter().filter_map(|t| match t {
            Token::Name(s) | Token::Number(s) => Some(s.as_str()),
            _ => None,
        });
        let name = format!("{accent} {}", letters.collect::<String>());
        self.name(name)
    }
}
