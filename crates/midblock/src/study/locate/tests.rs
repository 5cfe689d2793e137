use super::{arms::band, *};
use crate::study::battery::fixture::Fixture;

fn options() -> LocateOptions {
    LocateOptions {
        steps: 2,
        batch: 2,
        probe_steps: 2,
        probe_samples: 12,
        samples: 5,
        uniform: true,
        ..LocateOptions::default()
    }
}

fn find(measures: &[Scored], name: &str) -> f64 {
    measures
        .iter()
        .find(|scored| scored.metric() == name)
        .unwrap()
        .value
        .value
}

#[test]
fn the_best_band_meets_the_others_under_one_budget() {
    let fixture = Fixture::new();
    let run = || fixture.with(&[], |subject, cells| locate(subject, &options(), cells));
    let got = run().unwrap();
    assert_eq!(
        (got.probe.compared.as_slice(), got.probe.steps),
        (&["sft".to_owned()][..], None)
    );
    let [stability, gradient, overlap] = got.probe.benefits();
    assert_eq!(
        got.scores,
        scores(&[(1.0, &stability), (1.0, &gradient), (1.0, &overlap)])
    );
    // ⌊4·16/5⌋ − ⌊16/5⌋ = 9 blocks at 8 places
    assert_eq!((got.bands.len(), got.bands[0].blocks.len()), (8, 9));
    let [chosen, fixed, random, uniform] = [0, 1, 2, 3].map(|arm| &got.arms[arm]);
    assert!(
        chosen
            .runs
            .iter()
            .all(|run| run.blocks == got.bands[0].blocks && run.benefit == got.bands[0].benefit)
    );
    assert!(fixed.runs.iter().all(|run| run.blocks == (3..12)));
    assert!(
        random
            .runs
            .iter()
            .all(|run| run.blocks.len() == 9 && run.blocks != chosen.runs[0].blocks)
    );
    assert!(uniform.runs.iter().all(|run| run.blocks == (0..16)));
    // rank 2 · 16 blocks = 32: 9 blocks of rank 3, or 16 of rank 2
    let parameters = |arm: &Arm| arm.runs[0].parameters;
    assert_eq!(parameters(chosen) * 32, parameters(uniform) * 27);
    assert_eq!(
        (parameters(fixed), parameters(random)),
        (parameters(chosen), parameters(chosen))
    );
    for arm in &got.arms {
        let mean = arm.runs.iter().map(|run| run.loss).sum::<f64>() / 2.0;
        assert!((find(&arm.values, "loss") - mean).abs() < 1e-12);
        if arm.choice == Choice::Chosen {
            assert!(arm.chosen_minus_this.is_empty());
        } else {
            let difference = find(&chosen.values, "loss") - find(&arm.values, "loss");
            assert!((find(&arm.chosen_minus_this, "loss") - difference).abs() < 1e-12);
        }
    }
    assert_eq!(run().unwrap(), got);
    let band = named(&got.bands[0].blocks);
    let records = got.records();
    let benefit = records
        .iter()
        .find(|r| r.setting == band && r.metric == "predicted_benefit");
    assert_eq!(benefit.unwrap().value, Some(got.bands[0].benefit));
}

#[test]
fn a_base_alone_makes_its_own_probe() {
    let fixture = Fixture::new();
    let options = LocateOptions {
        seeds: vec![3],
        widths: vec![0.25],
        uniform: false,
        ..options()
    };
    let sets = ["study.variants=[]"];
    let got = fixture
        .with(&sets, |subject, cells| locate(subject, &options, cells))
        .unwrap();
    assert_eq!(
        (got.probe.compared.as_slice(), got.probe.steps),
        (&["probe".to_owned()][..], Some(2))
    );
    assert!(got.probe.change.iter().all(|change| *change > 0.0));
    assert_eq!((got.arms.len(), got.arms[0].runs[0].blocks.len()), (3, 4));
    assert!(fixture.out().join("cells/locate-probe-run/DONE").is_file());
}

#[test]
fn the_random_band_is_another_one() {
    let chosen = 6..24;
    let drawn: Vec<_> = (0..50).map(|seed| band(Choice::Random, &chosen, 30, seed)).collect();
    assert!(
        drawn
            .iter()
            .all(|band| band.len() == 18 && band.end <= 30 && *band != chosen)
    );
    let mut starts: Vec<usize> = drawn.iter().map(|band| band.start).collect();
    starts.sort_unstable();
    starts.dedup();
    assert!(starts.len() > 8, "{starts:?}");
    assert_eq!(band(Choice::Fixed, &chosen, 30, 1), 6..24);
    assert_eq!(band(Choice::Random, &(0..4), 4, 1), 0..4);
}

#[test]
fn options_that_choose_nothing_are_refused() {
    let good = LocateOptions::default();
    assert_eq!(check(&good, 30).unwrap(), [18]);
    let weights = Weights {
        stability: 0.0,
        gradient: 0.0,
        overlap: 0.0,
    };
    for (options, problem) in [
        (
            LocateOptions {
                weights,
                ..good.clone()
            },
            "nothing would count",
        ),
        (
            LocateOptions {
                seeds: vec![1, 1],
                ..good.clone()
            },
            "one is there twice",
        ),
        (
            LocateOptions {
                widths: vec![1.5],
                ..good.clone()
            },
            "no part of 30 blocks",
        ),
        (LocateOptions { widths: vec![], ..good }, "there is none"),
    ] {
        let message = check(&options, 30).unwrap_err().to_string();
        assert!(message.contains(problem), "{message}");
    }
}
