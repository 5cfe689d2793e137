//! Runs a sweep: what is finished is skipped, what was interrupted goes on, a cell that fails does not stop the others.
//!
//! Of several ranks each trains and judges cells of its own, alone; then the first one reads what all have left and makes the tables.

use super::{
    Cell, Examiner, Scores, SweepFolder, SweepPlan, loss,
    loss::{LOSS_JSONL, test_set},
    plan::slug,
    record::SweepRecord,
};
use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    hub::{HubOptions, OnTransfer},
    progress::Progress,
    ranks::Ranks,
    run::DONE,
    study::training::{finished_run, result_of},
    tokens::{TrainingSample, data},
    train::{Experiment, Observer, TrainingRun},
};
use midblock_kernels::Backend;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const EVAL: &str = "eval";

/// What happens in a sweep.
#[derive(Clone, Copy, Debug)]
pub enum News<'a> {
    /// A pretrained model is judged.
    Reference {
        /// Its name.
        model: &'a str,
    },
    /// A cell is finished already.
    Skipped {
        /// Its name.
        cell: &'a str,
        /// Its number, from 1.
        number: usize,
        /// How many there are.
        of: usize,
    },
    /// A cell trains, or goes on training.
    Training {
        /// Its name.
        cell: &'a str,
        /// Its number, from 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// Time the sweep will take from here if cells take as long as those before.
        seconds_left: Option<f64>,
    },
    /// A cell is judged.
    Judging {
        /// Its name.
        cell: &'a str,
    },
    /// A cell failed.
    Failed {
        /// Its name.
        cell: &'a str,
        /// Why.
        problem: &'a Error,
    },
}

/// Is told what happens, between the steps of training.
pub trait Watcher: Observer {
    /// Something begins or failed.
    fn news(&mut self, news: &News<'_>);
}

/// A cell that failed.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// Its name.
    pub cell: String,
    /// Why, as it would be printed.
    pub problem: String,
}

/// What a finished cell or a pretrained model gave.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    /// The training run; none of a pretrained model.
    pub run: Option<TrainingRun>,
    pub scores: Vec<Scores>,
}

/// What a sweep computes with.
pub struct Means<'a, B> {
    /// Computes.
    pub backend: &'a B,
    /// Judges by tasks, if there are any.
    pub examiner: Option<&'a dyn Examiner>,
    /// Hub settings.
    pub hub: &'a HubOptions,
    /// Is told of downloads.
    pub on_transfer: OnTransfer<'a>,
    /// Is told of what is written and judged, and asked whether to stop.
    pub progress: &'a dyn Progress,
}

/// Runs all cells that are not finished. What is known is written after each. On ranks but the first the record says little.
///
/// # Errors
/// Whatever is wrong with the pretrained models or the folder; [`Error::Interrupted`] if it was asked to stop, and then the same
/// call goes on. Cells that fail are in the record.
pub fn sweep<B: Backend>(
    means: &Means<'_, B>,
    plan: &SweepPlan,
    folder: &SweepFolder,
    watcher: &mut dyn Watcher,
    ranks: &Ranks,
) -> Result<SweepRecord> {
    let sources = || {
        let data = plan.data.iter().map(|own| &own.data);
        data.flat_map(|data| data.train.iter().chain(&data.eval))
    };
    // now, and not once for every cell
    ranks.first(|| {
        sources().try_for_each(|source| data::resolve(&source.0.source, means.hub, means.on_transfer).map(|_| ()))
    })?;
    let mut record = SweepRecord::begin(plan, folder)?;
    record.started_unix_s = ranks.share(|| Ok(record.started_unix_s))?;
    let now = UNIX_EPOCH + Duration::from_secs(record.started_unix_s);
    let mut sweep = Running {
        means,
        plan,
        folder,
        now,
        tests: BTreeMap::new(),
        record,
        references: BTreeMap::new(),
        cells: plan.cells.iter().map(|_| None).collect(),
        ranks,
        doers: Vec::new(),
    };
    sweep.doers = ranks.share(|| Ok(sweep.divide()))?;
    for model in (0..plan.models.len()).filter(|model| model % ranks.size() == ranks.rank()) {
        watcher.news(&News::Reference {
            model: &plan.models[model].name,
        });
        sweep.reference(model)?;
    }
    sweep.write()?;
    sweep.run_cells(watcher)?;
    sweep.collect(watcher)?;
    let complete = sweep.cells.iter().all(Option::is_some);
    sweep.record.finish(complete);
    sweep.write()?;
    if complete && ranks.is_first() {
        crate::run::write_bytes(&folder.path(DONE), b"")?;
    }
    Ok(sweep.record)
}

