//! A few samples token by token: what each layer of each model would say after each of some tokens around the answer's start.

use super::{Lens, LensOptions};
use crate::{
    Result,
    run::table::{Column, Row, Value, write_table},
    study::{
        battery::{Cells, Subject},
        readings::walk,
    },
    tokens::{Tokenizer, TrainingSample},
};
use midblock_kernels::{Backend, Prediction};
use serde::{Deserialize, Serialize};
use std::{ops::Range, path::Path};

/// One sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// `data set/file:row`.
    pub sample: String,
    /// The tokens after which every layer is read.
    pub positions: Vec<ShownPosition>,
    /// What each layer says there, (models, L + 1, positions).
    pub models: Vec<Vec<Vec<ShownToken>>>,
}

/// A place in a sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownPosition {
    /// Index of the token that was read last, from 0.
    pub position: usize,
    /// That token.
    pub token: String,
    /// The token that comes next.
    pub gold: String,
    /// Whether that is a token of the answer.
    pub answer: bool,
}

/// What a layer says there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShownToken {
    /// The most likely next token.
    pub top: String,
    /// Its probability.
    pub probability: f64,
    /// The probability of the token that comes next.
    pub gold_probability: f64,
}

/// A line of `lens_tokens.csv`: `sample,model,layer,position,token,gold,top,probability,gold_probability`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LensToken {
    /// `data set/file:row`.
    pub sample: String,
    /// Name of the model.
    pub model: String,
    /// 0 is the embedding, `l` the residual stream after block `l`.
    pub layer: usize,
    /// Index of the token that was read last, from 0.
    pub position: usize,
    /// That token.
    pub token: String,
    /// The token that comes next.
    pub gold: String,
    /// The token that the layer finds most likely.
    pub top: String,
    /// Its probability.
    pub probability: f64,
    /// The probability of `gold`.
    pub gold_probability: f64,
}

impl Row for LensToken {
    const COLUMNS: &'static [(&'static str, Column)] = &[
        ("sample", Column::Text),
        ("model", Column::Text),
        ("layer", Column::Count),
        ("position", Column::Count),
        ("token", Column::Text),
        ("gold", Column::Text),
        ("top", Column::Text),
        ("probability", Column::Number),
        ("gold_probability", Column::Number),
    ];

    fn value(&self, column: usize) -> Value<'_> {
        match column {
            0 => Value::Text(&self.sample),
            1 => Value::Text(&self.model),
            2 => Value::Count(Some(self.layer as u64)),
            3 => Value::Count(Some(self.position as u64)),
            4 => Value::Text(&self.token),
            5 => Value::Text(&self.gold),
            6 => Value::Text(&self.top),
            7 => Value::Number(Some(self.probability)),
            _ => Value::Number(Some(self.gold_probability)),
        }
    }
}

/// The first measured samples, kept as a cell.
pub(super) fn shown<B: Backend>(subject: &Subject<'_, B>, options: &LensOptions, cells: &Cells) -> Result<Vec<Shown>> {
    let samples = subject.measured(options.shown);
    if samples.is_empty() || options.positions == 0 {
        return Ok(Vec::new());
    }
    let key = serde_json::json!({"shown": options.shown, "positions": options.positions});
    cells.cell(&format!("lens-{}-{}", options.shown, options.positions), &key, || {
        let rows: Vec<Range<usize>> = samples.iter().map(|sample| window(sample, options.positions)).collect();
        let mut shown: Vec<Shown> = (samples.iter().zip(&rows))
            .map(|(sample, rows)| describe(sample, rows.clone(), subject))
            .collect::<Result<_>>()?;
        let next: Vec<Vec<usize>> = rows.iter().map(|rows| (rows.start + 1..=rows.end).collect()).collect();
        walk(subject, samples, &next, |models| {
            for (model, samples) in models.iter().enumerate() {
                for (predictions, shown) in samples.iter().zip(&mut shown) {
                    let layer = predictions.iter().map(|token| says(token, subject.tokenizer));
                    shown.models[model].push(layer.collect::<Result<_>>()?);
                }
            }
            Ok(())
        })?;
        Ok(shown)
    })
}

/// The rows that are read: a third of them before the last token of the prompt.
fn window(sample: &TrainingSample, positions: usize) -> Range<usize> {
    let answer = sample.trained.iter().position(|&trained| trained).unwrap_or(1);
    let start = (answer - 1).saturating_sub(positions / 3);
    start..(start + positions).min(sample.ids.len() - 1)
}

fn describe<B: Backend>(sample: &TrainingSample, rows: Range<usize>, subject: &Subject<'_, B>) -> Result<Shown> {
    let position = |row: usize| {
        Ok(ShownPosition {
            position: row,
            token: written(sample.ids[row], subject.tokenizer)?,
            gold: written(sample.ids[row + 1], subject.tokenizer)?,
            answer: sample.trained[row + 1],
        })
    };
    Ok(Shown {
        sample: sample.id.clone(),
        positions: rows.map(position).collect::<Result<_>>()?,
        models: vec![Vec::new(); subject.models.len()],
    })
}

