//! Tokens → an answer: a value, a list, a tuple or interval, a union, a matrix, a relation, or words.

use super::{
    expression::{Expression, Scale},
    lexer::Token,
    names, parser,
};

/// Deepest nesting of lists, tuples and sets.
const MAX_DEPTH: usize = 8;
/// Most entries of a list or matrix.
const MAX_ENTRIES: usize = 64;

/// What an answer consists of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Shape {
    /// A value; its unit, if known; whether it is a percentage.
    Value {
        expression: Expression,
        unit: Option<String>,
        percent: bool,
    },
    /// Several answers in any order: separated by commas, "or", in `\{ \}`, or of a double sign.
    List(Vec<Shape>),
    /// Several in this order, with their brackets: a point, a vector, an interval.
    Tuple(char, Vec<Shape>, char),
    /// Sets joined by `\cup`, in any order.
    Union(Vec<Shape>),
    /// Rows of a matrix.
    Matrix(Vec<Vec<Shape>>),
    /// Two or more sides with what holds between neighbours.
    Relation(Vec<Shape>, Vec<Order>),
    /// What was not understood: equal only to the same tokens.
    Opaque(Vec<Token>),
}

/// What holds between two sides; `>` is turned around.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Order {
    fn of(token: &Token) -> Option<Self> {
        Some(match token {
            Token::Mark('=') => Self::Equal,
            Token::Mark('<') => Self::Less,
            Token::Mark('>') => Self::Greater,
            Token::Command(c) if c == "le" => Self::LessOrEqual,
            Token::Command(c) if c == "ge" => Self::GreaterOrEqual,
            Token::Command(c) if c == "ne" => Self::Unequal,
            _ => return None,
        })
    }

    /// The same read from right to left.
    pub(super) fn reversed(self) -> Self {
        match self {
            Self::Less => Self::Greater,
            Self::LessOrEqual => Self::GreaterOrEqual,
            Self::Greater => Self::Less,
            Self::GreaterOrEqual => Self::LessOrEqual,
            same => same,
        }
    }
}

impl Shape {
    /// The shape of `tokens`; opaque if they are not understood.
    pub(super) fn of(tokens: &[Token]) -> Self {
        list(tokens, 0).unwrap_or_else(|| Self::Opaque(tokens.to_vec()))
    }

    /// Whether all of it was understood.
    pub(super) fn is_understood(&self) -> bool {
        match self {
            Self::Opaque(_) => false,
            Self::Value { .. } => true,
            Self::List(all) | Self::Tuple(_, all, _) | Self::Union(all) | Self::Relation(all, _) => {
                all.iter().all(Self::is_understood)
            }
            Self::Matrix(rows) => rows.iter().flatten().all(Self::is_understood),
        }
    }

    /// The expression, if it is a value.
    pub(super) fn expression(&self) -> Option<&Expression> {
        match self {
            Self::Value { expression, .. } => Some(expression),
            _ => None,
        }
    }

    /// Whether it only names what an equation defines: `x`, `f(x)`, `(x, y)`, `\text{Area}`.
    pub(super) fn is_head(&self) -> bool {
        let variable = |e: &Expression| matches!(e, Expression::Variable(_));
        match self {
            Self::Value {
                expression: Expression::Product(factors),
                ..
            } => factors.len() == 2 && factors.iter().all(|(e, divides)| variable(e) && !divides),
            Self::Value { expression, .. } => variable(expression),
            Self::Tuple(_, all, _) => all.iter().all(|s| s.expression().is_some_and(variable)),
            Self::Opaque(tokens) => matches!(tokens.as_slice(), [Token::Text(_)]),
            _ => false,
        }
    }
}

/// How a token changes the nesting.
fn nesting(token: &Token) -> i32 {
    match token {
        Token::Mark('(' | '[' | '{') => 1,
        Token::Mark(')' | ']' | '}') => -1,
        Token::Command(c) => match c.as_str() {
            "lbrace" | "lfloor" | "lceil" | "langle" => 1,
            "rbrace" | "rfloor" | "rceil" | "rangle" => -1,
            _ if c.starts_with("begin{") => 1,
            _ if c.starts_with("end{") => -1,
            _ => 0,
        },
        _ => 0,
    }
}

/// The parts between the separators that stand outside of brackets.
fn split(tokens: &[Token], separates: impl Fn(&Token) -> bool) -> Vec<&[Token]> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0);
    for (i, token) in tokens.iter().enumerate() {
        depth += nesting(token);
        if depth == 0 && separates(token) {
            parts.push(&tokens[start..i]);
            start = i + 1;
        }
    }
    parts.push(&tokens[start..]);
    parts
}

