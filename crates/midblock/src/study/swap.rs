//! Layer swapping: what happens to one model with some blocks of the other in it.
//!
//! A *host* keeps all of its weights but those of some blocks, which are the *donor's*; base and variant are host in turn. First
//! the last `depth` blocks of each segment, once with the host's own final norm and head and once with the donor's; where base
//! and variant have equal ones, there is nothing to transfer. Then every block alone. Loss and top-1 accuracy of the answers,
//! teacher-forced; differences are from the host as it is, sample by sample.

use super::{
    Estimate,
    battery::{Cells, StudyRecord, Subject},
    scores::{Change, Quality, Scores},
    segments::segments,
};
use crate::{
    Error, Result,
    model::EndsTensors,
    probe::{Participant, Route},
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// `[study.swap]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwapOptions {
    /// Segments that the blocks are cut into; 5 by default. One that holds no block is left out.
    pub segments: usize,
    /// The last so many blocks of a segment are swapped, all if it has fewer; 2 by default.
    pub depth: usize,
    /// Measured samples that segments are swapped on; 16 by default.
    pub samples: usize,
    /// Measured samples that single blocks are swapped on; 8 by default, and 0 leaves single blocks out.
    pub block_samples: usize,
    /// Tokens of each answer that are scored, evenly spread from its first; 32 by default.
    pub tokens: usize,
}

impl Default for SwapOptions {
    fn default() -> Self {
        Self {
            segments: 5,
            depth: 2,
            samples: 16,
            block_samples: 8,
            tokens: 32,
        }
    }
}

/// What swapping does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Swap {
    /// Name of the base.
    pub base: String,
    /// Samples and their tokens that segments were swapped on.
    pub read: [usize; 2],
    /// Samples and their tokens that single blocks were swapped on; zeros if they were not.
    pub blocks_read: [usize; 2],
    /// Each variant with the base.
    pub variants: Vec<Swapped>,
}

/// A variant and the base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Swapped {
    /// The variant's name.
    pub name: String,
    /// The base as it is.
    pub base: Quality,
    /// The variant as it is.
    pub variant: Quality,
    /// The variant minus the base.
    pub change: Change,
    /// Whether both have equal final norms and heads.
    pub same_head: bool,
    /// Segments, by host, head and segment.
    pub segments: Vec<Exchange>,
    /// Single blocks, by host and block.
    pub blocks: Vec<Exchange>,
}

/// Some of the donor's blocks in the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exchange {
    /// Whether the host is the variant, and the blocks are the base's.
    pub into_variant: bool,
    /// The segment, counted from 1; of single blocks nothing.
    pub segment: Option<usize>,
    /// First and last block that are the donor's, counted from 1.
    pub blocks: [usize; 2],
    /// Whether final norm and head are the donor's too.
    pub head: bool,
    /// What comes of it.
    pub quality: Quality,
    /// That minus the host as it is.
    pub change: Change,
}

/// One to be measured.
struct Planned {
    into_variant: bool,
    segment: Option<usize>,
    blocks: Range<usize>,
    head: bool,
}

/// Swaps blocks of base and variants.
///
/// # Errors
/// [`Error::Argument`] for options that swap or read nothing; those of reading weights and of following routes;
/// [`Error::Interrupted`].
pub fn swap<B: Backend>(subject: &Subject<'_, B>, options: &SwapOptions, cells: &Cells) -> Result<Swap> {
    if options.segments == 0 || options.depth == 0 {
        return Err(Error::Argument {
            what: "`segments` and `depth` of [study.swap]".into(),
            value: format!("{}, {}", options.segments, options.depth),
            problem: "nothing would be swapped".into(),
            help: "give at least 1 of each".into(),
        });
    }
    let mut swap = Swap {
        base: subject.models[0].name.clone(),
        read: [0; 2],
        blocks_read: [0; 2],
        variants: Vec::new(),
    };
    let seed = subject.file.config.study.seed;
    for (variant, participant) in subject.models.iter().enumerate().skip(1) {
        let same_head = same_head(subject, variant)?;
        let plan = by_segments(options, subject.blocks(), same_head);
        let name = &participant.name;
        let kept = (options.segments, options.depth, options.samples, options.tokens);
        let scores = cells.cell(&format!("swap-{name}"), &kept, || {
            let routes = routes(subject, variant, &plan);
            Scores::read(subject, routes, options.samples, options.tokens)
        })?;
        swap.read = scores.extent();
        let mut swapped = Swapped {
            name: name.clone(),
            base: scores.quality(0, seed),
            variant: scores.quality(1, seed),
            change: scores.change(1, 0, seed),
            same_head,
            segments: exchanges(&plan, &scores, seed),
            blocks: Vec::new(),
        };
        // one host at a time: the states of one route for each block are in memory
        for into_variant in [false, true].into_iter().filter(|_| options.block_samples > 0) {
            let plan = by_blocks(subject.blocks(), into_variant);
            let kept = (options.block_samples, options.tokens);
            let host = if into_variant { "variant" } else { "base" };
            let scores = cells.cell(&format!("swap-{name}-blocks-into-{host}"), &kept, || {
                let routes = routes(subject, variant, &plan);
                Scores::read(subject, routes, options.block_samples, options.tokens)
            })?;
            swap.blocks_read = scores.extent();
            swapped.blocks.extend(exchanges(&plan, &scores, seed));
        }
        swap.variants.push(swapped);
    }
    Ok(swap)
}

