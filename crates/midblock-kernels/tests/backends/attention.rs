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

/// Sequences of which only the last queries are asked for, their keys anywhere in a cache, and the whole of each.
struct Cached {
    heads: Heads,
    /// Keys of each sequence, and how many of the last positions are queries.
    sequences: Vec<(usize, usize)>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Cached {
    fn new(sequences: &[(usize, usize)], heads: Heads, seed: u64) -> Self {
        let rows: usize = sequences.iter().map(|(keys, _)| keys).sum();
        let narrow = rows * heads.kv_heads * heads.head_dim;
        Self {
            heads,
            sequences: sequences.to_vec(),
            q: values(seed, narrow * heads.group),
            k: values(seed ^ 1, narrow),
            v: values(seed ^ 2, narrow),
        }
    }

    fn shape<'a>(&self, offsets: &'a [usize], keys: Option<&'a [std::ops::Range<usize>]>) -> Attention<'a> {
        let Heads {
            kv_heads,
            group,
            head_dim,
            window,
        } = self.heads;
        Attention {
            offsets,
            keys,
            heads: kv_heads * group,
            kv_heads,
            head_dim,
            scale: (head_dim as f32).powf(-0.5),
            window,
        }
    }

    /// Outputs and log sums of the last queries of the sequences `which`, whose keys lie in reverse order with gaps.
    fn tail<B: Backend>(&self, b: &B, which: std::ops::Range<usize>) -> Vec<f64> {
        const GAP: usize = 3;
        let wide = self.heads.kv_heads * self.heads.group * self.heads.head_dim;
        let narrow = self.heads.kv_heads * self.heads.head_dim;
        let starts = offsets(&self.sequences.iter().map(|(keys, _)| *keys).collect::<Vec<_>>());
        let (mut q, mut lengths, mut ranges) = (Vec::new(), Vec::new(), Vec::new());
        let [mut k, mut v] =
            [0; 2].map(|_| vec![f32::NAN; (starts[self.sequences.len()] + GAP * starts.len()) * narrow]);
        let mut place = k.len() / narrow;
        for index in which {
            let (keys, queries) = self.sequences[index];
            let [start, end] = [starts[index], starts[index + 1]];
            place -= keys + GAP;
            k[place * narrow..][..keys * narrow].copy_from_slice(&self.k[start * narrow..end * narrow]);
            v[place * narrow..][..keys * narrow].copy_from_slice(&self.v[start * narrow..end * narrow]);
            q.extend_from_slice(&self.q[(end - queries) * wide..end * wide]);
            lengths.push(queries);
            ranges.push(place..place + keys);
        }
        let [q, k, v] = [q, k, v].map(|values| b.upload(&values));
        self.attend(b, &self.shape(&offsets(&lengths), Some(&ranges)), [&q, &k, &v])
    }

    /// The same rows out of attention over all positions.
    fn whole<B: Backend>(&self, b: &B) -> Vec<f64> {
        let offsets = offsets(&self.sequences.iter().map(|(keys, _)| *keys).collect::<Vec<_>>());
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|values| b.upload(values));
        let all = self.attend(b, &self.shape(&offsets, None), [&q, &k, &v]);
        let rows = offsets[self.sequences.len()];
        let (out, log_sums) = all.split_at(self.q.len());
        let last = |values: &[f64]| -> Vec<f64> {
            let width = values.len() / rows.max(1);
            let ends = self.sequences.iter().zip(&offsets[1..]);
            ends.flat_map(|((_, queries), end)| values[(end - queries) * width..end * width].to_vec())
                .collect()
        };
        [last(out), last(log_sums)].concat()
    }

    fn attend<B: Backend>(&self, b: &B, shape: &Attention<'_>, [q, k, v]: [&B::Buffer; 3]) -> Vec<f64> {
        let mut out = b.upload(&vec![7.0f32; b.len(q)]);
        let mut log_sums = b.zeros(b.len(q) / shape.head_dim);
        b.attention(shape, q, k, v, &mut out, Some(&mut log_sums));
        let all = joined(b, &[&out, &log_sums]);
        let mut values = vec![0.0; b.len(&all)];
        b.read(&all, 0, &mut values);
        values
    }
}

