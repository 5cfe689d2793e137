//! A conversation → ids, and which of them are to be learned.
//!
//! **Through a chat template.** The conversation is rendered up to each answer with the beginning of the assistant's turn
//! (what a model is given when it is asked), and up to the end of that answer. The latter must continue the former; what
//! it continues with is the answer, its end of turn included. No text is searched for.
//!
//! - The end of turn may be followed by white space that the template puts before the next turn. A model never writes that:
//!   white space after a special token at the end of an answer is not learned.
//! - Some templates render an answer differently once a turn follows, mostly without its thoughts. What was rendered up to
//!   an answer is then no beginning of the whole. Such a conversation becomes one sequence per answer, each with what the
//!   model would be given and the answer.
//! - Some templates begin the assistant's turn with more than stored answers have (`<think>`). The answer then begins
//!   where the two part ways.
//!
//! **Without one**, a text gets what the tokenizer adds to texts, and the end-of-text token if that does not include it;
//! of a prompt and its completion, the completion and the end are learned.
//!
//! The whole is tokenised at once, and a token belongs to where its first character is. Special tokens are added only
//! where no template writes them. Sequences are cut on the right, or split where that is asked for. Token 0 is never learned: nothing comes before it.

use std::{iter, ops::Range};

use serde_json::Value;

use super::{ChatTemplate, Conversation, Long, LossOn, SkipReason, Tokenizer, tokenizer::Token};
use crate::{Error, Result};

/// Turns conversations into sequences.
pub(super) struct Encoder<'a> {
    pub tokenizer: &'a Tokenizer,
    pub template: Option<&'a ChatTemplate>,
    pub loss_on: LossOn,
    pub max_length: usize,
    pub long: Long,
}

/// Ids with their mask.
#[derive(Debug, PartialEq)]
pub(super) struct Sequence {
    pub ids: Vec<u32>,
    pub trained: Vec<bool>,
    pub truncated: bool,
}

/// A text and where its answers are, in bytes.
struct Rendered {
    text: String,
    answers: Vec<Range<usize>>,
}

impl Rendered {
    /// A text that is an answer from byte `start` to its end.
    fn from(text: String, start: usize) -> Self {
        let answers = iter::once(start..text.len()).collect();
        Self { text, answers }
    }
}

