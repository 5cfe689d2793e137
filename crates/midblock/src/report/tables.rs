//! The numbers as HTML tables: what a screen reader, a printer or a browser without JavaScript gets.

use super::{
    html::{distinct, escape},
    words,
};
use crate::run::{Record, Run, WeightRecord};
use serde_json::{Value, json};

/// Whether two records are points of one curve.
pub(super) fn same_curve(a: &Record, b: &Record) -> bool {
    a.metric == b.metric && a.model == b.model && a.dataset == b.dataset && a.reference == b.reference
}

/// `<td>` with a value and its interval in small print.
pub(super) fn cell(value: Option<f64>, interval: Option<(f64, f64)>) -> String {
    let Some(value) = value else {
        return "<td>–</td>".into();
    };
    let interval = interval.map_or(String::new(), |(lo, hi)| {
        format!(" <small>{} to {}</small>", words::number(lo), words::number(hi))
    });
    format!("<td>{}{interval}</td>", words::number(value))
}

/// A table for each data set of one metric: a row per layer, a column per curve, and a column per floor.
pub(super) fn metric(run: &Run, name: &str) -> String {
    let of_metric: Vec<&Record> = run.records.iter().filter(|record| record.metric == name).collect();
    distinct(of_metric.iter().map(|record| record.dataset.as_str()))
        .into_iter()
        .map(|dataset| {
            let records: Vec<&Record> = of_metric
                .iter()
                .copied()
                .filter(|record| record.dataset == dataset)
                .collect();
            dataset_table(&records, dataset)
        })
        .collect()
}

