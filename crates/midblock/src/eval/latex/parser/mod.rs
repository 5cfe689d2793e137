//! Tokens → expression tree, by recursive descent.
//!
//! ```text
//! sum     = [±] product { (+|-|±|∓) product }
//! product = signed { [*|/] signed }            juxtaposition multiplies, with the same rank as `*` and `/`
//! signed  = {-} power
//! power   = atom { ^argument | ! | ° | % | ' }
//! ```
//! A whole number before a proper fraction is a mixed number. A function without brackets takes the factors that follow,
//! up to the next sign or function: `\sin 2t \cos t` is sin(2t)·cos(t). Nesting is limited to [`MAX_DEPTH`].

mod function;
mod operand;

use super::{
    expression::{Expression, Function, Scale},
    lexer::Token,
};

/// Deepest nesting that is read.
const MAX_DEPTH: usize = 48;

/// The expression that `tokens` write; `None` if any of them is not understood.
pub(super) fn expression(tokens: &[Token]) -> Option<Expression> {
    let mut parser = Parser {
        tokens: tokens.to_vec(),
        at: 0,
        depth: 0,
        bars: 0,
    };
    let read = parser.sum()?;
    (parser.at == parser.tokens.len()).then_some(read)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// How many `|` are open.
    bars: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn is_mark(&self, mark: char) -> bool {
        self.peek() == Some(&Token::Mark(mark))
    }

    fn is_command(&self, name: &str) -> bool {
        matches!(self.peek(), Some(Token::Command(c)) if c == name)
    }

    fn take(&mut self, mark: char) -> bool {
        let found = self.is_mark(mark);
        self.at += usize::from(found);
        found
    }

    fn take_command(&mut self, name: &str) -> bool {
        let found = self.is_command(name);
        self.at += usize::from(found);
        found
    }

    fn sum(&mut self) -> Option<Expression> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut terms = Vec::new();
        loop {
            let sign = match self.peek() {
                Some(Token::Mark(c @ ('+' | '-'))) => Some(*c),
                Some(Token::Command(c)) if c == "pm" => Some('±'),
                Some(Token::Command(c)) if c == "mp" => Some('∓'),
                _ if terms.is_empty() => None,
                _ => break,
            };
            self.at += usize::from(sign.is_some());
            let term = Box::new(self.product()?);
            terms.push(match sign {
                Some('-') => Expression::Negative(term),
                Some('±') => Expression::PlusMinus(false, term),
                Some('∓') => Expression::PlusMinus(true, term),
                _ => *term,
            });
        }
        self.depth -= 1;
        if terms.len() == 1 {
            terms.pop()
        } else {
            Some(Expression::Sum(terms))
        }
    }

    fn product(&mut self) -> Option<Expression> {
        let mut factors = vec![(self.signed()?, false)];
        loop {
            let divides = self.is_mark('/');
            if divides || self.is_mark('*') {
                self.at += 1;
                factors.push((self.signed()?, divides));
            } else if self.starts_atom() {
                let digits = matches!(self.peek(), Some(Token::Number(_)));
                if digits && matches!(self.tokens[self.at - 1], Token::Number(_)) {
                    return None; // two numbers side by side are no product
                }
                factors.push((self.power()?, false));
            } else {
                break;
            }
        }
        if factors.len() == 1 {
            return factors.pop().map(|(factor, _)| factor);
        }
        Some(Expression::Product(factors))
    }

    /// Whether a factor can start here without a sign of multiplication.
    fn starts_atom(&self) -> bool {
        match self.peek() {
            Some(Token::Number(_) | Token::Name(_)) => true,
            Some(Token::Mark(c)) => matches!(c, '(' | '[' | '{') || (*c == '|' && self.bars == 0),
            Some(Token::Command(c)) => {
                matches!(
                    c.as_str(),
                    "frac"
                        | "sqrt"
                        | "binom"
                        | "log"
                        | "lg"
                        | "infty"
                        | "lfloor"
                        | "lceil"
                        | "dot"
                        | "ddot"
                        | "bar"
                        | "hat"
                        | "vec"
                        | "tilde"
                        | "overline"
                ) || Function::named(c).is_some()
            }
            _ => false,
        }
    }

    fn signed(&mut self) -> Option<Expression> {
        let mut negative = false;
        loop {
            if self.take('-') {
                negative = !negative;
            } else if !self.take('+') {
                break;
            }
        }
        let power = self.power()?;
        Some(if negative {
            Expression::Negative(Box::new(power))
        } else {
            power
        })
    }

    fn power(&mut self) -> Option<Expression> {
        let mut base = self.atom()?;
        for _ in 0..4 {
            base = match self.peek() {
                Some(Token::Mark('^')) => {
                    self.at += 1;
                    if self.degree() {
                        Expression::Scaled(Scale::Degree, Box::new(base))
                    } else {
                        Expression::Power(Box::new(base), Box::new(self.exponent()?))
                    }
                }
                Some(Token::Mark('!')) => {
                    self.at += 1;
                    if self.is_mark('!') {
                        return None; // the double factorial is another function
                    }
                    Expression::Call(Function::Factorial, vec![base])
                }
                Some(Token::Mark('%')) => {
                    self.at += 1;
                    Expression::Scaled(Scale::Percent, Box::new(base))
                }
                Some(Token::Command(c)) if c == "degree" => {
                    self.at += 1;
                    Expression::Scaled(Scale::Degree, Box::new(base))
                }
                _ => return Some(base),
            };
        }
        Some(base)
    }

    /// Takes `\circ` or `{\circ}`.
    fn degree(&mut self) -> bool {
        if self.take_command("degree") {
            return true;
        }
        let degree = |t: Option<&Token>| matches!(t, Some(Token::Command(c)) if c == "degree");
        let braced = self.is_mark('{')
            && degree(self.tokens.get(self.at + 1))
            && self.tokens.get(self.at + 2) == Some(&Token::Mark('}'));
        self.at += 3 * usize::from(braced);
        braced
    }

    /// What `^`, `\sqrt` and the like apply to: braces, or one atom, perhaps with a sign.
    fn argument(&mut self) -> Option<Expression> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let read = match self.peek()? {
            Token::Mark('-') => {
                self.at += 1;
                Expression::Negative(Box::new(self.atom()?))
            }
            Token::Mark('+') => {
                self.at += 1;
                self.atom()?
            }
            _ => self.atom()?,
        };
        self.depth -= 1;
        Some(read)
    }

    /// What follows `^`. Plain text writes towers without braces: 2^3^2.
    fn exponent(&mut self) -> Option<Expression> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut read = self.argument()?;
        if self.is_mark('^') && matches!(self.tokens[self.at - 1], Token::Number(_)) {
            self.at += 1;
            read = Expression::Power(Box::new(read), Box::new(self.exponent()?));
        }
        self.depth -= 1;
        Some(read)
    }

    /// A part of a fraction: braces, or one character as in `\frac12`.
    fn short_argument(&mut self) -> Option<Expression> {
        if let Some(Token::Number(digits)) = self.peek() {
            let (first, rest) = digits.split_at_checked(1)?;
            let first = first.to_owned();
            if rest.is_empty() {
                self.at += 1;
            } else {
                let rest = rest.to_owned();
                self.tokens[self.at] = Token::Number(rest);
            }
            return Some(Expression::Number(first));
        }
        self.argument()
    }

    fn enclosed(&mut self, close: char) -> Option<Expression> {
        let bars = std::mem::take(&mut self.bars);
        let read = self.sum()?;
        self.bars = bars;
        self.take(close).then_some(read)
    }

    fn atom(&mut self) -> Option<Expression> {
        match self.next()? {
            Token::Number(digits) => self.number(digits),
            Token::Name(name) => self.name(name),
            Token::Mark('(') => self.enclosed(')'),
            Token::Mark('[') => self.enclosed(']'),
            Token::Mark('{') => self.braces(),
            Token::Mark('|') => {
                self.bars += 1;
                let read = self.sum()?;
                self.bars -= 1;
                self.take('|').then(|| Expression::Call(Function::Abs, vec![read]))
            }
            Token::Command(name) => self.command(&name),
            Token::Mark(_) | Token::Text(_) => None,
        }
    }

    /// After `{`: an expression, or one of the infix forms `a \over b` and `n \choose k`.
    fn braces(&mut self) -> Option<Expression> {
        let bars = std::mem::take(&mut self.bars);
        let left = self.sum()?;
        let read = if self.take_command("over") {
            Expression::Product(vec![(left, false), (self.sum()?, true)])
        } else if self.take_command("choose") {
            Expression::Binomial(Box::new(left), Box::new(self.sum()?))
        } else {
            left
        };
        self.bars = bars;
        self.take('}').then_some(read)
    }

    fn command(&mut self, name: &str) -> Option<Expression> {
        match name {
            "frac" => {
                let above = self.short_argument()?;
                Some(Expression::Product(vec![
                    (above, false),
                    (self.short_argument()?, true),
                ]))
            }
            "binom" => {
                let above = Box::new(self.short_argument()?);
                Some(Expression::Binomial(above, Box::new(self.short_argument()?)))
            }
            "sqrt" => {
                let index = if self.take('[') {
                    self.enclosed(']')?
                } else {
                    Expression::integer(2)
                };
                Some(Expression::Root(Box::new(index), Box::new(self.argument()?)))
            }
            "infty" => Some(Expression::Infinity),
            "lfloor" => self.rounded(Function::Floor, "rfloor"),
            "lceil" => self.rounded(Function::Ceiling, "rceil"),
            "log" | "lg" => self.logarithm(name),
            "dot" | "ddot" | "bar" | "hat" | "vec" | "tilde" | "overline" => self.accented(name),
            _ => self.call(Function::named(name)?),
        }
    }
}
