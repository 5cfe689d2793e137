//! Merging on the page: what each choice of α gives, against base and variant.

use super::{
    Bars, Lines, Panel, Section, Series, Table,
    curve::{nats_difference, points, share},
    quality::{COLUMNS, cells, point},
};
use crate::study::{
    Estimate, Quality,
    alphas::{Alphas, Merge, MergeKind, MergedVariant, in_words},
};

/// The section of a model of `blocks` blocks.
pub fn section(found: &Alphas, blocks: usize) -> Section {
    let variants: Vec<(&str, &MergedVariant)> = found.variants.iter().map(|v| (v.name.as_str(), v)).collect();
    let has = |kind| {
        found
            .variants
            .iter()
            .any(|v| v.merges.iter().any(|merge| merge.kind == kind))
    };
    let mut panels = Vec::new();
    if has(MergeKind::Setting) {
        panels.push(Panel::each(
            "Loss of merges with one α for each segment",
            &variants,
            |merged, title| Panel::Bars(settings(merged, found, title)),
        ));
    }
    if has(MergeKind::Uniform) {
        panels.push(Panel::Lines(uniform(
            found,
            "Loss with one α for all blocks",
            "nats per token",
            |q| q.loss,
        )));
        let title = "Top-1 accuracy with one α for all blocks";
        panels.push(Panel::Lines(uniform(found, title, "share of tokens", |q| q.accuracy)));
    }
    if has(MergeKind::Alone) {
        panels.push(Panel::each(
            "One segment merged alone: loss",
            &variants,
            |merged, title| Panel::Bars(alone(merged, found, blocks, title)),
        ));
    }
    panels.push(Panel::each("Merges in numbers", &variants, |merged, title| {
        Panel::Table(table(merged, found, title))
    }));
    Section {
        id: "alphas",
        title: "Layer-adaptive merging".into(),
        about: format!(
            "Weights between the models, θ = (1 − α)·base + α·variant, with one α for each of S equal segments of the blocks; final norm \
             and head follow the last α, the embedding stays the base's unless it is the head as well. Loss and accuracy at {} answer \
             tokens of {} samples, each predicted from the true text before it, with 95\u{a0}% intervals over samples; perplexity is e to \
             the loss.",
            found.tokens, found.samples
        ),
        findings: found
            .variants
            .iter()
            .flat_map(|merged| findings(merged, found))
            .collect(),
        panels,
    }
}

fn of_kind(merged: &MergedVariant, kind: MergeKind) -> impl Iterator<Item = &Merge> {
    merged.merges.iter().filter(move |merge| merge.kind == kind)
}

fn references(merged: &MergedVariant, found: &Alphas) -> Vec<(String, f64)> {
    vec![
        (found.base.clone(), merged.base.loss.value),
        (merged.name.clone(), merged.variant.loss.value),
    ]
}

fn settings(merged: &MergedVariant, found: &Alphas, title: String) -> Bars {
    let names: Vec<String> = of_kind(merged, MergeKind::Setting)
        .map(|merge| in_words(&merge.alphas))
        .collect();
    let value = |(merge, name): (&Merge, &String)| point(0.0, merge.quality.loss, format!("α {name}"));
    Bars {
        title,
        y: "nats per token".into(),
        groups: vec![(
            "merge".into(),
            of_kind(merged, MergeKind::Setting).zip(&names).map(value).collect(),
        )],
        names,
        references: references(merged, found),
    }
}

/// From the base at α = 0 over the variant at 1.
fn uniform(found: &Alphas, title: &str, y: &str, of: impl Fn(&Quality) -> Estimate) -> Lines {
    let series = |merged: &MergedVariant| {
        let mut points: Vec<_> = of_kind(merged, MergeKind::Uniform)
            .map(|merge| point(merge.alphas[0], of(&merge.quality), ""))
            .collect();
        points.push(point(0.0, of(&merged.base), found.base.as_str()));
        points.push(point(1.0, of(&merged.variant), merged.name.as_str()));
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Series {
            name: merged.name.clone(),
            points,
            line: true,
        }
    };
    Lines {
        title: title.into(),
        x: "α (0 is the base, 1 the variant)".into(),
        y: y.into(),
        series: found.variants.iter().map(series).collect(),
        ..Lines::default()
    }
}

