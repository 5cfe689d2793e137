//! How many sentences a text has, by the Punkt algorithm.
//!
//! A period, question or exclamation mark ends a sentence if white space or closing punctuation follows, unless the word
//! before it is an abbreviation, an initial or an ordinal by the rules of sections 3 and 4. Quotes and brackets that close
//! belong to the sentence before them. A line break ends nothing: a list without periods is one sentence.
//!
//! The released checker uses nltk's model, trained on the Wall Street Journal. Here are its abbreviations and frequent
//! sentence starters; in place of its 20 000 words with the cases in which it saw them stand the words of [`ORDINARY`],
//! and its 37 collocations ("B. Stewart", "## Pegasus") are left out. So the two can only differ after an abbreviation,
//! an initial or an ellipsis before a capital ("at 9 a.m. Breakfast is served.": nltk knows breakfast from running text).
//!
//! Source: Kiss and Strunk 2006, "Unsupervised Multilingual Sentence Boundary Detection" (Computational Linguistics 32:4).

use std::collections::HashSet;
use std::sync::LazyLock;

/// What the model knows as abbreviations, in lower case and without the last period. Notably neither "e.g" nor "etc".
const ABBREVIATIONS: &str = "
    adm ala ariz aug ave bros c calif chg cie co col colo conn corp cos ct d dec dr e f feb fla fri ft g ga gen h
    ill inc jan jr k kan ky l lt ltd m maj messrs mg mich minn mr mrs ms n nev nov oct ok okla ore p pa prof r rep
    reps s sen sep sept sr st sw t tenn tues v va vs vt w wash wed wis yr
    a.a a.c a.d a.g a.h a.m a.m.e a.s a.t b.f b.v c.i.t c.o.m.b c.v d.c d.h d.w e.f e.h e.l e.m f.g f.j g.d g.f
    g.k h.c h.f h.m i.m.s j.b j.c j.j j.k j.p j.r l.a l.f l.p m.b.a m.d.c m.j n.c n.d n.h n.j n.m n.v n.y p.a.m
    p.m ph.d r.a r.h r.i r.j r.k r.t s.a s.a.y s.c s.g s.p.a s.s t.j u.k u.n u.s u.s.a u.s.s.r w.c w.r w.va w.w";

/// Words that often begin a sentence.
const STARTERS: &str = "
    according although among both but despite even he however i if in indeed instead it many meanwhile moreover
    most nevertheless nonetheless nor sales separately similarly since so some the there these they this though
    thus under when while yet";

/// Words seen in lower case, and never with a capital inside a sentence: with a capital they begin one.
const ORDINARY: &str = "
    above almost already always anybody anyone anything apparently being besides beyond briefly call carefully
    certainly cheers choose consider create currently discover does early easily either else enjoy ensure
    especially eventually everywhere exactly explore finally follow following frankly furthermore given hence her
    here him imagine immediately include indeed initially inside instead lately learn likewise listen looking
    naturally nothing okay originally otherwise ours overall particularly please presumably previously probably
    put recently regardless remember same simply slowly so someone sometimes soon still such suddenly surely thank
    thanks them therefore think though through throughout together tomorrow truly try typically ultimately
    unfortunately unless unlike upon us very wait were whenever whether which within without yes yesterday yet
    your";

/// Words seen in lower case, but also with a capital inside a sentence (of a title): not names, but no evidence either.
const COMMON: &str = "
    a about after again all also an and another any are as at be because been before below both but by can could
    did do each every everyone few for from get give go had has have he his how if in is it its just know last let
    like made make may maybe me might more most much must my never next no nobody not now of often on once one
    only or other our out over perhaps see she should since some something take than that the their then there
    these they this those to today too until up use was we well what when where while who why will with would you";

