//! Ids of a completion → its text, as it grows, up to a stop string.
//!
//! What a token adds is found by decoding it after those before it, since a decoder may join tokens (bytes of one character,
//! spaces between words). Text is given out when later tokens cannot change it: not while it ends within a character, nor
//! while it ends with what may become a stop string.

use crate::{Result, tokens::Tokenizer};

/// What decoders write for bytes that are no character, or not yet.
const INCOMPLETE: char = '\u{FFFD}';

/// The text of a completion as it grows.
pub(super) struct Text<'a> {
    tokenizer: &'a Tokenizer,
    stops: &'a [String],
    ids: Vec<u32>,
    /// Ids from here on are decoded again, for what decoders make of neighbours.
    context: usize,
    /// Ids before this are in `text`.
    decoded: usize,
    text: String,
    /// Bytes of `text` given out.
    given: usize,
    stopped: bool,
}

impl<'a> Text<'a> {
    pub fn new(tokenizer: &'a Tokenizer, stops: &'a [String]) -> Self {
        Self {
            tokenizer,
            stops,
            ids: Vec::new(),
            context: 0,
            decoded: 0,
            text: String::new(),
            given: 0,
            stopped: false,
        }
    }

    /// Adds a token.
    pub fn push(&mut self, id: u32) -> Result<()> {
        self.ids.push(id);
        let before = self.tokenizer.text(&self.ids[self.context..self.decoded])?;
        let with = self.tokenizer.text(&self.ids[self.context..])?;
        if let Some(new) = with.strip_prefix(&before)
            && !new.is_empty()
            && !new.ends_with(INCOMPLETE)
        {
            self.append(new);
            (self.context, self.decoded) = (self.decoded, self.ids.len());
        }
        Ok(())
    }

    /// Adds text and cuts it where a stop string begins.
    fn append(&mut self, new: &str) {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = floor_boundary(&self.text, self.text.len().saturating_sub(longest));
        self.text.push_str(new);
        let found = self
            .stops
            .iter()
            .filter_map(|stop| self.text[from..].find(stop.as_str()));
        if let Some(at) = found.min() {
            self.text.truncate(from + at);
            self.stopped = true;
        }
    }

    /// Whether a stop string has appeared.
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// What can be given out and was not yet.
    pub fn piece(&mut self) -> &str {
        let end = match self.stopped {
            true => self.text.len(),
            false => self.text.len() - self.held_back(),
        };
        let start = self.given.min(end);
        self.given = self.given.max(end);
        &self.text[start..end]
    }

    /// Bytes at the end that may be the beginning of a stop string.
    fn held_back(&self) -> usize {
        let begins = |stop: &String| {
            let lengths = (1..stop.len()).rev().filter(|len| stop.is_char_boundary(*len));
            lengths
                .into_iter()
                .find(|len| self.text.ends_with(&stop[..*len]))
                .unwrap_or(0)
        };
        self.stops.iter().map(begins).max().unwrap_or(0)
    }

    /// The whole text, now that no token follows, and what of it was not given out.
    pub fn finish(mut self) -> Result<(String, String)> {
        if !self.stopped {
            // what is not a character after all
            let before = self.tokenizer.text(&self.ids[self.context..self.decoded])?;
            let with = self.tokenizer.text(&self.ids[self.context..])?;
            self.append(with.strip_prefix(&before).unwrap_or_default());
        }
        let rest = self.text[self.given.min(self.text.len())..].to_owned();
        Ok((self.text, rest))
    }
}

/// The largest character boundary that is not above `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}