/// What stands between the first and the last token if they are one pair of brackets.
fn inside(tokens: &[Token]) -> Option<&[Token]> {
    let [first, inner @ .., last] = tokens else { return None };
    let mut depth = 0;
    let closed_before = inner.iter().any(|t| {
        depth += nesting(t);
        depth < 0
    });
    (nesting(first) == 1 && nesting(last) == -1 && !closed_before && depth == 0).then_some(inner)
}

fn is_command(token: &Token, name: &str) -> bool {
    matches!(token, Token::Command(c) if c == name)
}

fn list(tokens: &[Token], depth: usize) -> Option<Shape> {
    if depth > MAX_DEPTH {
        return None;
    }
    let mut parts = split(tokens, |t| matches!(t, Token::Mark(',' | ';')) || is_command(t, "or"));
    parts.retain(|part| !part.is_empty());
    if parts.len() > MAX_ENTRIES {
        return None;
    }
    let mut items = Vec::new();
    for part in &parts {
        match item(part, depth)? {
            Shape::List(inner) if both_signs(part) => items.extend(inner),
            one => items.push(one),
        }
    }
    match items.len() {
        0 => None,
        1 => items.pop(),
        _ => Some(Shape::List(items)),
    }
}

fn both_signs(tokens: &[Token]) -> bool {
    tokens.iter().any(|t| is_command(t, "pm") || is_command(t, "mp")) && !is_command(&tokens[0], "lbrace")
}

/// One entry of a list. What is not understood is opaque; `None` only if it is nested too deeply.
fn item(tokens: &[Token], depth: usize) -> Option<Shape> {
    if depth > MAX_DEPTH {
        return None;
    }
    if let (Some(Token::Mark('{')), Some(inner)) = (tokens.first(), inside(tokens))
        && !inner.iter().any(|t| is_command(t, "choose") || is_command(t, "over"))
    {
        return list(inner, depth + 1);
    }
    if let [Token::Text(letter)] = tokens
        && letter.chars().count() == 1
    {
        return Some(value(Expression::Variable(letter.clone())));
    }
    let nearly = split(tokens, |t| is_command(t, "approx"));
    if let [exact, rounded] = nearly[..] {
        // of `x = √2 ≈ 1.41` the exact side is the answer, of `x ≈ 1.41` the other
        let shape = if exact.is_empty() { None } else { item(exact, depth + 1) };
        return shape.filter(|s| !s.is_head()).or_else(|| item(rounded, depth + 1));
    }
    let member = split(tokens, |t| is_command(t, "in"));
    if let [_, set] = member[..] {
        return item(set, depth + 1);
    }
    if tokens.iter().any(|t| Order::of(t).is_some()) {
        let sides = split(tokens, |t| Order::of(t).is_some());
        if sides.len() > 1 {
            return relation(tokens, &sides, depth);
        }
    }
    let sets = split(tokens, |t| is_command(t, "cup"));
    if sets.len() > 1 {
        let sets: Option<Vec<_>> = sets.into_iter().map(|set| item(set, depth + 1)).collect();
        return sets.map(Shape::Union);
    }
    Some(
        bracketed(tokens, depth)
            .or_else(|| quantity(tokens))
            .unwrap_or_else(|| Shape::Opaque(tokens.to_vec())),
    )
}

fn value(expression: Expression) -> Shape {
    Shape::Value {
        expression,
        unit: None,
        percent: false,
    }
}

fn relation(tokens: &[Token], sides: &[&[Token]], depth: usize) -> Option<Shape> {
    if sides.len() > 8 || sides.iter().any(|side| side.is_empty()) {
        return Some(Shape::Opaque(tokens.to_vec()));
    }
    let mut level = 0;
    let outside = tokens.iter().filter(|t| {
        level += nesting(t);
        level == 0
    });
    let orders = outside.filter_map(Order::of).collect();
    let sides: Option<Vec<_>> = sides.iter().map(|side| item(side, depth + 1)).collect();
    Some(Shape::Relation(sides?, orders))
}