fn table(words: &'static str) -> HashSet<&'static str> {
    words.split_whitespace().collect()
}

static IS_ABBREVIATION: LazyLock<HashSet<&str>> = LazyLock::new(|| table(ABBREVIATIONS));
static IS_STARTER: LazyLock<HashSet<&str>> = LazyLock::new(|| table(STARTERS));
static IS_ORDINARY: LazyLock<HashSet<&str>> = LazyLock::new(|| table(ORDINARY));
static IS_COMMON: LazyLock<HashSet<&str>> = LazyLock::new(|| table(COMMON));

/// Number of sentences; 0 for white space alone.
pub(super) fn count(text: &str) -> usize {
    let text = text.trim_end();
    let mut starts = vec![0]; // of sentences, before closing punctuation goes to the one before
    starts.extend(
        Candidates::of(text)
            .filter(|end| has_break(end.context))
            .map(|end| end.next),
    );
    let mut sentences = 0;
    let mut moved = 0; // bytes at the start that went to the sentence before
    for (i, &start) in starts.iter().enumerate() {
        let end = starts.get(i + 1).copied().unwrap_or(text.len());
        let closing = starts.get(i + 1).map_or(0, |&next| {
            let after = starts.get(i + 2).copied().unwrap_or(text.len());
            closing_len(&text[next..after])
        });
        sentences += usize::from(start + moved < end || closing > 0);
        moved = closing;
    }
    sentences
}

/// Length of quotes and brackets that close what stands before, with the white space after them.
fn closing_len(text: &str) -> usize {
    let rest = text.trim_start_matches(['"', '\'', ')', ']', '}', '‘', '’', '“', '”', '«', '»']);
    let closed = rest.len() < text.len() && (rest.is_empty() || rest.starts_with("--") || rest.starts_with(is_space));
    if closed {
        text.len() - rest.trim_start().len()
    } else {
        0
    }
}

fn is_space(c: char) -> bool {
    c.is_whitespace()
}

fn is_end(c: char) -> bool {
    matches!(c, '.' | '?' | '!')
}

/// Never inside a word.
fn is_punctuation(c: char) -> bool {
    ")\";}]*:@'({[‘’“”«»?!".contains(c)
}

/// A mark that may end a sentence.
struct Candidate<'t> {
    /// From the word before the mark to the token after it.
    context: &'t str,
    /// Where the next sentence would start.
    next: usize,
}

/// Marks that punctuation or white space follows; of those in one word only the last.
struct Candidates<'t> {
    text: &'t str,
    /// Where to look on.
    from: usize,
    /// Start of the last word before a mark, the mark, and the end of what follows it, and where the next would start.
    pending: Option<(usize, usize, usize, usize)>,
}

impl<'t> Candidates<'t> {
    fn of(text: &'t str) -> Self {
        Self {
            text,
            from: 0,
            pending: None,
        }
    }

    /// The next mark with something behind it: the mark, the end of the token after it, the start of a next sentence.
    fn mark(&mut self) -> Option<(usize, usize, usize)> {
        while let Some(found) = self.text[self.from..].find(is_end) {
            let mark = self.from + found;
            self.from = mark + 1;
            let rest = &self.text[mark + 1..];
            if let Some(c) = rest.chars().next().filter(|c| is_punctuation(*c)) {
                return Some((mark, mark + 1 + c.len_utf8(), mark + 1));
            }
            let token = rest.trim_start();
            if token.len() < rest.len() && !token.is_empty() {
                let start = self.text.len() - token.len();
                return Some((mark, start + token.find(is_space).unwrap_or(token.len()), start));
            }
        }
        None
    }
}

impl<'t> Iterator for Candidates<'t> {
    type Item = Candidate<'t>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some((mark, end, next)) = self.mark() else {
                let (word, _, end, next) = self.pending.take()?;
                return Some(Candidate {
                    context: &self.text[word..end],
                    next,
                });
            };
            let (last_word, last_mark) = self.pending.map_or((0, 0), |(word, mark, ..)| (word, mark));
            let before = &self.text[last_mark..mark];
            let word = match before.rfind(|c: char| c.is_ascii_whitespace() || c == '\u{b}') {
                None | Some(0) => last_word,
                Some(space) => last_mark + space + 1,
            };
            let done = self
                .pending
                .replace((word, mark, end, next))
                .filter(|&(_, mark, ..)| mark <= word);
            if let Some((word, _, end, next)) = done {
                return Some(Candidate {
                    context: &self.text[word..end],
                    next,
                });
            }
        }
    }
}

/// What is known of a token.
struct Token<'t> {
    text: &'t str,
    /// In lower case, all numbers alike.
    kind: String,
    ends_sentence: bool,
    is_abbreviation: bool,
}

const NUMBER: &str = "##number##";