impl Encoder<'_> {
    /// The sequences of a conversation, or why there are none: several if the template rewrites earlier turns.
    ///
    /// # Errors
    /// If no row of this kind can be encoded: there is no chat template or no end-of-text token, or the tokenizer fails.
    pub(super) fn encode(&self, conversation: &Conversation) -> Result<Result<Vec<Sequence>, SkipReason>> {
        let (prompt, text) = match conversation {
            Conversation::Text(text) => (0, text.clone()),
            Conversation::Continued { prompt, completion } => (prompt.len(), format!("{prompt}{completion}")),
            Conversation::Messages { messages, learn_from } => {
                let template = self.template.ok_or_else(|| self.no_template())?;
                let rendered = match self.loss_on {
                    LossOn::Answers => answers(template, messages, *learn_from),
                    LossOn::All => template
                        .render(messages, false)
                        .map(|text| vec![Rendered::from(text, 0)]),
                };
                return match rendered {
                    Ok(rendered) => self.tokenize_all(&rendered),
                    Err(reason) => Ok(Err(reason)),
                };
            }
        };
        let mut tokens = self.tokenizer.tokens(&text, true)?;
        let end = self.tokenizer.eos().ok_or_else(|| self.no_end())?.id;
        if tokens.last().is_none_or(|token| token.id != end) {
            let bytes = text.len()..text.len();
            tokens.push(Token { id: end, bytes });
        }
        let learned = |token: &Token| self.loss_on == LossOn::All || token.bytes.start >= prompt;
        let trained: Vec<bool> = tokens.iter().map(learned).collect();
        match self.long {
            Long::Split if tokens.len() > self.max_length => Ok(self.split(&tokens, &trained)),
            _ => Ok(self.cut(&tokens, trained).map(|sequence| vec![sequence])),
        }
    }

    /// Splits a text into sequences that overlap by one token: the first of a sequence is not predicted there, but at the end
    /// of the one before. Parts with nothing to learn are left out.
    fn split(&self, tokens: &[Token], trained: &[bool]) -> Result<Vec<Sequence>, SkipReason> {
        let starts = (0..tokens.len() - 1).step_by(self.max_length - 1);
        let part = |start: usize| {
            let part = start..tokens.len().min(start + self.max_length);
            self.cut(&tokens[part.clone()], trained[part].to_vec()).ok()
        };
        let parts: Vec<Sequence> = starts.filter_map(part).collect();
        if parts.is_empty() {
            return Err(SkipReason::NoAnswer);
        }
        Ok(parts)
    }

    /// What is left to learn of the sequences of one conversation.
    fn tokenize_all(&self, rendered: &[Rendered]) -> Result<Result<Vec<Sequence>, SkipReason>> {
        let mut sequences = Vec::new();
        let mut reason = SkipReason::NoAnswer;
        for rendered in rendered {
            match self.tokenize(rendered)? {
                Ok(sequence) => sequences.push(sequence),
                Err(why) => reason = why,
            }
        }
        Ok(if sequences.is_empty() {
            Err(reason)
        } else {
            Ok(sequences)
        })
    }

    /// Tokens of a rendered text, which has all special tokens in it.
    fn tokenize(&self, Rendered { text, answers }: &Rendered) -> Result<Result<Sequence, SkipReason>> {
        let tokens = self.tokenizer.tokens(text, false)?;
        let mut trained = vec![false; tokens.len()];
        for answer in answers {
            let at = |byte: usize| tokens.partition_point(|token| token.bytes.start < byte);
            let places = at(answer.start)..at(answer.end);
            let is_text = |token: &Token| !text[token.bytes.clone()].trim().is_empty();
            let last = tokens[places.clone()]
                .iter()
                .rposition(is_text)
                .map(|last| places.start + last);
            // a special token is written as text, too
            let end = match (last, self.loss_on) {
                (Some(last), LossOn::Answers) if self.tokenizer.is_special(tokens[last].id) => last + 1,
                _ => places.end,
            };
            trained[places.start..end].fill(true);
        }
        Ok(self.cut(&tokens, trained))
    }

    /// Cuts a sequence at the maximal length, if something to learn is left.
    fn cut(&self, tokens: &[Token], mut trained: Vec<bool>) -> Result<Sequence, SkipReason> {
        if let Some(first) = trained.first_mut() {
            *first = false;
        }
        let anything = |trained: &[bool]| trained.contains(&true);
        let learnable = anything(&trained);
        trained.truncate(self.max_length);
        if !anything(&trained) {
            return Err(match learnable {
                true => SkipReason::Cut {
                    max_length: self.max_length,
                },
                false => SkipReason::NoAnswer,
            });
        }
        Ok(Sequence {
            ids: tokens.iter().take(self.max_length).map(|token| token.id).collect(),
            truncated: tokens.len() > self.max_length,
            trained,
        })
    }

    fn no_template(&self) -> Error {
        Error::Argument {
            what: "chat template".into(),
            value: "none".into(),
            problem: format!(
                "the rows are conversations, and nothing next to {} says how the model writes them",
                self.tokenizer.path().display()
            ),
            help: "train a model that has a chat template, or name the file of one".into(),
        }
    }

    fn no_end(&self) -> Error {
        Error::ConfigKey {
            path: self.tokenizer.path().to_path_buf(),
            key: "eos_token".into(),
            expected: "the token that ends a text, so that the model learns to stop".into(),
            got: "missing".into(),
            help: "set `eos_token` in tokenizer_config.json, or `eos_token_id` in config.json".into(),
        }
    }
}

