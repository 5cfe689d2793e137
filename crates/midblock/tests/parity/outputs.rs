//! Everything a model computes for one sequence, from the fixture and from the engine, in one form.

use crate::{
    difference::Difference,
    fixture::{Fixture, Row, Run},
};
use midblock::model::{Batch, Decoder, Labels, Scratch};
use midblock_kernels::Backend;

/// What is compared.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs {
    /// h[0] … h[L] before the final norm, each (T, D).
    pub hidden: Vec<Vec<f64>>,
    /// (T, D)
    pub final_norm: Vec<f64>,
    /// (T, V)
    pub logits: Vec<f64>,
    /// (T − 1)
    pub token_loss: Vec<f64>,
}

impl Outputs {
    /// What transformers computed.
    pub fn expected(fixture: &Fixture, row: &Row, run: Run) -> Self {
        Self {
            hidden: (0..fixture.depth())
                .map(|l| fixture.states(row, run, "hidden", l))
                .collect(),
            final_norm: fixture.states(row, run, "final_norm", 0),
            logits: fixture.states(row, run, "logits", 0),
            token_loss: fixture.token_loss(row, run),
        }
    }

    /// What the engine computes when `sequences` go through it as one ragged batch; one value a sequence.
    pub fn computed<B: Backend>(backend: &B, fixture: &Fixture, sequences: &[&[u32]]) -> Vec<Self> {
        let decoder = Decoder::load(backend, &fixture.checkpoint).expect("the checkpoint loads");
        let longest = sequences.iter().map(|s| s.len()).max().unwrap_or(0);
        let rope = decoder.rope(longest + 1); // one more: a mutant looks one position too far
        let batch = Batch::new(sequences);
        let mut hidden = Vec::new();
        let last = decoder.forward(backend, &batch, &rope, &mut Scratch::new(backend), |l, h| {
            assert_eq!(l, hidden.len(), "taps come in order");
            hidden.push(to_host(backend, h));
        });
        assert_eq!(Some(&to_host(backend, &last)), hidden.last(), "forward returns h[L]");
        let normed = decoder.ends().final_norm(backend, &last);
        let logits = to_host(backend, &decoder.ends().logits(backend, &normed));
        let normed = to_host(backend, &normed);

        let cut = |values: &[f64], rows: std::ops::Range<usize>| {
            let width = values.len() / batch.rows();
            values[rows.start * width..rows.end * width].to_vec()
        };
        let one = |(ids, ends): (&&[u32], &[usize])| {
            let rows = ends[0]..ends[1];
            let labels = Labels {
                rows: (rows.start..rows.end - 1).collect(),
                targets: ids[1..].to_vec(),
            };
            let predictions = decoder.ends().predictions(backend, &last, &labels);
            Self {
                hidden: hidden.iter().map(|h| cut(h, rows.clone())).collect(),
                final_norm: cut(&normed, rows.clone()),
                logits: cut(&logits, rows),
                token_loss: predictions.iter().map(|prediction| prediction.nats).collect(),
            }
        };
        sequences.iter().zip(batch.offsets().windows(2)).map(one).collect()
    }

    /// One difference for each hidden state, the final norm, the logits and the losses.
    pub fn differences(&self, expected: &Self, label: &str) -> Vec<Difference> {
        assert_eq!(
            self.hidden.len(),
            expected.hidden.len(),
            "{label}: number of hidden states"
        );
        let hidden = self.hidden.iter().zip(&expected.hidden).enumerate();
        let mut all: Vec<_> = hidden
            .map(|(l, (g, e))| Difference::between(format!("{label} h[{l}]"), g, e))
            .collect();
        all.push(Difference::between(
            format!("{label} final norm"),
            &self.final_norm,
            &expected.final_norm,
        ));
        all.push(Difference::between(
            format!("{label} logits"),
            &self.logits,
            &expected.logits,
        ));
        all.push(Difference::between(
            format!("{label} token loss"),
            &self.token_loss,
            &expected.token_loss,
        ));
        all
    }
}

/// Every comparison of a fixture: all rows of both batches, real tokens only, and the mean loss of each batch.
pub fn compare<B: Backend>(backend: &B, fixture: &Fixture, run: Run) -> Vec<Difference> {
    let rows = fixture.rows();
    let sequences: Vec<_> = rows.iter().map(|row| row.ids.as_slice()).collect();
    let computed = Outputs::computed(backend, fixture, &sequences);
    let mut differences = Vec::new();
    for (row, got) in rows.iter().zip(&computed) {
        let label = format!("{} {}-padded, {} tokens,", fixture.name, row.side, row.ids.len());
        differences.extend(got.differences(&Outputs::expected(fixture, row, run), &label));
    }
    for side in ["right", "left"] {
        let of_side = rows.iter().zip(&computed).filter(|(row, _)| row.side == side);
        let losses: Vec<_> = of_side.flat_map(|(_, got)| got.token_loss.iter().copied()).collect();
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        let label = format!("{} mean loss of the {side}-padded batch", fixture.name);
        differences.push(Difference::between(label, &[mean], &[fixture.loss(side, run)]));
    }
    differences
}

fn to_host<B: Backend>(backend: &B, buffer: &B::Buffer) -> Vec<f64> {
    let mut values = vec![0.0; backend.len(buffer)];
    backend.read(buffer, 0, &mut values);
    values
}
