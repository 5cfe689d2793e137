//! How far training has turned the model, on the page of a training run: curves over the steps, and a table.

use super::words::number;
use crate::train::DriftMetrics;
use serde_json::{Value, json};

/// What the chart shows, in words.
pub(super) const ABOUT: &str = "How far the run is from its start: the rotation of the trained matrices' leading singular directions \
    (1 − mean cos² of the principal angles, mean of both sides and all matrices), the share of the change inside of the leading \
    blocks (‖U_kᵀ ΔW V_k‖²/‖ΔW‖²), and 1 − debiased CKA of the states with the start model's, mean over blocks.";

/// Columns of the chart: step, rotation, share inside, 1 − mean CKA.
pub(super) fn data(drifts: &[&DriftMetrics]) -> Value {
    let row = |drift: &&DriftMetrics| {
        let summary = drift.summary();
        json!([
            drift.step,
            summary.map(|summary| summary.rotation),
            summary.and_then(|summary| summary.share_inside),
            drift.mean_cka().map(|cka| 1.0 - cka),
        ])
    };
    drifts.iter().map(row).collect()
}

/// A row for each measurement; empty for none.
pub(super) fn table(drifts: &[&DriftMetrics]) -> String {
    if drifts.is_empty() {
        return String::new();
    }
    let text = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), number);
    let row = |drift: &&DriftMetrics| {
        let summary = drift.summary();
        let cells = [
            text(summary.and_then(|summary| summary.relative_change)),
            text(summary.map(|summary| summary.rotation)),
            summary.map_or_else(|| "–".to_owned(), |summary| format!("{:.1}°", summary.largest_deg)),
            text(summary.and_then(|summary| summary.share_inside)),
            text(summary.and_then(|summary| summary.random_share)),
            text(drift.mean_cka()),
        ];
        let cells = cells.map(|cell| format!("<td class=\"number\">{cell}</td>")).concat();
        format!("<tr><th scope=\"row\">{}</th>{cells}</tr>", drift.step)
    };
    let heads = [
        "‖ΔW‖/‖W‖",
        "rotation",
        "largest angle",
        "share inside",
        "of a random change",
        "CKA",
    ];
    let heads = heads
        .map(|head| format!("<th scope=\"col\" class=\"number\">{head}</th>"))
        .concat();
    format!(
        "<details><summary>Drift</summary><table><thead><tr><th scope=\"col\">step</th>{heads}</tr></thead><tbody>{}</tbody></table>\
         </details>",
        drifts.iter().map(row).collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drift::{MatrixDrift, Turn};

    #[test]
    fn a_measurement_is_a_row_of_each() {
        let turn = Turn {
            largest_deg: 12.5,
            mean_deg: 1.0,
            rotation: 0.25,
        };
        let matrix = MatrixDrift {
            norm: 4.0,
            change: 2.0,
            inside: 1.0,
            left: turn,
            right: turn,
            ..MatrixDrift::untouched("w", [8, 8], &[1.0], 2)
        };
        let drift = DriftMetrics {
            step: 40,
            epoch: 0.5,
            matrices: vec![matrix],
            cka: vec![Some(1.0), Some(0.75), None],
            seconds: 1.0,
        };
        assert_eq!(data(&[&drift]), json!([[40, 0.25, 0.25, 0.25]]));
        let table = table(&[&drift]);
        let cells: Vec<&str> = table
            .split("<td class=\"number\">")
            .skip(1)
            .filter_map(|cell| cell.split('<').next())
            .collect();
        assert_eq!(cells, ["0.5", "0.25", "12.5°", "0.25", "0.0625", "0.75"]);
        let nothing = DriftMetrics {
            matrices: Vec::new(),
            cka: Vec::new(),
            ..drift
        };
        assert_eq!(data(&[&nothing]), json!([[40, null, null, null]]));
        assert_eq!(super::table(&[]), "");
    }
}
