//! What the kinds of studies found, and how each is made.

use super::{Cells, Kind, StudyRecord, Subject};
use crate::{
    Result,
    report::study::{self as page, Section},
    study::{
        alphas::{Alphas, alphas},
        correlate::{Correlate, correlate},
        drift::{Drift, drift},
        exit::{Exit, exit},
        gradients::{Gradients, gradients},
        lens::{Lens, lens},
        locate::{Locate, locate},
        reversal::{Reversal, reversal},
        seeds::{Seeds, seeds},
        selective::{Selective, selective},
        steer::{Steer, steer},
        swap::{Swap, swap},
        sweep::Failure,
        tradeoff::{Tradeoff, tradeoff},
    },
};
use midblock_kernels::Backend;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One field for each [`Kind`], as far as they are made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // as the kinds
pub struct Results {
    pub exit: Option<Exit>,
    pub lens: Option<Lens>,
    pub swap: Option<Swap>,
    pub alphas: Option<Alphas>,
    pub steer: Option<Steer>,
    pub drift: Option<Drift>,
    pub gradients: Option<Gradients>,
    pub seeds: Option<Seeds>,
    pub correlate: Option<Correlate>,
    pub selective: Option<Selective>,
    pub locate: Option<Locate>,
    pub tradeoff: Option<Tradeoff>,
    pub reversal: Option<Reversal>,
}

impl Results {
    /// Makes one kind, or takes it from its cells.
    ///
    /// # Errors
    /// Whatever that kind may raise.
    pub(super) fn make<B: Backend>(&mut self, kind: Kind, subject: &Subject<'_, B>, cells: &Cells) -> Result<()> {
        let options = &subject.file.config.study;
        match kind {
            Kind::Exit => self.exit = Some(exit(subject, &options.exit, cells)?),
            Kind::Lens => self.lens = Some(lens(subject, &options.lens, cells)?),
            Kind::Swap => self.swap = Some(swap(subject, &options.swap, cells)?),
            Kind::Alphas => self.alphas = Some(alphas(subject, &options.alphas, cells)?),
            Kind::Steer => self.steer = Some(steer(subject, &options.steer, cells)?),
            Kind::Drift => self.drift = Some(drift(subject, &options.drift, cells)?),
            Kind::Gradients => self.gradients = Some(gradients(subject, &options.gradients, cells)?),
            Kind::Seeds => self.seeds = Some(seeds(subject, &options.seeds, cells)?),
            Kind::Correlate => self.correlate = Some(correlate(subject, &options.correlate, cells)?),
            Kind::Selective => self.selective = Some(selective(subject, &options.selective, cells)?),
            Kind::Locate => self.locate = Some(locate(subject, &options.locate, cells)?),
            Kind::Tradeoff => self.tradeoff = Some(tradeoff(subject, &options.tradeoff, cells)?),
            Kind::Reversal => self.reversal = Some(reversal(subject, &options.reversal, cells)?),
        }
        Ok(())
    }

    /// The numbers of a kind; none if it is not made.
    pub fn records(&self, kind: Kind) -> Option<Vec<StudyRecord>> {
        match kind {
            Kind::Exit => self.exit.as_ref().map(Exit::records),
            Kind::Lens => self.lens.as_ref().map(Lens::records),
            Kind::Swap => self.swap.as_ref().map(Swap::records),
            Kind::Alphas => self.alphas.as_ref().map(Alphas::records),
            Kind::Steer => self.steer.as_ref().map(Steer::records),
            Kind::Drift => self.drift.as_ref().map(Drift::records),
            Kind::Gradients => self.gradients.as_ref().map(Gradients::records),
            Kind::Seeds => self.seeds.as_ref().map(Seeds::records),
            Kind::Correlate => self.correlate.as_ref().map(Correlate::records),
            Kind::Selective => self.selective.as_ref().map(Selective::records),
            Kind::Locate => self.locate.as_ref().map(Locate::records),
            Kind::Tradeoff => self.tradeoff.as_ref().map(Tradeoff::records),
            Kind::Reversal => self.reversal.as_ref().map(Reversal::records),
        }
    }

    /// The part of the page on a kind; none if it is not made.
    pub fn section(&self, kind: Kind, blocks: usize) -> Option<Section> {
        match kind {
            Kind::Exit => self.exit.as_ref().map(|found| page::exit::section(found, blocks)),
            Kind::Lens => self.lens.as_ref().map(|found| page::lens::section(found, blocks)),
            Kind::Swap => self.swap.as_ref().map(|found| page::swap::section(found, blocks)),
            Kind::Alphas => self.alphas.as_ref().map(|found| page::alphas::section(found, blocks)),
            Kind::Steer => self.steer.as_ref().map(|found| page::steer::section(found, blocks)),
            Kind::Drift => self.drift.as_ref().map(|found| page::drift::section(found, blocks)),
            Kind::Gradients => self
                .gradients
                .as_ref()
                .map(|found| page::gradients::section(found, blocks)),
            Kind::Seeds => self.seeds.as_ref().map(|found| page::seeds::section(found, blocks)),
            Kind::Correlate => self.correlate.as_ref().map(page::correlate::section),
            Kind::Selective => self
                .selective
                .as_ref()
                .map(|found| page::selective::section(found, blocks)),
            Kind::Locate => self.locate.as_ref().map(|found| page::locate::section(found, blocks)),
            Kind::Tradeoff => self.tradeoff.as_ref().map(page::tradeoff::section),
            Kind::Reversal => self.reversal.as_ref().map(page::reversal::section),
        }
    }

    /// Parts of a kind that failed while others of it were made.
    pub(super) fn failures(&self, kind: Kind) -> &[Failure] {
        match (kind, &self.tradeoff, &self.reversal) {
            (Kind::Tradeoff, Some(tradeoff), _) => &tradeoff.failures,
            (Kind::Reversal, _, Some(reversal)) => &reversal.failures,
            _ => &[],
        }
    }

    /// What a kind writes besides its numbers.
    pub(super) fn write_more(&self, kind: Kind, dir: &Path) -> Result<()> {
        match (kind, &self.lens) {
            (Kind::Lens, Some(lens)) => lens.write_tokens(dir),
            _ => Ok(()),
        }
    }
}
