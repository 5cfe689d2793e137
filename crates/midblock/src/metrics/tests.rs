//! Parity with NumPy/SciPy on committed fixtures, properties on random data, and what the intervals promise.

use super::estimate::Spread;
use super::*;
use crate::rng::stream;
use faer::Mat;
use proptest::prelude::*;
use rand::{Rng, RngExt};
use serde_json::Value;
use std::collections::BTreeMap;

/// Relative error allowed against f64 references; most agree to 1e−13, spectra of ill-conditioned states to 1e−11.
const PARITY: f64 = 1e-8;

fn fixture(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap_or(f64::NAN))
        .collect()
}

fn floats(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|v| v as f32).collect()
}

fn capture(value: &Value) -> Capture {
    Capture {
        dim: value["dim"].as_u64().unwrap() as usize,
        pooled: numbers(&value["pooled"]),
        views: numbers(&value["views"]),
        tokens: value["tokens"].as_array().unwrap().iter().map(floats).collect(),
    }
}

fn values(measurements: &[Measurement]) -> BTreeMap<&'static str, f64> {
    measurements.iter().filter_map(|m| Some((m.metric, m.value?))).collect()
}

/// Compares every expected entry; returns how many there were.
fn assert_parity(case: &str, got: &BTreeMap<&str, f64>, expected: &Value) -> usize {
    let expected = expected.as_object().unwrap();
    for (name, value) in expected {
        let (e, g) = (value.as_f64().unwrap(), got.get(name.as_str()).copied());
        let g = g.unwrap_or_else(|| panic!("{case}: {name} has no value, expected {e}"));
        assert!(
            (g - e).abs() <= PARITY * e.abs().max(1e-6),
            "{case}: {name} is {g}, expected {e}"
        );
    }
    expected.len()
}

#[test]
fn representation_metrics_match_numpy() {
    for (case, text) in [
        ("wide", include_str!("../../../../fixtures/metrics/wide.json")),
        ("tall", include_str!("../../../../fixtures/metrics/tall.json")),
        ("widest", include_str!("../../../../fixtures/metrics/widest.json")),
    ] {
        let data = fixture(text);
        let (reference, variant) = (capture(&data["reference"]), capture(&data["variant"]));
        let resampling = Resampling::new(reference.samples(), 20, 1);
        let options = Options {
            subspace_rank: data["subspace_rank"].as_u64().unwrap() as usize,
            ..Options::default()
        };
        let model = values(&measure_model(&reference, &resampling, &options));
        assert_eq!(assert_parity(case, &model, &data["model"]), 15);
        let pair = values(&measure_pair(&reference, &variant, &resampling, &options));
        assert_eq!(assert_parity(case, &pair, &data["pair"]), 8);

        let paper = Options {
            protocol: Protocol::Paper,
            ..options.clone()
        };
        let measured = measure_model(&reference, &resampling, &paper);
        assert!(measured.iter().all(|m| m.lo.is_none() && m.hi.is_none()));
        assert_eq!(assert_parity(case, &values(&measured), &data["model_paper"]), 3);

        let entropy = EntropyOptions {
            alpha: 2.0,
            ..EntropyOptions::default()
        };
        let renyi = Options { entropy, ..options };
        let measured = values(&measure_model(&reference, &resampling, &renyi));
        assert_eq!(assert_parity(case, &measured, &data["model_renyi2"]), 2);
    }
}

#[test]
fn closed_form_floors_are_means_over_all_pairings() {
    let data = fixture(include_str!("../../../../fixtures/metrics/floors.json"));
    let (reference, variant) = (capture(&data["reference"]), capture(&data["variant"]));
    let measured = measure_pair(&reference, &variant, &Resampling::new(6, 20, 1), &Options::default());
    let mut floors: BTreeMap<_, _> = measured.iter().filter_map(|m| Some((m.metric, m.floor?))).collect();
    // an exact zero against a sum of 720 terms that cancel
    assert!(data["floors"]["cka_debiased"].as_f64().unwrap().abs() < 1e-12);
    assert_eq!(
        floors.insert("cka_debiased", data["floors"]["cka_debiased"].as_f64().unwrap()),
        Some(0.0)
    );
    assert_eq!(assert_parity("floors", &floors, &data["floors"]), 5);
}