struct Running<'a, B> {
    means: &'a Means<'a, B>,
    plan: &'a SweepPlan,
    folder: &'a SweepFolder,
    /// The time that chat templates see: the start of the sweep.
    now: SystemTime,
    /// Test sets by model and data.
    tests: BTreeMap<(usize, usize), Vec<TrainingSample>>,
    record: SweepRecord,
    /// By model and data.
    references: BTreeMap<(usize, usize), Judged>,
    cells: Vec<Option<Judged>>,
    ranks: &'a Ranks,
    /// By cell, the rank that runs it.
    doers: Vec<usize>,
}

impl<B: Backend> Running<'_, B> {
    /// Quantised as it is trained, so that a cell is judged as the model it is.
    fn open(&self, spec: &str) -> Result<Checkpoint> {
        let mut checkpoint = Checkpoint::open(spec, self.means.hub, self.means.on_transfer)?;
        let kind = self.plan.cells.first().and_then(|cell| cell.config.model.quantize);
        if let Some(kind) = kind {
            checkpoint.quantize(kind, &[])?;
            checkpoint.make_quantized(self.means.progress)?;
        }
        Ok(checkpoint)
    }

    fn stop_if_asked(&self) -> Result<()> {
        if self.means.progress.cancelled() {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }

    fn run_cells(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        let plan = self.plan;
        let (of, mut made, start) = (plan.cells.len(), 0, Instant::now());
        for (index, cell) in plan.cells.iter().enumerate() {
            if self.doers[index] != self.ranks.rank() {
                continue;
            }
            self.stop_if_asked()?;
            let (name, number) = (cell.name.as_str(), index + 1);
            let trained = self.folder.cell(name).join(DONE).is_file();
            let left = self.doers[index..]
                .iter()
                .filter(|rank| **rank == self.ranks.rank())
                .count() as f64;
            let seconds_left = (made > 0).then(|| start.elapsed().as_secs_f64() / f64::from(made) * left);
            watcher.news(&match trained {
                true => News::Skipped { cell: name, number, of },
                false => News::Training {
                    cell: name,
                    number,
                    of,
                    seconds_left,
                },
            });
            match self.cell(cell, watcher) {
                Ok(judged) => self.cells[index] = Some(judged),
                Err(problem) if problem.ends_all() => return Err(problem),
                Err(problem) => self.fail(cell, &problem, watcher),
            }
            made += u32::from(!trained);
            self.write()?;
        }
        Ok(())
    }

    /// Which rank runs which cell: in turns, those first that are not trained; the pretrained models come before them.
    fn divide(&self) -> Vec<usize> {
        let (size, trained) = (self.ranks.size(), |cell: &Cell| {
            self.folder.cell(&cell.name).join(DONE).is_file()
        });
        let mut order: Vec<usize> = (0..self.plan.cells.len()).collect();
        order.sort_by_key(|&index| trained(&self.plan.cells[index]));
        let mut doers = vec![0; order.len()];
        for (number, index) in order.into_iter().enumerate() {
            doers[index] = (self.plan.models.len() + number) % size;
        }
        doers
    }

    /// Reads on the first rank what the others have done.
    fn collect(&mut self, watcher: &mut dyn Watcher) -> Result<()> {
        let failures = serde_json::to_vec(&self.record.failures).expect("invariant: text can be written as JSON");
        let all = self.ranks.gather(&failures)?;
        if !self.ranks.is_first() {
            return Ok(());
        }
        for model in (0..self.plan.models.len()).filter(|model| model % self.ranks.size() != 0) {
            self.reference(model)?;
        }
        let failures = all
            .iter()
            .skip(1)
            .map(|bytes| serde_json::from_slice::<Vec<Failure>>(bytes));
        let failures: Vec<Failure> = failures
            .collect::<Result<Vec<_>, _>>()
            .expect("invariant: what a rank has written can be read")
            .concat();
        let plan = self.plan;
        for (index, cell) in plan.cells.iter().enumerate() {
            let rank = self.doers[index];
            if rank == 0 {
                continue;
            }
            let failure = failures.iter().find(|failure| failure.cell == cell.name);
            let here = self.folder.cell(&cell.name).join(DONE).is_file();
            let failed = match (failure, here) {
                (Some(failure), _) => Some(failure.problem.clone()),
                (None, false) => {
                    Some("it is trained, but not to be seen here: --out must be on a file system that all share".into())
                }
                (None, true) => None,
            };
            let judged = match failed {
                Some(problem) => Err(Error::Rank { rank, problem }),
                None => self.cell(cell, watcher),
            };
            match judged {
                Ok(judged) => self.cells[index] = Some(judged),
                Err(problem) if problem.ends_all() => return Err(problem),
                Err(problem) => self.fail(cell, &problem, watcher),
            }
        }
        self.write()
    }

    fn fail(&mut self, cell: &Cell, problem: &Error, watcher: &mut dyn Watcher) {
        let name = &cell.name;
        watcher.news(&News::Failed { cell: name, problem });
        self.record.failed(name, problem);
    }

    /// Trains and judges, as far as that is not done.
    fn cell(&mut self, cell: &Cell, watcher: &mut dyn Watcher) -> Result<Judged> {
        let dir = self.folder.cell(&cell.name);
        let means = self.means;
        let config = cell.config.clone();
        let prepare = || Experiment::prepare(means.backend, config, means.hub, means.on_transfer, self.now);
        let run = finished_run(means.backend, &dir, prepare, &mut *watcher, means.progress)?;
        self.stop_if_asked()?;
        let spec = result_of(&self.plan.models[cell.model].spec, &dir, &run, cell.config.adapt.kind);
        watcher.news(&News::Judging { cell: &cell.name });
        let checkpoint = self.open(&spec)?;
        let mut scores = self.examine(&checkpoint, &dir.join(EVAL))?;
        scores.extend(self.losses(&checkpoint, cell.model, cell.data, &dir.join(LOSS_JSONL))?);
        Ok(Judged { run: Some(run), scores })
    }

    /// Judges a pretrained model, its loss on every test set.
    fn reference(&mut self, model: usize) -> Result<()> {
        self.stop_if_asked()?;
        let checkpoint = self.open(&self.plan.models[model].spec)?;
        let dir = self.folder.reference(&self.plan.models[model].name, &checkpoint)?;
        let tasks = self.examine(&checkpoint, &dir.join(EVAL))?;
        for (data, of) in self.plan.data.iter().enumerate() {
            let name = match slug(&of.name) {
                _ if of.name.is_empty() => LOSS_JSONL.to_owned(),
                name => format!("loss-{name}.jsonl"),
            };
            let mut scores = tasks.clone();
            scores.extend(self.losses(&checkpoint, model, data, &dir.join(name))?);
            self.references.insert((model, data), Judged { run: None, scores });
        }
        Ok(())
    }

    fn examine(&self, checkpoint: &Checkpoint, dir: &Path) -> Result<Vec<Scores>> {
        match self.means.examiner {
            Some(examiner) => examiner.examine(checkpoint, dir, self.means.progress),
            None => Ok(Vec::new()),
        }
    }

    /// The losses on a test set, from `path` if they are there; none without a test set.
    fn losses(&mut self, checkpoint: &Checkpoint, model: usize, data: usize, path: &Path) -> Result<Option<Scores>> {
        let own = &self.plan.data[data].data;
        if own.eval.is_empty() {
            return Ok(None);
        }
        if !path.is_file() {
            let means = self.means;
            let samples = match self.tests.entry((model, data)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    let set = test_set(checkpoint, own, means.hub, means.on_transfer, self.now)?;
                    new.insert(set)
                }
            };
            loss::measure(means.backend, checkpoint, samples, path, means.progress)?;
        }
        // what was written, so that a sweep that goes on has the same digits
        Ok(Some(Scores::of_losses(&loss::read(path)?)))
    }

    /// Writes everything that follows from what is known.
    fn write(&mut self) -> Result<()> {
        if !self.ranks.is_first() {
            return Ok(());
        }
        self.record.tabulate(self.plan, &self.references, &self.cells);
        self.record.write(self.folder)
    }
}
