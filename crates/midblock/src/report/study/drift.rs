//! Drift on the page: where the weights have turned, whether their change lies inside of the leading singular blocks, and how
//! alike the states still are.

use super::{
    Choice, Heat, HeatCell, Lines, Panel, Point, Scale, Section, Series, Table,
    curve::{curve, layer_name},
};
use crate::{
    drift::{DriftSummary, MatrixDrift},
    report::words::number,
    study::drift::{Drift, VariantDrift},
};

/// A number of a matrix that the heat map can show.
struct Quantity {
    name: &'static str,
    of: fn(&MatrixDrift) -> Option<f64>,
    /// Written in the cell.
    text: fn(f64) -> String,
}

const QUANTITIES: [Quantity; 4] = [
    Quantity {
        name: "Largest angle, degrees",
        of: |matrix| Some(matrix.largest_deg()),
        text: |degrees| format!("{degrees:.0}"),
    },
    Quantity {
        name: "Rotation",
        of: |matrix| Some(matrix.rotation()),
        text: |rotation| format!("{rotation:.2}"),
    },
    Quantity {
        name: "Share of the change inside, over that of a random change",
        of: |matrix| Some(matrix.share_inside()? / matrix.random_share()),
        text: |times| format!("{times:.1}"),
    },
    Quantity {
        name: "Change, ‖ΔW‖/‖W‖",
        of: |matrix| matrix.relative_change(),
        text: |share| format!("{:.1}\u{a0}%", 100.0 * share),
    },
];

/// The section of models of `blocks` blocks.
pub fn section(found: &Drift, blocks: usize) -> Section {
    let summaries: Vec<Vec<Option<DriftSummary>>> = (found.variants.iter())
        .map(|variant| DriftSummary::by_block(&variant.matrices, blocks))
        .collect();
    let mut panels = vec![Panel::Choice(Choice {
        title: "Matrix by matrix".into(),
        options: heats(found, blocks),
    })];
    panels.extend(similarity(found));
    let rotation = |summary: &DriftSummary| Some(summary.rotation);
    panels.push(Panel::Lines(Lines {
        title: "Rotation".into(),
        x: "block".into(),
        y: "1 − mean cos², mean over matrices".into(),
        series: by_block(found, &summaries, blocks, "", rotation),
        ..Lines::default()
    }));
    let mut shares = by_block(found, &summaries, blocks, "", |summary| summary.share_inside);
    shares.extend(by_block(found, &summaries, blocks, ", a random change", |summary| {
        summary.random_share
    }));
    panels.push(Panel::Lines(Lines {
        title: "Share of the change inside of the leading block".into(),
        x: "block".into(),
        y: "‖U_kᵀ ΔW V_k‖²/‖ΔW‖²".into(),
        log: true,
        series: shares,
        ..Lines::default()
    }));
    panels.push(Panel::Table(table(found)));
    Section {
        id: "drift",
        title: "Drift".into(),
        about: format!(
            "How far fine-tuning has turned the {} leading singular directions of every matrix, W = U Σ Vᵀ. cos θ_i are the singular \
             values of U_kᵀU'_k and V_kᵀV'_k; rotation is 1 − mean cos², the mean of both sides. Where two singular values beside the \
             k-th are nearly equal, a tiny change exchanges their directions: the largest angle is then near 90° and the rotation still \
             small. The share of the change inside of the leading block is ‖U_kᵀ ΔW V_k‖²/‖ΔW‖²; a change that knows nothing of W has \
             k²/(out·in) there. CKA compares the mean-pooled states with the base's (debiased; 1 = the same up to rotation and scale; \
             bands are 95\u{a0}% intervals over samples). Weights are no sample: their numbers have no interval.",
            found.directions
        ),
        findings: found
            .variants
            .iter()
            .flat_map(|variant| findings(variant, blocks))
            .collect(),
        panels,
    }
}

/// A map for each quantity of each variant: parts by blocks.
fn heats(found: &Drift, blocks: usize) -> Vec<(String, Panel)> {
    let several = found.variants.len() > 1;
    let mut heats = Vec::new();
    for quantity in &QUANTITIES {
        // one scale for all variants, so that colours compare
        let all = found.variants.iter().flat_map(|variant| &variant.matrices);
        let values = all.filter(|matrix| matrix.block().is_some()).filter_map(quantity.of);
        let max = values.fold(0.0, f64::max);
        for variant in &found.variants {
            let title = match several {
                true => format!("{} of {}", quantity.name, variant.name),
                false => quantity.name.to_owned(),
            };
            heats.push((title.clone(), Panel::Heat(heat(variant, quantity, title, blocks, max))));
        }
    }
    heats
}

