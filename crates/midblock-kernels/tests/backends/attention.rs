//! Attention and its gradient on ragged batches.

use super::*;

#[derive(Clone, Copy, Debug)]
struct Heads {
    kv_heads: usize,
    group: usize,
    head_dim: usize,
    window: Option<usize>,
}

/// Everything that forward and backward leave: outputs, log sums and the gradients of q, k and v.
fn any_attention(lengths: &[usize], heads: Heads, seed: u64) -> (Vec<f64>, Vec<f64>) {
    let offsets = offsets(lengths);
    let rows = offsets[lengths.len()];
    let wide = rows * heads.kv_heads * heads.group * heads.head_dim;
    let narrow = rows * heads.kv_heads * heads.head_dim;
    let [q, d_out] = [seed, seed ^ 1].map(|seed| values(seed, wide));
    let [k, v] = [seed ^ 2, seed ^ 3].map(|seed| values(seed, narrow));
    both(operation!(|b,
                     q: Vec<f32>,
                     k: Vec<f32>,
                     v: Vec<f32>,
                     d_out: Vec<f32>,
                     offsets: Vec<usize>,
                     heads: Heads| {
        let shape = Attention {
            offsets,
            keys: None,
            heads: heads.kv_heads * heads.group,
            kv_heads: heads.kv_heads,
            head_dim: heads.head_dim,
            scale: (heads.head_dim as f32).powf(-0.5),
            window: heads.window,
        };
        let [q, k, v, d_out] = [q, k, v, d_out].map(|values| b.upload(values));
        let [mut out, mut dq, mut dk, mut dv] = [&q, &q, &k, &v].map(|like| b.upload(&vec![7.0f32; b.len(like)]));
        let mut log_sums = b.zeros(b.len(&q) / heads.head_dim);
        b.attention(&shape, &q, &k, &v, &mut out, Some(&mut log_sums));
        let mut alone = b.zeros(b.len(&q));
        b.attention(&shape, &q, &k, &v, &mut alone, None);
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
        b.attention_backward(&shape, forward, &d_out, gradients);
        joined(b, &[&out, &alone, &log_sums, &dq, &dk, &dv])
    }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn attention(
        lengths in prop::collection::vec(0..150usize, 1..4),
        kv_heads in 1..4usize,
        group in 1..5usize,
        head_dim in prop_oneof![Just(4usize), Just(20), Just(32), Just(64), 1..70usize],
        window in prop_oneof![Just(None), (1..200usize).prop_map(Some)],
        seed: u64,
    ) {
        let heads = Heads { kv_heads, group, head_dim, window };
        close(any_attention(&lengths, heads, seed), 64, 4.0);
    }
}

#[test]
fn attention_across_key_blocks() {
    let heads = |kv_heads, group, head_dim, window| Heads {
        kv_heads,
        group,
        head_dim,
        window,
    };
    close(any_attention(&[1, 700, 0, 3], heads(1, 3, 8, None), 1), 64, 4.0);
    close(any_attention(&[700], heads(2, 1, 8, Some(130)), 2), 64, 4.0);
    close(any_attention(&[600], heads(1, 9, 4, Some(1)), 3), 64, 4.0);
}
