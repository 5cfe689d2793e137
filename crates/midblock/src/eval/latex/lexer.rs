//! LaTeX text → tokens without layout. The tokens are the normal form: two answers with the same tokens are the same text
//! but for spacing, sizes, fonts, `$`, `\left \right`, `\dfrac`, and other spellings of one sign.
//!
//! A comma between digits is a separator or groups thousands; [`Grouping`] says how it is read. `{,}` and `,\!` always group.

use super::names;

/// One sign of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// Decimal digits with at most one point and perhaps an exponent: `12`, `0.5`, `1.04e-3`.
    Number(String),
    /// A variable: one letter, or the name of a Greek one.
    Name(String),
    /// Words, in lower case but for a single letter, spaces collapsed.
    Text(String),
    /// An operator or delimiter of one character.
    Mark(char),
    /// A control word after unification: `frac`, `sin`, `le`, `begin{pmatrix}`.
    Command(String),
}

/// What a comma tightly between digits means outside of brackets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grouping {
    /// It separates.
    Separates,
    /// It groups thousands.
    Thousands,
}

/// Longest text that is read at all; what is longer is compared as text.
pub(super) const MAX_CHARS: usize = 4000;

/// The tokens of `text`; `None` if it is too long to be an answer.
pub(super) fn tokens(text: &str, grouping: Grouping) -> Option<Vec<Token>> {
    if text.len() > 4 * MAX_CHARS {
        return None; // before anything is copied
    }
    let chars: Vec<char> = text.chars().map(names::fold).collect();
    if chars.len() > MAX_CHARS {
        return None;
    }
    let mut lexer = Lexer {
        chars,
        at: 0,
        depth: 0,
        grouping,
        out: Vec::new(),
    };
    while lexer.at < lexer.chars.len() {
        lexer.step();
    }
    while matches!(lexer.out.last(), Some(Token::Mark('.' | ',' | ';' | ':'))) {
        lexer.out.pop();
    }
    Some(lexer.out)
}

/// Whether every comma that stands tightly between characters outside of brackets groups thousands, and there is one.
pub(super) fn groups_thousands(text: &str) -> bool {
    let chars: Vec<char> = text.chars().take(MAX_CHARS).map(names::fold).collect();
    let (mut depth, mut found) = (0_i32, false);
    for (i, &c) in chars.iter().enumerate() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 && chars.get(i + 1).is_some_and(|c| !c.is_whitespace() && *c != '\\') => {
                let before = chars[..i].iter().rev().take_while(|c| c.is_ascii_digit()).count();
                let chained = before == 3 && i > 3 && chars[i - 4] == ',';
                let first = (1..=3).contains(&before) && chars[i - before] != '0';
                let fraction = i > before && chars[i - before - 1] == '.';
                if !(chained || first) || fraction || digits_at(&chars, i + 1) != 3 {
                    return false;
                }
                found = true;
            }
            _ => {}
        }
    }
    found
}