/// The segment of a merge that is not the base's.
fn place(merge: &Merge) -> Option<(usize, f64)> {
    merge
        .alphas
        .iter()
        .copied()
        .enumerate()
        .find(|(_, alpha)| *alpha != 0.0)
}

/// "segment 2 (blocks 7–12)".
fn segment(index: usize, of: usize, blocks: usize) -> String {
    let [first, last] = [index * blocks / of + 1, (index + 1) * blocks / of];
    match first == last {
        true => format!("segment {} (block {first})", index + 1),
        false => format!("segment {} (blocks {first}–{last})", index + 1),
    }
}

fn alone(merged: &MergedVariant, found: &Alphas, blocks: usize, title: String) -> Bars {
    let mut names: Vec<String> = Vec::new();
    let mut groups: Vec<(String, Vec<_>)> = Vec::new();
    for (merge, (index, alpha)) in of_kind(merged, MergeKind::Alone).filter_map(|merge| Some((merge, place(merge)?))) {
        let (name, group) = (segment(index, merge.alphas.len(), blocks), format!("α = {alpha}"));
        let value = point(0.0, merge.quality.loss, name.as_str());
        if !names.contains(&name) {
            names.push(name);
        }
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, values)) => values.push(value),
            None => groups.push((group, vec![value])),
        }
    }
    Bars {
        title,
        y: "nats per token".into(),
        names,
        groups,
        references: references(merged, found),
    }
}

fn table(merged: &MergedVariant, found: &Alphas, title: String) -> Table {
    let row = |name: String, quality: &Quality, differences: [String; 2]| {
        std::iter::once(name).chain(cells(quality)).chain(differences).collect()
    };
    let mut rows: Vec<Vec<String>> = vec![
        row(found.base.clone(), &merged.base, Default::default()),
        row(
            merged.name.clone(),
            &merged.variant,
            [nats_difference(merged.change.loss), String::new()],
        ),
    ];
    rows.extend(merged.merges.iter().map(|merge| {
        let differences = [merge.from_base.loss, merge.from_variant.loss].map(nats_difference);
        row(format!("α {}", in_words(&merge.alphas)), &merge.quality, differences)
    }));
    let minus = [found.base.as_str(), &merged.name].map(|name| format!("loss minus {name}'s"));
    let columns = ["model"].into_iter().chain(COLUMNS).map(str::to_owned);
    Table {
        title,
        columns: columns.chain(minus).collect(),
        rows,
    }
}

