//! Stand-in.
use crate::{
    Result,
    checkpoint::Checkpoint,
    generate::*,
    model::{Batch, Decoder, Scratch},
    tokens::Tokenizer,
};
use midblock_kernels::Backend;
use std::ops::ControlFlow;

pub(super) struct Naive<'c, B: Backend> {
    backend: &'c B,
    decoder: Decoder<B>,
    tokenizer: Tokenizer,
    _c: &'c Checkpoint,
}

impl<'c, B: Backend> Naive<'c, B> {
    pub fn new(backend: &'c B, checkpoint: &'c Checkpoint, _: &Tokenizer) -> Result<Self> {
        Ok(Self {
            decoder: Decoder::load(backend, checkpoint)?,
            backend,
            tokenizer: Tokenizer::of(checkpoint)?,
            _c: checkpoint,
        })
    }
    fn logits(&self, ids: &[u32]) -> Vec<f32> {
        let mut scratch = Scratch::new(self.backend);
        let h = self.decoder.forward(
            self.backend,
            &Batch::new(&[ids]),
            &self.decoder.rope(ids.len()),
            &mut scratch,
            |_, _| (),
        );
        let ends = self.decoder.ends();
        let normed = ends.final_norm(self.backend, &h);
        let logits = ends.logits(self.backend, &normed);
        let mut out = vec![0.0; self.backend.len(&logits)];
        self.backend.read(&logits, 0, &mut out);
        out
    }
}

impl<B: Backend> LanguageModel for Naive<'_, B> {
    fn context(&self) -> usize {
        self.decoder.architecture().max_positions
    }
    fn generate(
        &mut self,
        requests: &[Request],
        _: &Sampling,
        stops: &Stops,
        done: Answers<'_, Completion>,
    ) -> Result<()> {
        for (n, r) in requests.iter().enumerate() {
            let mut ids = r.prompt.clone();
            let mut completion = Completion {
                ids: vec![],
                text: String::new(),
                finish: Finish::Length,
            };
            while completion.ids.len() < r.max_new {
                let logits = self.logits(&ids);
                let v = logits.len() / ids.len();
                let row = &logits[logits.len() - v..];
                let next = (0..v).fold(0, |b, i| if row[i] > row[b] { i } else { b }) as u32;
                ids.push(next);
                completion.ids.push(next);
                if stops.tokens.contains(&next) {
                    completion.finish = Finish::Token;
                    break;
                }
                completion.text = self.tokenizer.decode(&completion.ids)?;
                if let Some(at) = stops.strings.iter().filter_map(|s| completion.text.find(s)).min() {
                    completion.text.truncate(at);
                    completion.finish = Finish::Text;
                    break;
                }
            }
            if done(n, completion) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
    fn score(&mut self, questions: &[Question], done: Answers<'_, Vec<Continuation>>) -> Result<()> {
        for (n, q) in questions.iter().enumerate() {
            let mut out = vec![];
            for c in &q.continuations {
                let ids = [q.prompt.as_slice(), c].concat();
                let logits = self.logits(&ids);
                let v = logits.len() / ids.len();
                let (mut nats, mut greedy) = (0.0, true);
                for (i, &id) in c.iter().enumerate() {
                    let at = q.prompt.len() + i - 1;
                    let row = &logits[at * v..(at + 1) * v];
                    let max = row.iter().fold(f32::MIN, |a, &b| a.max(b));
                    nats += f64::from(max - row[id as usize])
                        + row.iter().map(|x| f64::from(x - max).exp()).sum::<f64>().ln();
                    greedy &= row[id as usize] == max;
                }
                out.push(Continuation {
                    nats,
                    tokens: c.len(),
                    greedy,
                });
            }
            if done(n, out) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}