fn heat(variant: &VariantDrift, quantity: &Quantity, title: String, blocks: usize, max: f64) -> Heat {
    let mut parts: Vec<&str> = Vec::new();
    for matrix in variant.matrices.iter().filter(|matrix| matrix.block().is_some()) {
        if !parts.contains(&matrix.part()) {
            parts.push(matrix.part());
        }
    }
    let cell = |part: &str, block: usize| {
        let matrix = (variant.matrices.iter()).find(|matrix| matrix.block() == Some(block) && matrix.part() == part);
        let value = matrix.and_then(quantity.of);
        HeatCell {
            value,
            text: value.map_or_else(String::new, quantity.text),
            hint: format!(
                "{part} of {}: {}",
                layer_name(block + 1, blocks),
                value.map_or_else(|| "not changed".into(), number)
            ),
        }
    };
    Heat {
        title,
        x: "block".into(),
        y: "matrix".into(),
        columns: (1..=blocks).map(|block| block.to_string()).collect(),
        rows: parts.iter().map(|part| (*part).to_owned()).collect(),
        cells: parts
            .iter()
            .map(|part| (0..blocks).map(|block| cell(part, block)).collect())
            .collect(),
        scale: Scale::Sequential { min: 0.0, max },
    }
}

/// Curves over the blocks, one for each variant.
fn by_block(
    found: &Drift,
    summaries: &[Vec<Option<DriftSummary>>],
    blocks: usize,
    what: &str,
    value: fn(&DriftSummary) -> Option<f64>,
) -> Vec<Series> {
    let series = |(variant, summaries): (&VariantDrift, &Vec<Option<DriftSummary>>)| Series {
        name: format!("{}{what}", variant.name),
        points: (summaries.iter().enumerate())
            .map(|(block, summary)| Point {
                x: (block + 1) as f64,
                y: summary.as_ref().and_then(value),
                label: layer_name(block + 1, blocks),
                ..Point::default()
            })
            .collect(),
        line: true,
    };
    found.variants.iter().zip(summaries).map(series).collect()
}

/// CKA over the layers; one panel, or one for each data set to choose from.
fn similarity(found: &Drift) -> Option<Panel> {
    let first = found.variants.first()?;
    let items: Vec<(&str, usize)> = (first.similarity.iter().enumerate())
        .map(|(index, similarity)| (similarity.dataset.as_str(), index))
        .collect();
    (!items.is_empty()).then(|| {
        Panel::each("Similarity of the states to the base's", &items, |index, title| {
            let of = found.variants.iter().filter_map(|variant| {
                let similarity = variant.similarity.get(*index)?;
                Some(curve(&variant.name, similarity.layers.iter().copied()))
            });
            Panel::Lines(Lines {
                title,
                x: "layer (0 is the embedding)".into(),
                y: "debiased CKA".into(),
                series: of.collect(),
                references: vec![("the same".into(), 1.0)],
                ..Lines::default()
            })
        })
    })
}

/// Each variant as a whole, and its matrices outside of the blocks.
fn table(found: &Drift) -> Table {
    let row = |name: String, summary: DriftSummary, sigma: Option<f64>| {
        let text = |value: Option<f64>| value.map_or_else(|| "–".into(), number);
        vec![
            name,
            text(summary.relative_change),
            text(Some(summary.rotation)),
            format!("{:.1}°", summary.largest_deg),
            text(sigma),
            text(summary.share_inside),
            text(summary.random_share),
        ]
    };
    let rows = found.variants.iter().flat_map(|variant| {
        let blocks = variant.matrices.iter().filter(|matrix| matrix.block().is_some());
        let largest = blocks
            .clone()
            .filter_map(|matrix| matrix.sigma_change)
            .fold(0.0, f64::max);
        let whole =
            DriftSummary::of(blocks).map(|summary| row(format!("{}, blocks", variant.name), summary, Some(largest)));
        let ends = variant.matrices.iter().filter(|matrix| matrix.block().is_none());
        let ends = ends.filter_map(|matrix| {
            let name = format!("{}, {}", variant.name, matrix.part());
            Some(row(
                name,
                DriftSummary::of(std::iter::once(matrix))?,
                matrix.sigma_change,
            ))
        });
        whole.into_iter().chain(ends).collect::<Vec<_>>()
    });
    Table {
        title: "Each variant".into(),
        columns: [
            "matrices",
            "‖ΔW‖/‖W‖",
            "rotation, mean",
            "largest angle",
            "‖Δσ‖/‖σ‖, largest",
            "share inside",
            "of a random change",
        ]
        .map(String::from)
        .to_vec(),
        rows: rows.collect(),
    }
}