/// Which merge is best, and whether that is better than the variant.
fn findings(merged: &MergedVariant, found: &Alphas) -> Vec<String> {
    let (base, name, best) = (&found.base, &merged.name, merged.best());
    let against = best.from_variant.loss;
    let verdict = match (against.hi < 0.0, against.lo > 0.0) {
        (true, _) => {
            format!("clearly better than {name} on these samples, on which it was chosen: confirm it on others")
        }
        (_, true) => format!("clearly worse than {name}: no merge here replaces it"),
        _ => format!("not clearly different from {name}"),
    };
    let mut findings = vec![
        format!(
            "{name} as a whole against {base}: {}, {} of accuracy.",
            nats_difference(merged.change.loss),
            points(merged.change.accuracy)
        ),
        format!(
            "The best of {} merges is α {}: {:.4} nats and {} of tokens right; against {name} {}, {verdict}.",
            merged.merges.len(),
            in_words(&best.alphas),
            best.quality.loss.value,
            share(best.quality.accuracy),
            nats_difference(against),
        ),
    ];
    let clear = merged
        .merges
        .iter()
        .filter(|merge| merge.from_base.loss.hi < 0.0)
        .count();
    findings.push(format!(
        "{clear} of them have a clearly lower loss than {base}. `midblock merge BASE --alphas {} --variant VARIANT --out DIR` writes the best.",
        in_words(&best.alphas)
    ));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Change;

    fn at(value: f64, half: f64) -> Estimate {
        Estimate {
            value,
            lo: value - half,
            hi: value + half,
        }
    }

    fn quality(loss: f64) -> Quality {
        Quality {
            loss: at(loss, 0.5),
            accuracy: at(0.5, 0.05),
        }
    }

    fn change(loss: f64) -> Change {
        Change {
            loss: at(loss, 0.05),
            accuracy: at(-loss / 4.0, 0.025),
        }
    }

    fn found(best: f64) -> Alphas {
        let merge = |kind, alphas: &[f64], loss: f64| Merge {
            kind,
            alphas: alphas.to_vec(),
            quality: quality(loss),
            from_base: change(loss - 2.0),
            from_variant: change(loss - 1.5),
        };
        Alphas {
            base: "base".into(),
            samples: 20,
            tokens: 640,
            variants: vec![MergedVariant {
                name: "sft".into(),
                base: quality(2.0),
                variant: quality(1.5),
                change: change(-0.5),
                merges: vec![
                    merge(MergeKind::Setting, &[0.0, 1.0, 0.5], best),
                    merge(MergeKind::Uniform, &[1.2], 1.75),
                    merge(MergeKind::Uniform, &[0.5], 1.75),
                    merge(MergeKind::Alone, &[0.5, 0.0], 1.99),
                    merge(MergeKind::Alone, &[0.0, 0.5], 1.98),
                    merge(MergeKind::Alone, &[1.0, 0.0], 1.97),
                    merge(MergeKind::Alone, &[0.0, 1.0], 1.96),
                ],
            }],
        }
    }

    #[test]
    fn the_findings_say_which_is_best_and_whether_that_is_better_than_the_variant() {
        let findings = section(&found(1.375), 4).findings;
        assert_eq!(
            findings[1],
            "The best of 7 merges is α 0,1,0.5: 1.3750 nats and 50.0\u{a0}% (45.0 to 55.0) of tokens right; against sft −0.125 nats \
             (−0.175 to −0.075), clearly better than sft on these samples, on which it was chosen: confirm it on others."
        );
        assert!(findings[2].starts_with(
            "3 of them have a clearly lower loss than base. `midblock merge BASE --alphas 0,1,0.5 --variant"
        ));
        assert!(section(&found(1.48), 4).findings[1].ends_with("not clearly different from sft."));
        assert!(section(&found(1.6), 4).findings[1].ends_with("clearly worse than sft: no merge here replaces it."));
    }

    #[test]
    fn panels_hold_every_merge_at_its_place() {
        let section = section(&found(1.4), 4);
        let [
            Panel::Bars(settings),
            Panel::Lines(uniform),
            _,
            Panel::Bars(alone),
            Panel::Table(table),
        ] = section.panels.as_slice()
        else {
            panic!("{:?}", section.panels)
        };
        assert_eq!(settings.names, ["0,1,0.5"]);
        assert_eq!(settings.references, [("base".to_owned(), 2.0), ("sft".to_owned(), 1.5)]);
        let places: Vec<(f64, Option<f64>)> = uniform.series[0].points.iter().map(|p| (p.x, p.y)).collect();
        assert_eq!(
            places,
            [(0.0, Some(2.0)), (0.5, Some(1.75)), (1.0, Some(1.5)), (1.2, Some(1.75))]
        );
        assert_eq!(alone.names, ["segment 1 (blocks 1–2)", "segment 2 (blocks 3–4)"]);
        let values = |group: usize| alone.groups[group].1.iter().map(|p| p.y).collect::<Vec<_>>();
        assert_eq!(
            (alone.groups[0].0.as_str(), values(0)),
            ("α = 0.5", vec![Some(1.99), Some(1.98)])
        );
        assert_eq!(
            (alone.groups[1].0.as_str(), values(1)),
            ("α = 1", vec![Some(1.97), Some(1.96)])
        );
        assert_eq!(table.rows.len(), 2 + 7);
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()));
    }
}
