//! The loop: evaluate, save, step, until all steps are done or something says stop.
//!
//! A step is a number of micro-batches whose gradients add up; its loss is Σ nats over the trained tokens of all of them, so
//! that a long answer weighs as much per token as a short one. Where a run is, is a [`Position`]: what the loop does next
//! depends on it and the stepper's state alone, and so a run that goes on from a checkpoint does what it would have done.
//!
//! Several ranks run the same loop, each on its share of a step's micro-batches and of an evaluation's batches. Sums of losses are made of
//! all batches in their order, so that every rank takes the same turns; what one is asked to stop for stops all, at the same step.

use super::{
    Checkpoints, DriftMetrics, Drifted, Ending, Evaluation, Exchange, Item, LossSum, Observer, Outlook, Schedule,
    Settings, StepInfo, StepMetrics, Stepper, Timeline, restore,
};
use crate::{
    Error, Result,
    config::Config,
    ranks::{Ranks, shares},
    run::private_rss_bytes,
};
use serde::{Deserialize, Serialize};
use std::time::Instant;

/// Where a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// Steps done.
    pub step: u64,
    /// The evaluation with the lowest loss.
    pub best: Option<Best>,
    /// Evaluations in a row without a new lowest loss.
    pub without_improvement: usize,
    /// The step after which was evaluated last.
    pub evaluated: Option<u64>,
    /// The step after which drift was measured last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drifted: Option<u64>,
    /// Tokens of all steps.
    pub tokens: u64,
    /// Wall-clock time of all steps; that of steps that were lost is not in it.
    pub seconds: f64,
    /// Why the last step ended the run, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ending>,
}

/// The evaluation with the lowest loss.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Steps done then.
    pub step: u64,
    /// Its loss.
    pub loss: f64,
}

/// When the loop does something besides steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Habits {
    /// Steps between evaluations; before the first step and after the last it is evaluated in any case.
    pub eval_every: Option<u64>,
    /// Steps between checkpoints.
    pub save_every: u64,
    /// Evaluations without improvement that end the run.
    pub patience: Option<usize>,
    /// Whether the run ends with the parameters of its best evaluation.
    pub keep_best: bool,
}

/// Looks now and then at how far the run has come from its start; the run itself does not notice.
pub struct DriftHabit<'a> {
    /// Steps between measurements; after the last step it is measured in any case.
    pub every: u64,
    /// Measures the stepper as it is.
    pub measure: &'a dyn Fn(&mut dyn Stepper) -> Result<Drifted>,
}

/// A run, ready to go.
pub struct Fit<'a, C: Settings = Config> {
    /// What is trained.
    pub stepper: &'a mut dyn Stepper,
    /// Sequences to train on.
    pub train: &'a [Item<'a>],
    /// Batches to evaluate on; none to never evaluate.
    pub eval: &'a [Vec<Item<'a>>],
    /// Which sequences when.
    pub timeline: Timeline,
    /// The learning rate.
    pub schedule: Schedule,
    /// Evaluations and checkpoints.
    pub habits: Habits,
    /// Measuring of drift, if it is wanted.
    pub drift: Option<DriftHabit<'a>>,
    /// Where checkpoints go; none on ranks that do not write.
    pub checkpoints: Option<&'a Checkpoints<C>>,
    /// Who is told.
    pub observers: &'a mut [&'a mut dyn Observer],
    /// Asked between batches whether to stop.
    pub stop: &'a dyn Fn() -> bool,
    /// Who shares the work.
    pub ranks: &'a Ranks,
}

/// Steps that the expected time of a step is an average over.
const RECENT: f64 = 20.0;