#[test]
fn weight_metrics_match_numpy() {
    let data = fixture(include_str!("../../../../fixtures/metrics/weights.json"));
    let field = |name: &str| floats(&data[name]);
    let (before, after, b, a) = (field("before"), field("after"), field("b"), field("a"));
    let shape = [0, 1].map(|i| data["shape"][i].as_u64().unwrap() as usize);
    let options = Options {
        subspace_rank: data["subspace_rank"].as_u64().unwrap() as usize,
        ..Options::default()
    };
    let scale = data["scale"].as_f64().unwrap() as f32;
    for (case, change) in [
        ("dense", Change::Dense { after: &after }),
        ("low_rank", Change::LowRank { b: &b, a: &a, scale }),
    ] {
        let matrix = measure_matrix(
            &WeightPair {
                name: case,
                shape,
                before: &before,
                change,
            },
            &options,
        );
        let got = BTreeMap::from([
            ("change", matrix.change),
            ("relative", matrix.relative.unwrap()),
            ("spectral", matrix.spectral.unwrap()),
            ("effective_rank", matrix.effective_rank.unwrap()),
            ("rotation", matrix.rotation.unwrap()),
        ]);
        assert_eq!(assert_parity(case, &got, &data[case]), 5);
    }
}

#[test]
fn blocks_sum_squares_and_take_the_strongest() {
    let options = Options {
        subspace_rank: 1,
        ..Options::default()
    };
    let before = [3.0, 0.0, 0.0, 1.0];
    let after = [3.0, 0.0, 0.0, 1.5];
    let pair = |name, before, change| {
        measure_matrix(
            &WeightPair {
                name,
                shape: [2, 2],
                before,
                change,
            },
            &options,
        )
    };
    let changed = pair("q", &before, Change::Dense { after: &after });
    let same = pair("k", &before, Change::None);
    assert_eq!(same, pair("k", &before, Change::Dense { after: &before }));
    let block = values(&measure_block(&[changed.clone(), same.clone()], &options));
    let expected = BTreeMap::from([
        ("weight_change", 0.5),
        ("weight_change_relative", 0.5 / 20.0_f64.sqrt()),
        ("weight_change_spectral", 0.5),
        ("weight_change_effective_rank", 0.5),
        ("weight_subspace_rotation", 0.0),
    ]);
    assert_eq!(block.keys().collect::<Vec<_>>(), {
        let mut names: Vec<_> = expected.keys().collect();
        names.sort();
        names
    });
    for (name, value) in &expected {
        assert!(
            (block[name] - value).abs() < 1e-12,
            "{name}: {} vs {value}",
            block[name]
        );
    }
    let untouched = values(&measure_block(&[same], &options));
    assert_eq!(untouched.get("weight_change"), Some(&0.0));
    assert_eq!(untouched.get("weight_change_effective_rank"), None);
}

fn normal(rng: &mut impl Rng) -> f64 {
    let (radius, angle): (f64, f64) = (rng.random(), rng.random());
    (-2.0 * (1.0 - radius).ln()).sqrt() * (std::f64::consts::TAU * angle).cos()
}

/// Gaussian states with standard deviation `decay^j` in dimension j, and views and tokens to match.
fn random_capture(n: usize, d: usize, decay: f64, seed: u64) -> Capture {
    let mut rng = stream(seed, "test states", &[]);
    let mut row = |spread: f64| -> Vec<f64> {
        (0..d)
            .map(|j| spread * decay.powi(j as i32) * normal(&mut rng))
            .collect()
    };
    let mut capture = Capture {
        dim: d,
        ..Capture::default()
    };
    for _ in 0..n {
        let centre = row(1.0);
        for _ in 0..VIEWS {
            capture.views.extend(row(0.5).iter().zip(&centre).map(|(e, c)| e + c));
        }
        let path = (0..6).flat_map(|_| row(1.0)).map(|v| v as f32).collect();
        capture.tokens.push(path);
        capture.pooled.extend(centre);
    }
    capture
}

fn perturbed(capture: &Capture, amount: f64, seed: u64) -> Capture {
    let mut rng = stream(seed, "test change", &[]);
    let pooled = capture.pooled.iter().map(|v| v + amount * normal(&mut rng)).collect();
    Capture {
        pooled,
        ..capture.clone()
    }
}

