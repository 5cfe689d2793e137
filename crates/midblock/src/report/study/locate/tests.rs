use super::*;
use crate::study::{
    locate::{ArmRun, Band, Probe},
    sweep::{Measure, Unit},
    training::Scored,
};
use std::ops::Range;

fn scored(value: f64, half: f64) -> Vec<Scored> {
    vec![Scored {
        measure: Measure {
            name: "loss".into(),
            metric: String::new(),
            unit: Unit::Nats,
        },
        value: Estimate {
            value,
            lo: value - half,
            hi: value + half,
        },
    }]
}

fn arm(choice: Choice, blocks: Range<usize>, loss: f64, difference: Option<f64>) -> Arm {
    let run = |seed| ArmRun {
        seed,
        blocks: blocks.clone(),
        benefit: 0.5,
        loss,
        parameters: 64,
        seconds: 2.0,
    };
    Arm {
        choice,
        runs: vec![run(1), run(2)],
        values: scored(loss, 0.2),
        chosen_minus_this: difference.map_or_else(Vec::new, |value| scored(value, 0.1)),
    }
}

fn found(fixed: Range<usize>, against: [f64; 2]) -> Locate {
    let band = |start: usize, benefit| Band {
        blocks: start..start + 3,
        benefit,
    };
    Locate {
        probe: Probe {
            compared: vec!["sft".into()],
            steps: None,
            change: vec![0.1, 0.2, 0.3, 0.4, 0.5],
            overlap: vec![0.9; 5],
            gradient: vec![5.0, 4.0, 3.0, 2.0, 1.0],
        },
        scores: vec![0.8, 0.7, 0.5, 0.4, 0.2],
        bands: vec![band(0, 0.667), band(1, 0.533), band(2, 0.367)],
        samples: 7,
        seeds: vec![1, 2],
        untrained: scored(3.0, 0.5),
        arms: vec![
            arm(Choice::Chosen, 0..3, 2.0, None),
            arm(Choice::Fixed, fixed, 2.0 - against[0], Some(against[0])),
            arm(Choice::Random, 2..5, 2.0 - against[1], Some(against[1])),
        ],
    }
}

#[test]
fn the_verdict_follows_from_both_comparisons() {
    let last = |fixed: Range<usize>, against| section(&found(fixed, against), 5).findings.pop().unwrap();
    for (against, begins) in [
        ([-0.5, -0.5], "Choosing paid: the chosen band is clearly better"),
        ([-0.5, 0.05], "Choosing paid against the fixed band alone"),
        ([0.05, -0.5], "Choosing paid against a random band alone"),
        ([0.05, -0.05], "It is not shown that choosing paid"),
        ([0.5, -0.5], "Choosing did not pay"),
        ([-0.5, 0.5], "Choosing did not pay"),
    ] {
        let verdict = last(1..4, against);
        assert!(verdict.starts_with(begins), "{verdict}");
        assert!(verdict.contains("on 7 samples and 2 seeds. Few seeds"), "{verdict}");
    }
    let same = section(&found(0..3, [0.0, -0.5]), 5).findings;
    assert_eq!(
        same[0],
        "Chosen: blocks 1 to 3 (predicted benefit 0.667; the worst of 3 bands 0.367)."
    );
    assert_eq!(
        same[1],
        "The fixed 20–80 % band is the same one: there is nothing to compare."
    );
    assert_eq!(
        same[2],
        "Chosen band against random band: loss −0.500 nats (−0.600 to −0.400), clearly better."
    );
}

#[test]
fn panels_show_ranks_bands_and_runs() {
    let section = section(&found(1..4, [-0.5, 0.05]), 5);
    let [
        Panel::Lines(probes),
        Panel::Lines(bands),
        Panel::Bars(bars),
        Panel::Lines(runs),
        Panel::Table(table),
    ] = section.panels.as_slice()
    else {
        panic!("{:?}", section.panels)
    };
    let values = |series: &Series| series.points.iter().filter_map(|point| point.y).collect::<Vec<_>>();
    assert_eq!(values(&probes.series[0]), [1.0, 0.75, 0.5, 0.25, 0.0]); // least change first
    assert_eq!(values(&probes.series[2]), [0.5; 5]);
    assert_eq!(values(&bands.series[0]), [0.667, 0.533, 0.367]);
    assert_eq!(bars.names, ["chosen band", "fixed 20–80 % band", "random band"]);
    assert_eq!(runs.series[1].points[1].label, "blocks 2 to 4, seed 2");
    assert_eq!(table.rows[2][6], "−0.500 nats (−0.600 to −0.400)");
    assert_eq!(table.rows[0][0], "untrained");
}