/// Keys of a sequence and its queries, few or many.
fn cached_sequence() -> impl Strategy<Value = (usize, usize)> {
    (1..150usize, prop_oneof![0..5usize, 5..150usize]).prop_map(|(keys, queries)| (keys, queries.min(keys)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn attention_over_a_cache(
        sequences in prop::collection::vec(cached_sequence(), 1..5),
        kv_heads in 1..4usize,
        group in 1..6usize,
        head_dim in prop_oneof![Just(4usize), Just(20), Just(64), 1..150usize],
        window in prop_oneof![Just(None), (1..200usize).prop_map(Some)],
        seed: u64,
    ) {
        let heads = Heads { kv_heads, group, head_dim, window };
        let cached = Cached::new(&sequences, heads, seed);
        let expected = cached.tail(&Reference, 0..sequences.len());
        prop_assert_eq!(&expected, &cached.whole(&Reference));
        close((cached.tail(&Cpu::new(), 0..sequences.len()), expected.clone()), 64, 4.0);
    }
}

impl Cached {
    /// Gradients of the last queries, and of all keys and values, which lie without gaps.
    fn tail_gradients<B: Backend>(&self, b: &B) -> Vec<f64> {
        let keys = offsets(&self.sequences.iter().map(|(keys, _)| *keys).collect::<Vec<_>>());
        let lengths: Vec<usize> = self.sequences.iter().map(|(_, queries)| *queries).collect();
        let ranges: Vec<_> = keys.windows(2).map(|bounds| bounds[0]..bounds[1]).collect();
        let wide = self.heads.kv_heads * self.heads.group * self.heads.head_dim;
        let last = ranges.iter().zip(&lengths).flat_map(|(keys, queries)| {
            let rows = (keys.end - queries) * wide..keys.end * wide;
            self.q[rows].to_vec()
        });
        let q: Vec<f32> = last.collect();
        let d_out = values(77, q.len());
        let [q, k, v, d_out] = [&q, &self.k, &self.v, &d_out].map(|values| b.upload(values));
        let offsets = offsets(&lengths);
        let shape = self.shape(&offsets, Some(&ranges));
        let [mut out, mut dq, mut dk, mut dv] = [&q, &q, &k, &v].map(|like| b.upload(&vec![7.0f32; b.len(like)]));
        let mut log_sums = b.zeros(b.len(&q) / shape.head_dim);
        b.attention(&shape, &q, &k, &v, &mut out, Some(&mut log_sums));
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
        let all = joined(b, &[&dq, &dk, &dv]);
        let mut values = vec![0.0; b.len(&all)];
        b.read(&all, 0, &mut values);
        values
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn gradients_of_the_last_queries_and_all_keys(
        sequences in prop::collection::vec(cached_sequence(), 1..5),
        kv_heads in 1..4usize,
        group in 1..5usize,
        head_dim in prop_oneof![Just(4usize), Just(20), Just(64), 1..70usize],
        window in prop_oneof![Just(None), (1..200usize).prop_map(Some)],
        seed: u64,
    ) {
        let heads = Heads { kv_heads, group, head_dim, window };
        let cached = Cached::new(&sequences, heads, seed);
        close((cached.tail_gradients(&Cpu::new()), cached.tail_gradients(&Reference)), 64, 4.0);
    }
}

#[test]
fn gradients_of_the_last_queries_across_key_blocks() {
    for window in [None, Some(150)] {
        let heads = Heads {
            kv_heads: 2,
            group: 3,
            head_dim: 20,
            window,
        };
        let cached = Cached::new(&[(700, 3), (260, 130), (300, 0), (129, 100)], heads, 6);
        close(
            (cached.tail_gradients(&Cpu::new()), cached.tail_gradients(&Reference)),
            64,
            4.0,
        );
    }
}

/// Several spans of keys, with and without a window, with few and many queries.
#[test]
fn attention_over_a_long_cache() {
    for window in [None, Some(1), Some(600), Some(5000)] {
        let heads = Heads {
            kv_heads: 2,
            group: 3,
            head_dim: 24,
            window,
        };
        let cached = Cached::new(&[(2100, 1), (1700, 4), (513, 2), (600, 9), (1024, 3)], heads, 9);
        let expected = cached.tail(&Reference, 0..5);
        close((cached.tail(&Cpu::new(), 0..5), expected), 64, 4.0);
    }
}

/// Many queries take the same way with a cache as without: the same bits.
#[test]
fn the_tail_of_a_cached_sequence_has_the_bits_of_the_whole() {
    let heads = Heads {
        kv_heads: 2,
        group: 3,
        head_dim: 20,
        window: None,
    };
    let cached = Cached::new(&[(300, 5), (140, 140), (77, 60)], heads, 4);
    assert_eq!(cached.tail(&Cpu::new(), 0..3), cached.whole(&Cpu::new()));
}

/// Few queries, or many: neither the batch nor its place in the cache nor the number of threads shows.
#[test]
fn a_cached_sequence_attends_with_the_same_bits_alone_and_in_any_batch() {
    for window in [None, Some(100)] {
        let heads = Heads {
            kv_heads: 2,
            group: 3,
            head_dim: 20,
            window,
        };
        let sequences = [(1500, 1), (3, 3), (700, 2), (40, 1), (90, 12), (5000, 1)];
        let cached = Cached::new(&sequences, heads, 5);
        let queries = offsets(&sequences.map(|(_, queries)| queries));
        let all = queries[sequences.len()];
        let [one, two, five] = [1, 2, 5].map(|threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| cached.tail(&Cpu::new(), 0..sequences.len()))
        });
        assert_eq!(one, two);
        assert_eq!(one, five);
        let (out, log_sums) = one.split_at(all * 6 * 20);
        for index in 0..sequences.len() {
            let rows = queries[index]..queries[index + 1];
            let together = [
                &out[rows.start * 120..rows.end * 120],
                &log_sums[rows.start * 6..rows.end * 6],
            ];
            assert_eq!(
                cached.tail(&Cpu::new(), index..index + 1),
                together.concat(),
                "sequence {index}"
            );
        }
    }
}
