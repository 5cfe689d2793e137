//! Time of each metric for one model at one layer: N = 200 texts, D = 576 (SmolLM2-135M), 50 of them with 128 tokens.
//!
//! `cargo bench --workspace --bench metrics`

use criterion::{Criterion, criterion_group, criterion_main};
use midblock::{
    metrics::{Capture, Options, Resampling, Selection, VIEWS, measure_model, measure_pair, registry},
    rng,
};
use rand::RngExt;
use std::hint::black_box;

const N: usize = 200;
const D: usize = 576;

/// States around a common direction, as real ones are.
fn capture(seed: u64) -> Capture {
    let mut random = rng::stream(seed, "bench", &[]);
    let mut state = |scale: f64| -> Vec<f64> {
        (0..D)
            .map(|j| f64::from(u8::from(j == 0)) + scale * (random.random::<f64>() - 0.5))
            .collect()
    };
    let pooled: Vec<f64> = (0..N).flat_map(|_| state(0.2)).collect();
    let views = (0..N * VIEWS).flat_map(|_| state(0.3)).collect();
    let tokens = (0..50)
        .map(|_| (0..128).flat_map(|_| state(0.5)).map(|x| x as f32).collect())
        .collect();
    Capture {
        dim: D,
        pooled,
        views,
        tokens,
    }
}

fn metrics(criterion: &mut Criterion) {
    let (x, y) = (capture(0), capture(1));
    let resampling = Resampling::new(N, 200, 0);
    let mut group = criterion.benchmark_group("metric");
    group.sample_size(10);
    let mut bench = |name: &str, options: &Options| {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                black_box(measure_model(&x, &resampling, options));
                black_box(measure_pair(&x, &y, &resampling, options));
            });
        });
    };
    for metric in registry() {
        let selected = Selection::parse(metric.name).expect("invariant: a metric's own name selects it");
        bench(
            metric.name,
            &Options {
                selected,
                ..Options::default()
            },
        );
    }
    bench("all", &Options::default());
}

criterion_group!(benches, metrics);
criterion_main!(benches);