fn findings(variant: &VariantDrift, blocks: usize) -> Vec<String> {
    let inner = || variant.matrices.iter().filter(|matrix| matrix.block().is_some());
    let name = &variant.name;
    let mut findings = Vec::new();
    let turned = inner().filter(|matrix| matrix.change > 0.0);
    let most = turned.max_by(|a, b| a.rotation().total_cmp(&b.rotation()));
    let (Some(summary), Some(most)) = (DriftSummary::of(inner()), most) else {
        return vec![format!("{name}: no matrix of the blocks differs from the base's.")];
    };
    findings.push(format!(
        "{name}: the leading directions have turned most in {} of {} (rotation {}, largest angle {:.1}°); mean rotation {}.",
        most.part(),
        layer_name(most.block().map_or(0, |block| block + 1), blocks),
        number(most.rotation()),
        most.largest_deg(),
        number(summary.rotation),
    ));
    if let (Some(share), Some(random)) = (summary.share_inside, summary.random_share) {
        findings.push(format!(
            "{name}: {:.2}\u{a0}% of the change lies inside of the leading blocks; a random change of the same size has {:.2}\u{a0}% \
             there, {} times {}.",
            100.0 * share,
            100.0 * random,
            number(if share >= random { share / random } else { random / share }),
            if share >= random { "less" } else { "more" },
        ));
    }
    for similarity in &variant.similarity {
        let defined = similarity
            .layers
            .iter()
            .enumerate()
            .filter_map(|(layer, cka)| Some((layer, (*cka)?)));
        if let Some((layer, cka)) = defined.min_by(|a, b| a.1.value.total_cmp(&b.1.value)) {
            findings.push(format!(
                "{name}: on {} the states are least like the base's at {}, debiased CKA {} ({} to {}).",
                similarity.dataset,
                layer_name(layer, blocks),
                number(cka.value),
                number(cka.lo),
                number(cka.hi),
            ));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        drift::Turn,
        study::{Estimate, drift::Similarity},
    };

    fn matrix(name: &str, change: f64, degrees: f64) -> MatrixDrift {
        let turn = Turn {
            largest_deg: degrees,
            mean_deg: degrees / 2.0,
            rotation: degrees / 100.0,
        };
        MatrixDrift {
            norm: 10.0,
            change,
            inside: change / 2.0,
            left: turn,
            right: turn,
            sigma_change: Some(0.25),
            ..MatrixDrift::untouched(name, [8, 8], &[1.0], 2)
        }
    }

    fn drift() -> Drift {
        let at = |value: f64| {
            Some(Estimate {
                value,
                lo: value - 0.1,
                hi: value,
            })
        };
        let matrices = vec![
            matrix("model.embed_tokens.weight", 0.0, 0.0),
            matrix("model.layers.0.self_attn.q_proj.weight", 1.0, 10.0),
            matrix("model.layers.0.mlp.up_proj.weight", 1.0, 20.0),
            matrix("model.layers.1.self_attn.q_proj.weight", 2.0, 50.0),
            matrix("model.layers.1.mlp.up_proj.weight", 0.0, 0.0),
        ];
        let similarity = vec![Similarity {
            dataset: "gsm8k".into(),
            layers: vec![at(1.0), at(0.5), None],
        }];
        Drift {
            directions: 2,
            variants: vec![VariantDrift {
                name: "sft".into(),
                matrices,
                similarity,
            }],
        }
    }

    #[test]
    fn findings_say_where_and_against_what() {
        let expected = [
            "sft: the leading directions have turned most in self_attn.q_proj of block 2 of 2 (rotation 0.5, largest angle 50.0°); \
             mean rotation 0.2.",
            "sft: 25.00\u{a0}% of the change lies inside of the leading blocks; a random change of the same size has 6.25\u{a0}% there, 4 \
             times less.",
            "sft: on gsm8k the states are least like the base's at block 1 of 2, debiased CKA 0.5 (0.4 to 0.5).",
        ];
        assert_eq!(section(&drift(), 2).findings, expected);
        let mut still = drift();
        still.variants[0].matrices.truncate(1);
        assert_eq!(
            section(&still, 2).findings,
            ["sft: no matrix of the blocks differs from the base's."]
        );
    }

    #[test]
    fn maps_have_a_cell_for_every_matrix_of_the_blocks() {
        let section = section(&drift(), 2);
        let Panel::Choice(choice) = &section.panels[0] else {
            panic!("{:?}", section.panels)
        };
        let heats: Vec<&Heat> = (choice.options.iter())
            .filter_map(|(_, panel)| match panel {
                Panel::Heat(heat) => Some(heat),
                _ => None,
            })
            .collect();
        assert_eq!(heats.len(), 4);
        assert_eq!(heats[0].rows, ["self_attn.q_proj", "mlp.up_proj"]);
        let values = |heat: &Heat| -> Vec<Vec<Option<f64>>> {
            (heat.cells.iter())
                .map(|row| row.iter().map(|cell| cell.value).collect())
                .collect()
        };
        assert_eq!(values(heats[0]), [[Some(10.0), Some(50.0)], [Some(20.0), Some(0.0)]]);
        assert_eq!(values(heats[2]), [[Some(4.0), Some(4.0)], [Some(4.0), None]]);
        assert_eq!(heats[0].scale, Scale::Sequential { min: 0.0, max: 50.0 });
        assert_eq!(heats[2].cells[1][1].hint, "mlp.up_proj of block 2 of 2: not changed");
        let Panel::Lines(shares) = &section.panels[3] else {
            panic!("{:?}", section.panels)
        };
        assert_eq!(shares.series[1].name, "sft, a random change");
        assert_eq!(shares.series[1].points[0].y, Some(0.0625));
        let Panel::Table(table) = &section.panels[4] else {
            panic!("{:?}", section.panels)
        };
        assert_eq!(table.rows[0][..3], ["sft, blocks", "0.1225", "0.2"]);
        assert_eq!(table.rows[1][0], "sft, model.embed_tokens");
        assert_eq!(table.rows[1][5], "–");
    }
}