impl<C: Settings> Fit<'_, C> {
    /// Runs from `position`, which is where the stepper's state is, to the end. Returns where and why it ended.
    ///
    /// # Errors
    /// [`Error::Diverged`] if a loss or gradient is not finite, and those of the stepper, of files and of observers; the last
    /// checkpoint stays.
    pub fn run(&mut self, mut position: Position) -> Result<(Position, Ending)> {
        let outlook = Outlook {
            steps: self.timeline.steps(),
            done: position.step,
        };
        self.tell(|observer| observer.begin(&outlook))?;
        let mut step_seconds = (position.step > 0).then(|| position.seconds / position.step as f64);
        let mut saved = (position.step > 0).then_some(position.step);
        let began = position.step;
        let mut ending = loop {
            if self.evaluation_is_due(&position) && !self.evaluate(&mut position, &mut saved)? {
                break Ending::Interrupted;
            }
            if self
                .habits
                .patience
                .is_some_and(|patience| position.without_improvement >= patience)
            {
                break Ending::Patience;
            }
            if let Some(ending) = position.ended {
                break ending;
            }
            if position.step == self.timeline.steps() {
                break Ending::Finished;
            }
            let every = self.drift.as_ref().map(|drift| drift.every);
            let due = position.step > 0 && every.is_some_and(|every| position.step.is_multiple_of(every));
            if due && !self.measure_drift(&mut position)? {
                break Ending::Interrupted;
            }
            if position.step > 0 && position.step.is_multiple_of(self.habits.save_every) {
                self.save(&position, &mut saved)?;
            }
            if !self.step(&mut position, &mut step_seconds)? {
                break Ending::Interrupted;
            }
            if position.step == began + 1 {
                self.check_replicas()?; // what will never go well is told at once
            }
        };
        if ending != Ending::Interrupted && !self.measure_drift(&mut position)? {
            ending = Ending::Interrupted;
        }
        self.save(&position, &mut saved)?;
        if let Some(best) = position
            .best
            .filter(|best| self.habits.keep_best && best.step != position.step)
            && ending != Ending::Interrupted
            && let Some(checkpoints) = self.checkpoints
        {
            restore(&checkpoints.folder(best.step), self.stepper)?;
        }
        Ok((position, ending))
    }

    fn evaluation_is_due(&self, position: &Position) -> bool {
        let step = position.step;
        let at_end = step == 0 || step == self.timeline.steps() || position.ended.is_some();
        let due = at_end || self.habits.eval_every.is_some_and(|every| step.is_multiple_of(every));
        due && !self.eval.is_empty() && position.evaluated != Some(step)
    }

    /// False if it was interrupted; the evaluation is then made when the run goes on.
    fn evaluate(&mut self, position: &mut Position, saved: &mut Option<u64>) -> Result<bool> {
        let start = Instant::now();
        let eval = self.eval;
        let sum = self.shared(eval, |stepper, batch| stepper.evaluate(&eval[batch]))?;
        let Some(sum) = sum else { return Ok(false) };
        let loss = sum.nats / sum.tokens as f64;
        if !loss.is_finite() {
            return Err(Error::Diverged {
                step: position.step,
                what: "the evaluation's loss",
                value: loss,
                samples: "of the evaluation".into(),
            });
        }
        let best = position.best.is_none_or(|best| loss < best.loss);
        if best {
            let step = position.step;
            position.best = Some(Best { step, loss });
            position.without_improvement = 0;
        } else {
            position.without_improvement += 1;
        }
        position.evaluated = Some(position.step);
        let evaluation = Evaluation {
            step: position.step,
            epoch: self.timeline.epochs_after(position.step),
            loss,
            trained_tokens: sum.tokens,
            best,
            seconds: start.elapsed().as_secs_f64(),
        };
        self.tell(|observer| observer.evaluation(&evaluation))?;
        if best && self.habits.keep_best {
            *saved = None; // one may have been written before the evaluation
            self.save(position, saved)?;
        }
        Ok(true)
    }

    /// Measures drift, unless it is measured at this very step. False if it was interrupted; it is then measured when the run
    /// goes on.
    fn measure_drift(&mut self, position: &mut Position) -> Result<bool> {
        let Some(drift) = self.drift.as_ref().filter(|_| position.drifted != Some(position.step)) else {
            return Ok(true);
        };
        let start = Instant::now();
        let measured = match (drift.measure)(self.stepper) {
            Err(Error::Interrupted) => None,
            measured => Some(measured?),
        };
        let interrupted = self.ranks.any(measured.is_none())?;
        let Some((matrices, cka)) = measured.filter(|_| !interrupted) else {
            return Ok(false);
        };
        position.drifted = Some(position.step);
        let metrics = DriftMetrics {
            step: position.step,
            epoch: self.timeline.epochs_after(position.step),
            matrices,
            cka,
            seconds: start.elapsed().as_secs_f64(),
        };
        self.tell(|observer| observer.drift(&metrics))?;
        Ok(true)
    }

    /// False if it was interrupted; the step is then made when the run goes on.
    fn step(&mut self, position: &mut Position, step_seconds: &mut Option<f64>) -> Result<bool> {
        let start = Instant::now();
        let (train, plan) = (self.train, self.timeline.step(position.step));
        let all: Vec<Item<'_>> = plan.iter().flatten().map(|&index| train[index]).collect();
        let tokens = all.iter().map(|item| item.sample.ids.len()).sum();
        let mut info = StepInfo {
            step: position.step + 1,
            micro: 0,
            tokens: all.iter().map(|item| item.sample.trained_tokens()).sum(),
            lr: self.schedule.lr(position.step),
        };
        let item = |index: &usize| train[*index];
        let batches: Vec<Vec<Item<'_>>> = plan.iter().map(|indices| indices.iter().map(item).collect()).collect();
        let mut own_seconds = 0.0;
        let sum = self.shared(&batches, |stepper, micro| {
            info.micro = micro as u64;
            let sum = stepper.accumulate(&batches[micro], &info)?;
            own_seconds = start.elapsed().as_secs_f64();
            Ok(sum)
        })?;
        let Some(sum) = sum else { return Ok(false) };
        let (before, sent) = (start.elapsed().as_secs_f64(), self.ranks.sent_bytes());
        self.stepper.reduce(self.ranks)?;
        let exchange = (self.ranks.size() > 1).then(|| Exchange {
            wait_seconds: before - own_seconds,
            reduce_seconds: start.elapsed().as_secs_f64() - before,
            sent_bytes: self.ranks.sent_bytes() - sent,
        });
        let report = self.stepper.apply(&info)?;
        let seconds = start.elapsed().as_secs_f64();
        let expected = step_seconds.map_or(seconds, |before| before + (seconds - before) / RECENT);
        *step_seconds = Some(expected);
        position.step += 1;
        position.ended = report.ending;
        position.tokens += tokens as u64;
        position.seconds += seconds;
        let id = |&index: &usize| self.train[index].sample.id.clone();
        let samples = plan.iter().map(|indices| indices.iter().map(id).collect()).collect();
        let metrics = StepMetrics {
            step: position.step,
            epoch: self.timeline.epochs_after(position.step),
            loss: sum.nats / sum.tokens as f64,
            objective: Some(sum.objective / sum.tokens as f64 + report.penalty),
            lr: info.lr,
            gradient_norm: report.gradient_norm,
            samples,
            tokens,
            trained_tokens: sum.tokens,
            seconds,
            tokens_per_s: tokens as f64 / seconds,
            trained_tokens_per_s: sum.tokens as f64 / seconds,
            seconds_left: expected * (self.timeline.steps() - position.step) as f64,
            private_bytes: private_rss_bytes(),
            erasure: report.erasure,
            carrier: report.carrier,
            exchange,
        };
        self.tell(|observer| observer.step(&metrics))?;
        Ok(true)
    }

    /// Saves unless this very step is saved.
    fn save(&mut self, position: &Position, saved: &mut Option<u64>) -> Result<()> {
        if *saved == Some(position.step) {
            return Ok(());
        }
        self.check_replicas()?;
        *saved = Some(position.step);
        let Some(checkpoints) = self.checkpoints else {
            return Ok(());
        };
        self.tell(|observer| observer.saving(position.step))?;
        let folder = checkpoints.save(position, self.stepper)?;
        self.tell(|observer| observer.saved(position.step, &folder))
    }

    /// Does this rank's share of some batches and adds all ranks' sums up, in the order of the batches. `None` if a rank was asked to stop.
    fn shared(
        &mut self,
        batches: &[Vec<Item<'_>>],
        mut work: impl FnMut(&mut dyn Stepper, usize) -> Result<LossSum>,
    ) -> Result<Option<LossSum>> {
        let tokens = |items: &Vec<Item<'_>>| items.iter().map(|item| item.sample.ids.len()).sum();
        let sizes: Vec<usize> = batches.iter().map(tokens).collect();
        let own = shares(&sizes, self.ranks.size()).swap_remove(self.ranks.rank());
        let mut sums = Vec::new();
        for (done, &batch) in own.iter().enumerate() {
            if (self.stop)() {
                break;
            }
            sums.push((batch, work(self.stepper, batch)?));
            self.observers.iter_mut().for_each(|o| o.batch(done + 1, own.len()));
        }
        let stopped = sums.len() < own.len() || own.is_empty() && (self.stop)();
        let all = self.ranks.all(&LossSum::to_bytes(stopped, &sums))?;
        Ok(LossSum::of_all(&all))
    }

    /// Checks that all ranks have the same parameters and moments; each makes its own, of the same gradients.
    fn check_replicas(&mut self) -> Result<()> {
        if self.ranks.size() == 1 {
            return Ok(());
        }
        let mut hash = blake3::Hasher::new();
        for (name, _) in self.stepper.tensors() {
            hash.update(bytemuck::cast_slice(&self.stepper.read(&name)));
        }
        let help = "ranks must run one build of midblock on processors of one kind";
        self.ranks
            .same("parameters and moments", hash.finalize().as_bytes(), help)
    }

    fn tell(&mut self, mut event: impl FnMut(&mut dyn Observer) -> Result<()>) -> Result<()> {
        self.observers.iter_mut().try_for_each(|observer| event(*observer))
    }
}

#[cfg(test)]
mod tests;