fn dataset_table(records: &[&Record], dataset: &str) -> String {
    let mut curves: Vec<&Record> = Vec::new();
    for record in records {
        if !curves.iter().any(|first| same_curve(first, record)) {
            curves.push(record);
        }
    }
    let mut layers: Vec<usize> = records.iter().map(|record| record.layer).collect();
    layers.sort_unstable();
    layers.dedup();
    let has_floor = |curve: &Record| {
        records
            .iter()
            .any(|record| same_curve(record, curve) && record.floor.is_some())
    };
    let head: String = curves
        .iter()
        .map(|curve| {
            let name = escape(&curve_name(&curve.model, &curve.reference));
            let floor = if has_floor(curve) {
                format!("<th scope=\"col\">{name}, floor</th>")
            } else {
                String::new()
            };
            format!("<th scope=\"col\">{name}</th>{floor}")
        })
        .collect();
    let row = |layer: usize| {
        let cells: String = curves
            .iter()
            .map(|curve| {
                let record = records
                    .iter()
                    .find(|record| record.layer == layer && same_curve(record, curve));
                let value = cell(
                    record.and_then(|record| record.value),
                    record.and_then(|record| record.lo.zip(record.hi)),
                );
                let floor = has_floor(curve).then(|| cell(record.and_then(|record| record.floor), None));
                value + &floor.unwrap_or_default()
            })
            .collect();
        let name = if layer == 0 {
            "embedding".to_string()
        } else {
            format!("block {layer}")
        };
        format!("<tr><th scope=\"row\">{name}</th>{cells}</tr>")
    };
    let rows: String = layers.into_iter().map(row).collect();
    let safe = escape(dataset);
    let caption = if dataset.is_empty() {
        String::new()
    } else {
        format!("<caption>{safe}</caption>")
    };
    format!(
        "<div class=\"scroll\" data-dataset=\"{safe}\"><table>{caption}<thead><tr><th scope=\"col\">layer</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

/// "sft", or "sft against base" where a curve compares two models.
fn curve_name(model: &str, reference: &str) -> String {
    if reference.is_empty() {
        model.to_string()
    } else {
        format!("{model} against {reference}")
    }
}

/// One weight metric of one variant: matrices × blocks.
struct HeatMap<'a> {
    model: &'a str,
    reference: &'a str,
    metric: &'a str,
    /// Names within a block, such as "self_attn.q_proj", in order of first appearance.
    matrices: Vec<&'a str>,
    /// (block 1..=L, index into `matrices`, value)
    cells: Vec<(usize, usize, Option<f64>)>,
    /// Matrices outside of blocks, such as the embedding.
    others: Vec<(&'a str, Option<f64>)>,
}

/// `model.layers.3.mlp.up_proj.weight` → (4, "mlp.up_proj"): the block number is 1-based, as everywhere on the page.
fn within_block(parameter: &str) -> Option<(usize, &str)> {
    let (index, matrix) = parameter.split_once("layers.")?.1.split_once('.')?;
    Some((
        index.parse::<usize>().ok()?.checked_add(1)?,
        matrix.strip_suffix(".weight").unwrap_or(matrix),
    ))
}

fn collect_heat_maps(weights: &[WeightRecord]) -> Vec<HeatMap<'_>> {
    let mut maps: Vec<HeatMap> = Vec::new();
    for record in weights {
        let same = |map: &HeatMap| {
            map.model == record.model && map.reference == record.reference && map.metric == record.metric
        };
        let at = maps.iter().position(same).unwrap_or_else(|| {
            let (model, reference, metric) = (&record.model, &record.reference, &record.metric);
            maps.push(HeatMap {
                model,
                reference,
                metric,
                matrices: Vec::new(),
                cells: Vec::new(),
                others: Vec::new(),
            });
            maps.len() - 1
        });
        let map = &mut maps[at];
        match within_block(&record.parameter) {
            None => map.others.push((&record.parameter, record.value)),
            Some((block, matrix)) => {
                let row = map.matrices.iter().position(|name| *name == matrix).unwrap_or_else(|| {
                    map.matrices.push(matrix);
                    map.matrices.len() - 1
                });
                map.cells.push((block, row, record.value));
            }
        }
    }
    maps
}

/// The heat maps for the script.
pub(super) fn heat_maps(run: &Run) -> Value {
    collect_heat_maps(&run.weights)
        .into_iter()
        .map(|map| {
            json!({"model": map.model, "reference": map.reference, "metric": map.metric, "matrices": map.matrices, "cells": map.cells})
        })
        .collect()
}

/// The section on single matrices: a heat map, its tables, and the matrices outside of blocks. Empty without weights.
pub(super) fn weights(run: &Run) -> String {
    let maps = collect_heat_maps(&run.weights);
    if maps.is_empty() {
        return String::new();
    }
    let options: String = maps
        .iter()
        .enumerate()
        .map(|(index, map)| {
            format!(
                "<option value=\"{index}\">{} · {}</option>",
                escape(map.metric),
                escape(&curve_name(map.model, map.reference))
            )
        })
        .collect();
    let tables: String = maps
        .iter()
        .enumerate()
        .map(|(index, map)| heat_map_table(index, map))
        .collect();
    format!(
        "<section class=\"group\" id=\"matrices\"><h2>matrix by matrix</h2><div class=\"cards\"><article class=\"card wide\" data-heatmap>\
         <header><label class=\"field\">Show <select id=\"heatmap-choice\">{options}</select></label><div class=\"export\">\
         <button type=\"button\" data-export=\"png\" aria-label=\"Save as PNG\">PNG</button><button type=\"button\" data-export=\"svg\" aria-label=\"Save as SVG\">SVG</button></div></header>\
         <p class=\"meaning\">Every weight matrix of every block: where in the block the change sits.</p>\
         <div class=\"chart\" role=\"img\" aria-label=\"Heat map, blocks by matrices; the numbers are in the table below\"></div>\
         <details><summary>Table</summary>{tables}</details></article></div></section>\n"
    )
}

fn heat_map_table(index: usize, map: &HeatMap) -> String {
    let mut blocks: Vec<usize> = map.cells.iter().map(|cell| cell.0).collect();
    blocks.sort_unstable();
    blocks.dedup();
    let head: String = map
        .matrices
        .iter()
        .map(|name| format!("<th scope=\"col\">{}</th>", escape(name)))
        .collect();
    let row = |block: usize| {
        let cells: String = (0..map.matrices.len())
            .map(|matrix| {
                let found = map.cells.iter().find(|cell| (cell.0, cell.1) == (block, matrix));
                cell(found.and_then(|found| found.2), None)
            })
            .collect();
        format!("<tr><th scope=\"row\">block {block}</th>{cells}</tr>")
    };
    let rows: String = blocks.into_iter().map(row).collect();
    let others: String = map
        .others
        .iter()
        .map(|(name, value)| format!("<tr><th scope=\"row\">{}</th>{}</tr>", escape(name), cell(*value, None)))
        .collect();
    let others = if others.is_empty() {
        others
    } else {
        format!("<table><caption>outside of blocks</caption><tbody>{others}</tbody></table>")
    };
    format!(
        "<div class=\"scroll\" data-heatmap-table=\"{index}\"><table><caption>{} · {}</caption><thead><tr><th scope=\"col\">block</th>{head}</tr></thead><tbody>{rows}</tbody></table>{others}</div>",
        escape(map.metric),
        escape(&curve_name(map.model, map.reference)),
    )
}
