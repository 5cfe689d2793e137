//! Did a response follow instructions that a program can verify? The 25 kinds of IFEval.
//!
//! Every instruction is judged twice: *strict* on the response as it is, *loose* on eight readings of it (with and without
//! its first line, its last line, and its asterisks), where one that follows is enough, so that strict implies loose. An
//! empty reading follows nothing. Per prompt, all instructions must be followed.
//!
//! Verdicts are those of the checker that was released with the data set, quirks included: keywords are regular
//! expressions found anywhere in a word, `forbidden_words` needs word boundaries, a text without letters is of every
//! language, `constrained_response` looks for an option anywhere. It differs where noted:
//!
//! - Languages are told apart by another detector: English in capitals, which the released one often takes for another
//!   language, a few words and broken text may differ.
//! - Sentences are split by the same algorithm, Punkt, with smaller tables: after an abbreviation, an initial or an ellipsis
//!   a capital may be judged otherwise.
//! - `letter_frequency` counts also what is no letter (the data set asks for `#` and `!`; the released checker draws a
//!   letter by chance there).
//! - A missing argument is an error when the row is read; the released checker draws one by chance.
//! - `json_format` does not take `NaN` and `Infinity` for JSON.
//!
//! Compared with the released checker (in lm-eval 0.4.13, with nltk 3.10) on 20 000 pairs of an instruction of the data set
//! and a response (of SmolLM2-135M, changed at random, or built to follow or to fail narrowly), 39 940 of 40 000 verdicts
//! agree; of the others 43 ask for `#` or `!`, 15 for English of broken or capital text, and 2 are of shuffled letters.
//!
//! Source: Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models" (arXiv 2311.07911), table 1 and
//! section 2.2.

mod language;
mod parse;
mod rule;
mod sentences;
#[cfg(test)]
mod tests;
mod words;

use serde_json::Value;
use std::collections::BTreeSet;

/// One instruction that a program can verify.
#[derive(Clone, Debug)]
pub struct Instruction {
    id: String,
    rule: rule::Rule,
}

/// What a response made of its instructions, in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// Judged on the response as it is.
    pub strict: Vec<bool>,
    /// Judged on the most favourable of its eight readings.
    pub loose: Vec<bool>,
}

impl Instruction {
    /// The instructions of a row of the data set, at least one: `reward_model.instructions`, a list of
    /// `{instruction_id, kwargs}`, or the original pair of lists `instruction_id_list` and `kwargs`. Arguments that are
    /// null are absent; those that an instruction does not take are ignored.
    ///
    /// # Errors
    /// An instruction that is not known and an argument that is missing or cannot be used, with its place in the row, what
    /// was expected and what was found.
    ///
    /// ```
    /// use midblock::eval::ifeval::{Instruction, judge};
    /// let row = serde_json::json!({
    ///     "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    ///     "kwargs": [{}, {"relation": "at least", "num_words": 3}],
    /// });
    /// let instructions = Instruction::parse(&row)?;
    /// assert_eq!(judge(&instructions, "One, two.").strict, [false, false]);
    /// assert_eq!(judge(&instructions, "Sure,\none two three").loose, [true, true]); // without its first line
    /// # Ok::<(), String>(())
    /// ```
    pub fn parse(row: &Value) -> Result<Vec<Self>, String> {
        parse::instructions(row)
    }

    /// Its kind, such as `punctuation:no_comma`.
    pub fn id(&self) -> &str {
        &self.id
    }
}

/// Which of the instructions a response follows.
pub fn judge(instructions: &[Instruction], response: &str) -> Followed {
    let follows = |rule: &rule::Rule, text: &str| !words::strip(text).is_empty() && rule.is_followed_by(text);
    let readings = readings(response);
    let strict: Vec<bool> = instructions.iter().map(|i| follows(&i.rule, response)).collect();
    let loose = instructions.iter().zip(&strict);
    let loose = loose
        .map(|(i, &strict)| strict || readings.iter().any(|text| follows(&i.rule, text)))
        .collect();
    Followed { strict, loose }
}

/// The readings beyond the response itself: without first line, last line or both, each with and without asterisks.
fn readings(response: &str) -> BTreeSet<String> {
    let after_first = response.split_once('\n').map_or("", |(_, rest)| rest);
    let before_last = |text: &str| text.rsplit_once('\n').map_or("", |(rest, _)| rest).to_owned();
    let cut = [after_first.to_owned(), before_last(response), before_last(after_first)];
    let whole = cut.iter().map(|text| words::strip(text)).chain([response]);
    whole
        .flat_map(|text| [text.to_owned(), text.replace('*', "")])
        .filter(|text| text != response)
        .collect()
}
