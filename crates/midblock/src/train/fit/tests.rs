use super::*;
use crate::{
    config::Config,
    ranks::tests::on_ranks,
    tokens::{Grouping, Order, TrainingSample},
    train::{
        Batching, DriftHabit, DriftMetrics, Identity, JsonLines, Length, Line, Shape, StepReport, read_lines,
        tune::begin_together,
    },
};
use proptest::prelude::*;
use std::{cell::Cell, fs, path::Path};
use tempfile::TempDir;

/// A parameter `w` on a parabola per trained token, Σ (w − id/10)², with Adam's moments and a noise that depends on the place
/// in the run as dropout does.
struct Parabola {
    w: f32,
    moments: [f32; 2],
    gradient: f32,
    /// Steps at which the loss is NaN.
    breaks_at: Option<u64>,
    /// The step that ends the run.
    ends_at: Option<u64>,
}

impl Parabola {
    fn new() -> Self {
        Self {
            w: 3.0,
            moments: [0.0; 2],
            gradient: 0.0,
            breaks_at: None,
            ends_at: None,
        }
    }

    fn nats(&self, items: &[Item<'_>]) -> LossSum {
        let mut sum = LossSum::default();
        for (id, _) in items.iter().flat_map(targets) {
            let distance = f64::from(self.w) - f64::from(id) / 10.0;
            let nats = distance * distance;
            sum += LossSum {
                nats,
                objective: nats,
                tokens: 1,
            };
        }
        sum
    }
}

/// Trained tokens and their positions.
fn targets(item: &Item<'_>) -> Vec<(u32, usize)> {
    let sample = item.sample;
    let all = sample.ids.iter().copied().zip(0..);
    all.filter(|(_, t)| sample.trained[*t]).collect()
}

impl Stepper for Parabola {
    fn accumulate(&mut self, items: &[Item<'_>], info: &StepInfo) -> Result<LossSum> {
        let noise = ((info.step * 31 + info.micro * 7) % 13) as f32 / 1000.0;
        for (id, _) in items.iter().flat_map(targets) {
            self.gradient += 2.0 * (self.w + noise - id as f32 / 10.0) / info.tokens as f32;
        }
        if self.breaks_at == Some(info.step) {
            return Err(Error::Diverged {
                step: info.step,
                what: "the loss",
                value: f64::NAN,
                samples: items[0].sample.id.clone(),
            });
        }
        Ok(self.nats(items))
    }

    fn reduce(&mut self, ranks: &Ranks) -> Result<()> {
        ranks.sum(std::slice::from_mut(&mut self.gradient))
    }

    fn apply(&mut self, info: &StepInfo) -> Result<StepReport> {
        let [m, v] = &mut self.moments;
        *m = 0.9 * *m + 0.1 * self.gradient;
        *v = 0.99 * *v + 0.01 * self.gradient * self.gradient;
        let corrected = [
            *m / (1.0 - 0.9f32.powi(info.step as i32)),
            *v / (1.0 - 0.99f32.powi(info.step as i32)),
        ];
        self.w -= info.lr as f32 * corrected[0] / (corrected[1].sqrt() + 1e-8);
        let gradient_norm = f64::from(self.gradient.abs());
        self.gradient = 0.0;
        Ok(StepReport {
            gradient_norm,
            clip_scale: 1.0,
            penalty: 0.0,
            carrier: None,
            ending: (self.ends_at == Some(info.step)).then_some(Ending::Settled),
        })
    }

    fn evaluate(&mut self, items: &[Item<'_>]) -> Result<LossSum> {
        Ok(self.nats(items))
    }

    fn pooled_states(&mut self, _: &[Item<'_>]) -> Vec<Vec<f64>> {
        Vec::new()
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        vec![("w".into(), vec![1]), ("moments".into(), vec![2])]
    }

    fn read(&mut self, name: &str) -> Vec<f32> {
        if name == "w" {
            vec![self.w]
        } else {
            self.moments.to_vec()
        }
    }

    fn write(&mut self, name: &str, values: &[f32]) {
        if name == "w" {
            self.w = values[0];
        } else {
            self.moments.copy_from_slice(values);
        }
    }
}

/// A whole small experiment.
struct Bed {
    dir: TempDir,
    samples: Vec<TrainingSample>,
    habits: Habits,
    lr: f64,
    batch: usize,
    accumulation: usize,
    breaks_at: Option<u64>,
    ends_at: Option<u64>,
    keep: usize,
    /// Steps between measurements of drift.
    drift: Option<u64>,
    /// A rank whose parameter is another.
    differs: Option<usize>,
}

impl Bed {
    fn new() -> Self {
        let sample = |row: u32| TrainingSample {
            id: format!("data.jsonl:{row}"),
            ids: (0..3 + row % 4).map(|t| (row * 7 + t * 3) % 20).collect(),
            trained: (0..3 + row % 4).map(|t| t > row % 2).collect(),
        };
        Self {
            dir: TempDir::new().unwrap(),
            samples: (0..11).map(sample).collect(),
            habits: Habits {
                eval_every: Some(3),
                save_every: 2,
                patience: None,
                keep_best: false,
            },
            lr: 0.05,
            batch: 2,
            accumulation: 2,
            breaks_at: None,
            ends_at: None,
            keep: 2,
            drift: Some(5),
            differs: None,
        }
    }

    fn items(&self) -> Vec<Item<'_>> {
        let item = |(key, sample)| Item { key, sample };
        (0..).zip(&self.samples).map(item).collect()
    }

    fn identity(&self) -> Identity {
        Identity {
            config: Config::default(),
            base: "base".into(),
            tuned: None,
            data: vec![("data".into(), "0123456789abcdef".into())],
            threads: 2,
            ranks: 1,
        }
    }

    fn checkpoints(&self) -> Checkpoints {
        Checkpoints::new(self.dir.path().join("checkpoints"), self.keep, self.identity())
    }

    fn metrics(&self) -> std::path::PathBuf {
        self.dir.path().join("metrics.jsonl")
    }

    /// Starts or goes on, from the newest checkpoint. `fuse` is how many more events are survived.
    fn run(&self, stop: &dyn Fn() -> bool, fuse: &Cell<usize>) -> Result<(Parabola, Position, Ending)> {
        self.run_on(&Ranks::alone(), stop, fuse)
    }

    /// The same on one of some ranks; the first has the folder.
    fn run_on(
        &self,
        ranks: &Ranks,
        stop: &dyn Fn() -> bool,
        fuse: &Cell<usize>,
    ) -> Result<(Parabola, Position, Ending)> {
        let checkpoints = self.checkpoints();
        let mut stepper = Parabola {
            breaks_at: self.breaks_at,
            ends_at: self.ends_at,
            ..Parabola::new()
        };
        let mut position = Position::default();
        if let Some(newest) = checkpoints.newest()?.filter(|_| ranks.is_first()) {
            position = checkpoints.read(&newest)?.0;
            restore(&newest, &mut stepper)?;
        }
        let position = begin_together(position, &mut stepper, ranks)?;
        stepper.w += self.differs.filter(|rank| *rank == ranks.rank()).map_or(0.0, |_| 1e-6);
        let mut lines = (ranks.is_first())
            .then(|| JsonLines::open(self.metrics(), &position))
            .transpose()?;
        let mut killer = Fuse(fuse);
        let mut observers: Vec<&mut dyn Observer> = lines.iter_mut().map(|lines| lines as &mut dyn Observer).collect();
        observers.push(&mut killer);
        let items = self.items();
        let sizes = items
            .iter()
            .map(|item| [item.sample.ids.len(), item.sample.trained_tokens()]);
        let timeline = Timeline::new(
            &sizes.collect::<Vec<_>>(),
            Batching {
                grouping: Grouping::Sequences(self.batch),
                order: Order::Shuffled,
                accumulation: self.accumulation,
                seed: 42,
            },
            Length::Epochs(4),
        );
        let schedule = Schedule {
            shape: Shape::Linear,
            peak: self.lr,
            warmup_steps: 2,
            steps: timeline.steps(),
            min_ratio: 0.0,
        };
        let eval = [items[..3].to_vec(), items[3..5].to_vec()];
        let measure = |stepper: &mut dyn Stepper| match stop() {
            true => Err(Error::Interrupted),
            false => Ok((Vec::new(), vec![Some(f64::from(stepper.read("w")[0]))])),
        };
        let (position, ending) = Fit {
            stepper: &mut stepper,
            train: &items,
            eval: &eval,
            timeline,
            schedule,
            habits: self.habits,
            drift: self.drift.map(|every| DriftHabit {
                every,
                measure: &measure,
            }),
            checkpoints: ranks.is_first().then_some(&checkpoints),
            observers: &mut observers,
            stop,
            ranks,
        }
        .run(position)?;
        Ok((stepper, position, ending))
    }

    fn run_through(&self) -> (Parabola, Position, Ending) {
        self.run(&|| false, &Cell::new(usize::MAX)).unwrap()
    }

    /// The file's lines without the times.
    fn lines(&self) -> Vec<Line> {
        let mut lines = read_lines(&self.metrics()).unwrap();
        for line in &mut lines {
            match line {
                Line::Step(step) => {
                    (step.seconds, step.tokens_per_s, step.trained_tokens_per_s) = (0.0, 0.0, 0.0);
                    (step.seconds_left, step.private_bytes, step.exchange) = (0.0, None, None);
                }
                Line::Evaluation(evaluation) => evaluation.seconds = 0.0,
                Line::Drift(drift) => drift.seconds = 0.0,
            }
        }
        lines
    }

    fn kept(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.dir.path().join("checkpoints"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// Ends the run with an error after so many events, as a kill would: nothing more is written.
struct Fuse<'a>(&'a Cell<usize>);

impl Fuse<'_> {
    fn burn(&self) -> Result<()> {
        match self.0.get() {
            0 => Err(Error::Interrupted),
            left => {
                self.0.set(left - 1);
                Ok(())
            }
        }
    }
}

impl Observer for Fuse<'_> {
    fn step(&mut self, _: &StepMetrics) -> Result<()> {
        self.burn()
    }

    fn evaluation(&mut self, _: &Evaluation) -> Result<()> {
        self.burn()
    }

    fn drift(&mut self, _: &DriftMetrics) -> Result<()> {
        self.burn()
    }

    fn saving(&mut self, _: u64) -> Result<()> {
        self.burn()
    }

    fn saved(&mut self, _: u64, _: &Path) -> Result<()> {
        self.burn()
    }
}

#[test]
fn a_run_steps_evaluates_and_saves_when_it_should() {
    let bed = Bed::new();
    let (stepper, position, ending) = bed.run_through();
    assert_eq!((position.step, ending), (12, Ending::Finished)); // 4 epochs of ⌈6 micro-batches / 2⌉
    let lines = bed.lines();
    let evaluated: Vec<u64> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Evaluation(evaluation) => Some(evaluation.step),
            Line::Step(_) | Line::Drift(_) => None,
        })
        .collect();
    assert_eq!(evaluated, [0, 3, 6, 9, 12]);
    let drifted = lines.iter().filter_map(|line| match line {
        Line::Drift(drift) => Some((drift.step, drift.cka[0])),
        _ => None,
    });
    let drifted: Vec<_> = drifted.collect();
    assert_eq!(drifted.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [5, 10, 12]);
    assert_eq!(drifted[2].1, Some(f64::from(stepper.w)));
    assert_eq!(lines.len(), 12 + 5 + 3);
    assert_eq!(bed.kept(), ["step-000010", "step-000012"]);
    assert!((stepper.w - 3.0).abs() > 0.1);
    assert_eq!(
        position.tokens,
        4 * bed.samples.iter().map(|s| s.ids.len() as u64).sum::<u64>()
    );
}

#[test]
fn drift_is_measured_without_a_trace_in_the_run() {
    let (watched, blind) = (
        Bed::new(),
        Bed {
            drift: None,
            ..Bed::new()
        },
    );
    let [watched_w, blind_w] = [&watched, &blind].map(|bed| bed.run_through().0.w.to_bits());
    assert_eq!(watched_w, blind_w);
    let mut lines = watched.lines();
    lines.retain(|line| !matches!(line, Line::Drift(_)));
    assert_eq!(lines, blind.lines());
}

#[test]
fn a_step_is_the_mean_over_all_its_tokens_however_it_is_cut() {
    let finals = [(1, 4), (2, 2), (4, 1)].map(|(batch, accumulation)| {
        let bed = Bed {
            batch,
            accumulation,
            ..Bed::new()
        };
        let steps = bed.run_through().1.step;
        let losses: Vec<f64> = bed
            .lines()
            .iter()
            .filter_map(|line| match line {
                Line::Step(step) => Some(step.loss),
                Line::Evaluation(_) | Line::Drift(_) => None,
            })
            .collect();
        (steps, losses[0])
    });
    for (steps, loss) in finals {
        assert_eq!(steps, 12);
        assert!((loss - finals[0].1).abs() < 1e-12, "{loss} for {}", finals[0].1);
    }
    // and of that step by hand
    let bed = Bed::new();
    let plan = crate::tokens::BatchPlan::new(
        &bed.samples.iter().map(|s| s.ids.len()).collect::<Vec<_>>(),
        Grouping::Sequences(4),
        Order::Shuffled,
        42,
        0,
    );
    let items: Vec<Item<'_>> = plan.batches[0].iter().map(|&i| bed.items()[i]).collect();
    let sum = Parabola::new().nats(&items);
    assert!((sum.nats / sum.tokens as f64 - finals[0].1).abs() < 1e-12);
}

#[test]
fn a_diverging_run_names_step_and_samples_and_leaves_its_checkpoint() {
    let mut bed = Bed::new();
    bed.breaks_at = Some(6);
    let message = bed.run(&|| false, &Cell::new(usize::MAX)).err().unwrap().to_string();
    assert!(
        message.starts_with("step 6: the loss is NaN (samples data.jsonl:"),
        "{message}"
    );
    assert_eq!(bed.kept(), ["step-000002", "step-000004"]);
    bed.breaks_at = None;
    assert_eq!(bed.run_through().2, Ending::Finished);
}

#[test]
fn patience_ends_a_run_and_the_best_parameters_come_back() {
    let bed = Bed {
        lr: 3.0, // jumps about
        keep: 1,
        habits: Habits {
            eval_every: Some(1),
            save_every: 2,
            patience: Some(3),
            keep_best: true,
        },
        ..Bed::new()
    };
    let (stepper, position, ending) = bed.run_through();
    assert_eq!(ending, Ending::Patience);
    let best = position.best.unwrap();
    assert_eq!((position.without_improvement, position.step), (3, best.step + 3));
    let mut kept = Parabola::new();
    restore(&bed.checkpoints().folder(best.step), &mut kept).unwrap();
    assert_eq!(stepper.w.to_bits(), kept.w.to_bits());
    let expected = [format!("step-{:06}", best.step), format!("step-{:06}", position.step)];
    assert_eq!(bed.kept(), expected);
    let lines = bed.lines();
    assert_eq!((bed.run_through().2, bed.lines()), (Ending::Patience, lines)); // asked again, it does nothing more
}

#[test]
fn a_stepper_ends_a_run_after_a_last_evaluation() {
    let bed = Bed {
        ends_at: Some(7),
        ..Bed::new()
    };
    let (stepper, position, ending) = bed.run_through();
    assert_eq!(
        (position.step, position.evaluated, ending),
        (7, Some(7), Ending::Settled)
    );
    let lines = bed.lines();
    let (again, at, end) = bed.run_through(); // it does not go on
    assert_eq!((at.step, end, bed.lines()), (7, Ending::Settled, lines));
    assert_eq!(again.w.to_bits(), stepper.w.to_bits());
}

#[test]
fn another_run_is_not_taken_for_this_one() {
    let bed = Bed::new();
    bed.run_through();
    let newest = bed.checkpoints().newest().unwrap().unwrap();
    let message = |change: &dyn Fn(&mut Identity)| {
        let mut identity = bed.identity();
        change(&mut identity);
        let checkpoints = Checkpoints::new(bed.dir.path().join("checkpoints"), 2, identity);
        checkpoints
            .read(&newest)
            .map(|(_, warning)| warning)
            .map_err(|error| error.to_string())
    };
    assert_eq!(message(&|_| ()), Ok(None));
    assert_eq!(message(&|i| i.config.train.save_every = 7), Ok(None));
    assert_eq!(message(&|i| i.config.adapt.tuned = Some("elsewhere".into())), Ok(None));
    assert_eq!(
        message(&|i| i.config.train.prefix_cache.memory = crate::config::ByteSize(7)),
        Ok(None)
    );
    assert!(message(&|i| i.threads = 3).unwrap().unwrap().contains("2 threads"));
    for (text, part) in [
        (
            message(&|i| i.config.train.lr = 0.5),
            "`train.lr` is 0.0001 against 0.5",
        ),
        (message(&|i| i.config.train.seed = 7), "`train.seed` is 42 against 7"),
        (
            message(&|i| i.base = "other".into()),
            "the content of the base model is base against other",
        ),
        (
            message(&|i| i.tuned = Some("other".into())),
            "the content of the tuned model is none against other",
        ),
        (
            message(&|i| i.data[0].1 = "fedcba".into()),
            "the content of the data is data 0123456789ab against data fedcba",
        ),
    ] {
        let text = text.unwrap_err();
        assert!(text.contains(part) && text.contains("another --out"), "{text}");
    }
    let json = newest.join("state.json");
    let text = fs::read_to_string(&json).unwrap();
    fs::write(
        &json,
        text.replace("\"midblock_checkpoint_format\": 1", "\"midblock_checkpoint_format\": 9"),
    )
    .unwrap();
    assert!(message(&|_| ()).unwrap_err().contains("its format is 9, expected 1"));
}

#[test]
fn a_checkpoint_of_another_selection_is_refused() {
    struct Other(Parabola, Vec<(String, Vec<usize>)>);
    impl Stepper for Other {
        fn accumulate(&mut self, items: &[Item<'_>], info: &StepInfo) -> Result<LossSum> {
            self.0.accumulate(items, info)
        }
        fn reduce(&mut self, ranks: &Ranks) -> Result<()> {
            self.0.reduce(ranks)
        }
        fn apply(&mut self, info: &StepInfo) -> Result<StepReport> {
            self.0.apply(info)
        }
        fn evaluate(&mut self, items: &[Item<'_>]) -> Result<LossSum> {
            self.0.evaluate(items)
        }
        fn pooled_states(&mut self, _: &[Item<'_>]) -> Vec<Vec<f64>> {
            Vec::new()
        }
        fn tensors(&self) -> Vec<(String, Vec<usize>)> {
            self.1.clone()
        }
        fn read(&mut self, name: &str) -> Vec<f32> {
            self.0.read(name)
        }
        fn write(&mut self, _: &str, _: &[f32]) {}
    }
    let bed = Bed::new();
    bed.run_through();
    let newest = bed.checkpoints().newest().unwrap().unwrap();
    let w = || ("w".to_owned(), vec![1]);
    for (state, part) in [
        (
            vec![w(), ("moments".to_owned(), vec![3])],
            "has shape [2], expected [3]",
        ),
        (vec![w(), ("b".to_owned(), vec![1])], "tensor `b` is missing"),
        (vec![w()], "tensor `moments` is of no selected parameter"),
    ] {
        let text = restore(&newest, &mut Other(Parabola::new(), state))
            .unwrap_err()
            .to_string();
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn an_unfinished_line_is_passed_over_and_a_broken_one_named() {
    let bed = Bed::new();
    bed.run_through();
    let text = fs::read_to_string(bed.metrics()).unwrap();
    fs::write(bed.metrics(), &text[..text.len() - 9]).unwrap();
    assert_eq!(read_lines(&bed.metrics()).unwrap().len(), 19);
    fs::write(bed.metrics(), text.replacen("\"loss\"", "\"los\"", 3)).unwrap();
    let message = read_lines(&bed.metrics()).unwrap_err().to_string();
    assert!(message.contains("line 1: missing field `loss`"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Asked to stop or killed at any moments, as often as one likes: the same lines and the same bits.
    #[test]
    fn an_interrupted_run_ends_like_an_uninterrupted_one(
        stops in proptest::collection::vec((any::<bool>(), 0usize..30), 0..6), eval_every in 1u64..5, save_every in 1u64..6,
        keep_best: bool, patience in proptest::option::of(1usize..4), ends_at in proptest::option::of(1u64..12),
    ) {
        let habits = Habits { eval_every: Some(eval_every), save_every, patience, keep_best };
        let through = Bed { habits, lr: 0.6, ends_at, ..Bed::new() };
        let (expected, position, ending) = through.run_through();
        let bed = Bed { habits, lr: 0.6, ends_at, ..Bed::new() };
        for (killed, after) in stops {
            let left = Cell::new(after);
            let asked = || {
                let over = left.get() == 0;
                left.set(left.get().saturating_sub(1));
                over
            };
            let result = match killed {
                true => bed.run(&|| false, &Cell::new(after)),
                false => bed.run(&asked, &Cell::new(usize::MAX)),
            };
            prop_assert!(killed || result.is_ok());
        }
        let (got, at, end) = bed.run_through();
        prop_assert_eq!((got.w.to_bits(), got.moments.map(f32::to_bits)), (expected.w.to_bits(), expected.moments.map(f32::to_bits)));
        prop_assert_eq!((at.step, at.best, at.without_improvement, at.tokens, end), (position.step, position.best, position.without_improvement, position.tokens, ending));
        prop_assert_eq!(bed.lines(), through.lines());
    }
}

impl Bed {
    /// Steps of four micro-batches, and at the end of each epoch one of two.
    fn shared() -> Self {
        Self {
            accumulation: 4,
            ..Self::new()
        }
    }

    /// What each of some ranks ends with; each is asked to stop after so many asks, if it is.
    fn run_on_all(
        &self,
        size: usize,
        stop: impl Fn(usize) -> Option<usize> + Sync,
    ) -> Vec<Result<(f32, Position, Ending)>> {
        // the bed's folder is no business of the others, and a cell is no business of other threads
        on_ranks(size, |ranks| {
            let left = Cell::new(stop(ranks.rank()));
            let asked = || match left.get() {
                None => false,
                Some(0) => true,
                Some(more) => {
                    left.set(Some(more - 1));
                    false
                }
            };
            let (stepper, position, ending) = self.run_on(ranks, &asked, &Cell::new(usize::MAX))?;
            Ok((stepper.w, position, ending))
        })
    }

    fn losses(&self) -> Vec<(u64, f64)> {
        let loss = |line: &Line| match line {
            Line::Step(step) => Some((step.step, step.loss)),
            Line::Evaluation(evaluation) => Some((evaluation.step, evaluation.loss)),
            Line::Drift(_) => None,
        };
        self.lines().iter().filter_map(loss).collect()
    }
}

/// A sum of the same numbers in another order.
#[track_caller]
fn alike(a: &[(u64, f64)], b: &[(u64, f64)]) {
    assert_eq!(a.len(), b.len());
    for ((step, a), (other, b)) in a.iter().zip(b) {
        assert!(
            step == other && (a - b).abs() < 1e-5 * a.abs(),
            "step {step}: {a} and {b}"
        );
    }
}

#[test]
fn ranks_do_what_one_process_does() {
    let alone = Bed::shared();
    let (stepper, position, _) = alone.run_through();
    for size in [2, 3, 4] {
        let (bed, again) = (Bed::shared(), Bed::shared());
        let results: Vec<_> = bed.run_on_all(size, |_| None).into_iter().map(Result::unwrap).collect();
        for (w, at, ending) in &results {
            assert_eq!(
                (w.to_bits(), at.step, *ending),
                (results[0].0.to_bits(), position.step, Ending::Finished)
            );
            assert_eq!(
                (at.tokens, at.best.map(|best| best.step)),
                (position.tokens, position.best.map(|best| best.step))
            );
        }
        assert!(
            (results[0].0 - stepper.w).abs() < 1e-5,
            "{size} ranks: {} and {}",
            results[0].0,
            stepper.w
        );
        alike(&bed.losses(), &alone.losses());
        // what nothing has moved yet is added up in the same order
        assert_eq!(bed.losses()[..2], alone.losses()[..2]);
        assert_eq!(bed.kept(), alone.kept());
        again.run_on_all(size, |_| None);
        assert_eq!(again.lines(), bed.lines(), "{size} ranks, twice");
    }
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let (alone, bed) = (Bed::shared(), Bed::shared());
    alone.run_through();
    let mut last = 0;
    for (size, rank, asks) in [(3, 2, 3), (2, 0, 4), (4, 1, 1), (1, 0, 5)] {
        let results = bed.run_on_all(size, |other| (other == rank).then_some(asks));
        let ends: Vec<_> = results
            .into_iter()
            .map(|r| r.unwrap())
            .map(|(_, at, end)| (at.step, end))
            .collect();
        assert!(
            ends.iter().all(|end| *end == ends[0]) && ends[0].1 == Ending::Interrupted,
            "{ends:?}"
        );
        assert!(ends[0].0 >= last && bed.checkpoints().folder(ends[0].0).is_dir());
        last = ends[0].0;
    }
    assert!(last > 2, "{last}");
    let results = bed.run_on_all(2, |_| None);
    assert!(results.into_iter().all(|result| result.unwrap().2 == Ending::Finished));
    alike(&bed.losses(), &alone.losses());
}

#[test]
fn a_rank_that_fails_ends_all_and_leaves_the_checkpoint() {
    let bed = Bed {
        breaks_at: Some(6),
        ..Bed::shared()
    };
    // of the two micro-batches of step 6 each of two ranks has one: both fail
    for result in bed.run_on_all(2, |_| None) {
        assert!(result.unwrap_err().to_string().starts_with("step 6: the loss is NaN"));
    }
    assert_eq!(bed.kept(), ["step-000002", "step-000004"]);
    // of four, two have none, and hear of it
    let bed = Bed {
        breaks_at: Some(6),
        ..Bed::shared()
    };
    let messages: Vec<String> = (bed.run_on_all(4, |_| None).into_iter())
        .map(|result| result.unwrap_err().to_string())
        .collect();
    assert!(
        messages[3].starts_with("rank 0: step 6: the loss is NaN (samples data.jsonl:"),
        "{messages:?}"
    );
}

#[test]
fn ranks_that_have_drifted_apart_are_found_at_once() {
    let bed = Bed {
        differs: Some(1),
        ..Bed::shared()
    };
    for result in bed.run_on_all(3, |_| None) {
        let message = result.unwrap_err().to_string();
        assert!(
            message.contains("rank 0 and rank 1 do not match: the hash of parameters and moments"),
            "{message}"
        );
    }
    assert_eq!(bed.lines().len(), 2); // an evaluation and a step
}