fn digits_at(chars: &[char], at: usize) -> usize {
    chars[at.min(chars.len())..]
        .iter()
        .take_while(|c| c.is_ascii_digit())
        .count()
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    depth: i32,
    grouping: Grouping,
    out: Vec<Token>,
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn starts_with(&self, text: &str) -> bool {
        text.chars().enumerate().all(|(i, c)| self.peek(i) == Some(c))
    }

    fn push_command(&mut self, name: &str) {
        self.out.push(Token::Command(name.to_owned()));
    }

    fn step(&mut self) {
        let c = self.chars[self.at];
        match c {
            '\\' => return self.command(),
            '0'..='9' => return self.number(),
            '.' if self.peek(1).is_some_and(|c| c.is_ascii_digit()) => return self.number(),
            'a'..='z' | 'A'..='Z' => return self.letters(),
            '$' | '~' => {}
            '*' if self.peek(1) == Some('*') => {
                self.out.push(Token::Mark('^'));
                self.at += 1;
            }
            _ if c.is_whitespace() => {}
            _ => self.sign(c),
        }
        self.at += 1;
    }

    /// A character that is no letter, digit, space or backslash.
    fn sign(&mut self, c: char) {
        match c {
            '(' | '[' | '{' => self.depth += 1,
            ')' | ']' | '}' => self.depth -= 1,
            _ => {}
        }
        if let Some((above, below)) = names::vulgar_fraction(c) {
            self.push_command("frac");
            self.out.extend([above, below].map(|n| Token::Number(n.to_owned())));
        } else if let Some(power) = names::superscript(c) {
            self.out.extend([Token::Mark('^'), Token::Number(power.to_string())]);
        } else if let Some(word) = names::symbol(c) {
            self.unified(word);
        } else {
            self.out.push(Token::Mark(c));
        }
    }

    /// Digits with a point, grouped thousands and an exponent.
    fn number(&mut self) {
        let mut digits = String::new();
        self.take_digits(&mut digits);
        let mut leading = digits.len(); // digits of the first group
        while (1..=3).contains(&leading) {
            let Some(skip) = self.group_separator() else { break };
            if digits_at(&self.chars, self.at + skip) != 3 {
                break;
            }
            self.at += skip;
            self.take_digits(&mut digits);
            leading = 3;
        }
        if self.peek(0) == Some('.') && self.peek(1) != Some('.') {
            self.at += 1;
            let mut fraction = String::new();
            self.take_digits(&mut fraction);
            if digits.is_empty() {
                digits.push('0');
            }
            if !fraction.is_empty() {
                digits.push('.');
                digits.push_str(&fraction);
            }
        }
        if matches!(self.peek(0), Some('e' | 'E')) {
            let sign = usize::from(matches!(self.peek(1), Some('+' | '-')));
            let count = digits_at(&self.chars, self.at + 1 + sign);
            let joined = self.peek(1 + sign + count).is_some_and(|c| c.is_ascii_alphabetic());
            if (1..=4).contains(&count) && !joined {
                digits.push('e');
                digits.extend(&self.chars[self.at + 1..self.at + 1 + sign + count]);
                self.at += 1 + sign + count;
            }
        }
        self.out.push(Token::Number(digits));
    }

    fn take_digits(&mut self, into: &mut String) {
        let count = digits_at(&self.chars, self.at);
        into.extend(&self.chars[self.at..self.at + count]);
        self.at += count;
    }

    /// Length of what may stand between groups of thousands here.
    fn group_separator(&self) -> Option<usize> {
        let explicit = ["{,}", ",\\!", "\\,", "\\ ", "\\;", ",\\,", "\u{202f}", "\u{a0}"];
        if let Some(found) = explicit.iter().find(|s| self.starts_with(s)) {
            let length = found.chars().count();
            return Some(length + usize::from(self.peek(length) == Some(' ')));
        }
        match self.peek(0) {
            Some(',') if self.depth == 0 && self.grouping == Grouping::Thousands => Some(1),
            Some(' ') if self.depth == 0 => Some(1),
            _ => None,
        }
    }

    /// A run of plain letters: a known function or unit, or variables of one letter each.
    fn letters(&mut self) {
        let count = self.chars[self.at..]
            .iter()
            .take_while(|c| c.is_ascii_alphabetic())
            .count();
        let run: String = self.chars[self.at..self.at + count].iter().collect();
        self.at += count;
        if ["np", "math", "numpy"].contains(&run.as_str()) && self.peek(0) == Some('.') {
            self.at += 1;
            return;
        }
        let after_value = matches!(self.out.last(), Some(Token::Number(_) | Token::Mark('}' | ')')));
        if let Some(word) = names::plain_word(&run) {
            self.unified(word);
        } else if after_value && count >= 2 && names::is_unit(&run) {
            self.out.push(Token::Text(run.to_lowercase()));
        } else if let Some((function, argument)) = names::function_and_letter(&run) {
            self.push_command(function);
            self.out.push(Token::Name(argument.to_string()));
        } else {
            self.out.extend(run.chars().map(|c| Token::Name(c.to_string())));
        }
    }

    fn command(&mut self) {
        self.at += 1;
        let count = self.chars[self.at..]
            .iter()
            .take_while(|c| c.is_ascii_alphabetic())
            .count();
        if count == 0 {
            return self.control_symbol();
        }
        let name: String = self.chars[self.at..self.at + count].iter().collect();
        self.at += count;
        match name.as_str() {
            _ if names::is_layout(&name) => {
                // `\left.` draws nothing
                if matches!(name.as_str(), "left" | "right") && self.peek(0) == Some('.') {
                    self.at += 1;
                }
            }
            "hspace" | "vspace" | "phantom" | "label" | "tag" => drop(self.group()),
            "begin" | "end" => {
                let environment = self.group().replace('*', "");
                self.push_command(&format!("{name}{{{environment}}}"));
            }
            "operatorname" | "mathrm" | "rm" | "mathop" => self.upright(),
            "mathbb" => {
                let set = self.group();
                self.out.push(Token::Name(format!("mathbb {set}")));
            }
            _ if names::is_text(&name) => {
                let words = self.group();
                self.text(&words);
            }
            _ => match names::unify(&name) {
                Some(word) => self.unified(word),
                None if names::is_greek(&name) => self.out.push(Token::Name(name)),
                None => self.out.push(Token::Command(name)),
            },
        }
    }

    /// A backslash with one character that is no letter.
    fn control_symbol(&mut self) {
        let Some(c) = self.peek(0) else { return };
        self.at += 1;
        match c {
            '{' => {
                self.depth += 1;
                self.push_command("lbrace");
            }
            '}' => {
                self.depth -= 1;
                self.push_command("rbrace");
            }
            '\\' => self.push_command("newline"),
            '%' | '#' | '&' => self.out.push(Token::Mark(c)),
            '|' => self.push_command("Vert"),
            _ => {} // spacing, `\(`, `\[` and `\$`
        }
    }

    /// A word that several spellings share: a single character becomes a mark.
    fn unified(&mut self, word: &'static str) {
        let mut chars = word.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => self.out.push(Token::Mark(c)),
            _ if names::is_greek(word) => self.out.push(Token::Name(word.to_owned())),
            _ => self.push_command(word),
        }
    }

    /// `\mathrm{…}`: a function, a constant, or words.
    fn upright(&mut self) {
        let words = self.group();
        match names::plain_word(words.trim()) {
            Some(word) => self.unified(word),
            None if ["e", "i", "d"].contains(&words.as_str()) => self.out.push(Token::Name(words)),
            None => self.text(&words),
        }
    }

    /// What `\text{…}` says.
    fn text(&mut self, words: &str) {
        let words = words.replace(['~', '$', '\\'], " ");
        let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
        let bare = words.trim_matches(['(', ')', '.', ',', ':', ' ']);
        match bare {
            "" => self.out.extend(words.contains(',').then_some(Token::Mark(','))),
            "and" | "or" | ", and" | ", or" => self.push_command("or"),
            _ if names::is_degree(bare) => self.push_command("degree"),
            "percent" | "%" => self.out.push(Token::Mark('%')),
            _ if bare.chars().count() == 1 => self.out.push(Token::Text(bare.to_owned())),
            _ => self.out.push(Token::Text(bare.to_lowercase())),
        }
    }

    /// The raw text of the braces that follow, or the next character.
    fn group(&mut self) -> String {
        while self.peek(0).is_some_and(char::is_whitespace) {
            self.at += 1;
        }
        if self.peek(0) != Some('{') {
            let next = self.peek(0).filter(|c| c.is_alphanumeric());
            self.at += usize::from(next.is_some());
            return next.map(String::from).unwrap_or_default();
        }
        let (start, mut depth) = (self.at + 1, 0);
        while let Some(c) = self.peek(0) {
            self.at += 1;
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return self.chars[start..self.at - 1].iter().collect();
            }
        }
        self.chars[start.min(self.chars.len())..].iter().collect()
    }
}