fn says(prediction: &Prediction, tokenizer: &Tokenizer) -> Result<ShownToken> {
    Ok(ShownToken {
        top: written(prediction.top, tokenizer)?,
        probability: (-prediction.top_nats).exp(),
        gold_probability: (-prediction.nats).exp(),
    })
}

/// The text of a token alone; as the vocabulary writes it if it is no text by itself, such as a part of a character.
fn written(id: u32, tokenizer: &Tokenizer) -> Result<String> {
    let text = tokenizer.decode(&[id])?;
    let readable = !text.is_empty() && !text.contains('\u{fffd}');
    Ok(match tokenizer.text_of(id) {
        Some(entry) if !readable => entry,
        None if !readable => format!("[{id}]"), // the matrix has more rows than the tokenizer tokens
        _ => text,
    })
}

impl Lens {
    /// What is shown as a table.
    pub fn tokens(&self) -> Vec<LensToken> {
        let mut tokens = Vec::new();
        for shown in &self.shown {
            for (model, layers) in self.models.iter().zip(&shown.models) {
                for (layer, said) in layers.iter().enumerate() {
                    tokens.extend(shown.positions.iter().zip(said).map(|(place, said)| LensToken {
                        sample: shown.sample.clone(),
                        model: model.name.clone(),
                        layer,
                        position: place.position,
                        token: place.token.clone(),
                        gold: place.gold.clone(),
                        top: said.top.clone(),
                        probability: said.probability,
                        gold_probability: said.gold_probability,
                    }));
                }
            }
        }
        tokens
    }

    /// Writes `lens_tokens.csv` and `lens_tokens.parquet`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn write_tokens(&self, dir: &Path) -> Result<()> {
        write_table(dir, "lens_tokens", &self.tokens())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::{battery::fixture::Fixture, lens::lens};
    use midblock_kernels::Cpu;

    #[test]
    fn the_table_says_what_each_layer_says_of_the_true_text() {
        let fixture = Fixture::new();
        let options = LensOptions {
            shown: 2,
            ..LensOptions::default()
        };
        let test = |subject: &Subject<'_, Cpu>, cells: &Cells| {
            let got = lens(subject, &options, cells)?;
            let tokens = got.tokens();
            assert_eq!(tokens.len(), 2 * 2 * (subject.blocks() + 1) * 12);
            let sample = &subject.samples[0];
            let answer = sample.trained.iter().position(|&trained| trained).unwrap();
            let own: Vec<&LensToken> = tokens.iter().filter(|line| line.sample == sample.id).collect();
            let last = own[own.len() - 12..].iter();
            let rows = answer - 5..answer + 7; // 4 before the last token of the prompt
            assert!(last.clone().map(|line| line.position).eq(rows.clone()));
            for (row, line) in rows.zip(last) {
                let text = |id: u32| written(id, subject.tokenizer).unwrap();
                assert_eq!((&line.model, line.layer), (&subject.models[1].name, subject.blocks()));
                assert_eq!(
                    (&line.token, &line.gold),
                    (&text(sample.ids[row]), &text(sample.ids[row + 1]))
                );
                // the most likely token is at least as likely as the true one, and the same if it is that
                assert!(
                    line.probability >= line.gold_probability && line.probability <= 1.0,
                    "{line:?}"
                );
                if line.top == line.gold {
                    assert_eq!(line.probability, line.gold_probability);
                }
            }
            let dir = tempfile::tempdir().unwrap();
            got.write_tokens(dir.path())?;
            let csv = std::fs::read_to_string(dir.path().join("lens_tokens.csv")).unwrap();
            let header = csv.lines().next().unwrap();
            assert_eq!(
                header,
                "sample,model,layer,position,token,gold,top,probability,gold_probability"
            );
            assert!(dir.path().join("lens_tokens.parquet").is_file());
            Ok(())
        };
        fixture.with(&[], test).unwrap();
    }

    #[test]
    fn a_window_stays_within_its_sample() {
        let sample = |length: usize, answer: usize| TrainingSample {
            id: "x".into(),
            ids: vec![0; length],
            trained: (0..length).map(|t| t >= answer).collect(),
        };
        assert_eq!(window(&sample(100, 50), 12), 45..57);
        assert_eq!(window(&sample(100, 1), 12), 0..12);
        assert_eq!(window(&sample(6, 4), 12), 0..5);
    }

    #[test]
    fn tokens_that_are_no_text_alone_have_a_name() {
        let fixture = Fixture::new();
        let test = |subject: &Subject<'_, Cpu>, _: &Cells| {
            for id in 0..subject.models[0].architecture.vocab as u32 + 3 {
                let name = written(id, subject.tokenizer)?;
                assert!(!name.is_empty() && !name.contains('\u{fffd}'), "{id}: {name}");
            }
            Ok(())
        };
        fixture.with(&[], test).unwrap();
    }
}
