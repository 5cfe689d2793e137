//! A carrier on a page: which channels of which blocks are left, and how the dual descent got there.

use super::{
    provenance::count,
    study::{Heat, HeatCell, Lines, Panel, Point, Scale, Section, Series, Table},
    sweep::block_ranges,
};
use crate::{
    adapt::{Carrier, MaskGroup, Masks},
    train::{CarrierMetrics, Line, TrainingRun},
};

/// Points of a curve, at most.
const POINTS: usize = 500;

/// The section of a run that trained masks; `carrier` is what it has left, if it is finished. None of a run without masks.
pub(super) fn section(run: &TrainingRun, carrier: Option<&Carrier>) -> Option<Section> {
    let steps: Vec<(u64, CarrierMetrics)> = (run.lines.iter())
        .filter_map(|line| match line {
            Line::Step(step) => Some((step.step, step.carrier?)),
            _ => None,
        })
        .collect();
    let (_, last) = *steps.last()?;
    let mut panels = Vec::new();
    panels.extend(carrier.map(|carrier| Panel::Heat(heat(carrier))));
    panels.extend(curves(&steps, last).map(Panel::Lines));
    panels.extend(carrier.map(|carrier| Panel::Table(table(carrier))));
    let mut findings = carrier.map_or_else(Vec::new, findings);
    findings.push(held(last));
    Some(Section {
        id: "carrier",
        title: "The carrier".into(),
        about: "A matrix of a block is W_base + (m_row ⊗ m_col) ⊙ (W_tuned − W_base), m_row over the channels that it writes and m_col over \
                those that it reads; a change is there only where both are 1. The pressure λ on the masks grows while the moving average of the \
                loss is below its limit and falls while it is above; during the warm-up it rises with the steps, and the limit is set when \
                that ends. What is left when no mask can close any more within the limit is the carrier."
            .into(),
        findings,
        panels,
    })
}

/// Channels of a group that are active, and all, over the masked blocks.
fn total(masks: &Masks, blocks: &[usize], group: MaskGroup) -> [usize; 2] {
    let of = |block: &usize| [masks.active(*block, group), masks.group(*block, group).len()];
    blocks
        .iter()
        .map(of)
        .fold([0, 0], |[active, all], [a, n]| [active + a, all + n])
}

/// "FFN read".
fn words(group: MaskGroup) -> &'static str {
    match group {
        MaskGroup::FfnRead => "FFN read",
        MaskGroup::FfnHidden => "FFN hidden",
        MaskGroup::FfnWrite => "FFN write",
        MaskGroup::AttentionRead => "attention read",
        MaskGroup::Query => "queries",
        MaskGroup::Key => "keys",
        MaskGroup::Value => "values",
        MaskGroup::AttentionWrite => "attention write",
    }
}

fn share([active, all]: [usize; 2]) -> f64 {
    active as f64 / all.max(1) as f64
}

fn percent(share: f64) -> String {
    format!("{:.1}\u{a0}%", 100.0 * share)
}

fn findings(carrier: &Carrier) -> Vec<String> {
    let (masks, blocks) = (carrier.masks(), carrier.masked_blocks());
    let groups = MaskGroup::ALL.map(|group| (group, total(masks, &blocks, group)));
    let all = groups
        .iter()
        .fold([0, 0], |[active, n], (_, [a, m])| [active + a, n + m]);
    let mut findings = vec![format!(
        "{} of {} channels of the eight groups are active ({}); {} are off.",
        count(all[0] as u64),
        count(all[1] as u64),
        percent(share(all)),
        percent(1.0 - share(all)),
    )];
    let by_share = |a: &&(MaskGroup, [usize; 2]), b: &&(MaskGroup, [usize; 2])| share(a.1).total_cmp(&share(b.1));
    if let (Some(least), Some(most)) = (groups.iter().min_by(by_share), groups.iter().max_by(by_share)) {
        findings.push(format!(
            "Fewest are left of {} ({}), most of {} ({}).",
            words(least.0),
            percent(share(least.1)),
            words(most.0),
            percent(share(most.1)),
        ));
    }
    let written: Vec<usize> = blocks.iter().map(|block| masks.written(*block).len()).collect();
    let silent = (blocks.iter().zip(&written)).filter(|(_, written)| **written == 0);
    let silent: Vec<usize> = silent.map(|(block, _)| block + 1).collect();
    let mean = written.iter().sum::<usize>() as f64 / written.len().max(1) as f64;
    findings.push(format!(
        "A block's change writes to {mean:.1} of {} residual channels in the mean{}.",
        masks.group(0, MaskGroup::FfnWrite).len(),
        match silent.as_slice() {
            [] => String::new(),
            silent => format!("; to none in blocks {}", block_ranges(silent)),
        }
    ));
    findings
}

