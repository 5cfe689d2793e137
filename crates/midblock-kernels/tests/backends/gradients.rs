//! Every gradient of [`Reference`] against central differences of its forward operation, in f64.
//!
//! A random linear functional of the output, `f = Σ c · y`, is differentiated by each input: `d_out` is then `c`. Differences
//! over a step of 10⁻⁵ are right to about 10⁻¹⁰ of values of unit size; 10⁻⁶ of the largest component is asked for.

use super::*;

const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 1e-6;

fn random(seed: u64, len: usize) -> Vec<f64> {
    Reference.upload(&values(seed, len))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Whether `gradient` is that of `f` at `x`.
#[track_caller]
fn is_gradient(gradient: &[f64], x: &[f64], f: impl Fn(&Vec<f64>) -> f64) {
    assert_eq!(gradient.len(), x.len());
    let largest = gradient.iter().fold(0.0, |max: f64, g| max.max(g.abs()));
    assert!(largest > 1e-3 || x.is_empty(), "a gradient of nothing: {largest}");
    let mut x = x.to_vec();
    for i in 0..x.len() {
        let at = x[i];
        let [above, below] = [at + STEP, at - STEP].map(|value| {
            x[i] = value;
            f(&x)
        });
        x[i] = at;
        let difference = (above - below) / (2.0 * STEP);
        assert!(
            (difference - gradient[i]).abs() <= TOLERANCE * largest,
            "component {i}: {}, differences say {difference}",
            gradient[i]
        );
    }
}

/// The gradient is added to what is there.
#[track_caller]
fn adds(written: &[f64], add: impl Fn(&mut Vec<f64>)) {
    let start = random(99, written.len());
    let mut added = start.clone();
    add(&mut added);
    for ((added, start), written) in added.iter().zip(start).zip(written) {
        assert!(
            (added - start - written).abs() <= 1e-12 * (1.0 + written.abs()),
            "{added}, {start} + {written}"
        );
    }
}

#[test]
fn linear() {
    let (rows, n, k) = (5, 7, 4);
    let (x, w, c) = (random(1, rows * k), random(2, n * k), random(3, rows * n));
    let f = |x: &Vec<f64>, w: &Vec<f64>| {
        let mut y = Reference.zeros(rows * n);
        Reference.linear(
            x,
            &Reference.trained([n, k], w.clone()),
            rows,
            Accumulate::Write,
            &mut y,
        );
        dot(&c, &y)
    };
    let matrix = Reference.trained([n, k], w.clone());
    let (mut dx, mut dw) = (vec![7.0; rows * k], vec![7.0; n * k]);
    Reference.linear_dx(&c, &matrix, rows, Accumulate::Write, &mut dx);
    Reference.linear_dw(&c, &x, rows, Accumulate::Write, &mut dw);
    is_gradient(&dx, &x, |x| f(x, &w));
    is_gradient(&dw, &w, |w| f(&x, w));
    adds(&dx, |dx| Reference.linear_dx(&c, &matrix, rows, Accumulate::Add, dx));
    adds(&dw, |dw| Reference.linear_dw(&c, &x, rows, Accumulate::Add, dw));
}

#[test]
fn embed_and_bias() {
    let (ids, vocab, dim) = ([3, 0, 3, 2], 5, 6);
    let (table, c) = (random(1, vocab * dim), random(2, ids.len() * dim));
    let mut d_table = vec![0.0; vocab * dim];
    Reference.embed_backward(&ids, &c, &mut d_table);
    is_gradient(&d_table, &table, |table| {
        let mut out = Reference.zeros(c.len());
        Reference.embed(&Reference.trained([vocab, dim], table.clone()), &ids, &mut out);
        dot(&c, &out)
    });
    adds(&d_table, |d| Reference.embed_backward(&ids, &c, d));
    let (x, bias) = (random(3, c.len()), random(4, dim));
    let mut d_bias = vec![0.0; dim];
    Reference.add_bias_backward(&c, &mut d_bias);
    is_gradient(&d_bias, &bias, |bias| {
        let mut x = x.clone();
        Reference.add_bias(&mut x, bias);
        dot(&c, &x)
    });
    adds(&d_bias, |d| Reference.add_bias_backward(&c, d));
}

#[test]
fn rms_norm() {
    let (groups, dim) = (6, 5);
    let (x, weight, c) = (random(1, groups * dim), random(2, dim), random(3, groups * dim));
    for eps in [1e-5, 0.3] {
        let f = |x: &Vec<f64>, weight: &Vec<f64>| {
            let mut y = Reference.zeros(x.len());
            Reference.rms_norm(x, weight, eps, &mut y);
            dot(&c, &y)
        };
        let (mut dx, mut d_weight) = (vec![7.0; x.len()], vec![0.0; dim]);
        let backward = |mode, dx: &mut Vec<f64>, d_weight: Option<&mut Vec<f64>>| {
            Reference.rms_norm_backward(&x, &weight, eps, &c, mode, dx, d_weight);
        };
        backward(Accumulate::Write, &mut dx, Some(&mut d_weight));
        is_gradient(&dx, &x, |x| f(x, &weight));
        is_gradient(&d_weight, &weight, |weight| f(&x, weight));
        adds(&dx, |dx| backward(Accumulate::Add, dx, None));
        adds(&d_weight, |d_weight| {
            backward(Accumulate::Write, &mut dx.clone(), Some(d_weight))
        });
    }
}

#[test]
fn rope() {
    let (heads, half, positions) = (3, 2, [4, 0, 2]);
    let table = RopeTable {
        cos: values(1, 5 * half),
        sin: values(2, 5 * half),
        half_dim: half,
    };
    let len = positions.len() * heads * 2 * half;
    let (x, c) = (random(3, len), random(4, len));
    let mut dx = c.clone();
    Reference.rope_backward(&mut dx, &table, &positions, heads);
    is_gradient(&dx, &x, |x| {
        let mut y = x.clone();
        Reference.rope(&mut y, &table, &positions, heads);
        dot(&c, &y)
    });
}

#[test]
fn attention() {
    for window in [None, Some(1), Some(2), Some(100)] {
        let offsets = [0, 0, 4, 4, 5, 9];
        let shape = Attention {
            offsets: &offsets,
            keys: None,
            heads: 4,
            kv_heads: 2,
            head_dim: 3,
            scale: 0.7,
            window,
        };
        let [wide, narrow] = [9 * 4 * 3, 9 * 2 * 3];
        let (q, k, v, c) = (random(1, wide), random(2, narrow), random(3, narrow), random(4, wide));
        let f = |q: &Vec<f64>, k: &Vec<f64>, v: &Vec<f64>| {
            let mut out = Reference.zeros(wide);
            Reference.attention(&shape, q, k, v, &mut out, None);
            dot(&c, &out)
        };
        let (mut out, mut log_sums) = (Reference.zeros(wide), Reference.zeros(9 * 4));
        Reference.attention(&shape, &q, &k, &v, &mut out, Some(&mut log_sums));
        let [mut dq, mut dk, mut dv] = [wide, narrow, narrow].map(|len| vec![7.0; len]);
        let forward = AttentionForward {
            q: &q,
            k: &k,
            v: &v,
            out: &out,
            log_sums: &log_sums,
        };
        let gradients = AttentionGradients {
            q: &mut dq,
            k: &mut dk,
            v: &mut dv,
        };
        Reference.attention_backward(&shape, forward, &c, gradients);
        is_gradient(&dv, &v, |v| f(&q, &k, v));
        if window == Some(1) {
            assert!(
                dq.iter().chain(&dk).all(|d| d.abs() < 1e-12),
                "one key has weight 1 whatever q and k are"
            );
            continue;
        }
        is_gradient(&dq, &q, |q| f(q, &k, &v));
        is_gradient(&dk, &k, |k| f(&q, k, &v));
    }
}

#[test]
fn gated() {
    for activation in [Activation::Silu, Activation::GeluTanh] {
        let (gate, up, c) = (random(1, 40), random(2, 40), random(3, 40));
        let f = |gate: &Vec<f64>, up: &Vec<f64>| {
            let mut out = Reference.zeros(40);
            Reference.gated_to(activation, gate, up, &mut out);
            dot(&c, &out)
        };
        let (mut d_gate, mut d_up) = (gate.clone(), up.clone());
        Reference.gated_backward(activation, &c, &mut d_gate, &mut d_up);
        is_gradient(&d_gate, &gate, |gate| f(gate, &up));
        is_gradient(&d_up, &up, |up| f(&gate, up));
    }
}

/// (n, n), row-major.
fn identity(n: usize) -> Vec<f64> {
    (0..n * n).map(|i| if i % (n + 1) == 0 { 1.0 } else { 0.0 }).collect()
}

/// Of a matrix of `rows` rows.
fn transposed(values: &[f64], rows: usize) -> Vec<f64> {
    let columns = values.len() / rows;
    (0..values.len())
        .map(|i| values[i % rows * columns + i / rows])
        .collect()
}

#[test]
fn cross_entropy() {
    let (targets, vocab) = ([4, 0, 7], 9);
    let weights = [0.5, 2.0, -1.0];
    let logits = random(1, targets.len() * vocab);
    let mut gradient = logits.clone();
    let losses = Reference.cross_entropy_backward(&mut gradient, &targets, &|row, _| weights[row]);
    is_gradient(&gradient, &logits, |logits| {
        let losses = Reference.cross_entropy_backward(&mut logits.clone(), &targets, &|row, _| weights[row]);
        losses.iter().zip(weights).map(|(loss, w)| loss * w).sum()
    });
    // The head as its own logits: x = onehot rows through W = logitsᵀ gives the same losses.
    let head = Reference.trained([vocab, 3], transposed(&logits, 3));
    let again = Reference.predictions(&identity(3), &head, &targets);
    for (a, b) in again.iter().zip(&losses) {
        assert!((a.nats - b).abs() < 1e-12, "{again:?}, expected {losses:?}");
    }
}

#[test]
fn a_weight_that_is_the_targets_own_probability_is_held_constant() {
    // the gradient of −sg(p) ln p, not that of −p ln p
    let (targets, vocab) = ([4, 0, 7], 9);
    let logits = random(5, targets.len() * vocab);
    let probability = |_: usize, nats: f64| (-nats).exp();
    let held: Vec<f64> = (Reference.predictions(
        &identity(3),
        &Reference.trained([vocab, 3], transposed(&logits, 3)),
        &targets,
    ))
    .iter()
    .map(|row| (-row.nats).exp())
    .collect();
    let mut gradient = logits.clone();
    Reference.cross_entropy_backward(&mut gradient, &targets, &probability);
    is_gradient(&gradient, &logits, |logits| {
        let losses = Reference.cross_entropy_backward(&mut logits.clone(), &targets, &|_, _| 1.0);
        losses.iter().zip(&held).map(|(loss, weight)| loss * weight).sum()
    });
}

#[test]
fn divergence() {
    let (targets, vocab, beta, weight) = ([4, 0, 7], 9, 0.3, 0.7);
    let (logits, reference) = (random(2, targets.len() * vocab), random(3, targets.len() * vocab));
    let both = |logits: &Vec<f64>| {
        let (mut gradient, mut reference) = (logits.clone(), reference.clone());
        let found = Reference.divergence_backward(&mut gradient, &mut reference, &targets, weight, beta);
        (gradient, found)
    };
    let (gradient, found) = both(&logits);
    is_gradient(&gradient, &logits, |logits| {
        let rows = both(logits).1;
        rows.iter().map(|row| weight * (row.nats + beta * row.divergence)).sum()
    });
    assert!(found.iter().all(|row| row.divergence > 0.0));
    let mut same = logits.clone();
    let none = Reference.divergence_backward(&mut logits.clone(), &mut same, &targets, weight, beta);
    assert!(none.iter().all(|row| row.divergence.abs() < 1e-15), "{none:?}");
}

#[test]
fn distillation() {
    let (vocab, weight) = (9, 0.7);
    let (logits, reference) = (random(4, 3 * vocab), random(5, 3 * vocab));
    let both = |logits: &Vec<f64>| {
        let mut gradient = logits.clone();
        let found = Reference.distillation_backward(&mut gradient, &reference, vocab, weight);
        (gradient, found)
    };
    let (gradient, found) = both(&logits);
    is_gradient(&gradient, &logits, |logits| {
        both(logits).1.iter().map(|kl| weight * kl).sum()
    });
    assert!(found.iter().all(|kl| *kl > 0.0));
    assert!(both(&reference).1.iter().all(|kl| kl.abs() < 1e-15));
    // the other direction with p and q in turn is the same number
    let targets = [0; 3];
    let other = Reference.divergence_backward(&mut reference.clone(), &mut logits.clone(), &targets, 1.0, 1.0);
    for (kl, row) in found.iter().zip(other) {
        assert!((kl - row.divergence).abs() < 1e-14);
    }
}

#[test]
fn masked() {
    let [n, k] = [5, 7];
    let (base, tuned, c) = (random(1, n * k), random(2, n * k), random(3, n * k));
    let (rows, columns) = (random(4, n), random(5, k));
    let matrix = |values: &Vec<f64>| Reference.trained([n, k], values.clone());
    let f = |tuned: &Vec<f64>, rows: &Vec<f64>, columns: &Vec<f64>| {
        let mut out = Reference.zeros(n * k);
        Reference.masked(&matrix(&base), &matrix(tuned), [rows, columns], &mut out);
        dot(&c, &out)
    };
    let backward = |d_masks: [&mut Vec<f64>; 2]| {
        Reference.masked_backward(&matrix(&base), &matrix(&tuned), [&rows, &columns], &c, d_masks)
    };
    let (mut d_rows, mut d_columns) = (vec![0.0; n], vec![0.0; k]);
    let square = backward([&mut d_rows, &mut d_columns]);
    is_gradient(&d_rows, &rows, |rows| f(&tuned, rows, &columns));
    is_gradient(&d_columns, &columns, |columns| f(&tuned, &rows, columns));
    adds(&d_rows, |d_rows| _ = backward([d_rows, &mut d_columns.clone()]));
    adds(&d_columns, |d_columns| _ = backward([&mut d_rows.clone(), d_columns]));
    // where AdamW forgets all earlier gradients its first moment is the tuned matrix's
    let step = AdamW {
        lr: 0.0,
        betas: [0.0, 0.9],
        eps: 1e-8,
        decay: 0.0,
        t: 1,
        gradient_scale: 1.0,
    };
    let [mut weights, mut first, mut second, mut out] =
        [tuned.clone(), random(6, n * k), vec![0.0; n * k], vec![0.0; n * k]];
    let state = TunedState {
        weights: &mut weights,
        first: &mut first,
        second: &mut second,
    };
    Reference.adamw_masked(&step, &c, &matrix(&base), [[&rows, &columns]; 2], state, &mut out);
    is_gradient(&first, &tuned, |tuned| f(tuned, &rows, &columns));
    assert!((dot(&first, &first) - square).abs() < 1e-12 * square);
}