/// A set, tuple, interval or matrix.
fn bracketed(tokens: &[Token], depth: usize) -> Option<Shape> {
    let inner = inside(tokens)?;
    let (first, last) = (tokens.first()?, tokens.last()?);
    if let Token::Command(open) = first
        && open.starts_with("begin{")
    {
        return matrix(open, inner, depth);
    }
    if is_command(first, "lbrace") && is_command(last, "rbrace") {
        if inner.is_empty() {
            return Some(Shape::Opaque(vec![Token::Command("emptyset".to_owned())]));
        }
        return Some(match list(inner, depth + 1)? {
            Shape::List(items) => Shape::List(items),
            one => Shape::List(vec![one]),
        });
    }
    let open = match first {
        Token::Mark(c @ ('(' | '[')) => *c,
        Token::Command(c) if c == "langle" => '(',
        _ => return None,
    };
    let close = match last {
        Token::Mark(c @ (')' | ']')) => *c,
        Token::Command(c) if c == "rangle" => ')',
        _ => return None,
    };
    let parts = split(inner, |t| matches!(t, Token::Mark(',' | ';')));
    if parts.len() < 2 || parts.len() > MAX_ENTRIES {
        return None;
    }
    let signed = |upper| {
        let items: Option<Vec<_>> = parts.iter().map(|part| item(part, depth + 1)).collect();
        let items: Option<Vec<_>> = items?.into_iter().map(|shape| choose(shape, upper)).collect();
        items.map(|items| Shape::Tuple(open, items, close))
    };
    if both_signs(inner) {
        return Some(Shape::List(vec![signed(true)?, signed(false)?]));
    }
    signed(true)
}

/// The upper or the lower of what a double sign makes of an entry.
fn choose(shape: Shape, upper: bool) -> Option<Shape> {
    match shape {
        Shape::List(mut pair) if pair.len() == 2 => Some(pair.remove(usize::from(!upper))),
        Shape::List(_) => None,
        other => Some(other),
    }
}

fn matrix(open: &str, inner: &[Token], depth: usize) -> Option<Shape> {
    let kinds = ["pmatrix", "bmatrix", "matrix", "array", "smallmatrix", "Bmatrix"];
    let kind = open.strip_prefix("begin{")?.strip_suffix('}')?;
    if !kinds.contains(&kind) {
        return None; // determinants and cases are no matrices
    }
    // `array` names its columns first
    let inner = match inner.iter().position(|t| *t == Token::Mark('}')) {
        Some(end) if kind == "array" && inner.first() == Some(&Token::Mark('{')) => &inner[end + 1..],
        _ => inner,
    };
    let mut rows = split(inner, |t| is_command(t, "newline"));
    rows.retain(|row| !row.is_empty());
    if rows.len() > MAX_ENTRIES {
        return None;
    }
    let row = |tokens: &[Token]| -> Option<Vec<Shape>> {
        let cells = split(tokens, |t| *t == Token::Mark('&'));
        if cells.len() > MAX_ENTRIES {
            return None;
        }
        cells.into_iter().map(|cell| item(cell, depth + 1)).collect()
    };
    rows.into_iter().map(row).collect::<Option<_>>().map(Shape::Matrix)
}

/// A value, perhaps with a unit behind it; a list of two if it has a double sign.
fn quantity(tokens: &[Token]) -> Option<Shape> {
    let mut depth = 0;
    let words = tokens.iter().position(|t| {
        depth += nesting(t);
        depth == 0 && matches!(t, Token::Text(_)) // a subscript's words are inside of braces
    });
    let (number, unit) = match words {
        Some(at) => (&tokens[..at], unit(&tokens[at..])?),
        None => (temperature(tokens), None),
    };
    let (expression, percent) = match parser::expression(number)? {
        Expression::Scaled(Scale::Degree, angle) => (*angle, false), // 30° is asked for as 30
        Expression::Scaled(Scale::Percent, share) => (*share, true),
        plain => (plain, false),
    };
    let make = |expression| Shape::Value {
        expression,
        unit: unit.clone(),
        percent,
    };
    if let (Some(upper), Some(lower)) = (expression.with_sign(true), expression.with_sign(false)) {
        return Some(Shape::List(vec![make(upper), make(lower)]));
    }
    Some(make(expression))
}

/// Leaves the scale of `20^\circ C` away.
fn temperature(tokens: &[Token]) -> &[Token] {
    match tokens {
        [rest @ .., Token::Name(scale)] if ["C", "F"].contains(&scale.as_str()) => {
            let end = rest.iter().rposition(|t| *t != Token::Mark('}'));
            if end.is_some_and(|end| is_command(&rest[end], "degree")) {
                rest
            } else {
                tokens
            }
        }
        _ => tokens,
    }
}

/// The name of the unit that `tokens` write, if it is a known one with perhaps a power; `None` if they are no unit.
fn unit(tokens: &[Token]) -> Option<Option<String>> {
    let mut text = String::new();
    for token in tokens {
        match token {
            Token::Text(words) => match names::unit(words) {
                Some(known) => text.push_str(known),
                None => text.push('?'),
            },
            Token::Number(digits) => text.push_str(digits),
            Token::Mark(c @ ('^' | '/' | '*' | '-')) => text.push(*c),
            Token::Mark('{' | '}') => {}
            _ => return None,
        }
    }
    Some((!text.contains('?')).then_some(text))
}