/// Where the loss ended against its limit.
fn held(last: CarrierMetrics) -> String {
    match last.limit {
        None => "The run ended before its warm-up did: no limit was set, and the masks were hardly pressed.".into(),
        Some(limit) => format!(
            "The moving average of the loss ended at {:.4} nats, {} its limit of {limit:.4}, with λ at {}.",
            last.loss_ema,
            if last.loss_ema <= limit { "within" } else { "above" },
            super::words::number(last.lambda),
        ),
    }
}

/// The share of active channels of each group of each block.
fn heat(carrier: &Carrier) -> Heat {
    let masks = carrier.masks();
    let masked = carrier.masked_blocks();
    let cell = |block: usize, group: MaskGroup| match masked.contains(&block) {
        false => HeatCell {
            hint: format!("block {}: the base's", block + 1),
            ..HeatCell::default()
        },
        true => {
            let [active, all] = [masks.active(block, group), masks.group(block, group).len()];
            HeatCell {
                value: Some(share([active, all])),
                text: String::new(),
                hint: format!(
                    "block {}: {active} of {all} active ({})",
                    block + 1,
                    percent(share([active, all]))
                ),
            }
        }
    };
    let row = |group: MaskGroup| (0..masks.blocks()).map(|block| cell(block, group)).collect();
    let cells: Vec<Vec<HeatCell>> = MaskGroup::ALL.map(row).to_vec();
    let largest = cells.iter().flatten().filter_map(|cell| cell.value).fold(0.0, f64::max);
    Heat {
        title: "Share of channels that are active".into(),
        x: "block".into(),
        y: String::new(),
        columns: (1..=masks.blocks()).map(|block| block.to_string()).collect(),
        rows: MaskGroup::ALL.map(|group| words(group).to_owned()).to_vec(),
        cells,
        scale: Scale::Sequential {
            min: 0.0,
            max: if largest > 0.0 { largest } else { 1.0 },
        },
    }
}

/// λ, the loss against its limit, and active masks, over the steps.
fn curves(steps: &[(u64, CarrierMetrics)], last: CarrierMetrics) -> [Lines; 3] {
    let together = steps.len().div_ceil(POINTS).max(1);
    let series = |name: &str, value: fn(&CarrierMetrics) -> Option<f64>| Series {
        name: name.into(),
        points: (steps.chunks(together))
            .filter_map(|chunk| chunk.last())
            .map(|(step, metrics)| Point {
                x: *step as f64,
                y: value(metrics),
                ..Point::default()
            })
            .collect(),
        line: true,
    };
    let lines = |title: &str, y: &str, series: Series| Lines {
        title: title.into(),
        x: "step".into(),
        y: y.into(),
        series: vec![series],
        ..Lines::default()
    };
    [
        Lines {
            references: last
                .limit
                .map(|limit| ("limit".to_owned(), limit))
                .into_iter()
                .collect(),
            ..lines(
                "The loss that is held",
                "nats per token",
                series("moving average", |m| Some(m.loss_ema)),
            )
        },
        Lines {
            log: true,
            ..lines("Pressure on the masks", "λ", series("λ", |m| Some(m.lambda)))
        },
        Lines {
            log: true,
            references: vec![("all".to_owned(), last.masks as f64)],
            ..lines(
                "Active masks",
                "masks",
                series("active", |m| (m.active > 0).then_some(m.active as f64)), // a logarithm has no 0
            )
        },
    ]
}

/// Channels of each group.
fn table(carrier: &Carrier) -> Table {
    let blocks = carrier.masked_blocks();
    let row = |group: MaskGroup| {
        let [active, all] = total(carrier.masks(), &blocks, group);
        let off = percent(carrier.sparsity(group));
        vec![words(group).to_owned(), count(all as u64), count(active as u64), off]
    };
    Table {
        title: "Channels by group, over the masked blocks".into(),
        columns: ["group", "channels", "active", "off"].map(str::to_owned).to_vec(),
        rows: MaskGroup::ALL.map(row).to_vec(),
    }
}