impl<'t> Token<'t> {
    /// With what its own form says.
    fn of(text: &'t str) -> Self {
        let kind = if is_number(text) {
            NUMBER.to_owned()
        } else {
            text.to_lowercase()
        };
        let stem = text
            .strip_suffix('.')
            .filter(|stem| !stem.is_empty() && !stem.ends_with('.'))
            .map(str::to_lowercase);
        let known = |stem: &String| {
            let last = stem.rsplit('-').next().unwrap_or_default();
            IS_ABBREVIATION.contains(stem.as_str()) || IS_ABBREVIATION.contains(last)
        };
        let is_abbreviation = stem.as_ref().is_some_and(known);
        let ends_sentence = matches!(text, "." | "?" | "!") || (stem.is_some() && !is_abbreviation);
        Self {
            text,
            kind,
            ends_sentence,
            is_abbreviation,
        }
    }

    fn is_ellipsis(&self) -> bool {
        self.text.len() > 1 && self.text.bytes().all(|b| b == b'.')
    }

    /// One letter and a period.
    fn is_initial(&self) -> bool {
        let mut chars = self.text.chars();
        chars.next().is_some_and(char::is_alphabetic) && chars.as_str() == "."
    }

    fn is_capitalised(&self) -> bool {
        self.text.starts_with(char::is_uppercase)
    }

    /// Without the period that ends a sentence.
    fn word(&self) -> &str {
        let stem = self
            .kind
            .strip_suffix('.')
            .filter(|stem| !stem.is_empty() && self.ends_sentence);
        stem.unwrap_or(&self.kind)
    }

    /// Whether a sentence starts here; `None` if the word does not tell (section 4.1.1).
    fn starts_sentence(&self) -> Option<bool> {
        let lower = self.text.starts_with(char::is_lowercase);
        if matches!(self.text, ";" | ":" | "," | "." | "!" | "?") || lower {
            Some(false)
        } else {
            (self.is_capitalised() && IS_ORDINARY.contains(self.word())).then_some(true)
        }
    }
}

/// Digits with separators, a sign and a last period.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let text = text.strip_prefix(['.', ',']).unwrap_or(text);
    text.starts_with(char::is_numeric) && text.chars().all(|c| c.is_numeric() || matches!(c, ',' | '.' | '-'))
}

/// A token of the context, other than the last, ends a sentence.
fn has_break(context: &str) -> bool {
    let mut tokens: Vec<Token> = context.split('\n').flat_map(tokens).map(Token::of).collect();
    for i in 1..tokens.len() {
        let (before, after) = tokens.split_at_mut(i);
        reconsider(&mut before[i - 1], &after[0]);
        if before[i - 1].ends_sentence {
            return true;
        }
    }
    false
}

/// Decides again about a token that ends in a period, by the token after it (section 4).
fn reconsider(token: &mut Token, next: &Token) {
    if !token.text.ends_with('.') {
        return;
    }
    let initial = token.is_initial();
    let starts = next.starts_sentence();
    if (token.is_abbreviation || token.is_ellipsis()) && !initial {
        let starter = next.is_capitalised() && IS_STARTER.contains(next.word());
        token.ends_sentence = token.ends_sentence || starts == Some(true) || starter;
    }
    if initial || token.kind == NUMBER {
        let name = initial && starts.is_none() && next.is_capitalised() && !IS_COMMON.contains(next.word());
        token.ends_sentence = token.ends_sentence && starts != Some(false) && !name;
    }
}

/// Words and punctuation of a line; periods stay with their word.
fn tokens(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let first = rest.chars().next()?;
        let run = repeated_len(rest);
        let len = if run > 0 {
            run
        } else if "(\"`{[:;&#*@)}]-,".contains(first) {
            first.len_utf8()
        } else {
            word_len(rest)
        };
        let (token, tail) = rest.split_at(len);
        rest = tail;
        Some(token)
    })
}

/// Length of a dash or an ellipsis of several characters at the start; 0 if there is none.
fn repeated_len(text: &str) -> usize {
    let run = ['-', '.'].map(|c| text.len() - text.trim_start_matches(c).len());
    run.into_iter().find(|len| *len >= 2).unwrap_or(0)
}

/// Length of a word: its first character and all up to white space, punctuation, a dash, an ellipsis or a last comma.
fn word_len(text: &str) -> usize {
    let ends = |rest: &str| {
        rest.is_empty()
            || rest.starts_with(|c| is_space(c) || is_punctuation(c))
            || ["--", ".."].iter().any(|run| rest.starts_with(run))
    };
    let mut inside = text.char_indices().skip(1).map(|(i, _)| i);
    inside
        .find(|&i| ends(&text[i..]) || text[i..].strip_prefix(',').is_some_and(ends))
        .unwrap_or(text.len())
}