fn same_head<B: Backend>(subject: &Subject<'_, B>, variant: usize) -> Result<bool> {
    let (base, variant) = (&subject.models[0], &subject.models[variant]);
    let read = |model: &Participant<'_>| EndsTensors::read(model.checkpoint, &model.architecture);
    let alike = base.architecture == variant.architecture;
    Ok(alike && read(base)?.same_head(&read(variant)?))
}

/// The ends of segments in both hosts, with either head.
fn by_segments(options: &SwapOptions, blocks: usize, same_head: bool) -> Vec<Planned> {
    let mut plan = Vec::new();
    for into_variant in [false, true] {
        for head in [false, true].into_iter().filter(|head| !(*head && same_head)) {
            let held = segments(options.segments, blocks).enumerate();
            plan.extend(held.filter(|(_, held)| !held.is_empty()).map(|(i, held)| Planned {
                into_variant,
                segment: Some(i + 1),
                blocks: held.end - options.depth.min(held.len())..held.end,
                head,
            }));
        }
    }
    plan
}

/// Every block alone in one host.
fn by_blocks(blocks: usize, into_variant: bool) -> Vec<Planned> {
    let alone = |block| Planned {
        into_variant,
        segment: None,
        blocks: block..block + 1,
        head: false,
    };
    (0..blocks).map(alone).collect()
}

/// Base and variant as they are, then what is planned.
fn routes<B: Backend>(subject: &Subject<'_, B>, variant: usize, plan: &[Planned]) -> Vec<Route> {
    let of = |participant: usize| Route::of(&subject.models[participant].name, participant, subject.blocks());
    let swapped = |planned: &Planned| {
        let (host, donor) = if planned.into_variant {
            (variant, 0)
        } else {
            (0, variant)
        };
        let route = of(host).with_blocks(planned.blocks.clone(), donor);
        if planned.head { route.with_ends(donor) } else { route }
    };
    [of(0), of(variant)]
        .into_iter()
        .chain(plan.iter().map(swapped))
        .collect()
}

fn exchanges(plan: &[Planned], scores: &Scores, seed: u64) -> Vec<Exchange> {
    let exchange = |(i, planned): (usize, &Planned)| Exchange {
        into_variant: planned.into_variant,
        segment: planned.segment,
        blocks: [planned.blocks.start + 1, planned.blocks.end],
        head: planned.head,
        quality: scores.quality(i + 2, seed),
        change: scores.change(i + 2, usize::from(planned.into_variant), seed),
    };
    plan.iter().enumerate().map(exchange).collect()
}

impl Swapped {
    /// Host and donor of an exchange by name.
    pub fn names<'a>(&'a self, base: &'a str, exchange: &Exchange) -> [&'a str; 2] {
        match exchange.into_variant {
            true => [&self.name, base],
            false => [base, &self.name],
        }
    }
}

impl Swap {
    /// `loss`, `perplexity` and `top1_accuracy` of base, variants and each exchange; the model is the host. Differences of
    /// variants are from the base, those of exchanges from their host.
    pub fn records(&self) -> Vec<StudyRecord> {
        let mut records = Vec::new();
        let mut push = |model: &str, reference: &str, setting: &str, layer, metric: &str, estimate: Estimate| {
            records.push(StudyRecord {
                setting: setting.to_owned(),
                ..estimate.record(model, reference, layer, metric)
            });
        };
        for (i, swapped) in self.variants.iter().enumerate() {
            let references = [(&self.base, &swapped.base), (&swapped.name, &swapped.variant)];
            // the base is the same for all of them
            for (name, quality) in references.into_iter().skip(usize::from(i > 0)) {
                let metrics = quality.metrics().into_iter();
                metrics.for_each(|(metric, estimate)| push(name, "", "", None, metric, estimate));
            }
            let metrics = swapped.change.metrics().into_iter();
            metrics.for_each(|(metric, estimate)| push(&swapped.name, &self.base, "", None, metric, estimate));
            for exchange in swapped.segments.iter().chain(&swapped.blocks) {
                let [host, donor] = swapped.names(&self.base, exchange);
                let layer = exchange.segment.is_none().then_some(exchange.blocks[0]);
                let setting = exchange.setting(donor);
                let metrics = exchange.quality.metrics().into_iter();
                metrics.for_each(|(metric, estimate)| push(host, "", &setting, layer, metric, estimate));
                let metrics = exchange.change.metrics().into_iter();
                metrics.for_each(|(metric, estimate)| push(host, host, &setting, layer, metric, estimate));
            }
        }
        records
    }
}