/// X · rotation · scale, for a Haar-like rotation.
fn rotated(capture: &Capture, scale: f64, seed: u64) -> Capture {
    let d = capture.dim;
    let mut rng = stream(seed, "test rotation", &[]);
    let q = Mat::from_fn(d, d, |_, _| normal(&mut rng)).qr().compute_Q();
    let turn = |rows: &[f64]| {
        let turned = linalg::product(linalg::rows(rows, d), q.as_ref());
        turned
            .row_iter()
            .flat_map(|r| r.iter().map(|v| v * scale).collect::<Vec<_>>())
            .collect::<Vec<f64>>()
    };
    Capture {
        pooled: turn(&capture.pooled),
        views: turn(&capture.views),
        ..capture.clone()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn values_stay_in_range_inside_their_interval(n in 2_usize..30, d in 1_usize..20, seed in 0_u64..1000) {
        let reference = random_capture(n, d, 0.9, seed);
        let variant = perturbed(&reference, 0.3, seed);
        let resampling = Resampling::new(n, 100, seed);
        let options = Options { subspace_rank: 3, ..Options::default() };
        let mut measured = measure_model(&reference, &resampling, &options);
        prop_assert_eq!(measured.len(), 16);
        measured.extend(measure_pair(&reference, &variant, &resampling, &options));
        prop_assert_eq!(measured.len(), 24);
        for m in measured {
            let (low, high) = find(m.metric).unwrap().range;
            for v in [m.value, m.lo, m.hi, m.floor].into_iter().flatten() {
                prop_assert!(v.is_finite() && low <= v && v <= high, "{:?}", m);
            }
            prop_assert_eq!(m.value.is_some(), m.lo.is_some());
            if let (Some(v), Some(lo), Some(hi)) = (m.value, m.lo, m.hi) && n >= 8 {
                let slack = 1e-9 * v.abs().max(1.0);
                prop_assert!(lo <= v + slack && v <= hi + slack, "{:?}", m);
            }
        }
        let normalised = ["prompt_entropy", "dataset_entropy"];
        let options = Options { selected: Selection::parse(&normalised.join(",")).unwrap(), ..options };
        for m in measure_model(&reference, &resampling, &options) {
            prop_assert!(m.value.is_none_or(|v| v <= 1.0 + 1e-12), "{:?}", m);
        }
    }

    #[test]
    fn rotation_and_scale_change_nothing_that_should_not(n in 5_usize..25, d in 2_usize..15, seed in 0_u64..1000) {
        let plain = random_capture(n, d, 0.8, seed);
        let turned = rotated(&plain, 1.7, seed);
        let resampling = Resampling::new(n, 50, 0);
        let options = Options { subspace_rank: 2, ..Options::default() };
        let [a, b] = [&plain, &turned].map(|c| measure_model(c, &resampling, &options));
        for (a, b) in a.iter().zip(&b) {
            let factor = match a.metric {
                "spectral_norm" | "l2_norm_mean" | "l2_norm_sd" => 1.7,
                "lidar" => continue, // δ has a scale
                _ => 1.0,
            };
            for (a, b) in [(a.value, b.value), (a.lo, b.lo), (a.hi, b.hi)] {
                let (Some(a), Some(b)) = (a, b) else { prop_assert_eq!(a, b); continue };
                prop_assert!((a * factor - b).abs() <= 1e-6 * b.abs().max(1.0), "{a} {b}");
            }
        }
        for m in measure_pair(&plain, &turned, &resampling, &options) {
            if m.metric.starts_with("cka") && let Some(v) = m.value {
                prop_assert!((v - 1.0).abs() < 1e-9, "{:?}", m);
                prop_assert!(m.floor.unwrap() < 1.0 && m.hi.unwrap() - m.lo.unwrap() < 1e-6, "{:?}", m);
            }
        }
    }
}

#[test]
fn identical_models_do_not_differ() {
    let x = random_capture(30, 50, 0.95, 3);
    for m in measure_pair(&x, &x, &Resampling::new(30, 100, 1), &Options::default()) {
        let expected = if m.metric.contains("shift") || m.metric.contains("intensity") {
            0.0
        } else {
            1.0
        };
        for v in [m.value, m.lo, m.hi] {
            assert!((v.unwrap() - expected).abs() < 1e-9, "{m:?}");
        }
        assert!(
            m.floor.unwrap() != expected || m.metric.starts_with("mean_shift"),
            "{m:?}"
        );
    }
}

#[test]
fn unrelated_states_sit_on_their_floor() {
    let (x, y) = (random_capture(100, 40, 1.0, 1), random_capture(100, 40, 1.0, 2));
    for m in measure_pair(&x, &y, &Resampling::new(100, 200, 1), &Options::default()) {
        let (value, floor) = (m.value.unwrap(), m.floor.unwrap());
        let close = match m.metric {
            "mean_shift" | "mean_shift_relative" => (value / floor - 1.0).abs() < 0.35,
            _ => (value - floor).abs() < 0.05 * floor.abs().max(1.0),
        };
        assert!(close, "{m:?}");
    }
}

#[test]
fn edge_cases_have_no_value_rather_than_nan() {
    let none = |capture: &Capture, undefined: &[&str]| {
        let options = Options {
            subspace_rank: 2,
            ..Options::default()
        };
        let resampling = Resampling::new(capture.samples(), 20, 0);
        let mut measured = measure_model(capture, &resampling, &options);
        measured.extend(measure_pair(capture, capture, &resampling, &options));
        let missing: Vec<_> = measured
            .iter()
            .filter(|m| m.value.is_none())
            .map(|m| m.metric)
            .collect();
        assert_eq!(missing, undefined);
        assert!(
            measured
                .iter()
                .all(|m| m.value.is_some() || (m.lo, m.hi) == (None, None))
        );
        measured
    };
    let one = none(
        &random_capture(1, 5, 1.0, 0),
        &[
            "dataset_entropy",
            "infonce",
            "infonce_bound",
            "lidar",
            "dime",
            "intrinsic_dimension",
            "cka",
            "cka_debiased",
            "subspace_overlap",
        ],
    );
    assert!(one.iter().all(|m| m.lo.is_none()), "one sample has no interval");
    none(&random_capture(3, 5, 1.0, 0), &["cka_debiased"]);
    let zero = Capture {
        dim: 3,
        pooled: vec![0.0; 15],
        views: vec![f64::NAN; 15 * VIEWS],
        tokens: vec![vec![0.0; 9], vec![0.0; 3]],
    };
    none(
        &zero,
        &[
            "prompt_entropy",
            "dataset_entropy",
            "infonce",
            "infonce_bound",
            "lidar",
            "dime",
            "curvature",
            "intrinsic_dimension",
            "gini",
            "effective_rank",
            "condition_number",
            "rank_deficiency",
            "sparsity",
            "cka",
            "cka_debiased",
            "subspace_overlap",
            "cosine_similarity",
            "mean_shift_relative",
            "change_intensity_relative",
        ],
    );
    let mut nan = random_capture(6, 4, 1.0, 0);
    nan.pooled[7] = f64::NAN;
    let options = Options::default();
    let measured = measure_model(&nan, &Resampling::new(6, 20, 0), &options);
    assert!(measured.iter().all(|m| m.value.is_none()));
    let empty = Capture {
        dim: 4,
        ..Capture::default()
    };
    assert!(
        measure_model(&empty, &Resampling::new(0, 20, 0), &options)
            .iter()
            .all(|m| m.value.is_none())
    );
}

#[test]
fn twonn_finds_a_known_dimension() {
    for (dimension, tolerance) in [(1, 0.15), (2, 0.25), (5, 0.7)] {
        let mut rng = stream(8, "manifold", &[dimension as u64]);
        let embed = Mat::from_fn(dimension, 20, |_, _| normal(&mut rng));
        let points = Mat::from_fn(800, dimension, |_, _| rng.random::<f64>());
        let found = intrinsic_dimension::intrinsic_dimension((points * embed).as_ref())
            .unwrap()
            .value;
        assert!((found - dimension as f64).abs() < tolerance, "{found} vs {dimension}");
    }
}

/// One influence value, by what it means: all rows 60 times over, but one row 61 or 59 times.
#[test]
fn influence_is_the_effect_of_more_of_a_sample() {
    let (n, d, copies) = (9, 3, 60);
    let x = random_capture(n, d, 0.5, 4);
    let y = perturbed(&x, 0.2, 4);
    let options = Options {
        subspace_rank: 1,
        ..Options::default()
    };
    let repeat = |rows: &[f64], j: usize, more: isize| -> Vec<f64> {
        let times = |i: usize| (copies + if i == j { more } else { 0 }) as usize;
        (0..n).flat_map(|i| rows[i * d..(i + 1) * d].repeat(times(i))).collect()
    };
    let estimates = |x: &[f64], y: &[f64]| -> Vec<(&'static str, Estimate)> {
        let (x, y) = (linalg::rows(x, d), linalg::rows(y, d));
        let (cx, cy) = (linalg::centred(x), linalg::centred(y));
        let gram = |a: &Mat<f64>, b: &Mat<f64>| linalg::product(a.as_ref(), b.transpose());
        let (kx, ky) = (gram(&cx, &cx), gram(&cy, &cy));
        let resampling = Resampling::new(x.nrows(), 1, 0);
        let [rank, _, condition, _] = spectrum::spectral_metrics(&spectrum::Spectrum::of_rows(x).unwrap(), &resampling);
        let [mean, sd, gini] = magnitude::norm_metrics(x);
        let [shift, shift_relative, intensity, intensity_relative] = alignment::shift_metrics(x, y);
        let all = [
            ("dataset_entropy", entropy::dataset_entropy(x, &options)),
            ("effective_rank", rank),
            ("condition_number", condition),
            ("l2_norm_mean", mean),
            ("l2_norm_sd", sd),
            ("gini", gini),
            ("cka", cka::cka(kx.as_ref(), ky.as_ref())),
            ("cosine_similarity", alignment::cosine_similarity(x, y)),
            ("mean_shift", shift),
            ("mean_shift_relative", shift_relative),
            ("change_intensity", intensity),
            ("change_intensity_relative", intensity_relative),
        ];
        all.into_iter().map(|(name, e)| (name, e.unwrap())).collect()
    };
    let plain = estimates(&x.pooled, &y.pooled);
    for j in 0..n {
        let with = |more: isize| estimates(&repeat(&x.pooled, j, more), &repeat(&y.pooled, j, more));
        for ((name, estimate), ((_, more), (_, less))) in plain.iter().zip(with(1).iter().zip(&with(-1))) {
            let Spread::Influence(influence) = &estimate.spread else {
                panic!("{name} is smooth")
            };
            let derivative = (more.value - less.value) / 2.0 * (n as f64 * copies as f64);
            let size = influence.iter().map(|i| i.abs()).fold(0.0, f64::max);
            assert!(
                (influence[j] - derivative).abs() < 2e-2 * size,
                "{name}[{j}]: {} vs {derivative}",
                influence[j]
            );
        }
    }
}

/// Of the intervals from independent data sets, 95 % should cover the metric's mean over data sets. With 60 samples and 200
/// resamples percentile intervals fall a little short, as they do for a plain mean; first-order intervals of LiDAR and of a
/// mean shift are too wide, those of a subspace overlap too narrow because it is far from linear.
#[test]
fn intervals_cover() {
    let (n, d, experiments) = (60, 12, 200);
    let resampling = Resampling::new(n, 200, 2);
    let options = Options {
        subspace_rank: 2,
        ..Options::default()
    };
    let mut results: BTreeMap<&str, Vec<(f64, f64, f64)>> = BTreeMap::new();
    for experiment in 0..experiments {
        let x = Capture {
            tokens: Vec::new(),
            ..random_capture(n, d, 0.8, 1000 + experiment)
        };
        let y = perturbed(&x, 0.5, experiment);
        let mut measured = measure_model(&x, &resampling, &options);
        measured.extend(measure_pair(&x, &y, &resampling, &options));
        for m in measured {
            if let (Some(v), Some(lo), Some(hi)) = (m.value, m.lo, m.hi) {
                results.entry(m.metric).or_default().push((v, lo, hi));
            }
        }
    }
    for (name, intervals) in results {
        let centre = intervals.iter().map(|(v, ..)| v).sum::<f64>() / intervals.len() as f64;
        let covered = intervals
            .iter()
            .filter(|(_, lo, hi)| (*lo..=*hi).contains(&centre))
            .count();
        let share = covered as f64 / experiments as f64;
        let least = if name == "subspace_overlap" { 0.75 } else { 0.86 };
        assert!(share >= least, "{name} covers {share}");
    }
}
