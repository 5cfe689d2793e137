//! What each layer would say, every family: the engine's reading of its own states against norm and head written out over the
//! states of transformers.

use crate::{
    difference::Difference,
    fixture::{Fixture, Row, Run},
    forward::FAMILIES,
};
use midblock::model::{Architecture, Batch, Decoder, Labels, Scratch};
use midblock_kernels::Cpu;

/// f32 against f64. Measured: 1.0e-6.
const TOLERANCE: f64 = 1e-5;

/// Final norm and head in f64.
struct Head {
    eps: f64,
    /// (D)
    norm: Vec<f32>,
    /// (V, D)
    matrix: Vec<f32>,
}

impl Head {
    fn of(fixture: &Fixture) -> Self {
        let architecture = Architecture::resolve(fixture.checkpoint.config()).expect("a known architecture");
        let values = |name: &str| {
            let tensor = fixture.checkpoint.tensors().get(name).expect("it can be read");
            tensor.expect("it is there").to_f32()
        };
        Self {
            eps: f64::from(architecture.norm_eps),
            norm: values("model.norm.weight"),
            matrix: values(match architecture.tied_head {
                true => "model.embed_tokens.weight",
                false => "lm_head.weight",
            }),
        }
    }

    /// Logits of a state.
    fn logits(&self, state: &[f64]) -> Vec<f64> {
        let mean = state.iter().map(|x| x * x).sum::<f64>() / state.len() as f64;
        let scale = 1.0 / (mean + self.eps).sqrt();
        let normed: Vec<f64> = (state.iter().zip(&self.norm))
            .map(|(x, w)| x * scale * f64::from(*w))
            .collect();
        let dot = |row: &[f32]| row.iter().zip(&normed).map(|(w, x)| f64::from(*w) * x).sum();
        self.matrix.chunks(state.len()).map(dot).collect()
    }
}

/// For each token but the first: −ln p, the most likely token in its place, and by how much it is the most likely.
fn said(head: &Head, states: &[f64], ids: &[u32]) -> Vec<(f64, u32, f64)> {
    let width = head.norm.len();
    let one = |(state, &next): (&[f64], &u32)| {
        let logits = head.logits(state);
        let log_sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let behind = logits[order[0]] - logits[order[1]];
        (log_sum - logits[next as usize], order[0] as u32, behind)
    };
    states.chunks(width).zip(&ids[1..]).map(one).collect()
}

/// The engine's predictions at each layer, (L + 1, T − 1).
fn computed(fixture: &Fixture, row: &Row) -> Vec<Vec<midblock_kernels::Prediction>> {
    let backend = &Cpu::new();
    let decoder = Decoder::load(backend, &fixture.checkpoint).expect("the checkpoint loads");
    let batch = Batch::new(&[&row.ids]);
    let labels = Labels::of(&batch, |_, _| true);
    let mut layers = Vec::new();
    let rope = decoder.rope(row.ids.len());
    decoder.forward(backend, &batch, &rope, &mut Scratch::new(backend), |_, hidden| {
        layers.push(decoder.ends().predictions(backend, hidden, &labels));
    });
    layers
}

#[test]
fn every_layer_says_what_transformers_states_say() {
    let mut worst = Vec::new();
    for &name in FAMILIES {
        let fixture = Fixture::open(name);
        let head = Head::of(&fixture);
        for row in fixture.rows() {
            let layers = computed(&fixture, &row);
            assert_eq!(layers.len(), fixture.depth());
            for (l, got) in layers.iter().enumerate() {
                let expected = said(&head, &fixture.states(&row, Run::Double, "hidden", l), &row.ids);
                let nats: Vec<f64> = expected.iter().map(|(nats, ..)| *nats).collect();
                let label = format!("{name}, {} tokens, layer {l}", row.ids.len());
                if l + 1 == fixture.depth() {
                    let theirs = Difference::between(&label, &nats, &fixture.token_loss(&row, Run::Double));
                    assert!(
                        theirs.max < 1e-5,
                        "what is written out here is transformers' last layer: {theirs}"
                    );
                }
                let ours: Vec<f64> = got.iter().map(|token| token.nats).collect();
                worst.push(Difference::between(&label, &ours, &nats));
                for (token, (_, top, behind)) in got.iter().zip(&expected) {
                    assert!(
                        token.top == *top || *behind < TOLERANCE,
                        "{label}: {token:?}, expected {top}"
                    );
                }
            }
        }
    }
    let worst = Difference::worst_of(worst);
    assert!(worst.max <= TOLERANCE, "{worst}");
    println!("{worst}");
}