/// Renders a conversation and finds the assistant's answers, from message `learn_from` on.
fn answers(template: &ChatTemplate, messages: &[Value], learn_from: usize) -> Result<Vec<Rendered>, SkipReason> {
    let whole = template.render(messages, false)?;
    let mut up_to_each = Vec::new();
    for (i, message) in messages.iter().enumerate().skip(learn_from) {
        if message["role"] != "assistant" {
            continue;
        }
        let text = match i + 1 == messages.len() {
            true => whole.clone(),
            false => template.render(&messages[..=i], false)?,
        };
        let start = beginning(template, messages, i, &text)?;
        up_to_each.push(Rendered::from(text, start));
    }
    if up_to_each.is_empty() {
        return Err(SkipReason::NoAnswer);
    }
    if up_to_each.iter().any(|rendered| !whole.starts_with(&rendered.text)) {
        return Ok(up_to_each);
    }
    let answers = up_to_each.into_iter().flat_map(|rendered| rendered.answers).collect();
    Ok(vec![Rendered { text: whole, answers }])
}

/// Where answer `i` begins in `text`, the conversation up to its end.
fn beginning(template: &ChatTemplate, messages: &[Value], i: usize, text: &str) -> Result<usize, SkipReason> {
    let given = template.render(&messages[..i], true)?;
    if text.starts_with(&given) {
        return Ok(given.len());
    }
    let history = template.render(&messages[..i], false)?;
    if i == 0 || !text.starts_with(&history) || !given.starts_with(&history) {
        let problem = format!("message {} does not continue what is rendered before it", i + 1);
        return Err(template.problem(None, problem));
    }
    let both = text.char_indices().zip(given.chars());
    let parted = both.into_iter().find(|((_, a), b)| a != b).map(|((at, _), _)| at);
    Ok(parted.unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            TrainingSample,
            template::tests::{from_fixture, messages, template},
            tokenizer::tests::{small, small_chat, small_chat_without_ends},
        },
        *,
    };
    use serde_json::json;

    fn chat(messages_: Value) -> Conversation {
        Conversation::Messages {
            messages: messages(&messages_),
            learn_from: 0,
        }
    }

    fn dialogue() -> Conversation {
        chat(
            json!([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "hell"},
                    {"role": "user", "content": "é?"}, {"role": "assistant", "content": "he"}]),
        )
    }

    fn encoder<'a>(tokenizer: &'a Tokenizer, template: Option<&'a ChatTemplate>) -> Encoder<'a> {
        Encoder {
            tokenizer,
            template,
            loss_on: LossOn::Answers,
            max_length: 1000,
            long: Long::Cut,
        }
    }

    /// The sequences with brackets around what is learned.
    fn marked(encoder: &Encoder<'_>, conversation: &Conversation) -> Result<Vec<String>, SkipReason> {
        let sequences = encoder.encode(conversation).unwrap()?;
        let mark = |sequence: Sequence| {
            let sample = TrainingSample {
                id: String::new(),
                ids: sequence.ids,
                trained: sequence.trained,
            };
            let pieces = sample.pieces(encoder.tokenizer).unwrap();
            pieces
                .chunk_by(|a, b| a.trained == b.trained)
                .map(|run| {
                    let text: String = run.iter().map(|piece| piece.text.as_str()).collect();
                    if run[0].trained { format!("[{text}]") } else { text }
                })
                .collect()
        };
        Ok(sequences.into_iter().map(mark).collect())
    }

    fn marked_by(template: &ChatTemplate, conversation: &Conversation) -> Result<Vec<String>, SkipReason> {
        marked(&encoder(&small_chat(), Some(template)), conversation)
    }

    #[test]
    fn answers_are_learned_with_the_end_of_their_turn() {
        let marked = |name| marked_by(&from_fixture(name), &dialogue()).unwrap();
        let system = "<|im_start|>system\nAnswer with care<|im_end|>\n";
        let chatml = format!(
            "{system}<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[hell<|im_end|>]\n\
             <|im_start|>user\né?<|im_end|>\n<|im_start|>assistant\n[he<|im_end|>]\n"
        );
        assert_eq!(marked("chatml.jinja"), [chatml]);
        // nothing begins the assistant's turn: the space belongs to the answer; `[INST]` is the template's own
        let inst = "<s>(INST) Hi (/INST)[ hell</s>](INST) é? (/INST)[ he</s>]";
        let inst = inst.replace('(', "[").replace(')', "]");
        assert_eq!(marked("inst.jinja"), [inst]);
        assert_eq!(
            marked("lines.jinja"),
            ["<|user|>\nHi</s>\n<|assistant|>\n[hell</s>]\n<|user|>\né?</s>\n<|assistant|>\n[he</s>]\n"]
        );
    }

    #[test]
    fn a_template_that_rewrites_earlier_turns_makes_a_sequence_per_answer() {
        let thinking = from_fixture("thinking.jinja");
        let first = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
        let second = "<|im_start|>user\né?<|im_end|>\n<|im_start|>assistant\n";
        let thoughts = "<think>\n\n</think>\n\n";
        assert_eq!(
            marked_by(&thinking, &dialogue()).unwrap(),
            [
                format!("{first}[{thoughts}hell<|im_end|>]\n"),
                format!("{first}hell<|im_end|>\n{second}[{thoughts}he<|im_end|>]\n"),
            ]
        );
    }

    #[test]
    fn an_answer_begins_where_it_leaves_the_prompt() {
        let source = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}\
                      {% if add_generation_prompt %}<assistant><think>{% endif %}";
        let marked = marked_by(&template(source).unwrap(), &dialogue()).unwrap();
        assert_eq!(
            marked,
            ["<user>Hi</s><assistant>[hell</s>]<user>é?</s><assistant>[he</s>]"]
        );
    }

    #[test]
    fn an_answer_that_cannot_be_placed_is_skipped() {
        let greeting = chat(json!([{"role": "assistant", "content": "hell"}, {"role": "user", "content": "Hi"}]));
        let reason = marked_by(&from_fixture("chatml.jinja"), &greeting)
            .unwrap_err()
            .to_string();
        let expected = "chatml.jinja: message 1 does not continue what is rendered before it";
        assert!(reason.ends_with(expected), "{reason}");
        let refused = marked_by(&from_fixture("inst.jinja"), &greeting)
            .unwrap_err()
            .to_string();
        assert!(
            refused.ends_with("line 3: turns must alternate, turn 1 is by assistant"),
            "{refused}"
        );
        let questions = chat(json!([{"role": "user", "content": "Hi"}]));
        let reason = marked_by(&from_fixture("chatml.jinja"), &questions).unwrap_err();
        assert_eq!(reason, SkipReason::NoAnswer);
    }

    #[test]
    fn answers_of_the_prompt_are_not_learned() {
        let Conversation::Messages { messages, .. } = dialogue() else {
            unreachable!()
        };
        let conversation = Conversation::Messages {
            messages,
            learn_from: 2,
        };
        let marked = marked_by(&from_fixture("lines.jinja"), &conversation).unwrap();
        assert_eq!(
            marked,
            ["<|user|>\nHi</s>\n<|assistant|>\nhell</s>\n<|user|>\né?</s>\n<|assistant|>\n[he</s>]\n"]
        );
    }

    #[test]
    fn a_split_text_is_learned_once() {
        let tokenizer = small_chat();
        let text = Conversation::Text("he ll he ll he".into());
        let whole = marked(&encoder(&tokenizer, None), &text).unwrap();
        assert_eq!(whole, ["<s>[he ll he ll he</s>]"]); // 11 tokens
        let split = |max_length| {
            let encoder = Encoder {
                max_length,
                long: Long::Split,
                ..encoder(&tokenizer, None)
            };
            marked(&encoder, &text).unwrap()
        };
        assert_eq!(split(11), whole);
        assert_eq!(split(5), ["<s>[he ll ]", " [he ll ]", " [he</s>]"]);
        assert_eq!(split(10), ["<s>[he ll he ll he]", "he[</s>]"]);
        let prompt = Conversation::Continued {
            prompt: "he ll ".into(),
            completion: "he".into(),
        };
        let encoder = Encoder {
            max_length: 3,
            long: Long::Split,
            ..encoder(&tokenizer, None)
        };
        assert_eq!(marked(&encoder, &prompt).unwrap(), [" [he</s>]"]); // what is given alone is left out
    }

    #[test]
    fn loss_on_all_learns_all_but_the_first() {
        let (tokenizer, template) = (small_chat(), from_fixture("inst.jinja"));
        let all = |template| Encoder {
            loss_on: LossOn::All,
            ..encoder(&tokenizer, template)
        };
        let [text] = &marked(&all(Some(&template)), &dialogue()).unwrap()[..] else {
            panic!("one sequence")
        };
        assert!(
            text.starts_with("<s>[[INST] Hi [/INST] hell</s>") && text.ends_with(" he</s>]"),
            "{text}"
        );
        let continued = Conversation::Continued {
            prompt: "he ".into(),
            completion: "ll".into(),
        };
        assert_eq!(marked(&all(None), &continued).unwrap(), ["<s>[he ll</s>]"]);
    }

    #[test]
    fn completions_and_texts_end_with_one_end_token() {
        let tokenizer = small_chat();
        let learned = |tokenizer: &Tokenizer, prompt: &str, completion: &str| {
            let continued = Conversation::Continued {
                prompt: prompt.into(),
                completion: completion.into(),
            };
            marked(&encoder(tokenizer, None), &continued).unwrap().remove(0)
        };
        let text = |tokenizer: &Tokenizer| {
            let text = Conversation::Text("hell".into());
            marked(&encoder(tokenizer, None), &text).unwrap().remove(0)
        };
        assert_eq!(learned(&tokenizer, "Q:", " hell"), "<s>Q:[ hell</s>]");
        assert_eq!(text(&tokenizer), "<s>[hell</s>]");
        // a token that begins in the prompt belongs to it
        assert_eq!(learned(&tokenizer, "Q:he", "llo"), "<s>Q:hell[o</s>]");
        let tokenizer = small_chat_without_ends();
        assert_eq!(learned(&tokenizer, "Q:", " hell"), "Q:[ hell</s>]");
        assert_eq!(text(&tokenizer), "hell[</s>]");
    }

    #[test]
    fn cutting_keeps_what_is_left_to_learn() {
        let (tokenizer, template) = (small_chat(), from_fixture("inst.jinja"));
        let cut = |max_length| {
            let encoder = Encoder {
                max_length,
                ..encoder(&tokenizer, Some(&template))
            };
            encoder.encode(&dialogue()).unwrap().map(|sequences| {
                let trained = sequences[0].trained.iter().filter(|trained| **trained).count();
                (sequences[0].ids.len(), trained, sequences[0].truncated)
            })
        };
        // <s> [INST] Hi [/INST] is 18 tokens; " hell</s>" 3; [INST] é? [/INST] 18; " he</s>" 3
        assert_eq!(cut(42), Ok((42, 6, false)));
        assert_eq!(cut(41), Ok((41, 5, true)));
        assert_eq!(cut(19), Ok((19, 1, true)));
        assert_eq!(cut(18), Err(SkipReason::Cut { max_length: 18 }));
        assert_eq!(cut(0), Err(SkipReason::Cut { max_length: 0 }));
    }

    #[test]
    fn what_no_row_can_do_without_is_an_error() {
        let error = encoder(&small_chat(), None)
            .encode(&dialogue())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("chat template `none`") && error.contains("name the file of one"),
            "{error}"
        );
        let text = Conversation::Text("hell".into());
        let error = encoder(&small(), None).encode(&text).unwrap_err().to_string();
        assert!(
            error.contains("`eos_token` is missing") && error.contains("eos_token_id"),
            "{error}"
        );
    }
}