impl Exchange {
    /// "segment 2: blocks 11–12 and head of sft", "block 7 of sft".
    fn setting(&self, donor: &str) -> String {
        let head = if self.head { " and head" } else { "" };
        match self.segment {
            Some(segment) => format!("segment {segment}: {}{head} of {donor}", self.blocks_in_words()),
            None => format!("{} of {donor}", self.blocks_in_words()),
        }
    }

    /// "block 7", "blocks 11–12".
    pub fn blocks_in_words(&self) -> String {
        match self.blocks {
            [first, last] if first == last => format!("block {first}"),
            [first, last] => format!("blocks {first}–{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::battery::fixture::Fixture;
    use midblock_kernels::Cpu;

    #[test]
    fn hosts_with_all_blocks_of_a_donor_are_the_donor_but_for_the_ends() {
        let test = |subject: &Subject<'_, Cpu>, cells: &Cells| {
            let options = SwapOptions {
                segments: 1,
                depth: 99,
                block_samples: 0,
                ..SwapOptions::default()
            };
            let got = swap(subject, &options, cells)?;
            let [sft] = got.variants.as_slice() else { panic!() };
            assert!(!sft.same_head && sft.blocks.is_empty() && got.blocks_read == [0, 0]);
            let kinds: Vec<_> = sft.segments.iter().map(|e| (e.into_variant, e.head)).collect();
            assert_eq!(kinds, [(false, false), (false, true), (true, false), (true, true)]);
            // the embedding is the same in both
            assert_eq!(
                (sft.segments[1].quality, sft.segments[3].quality),
                (sft.variant, sft.base)
            );
            assert_ne!(sft.segments[0].quality.loss, sft.variant.loss);
            let there_and_back = [sft.segments[1].change.loss.value, sft.segments[3].change.loss.value];
            assert_eq!(there_and_back[0], -there_and_back[1]);
            assert_eq!(sft.change, sft.segments[1].change);
            Ok(())
        };
        Fixture::new().with(&[], test).unwrap();
    }

    #[test]
    fn blocks_alone_are_segments_of_one_block() {
        let test = |subject: &Subject<'_, Cpu>, cells: &Cells| {
            let options = SwapOptions {
                segments: subject.blocks(),
                depth: 1,
                samples: 4,
                block_samples: 4,
                tokens: 9,
            };
            let got = swap(subject, &options, cells)?;
            let sft = &got.variants[0];
            let kept = sft.segments.iter().filter(|exchange| !exchange.head);
            let numbers = |e: &Exchange| (e.into_variant, e.blocks, e.quality, e.change);
            let [kept, blocks] = [
                kept.map(numbers).collect::<Vec<_>>(),
                sft.blocks.iter().map(numbers).collect(),
            ];
            assert_eq!(kept, blocks);
            assert_eq!(blocks.len(), 2 * subject.blocks());
            assert_eq!((got.read, got.read[0]), (got.blocks_read, 4));
            let change = &sft.blocks[0].change.loss;
            let difference = sft.blocks[0].quality.loss.value - sft.base.loss.value;
            assert!(
                (change.value - difference).abs() < 1e-12 && change.lo <= change.value && change.value <= change.hi
            );
            let records = got.records();
            assert_eq!(records.len(), 2 * 3 + 2 + (6 * subject.blocks()) * 5);
            let last = records.last().unwrap();
            let expected = ("sft", "sft", "block 16 of base", Some(16));
            assert_eq!((&*last.model, &*last.reference, &*last.setting, last.layer), expected);
            // what is there is not made again
            assert_eq!(swap(subject, &options, cells)?, got);
            Ok(())
        };
        Fixture::new().with(&[], test).unwrap();
    }

    #[test]
    fn the_end_of_each_segment_is_swapped_and_empty_ones_are_left_out() {
        let options = |segments, depth| SwapOptions {
            segments,
            depth,
            ..SwapOptions::default()
        };
        let blocks = |options, blocks| -> Vec<(Option<usize>, Range<usize>)> {
            let plan = by_segments(&options, blocks, true).into_iter();
            plan.filter(|p| !p.into_variant)
                .map(|p| (p.segment, p.blocks))
                .collect()
        };
        let expected = [(1, 4..6), (2, 10..12), (3, 16..18), (4, 22..24), (5, 28..30)];
        assert_eq!(blocks(options(5, 2), 30), expected.map(|(i, held)| (Some(i), held)));
        assert_eq!(blocks(options(3, 2), 2), [(Some(2), 0..1), (Some(3), 1..2)]);
        let error = Fixture::new().with(&[], |subject, cells| swap(subject, &options(0, 2), cells));
        assert!(error.unwrap_err().to_string().contains("nothing would be swapped"));
        let none = SwapOptions {
            tokens: 0,
            ..SwapOptions::default()
        };
        let error = Fixture::new().with(&[], |subject, cells| swap(subject, &none, cells));
        assert!(error.unwrap_err().to_string().contains("nothing would be read"));
    }
}
