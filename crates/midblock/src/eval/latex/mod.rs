//! Whether two answers written in LaTeX or plain text are the same answer.
//!
//! Both are turned into tokens without layout (`\left`, `\dfrac`, `\,`, `$`, …); the same tokens are the same answer.
//! Else they are parsed: values, lists, sets, tuples, intervals, unions, matrices, equations, inequalities, words. Values
//! are compared exactly where rational, else in double precision; with variables, at random points of a fixed stream.
//! What is not understood is equal only to the same tokens. Equivalence is reflexive and symmetric.
//!
//! Where published graders (the one of MATH by Hendrycks et al. 2021, of Minerva by Lewkowycz et al. 2022, Hugging Face's
//! math_verify) differ or are lenient, this one does as follows; a false "right" is worse than a false "wrong".
//!
//! | question | here |
//! |---|---|
//! | 0.333 for 1/3, 3.14 for π | no; [`equivalent_within`] grants a relative difference |
//! | 2/4 for 1/2, x² + 2x for x(x + 2), `\cos 60^\circ` for 1/2 | yes: the value counts, not the form |
//! | 50 % | is 50, and is 0.5 |
//! | 30° | is 30; inside of functions π/6 |
//! | units, `\$` | may be left away; two known units must be the same |
//! | `x = 5` for 5, `f(x) = x + 1` for x + 1 | yes; another name on both sides is no |
//! | 2x − y + 3 = 0 for y = 2x + 3 | yes: a multiple of the equation |
//! | −2 ≤ x ≤ 7 for [−2, 7] | yes |
//! | 1, 2 for {2, 1} | yes; (1, 2) for (2, 1) or for 1, 2 is no |
//! | a column vector for a tuple | yes |
//! | 1 ± √2 | is the list of both |
//! | 10,000 | is 10000, and the list 10, 0 only beside a list |
//! | 1 4/5, `1\frac45` | a mixed number |
//! | `2516_8` | digits in a base: not 2516, not 1358 |
//! | (C), `\text{C}` for C | yes |
//! | words | must be the same but for case and the command around them |
//! | `\log` without a base | natural, and so is `\ln`; `\lg` has base 10 |
//!
//! Text of more than 4000 characters is compared as text; nesting, lists, powers and factorials are bounded, so that no
//! input takes long.

mod agreement;
mod complex;
mod equality;
mod evaluate;
mod expression;
mod lexer;
mod names;
mod parser;
mod residue;
mod shape;

#[cfg(test)]
mod tests;

pub(super) use names::fold;

use lexer::{Grouping, Token};
use shape::Shape;

/// Whether `answer` and `gold` are the same answer.
///
/// ```
/// use midblock::eval::latex::equivalent;
/// assert!(equivalent(r"x = \dfrac{1}{2}", "0.5"));
/// assert!(equivalent(r"(-\infty, 2] \cup \{3\}", r"\left(-\infty,2\right]\cup\{3\}"));
/// assert!(!equivalent("0.333", r"\frac{1}{3}"));
/// ```
pub fn equivalent(answer: &str, gold: &str) -> bool {
    equivalent_within(answer, gold, 0.0)
}

/// [`equivalent`], where constants may differ by `tolerance` relative to the larger one.
pub fn equivalent_within(answer: &str, gold: &str, tolerance: f64) -> bool {
    let (answer, gold) = (answer.trim(), gold.trim());
    if answer == gold {
        return true;
    }
    let (Some(a), Some(b)) = (Reading::of(answer), Reading::of(gold)) else {
        return false;
    };
    if a.tokens.is_empty() || b.tokens.is_empty() {
        return false;
    }
    if a.tokens == b.tokens {
        return true;
    }
    if let (Some(a), Some(b)) = (&a.words, &b.words) {
        return a == b; // as products of letters, "east" would be "seat"
    }
    let lists = |x: &Reading, y: &Reading| match (&x.separated, &y.shape) {
        (Some(list), Shape::List(_)) => equality::same(list, &y.shape, tolerance),
        _ => false,
    };
    equality::same(&a.shape, &b.shape, tolerance) || lists(&a, &b) || lists(&b, &a)
}

/// The value of a constant, such as `\frac{3}{4}`, `1.5 \times 10^3` or `½`; `None` for anything else.
pub fn value(text: &str) -> Option<f64> {
    match Reading::of(text.trim())?.shape {
        Shape::Value { expression, .. } => agreement::constant_value(&expression),
        _ => None,
    }
}

/// Whether `text` is understood as mathematics, rather than compared sign by sign.
pub fn is_understood(text: &str) -> bool {
    Reading::of(text.trim()).is_some_and(|reading| reading.words.is_some() || reading.shape.is_understood())
}

/// An answer as it is understood.
struct Reading {
    tokens: Vec<Token>,
    shape: Shape,
    /// The list that it is if its commas do not group thousands after all.
    separated: Option<Shape>,
    /// If it consists of words only: those, in lower case.
    words: Option<String>,
}

impl Reading {
    /// `None` if the text is too long.
    fn of(text: &str) -> Option<Self> {
        let grouped = lexer::groups_thousands(text);
        let grouping = if grouped {
            Grouping::Thousands
        } else {
            Grouping::Separates
        };
        let tokens = lexer::tokens(text, grouping)?;
        let separated = if grouped {
            Some(Shape::of(&lexer::tokens(text, Grouping::Separates)?))
        } else {
            None
        };
        Some(Self {
            shape: Shape::of(&tokens),
            words: words(text, &tokens),
            tokens,
            separated,
        })
    }
}

/// The words of an answer that is nothing else: in `\text{…}`, or plain letters of which one run is three or longer.
fn words(text: &str, tokens: &[Token]) -> Option<String> {
    if let [Token::Text(words)] = tokens {
        return (words.chars().count() > 1).then(|| words.to_lowercase()); // one letter is a name: `\text{C}`
    }
    let text = text.trim_matches(|c: char| c == '$' || c == '.' || c.is_whitespace());
    let letters = text
        .chars()
        .all(|c| c.is_alphabetic() || c == ' ' || c == '-' || c == '\'');
    let runs: Vec<&str> = text.split([' ', '-']).collect();
    let long = runs.iter().any(|run| run.chars().count() >= 3);
    let mathematics = runs
        .iter()
        .any(|run| names::plain_word(run).is_some() || names::function_and_letter(run).is_some());
    (letters && long && !mathematics).then(|| text.to_lowercase())
}
