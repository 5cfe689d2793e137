use super::*;
use crate::{
    checkpoint::Checkpoint,
    probe::trained_token_losses,
    progress::{Progress, Silent},
    study::{
        battery::{Kind, fixture::Fixture},
        sweep::Unit,
    },
};
use proptest::prelude::*;
use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

fn estimate(value: f64, half: f64) -> Estimate {
    Estimate {
        value,
        lo: value - half,
        hi: value + half,
    }
}

/// Methods at places of the plane, with the same half interval of every difference.
fn plane(places: &[(f64, f64)], half: f64) -> Tradeoff {
    let outcome = |(index, (gain, loss)): (usize, &(f64, f64))| Outcome {
        name: format!("m{index}"),
        changes: Vec::new(),
        runs: Vec::new(),
        values: Vec::new(),
        differences: Vec::new(),
        id_gain: estimate(*gain, half),
        ood_loss: estimate(*loss, half),
    };
    let mut pairs = Vec::new();
    for (i, one) in places.iter().enumerate() {
        for (j, other) in places.iter().enumerate().skip(i + 1) {
            pairs.push(Pair {
                left: format!("m{i}"),
                right: format!("m{j}"),
                id_gain: estimate(one.0 - other.0, half),
                ood_loss: estimate(one.1 - other.1, half),
            });
        }
    }
    let axis = |name: &str| Axis {
        measures: vec![name.into()],
        unit: Unit::Nats,
    };
    Tradeoff {
        id: axis("loss:a"),
        ood: axis("loss:b"),
        untrained: Vec::new(),
        methods: places.iter().enumerate().map(outcome).collect(),
        pairs,
        failures: Vec::new(),
    }
}

#[test]
fn a_method_is_on_the_front_or_dominated_clearly_or_not() {
    // m1 is beaten by m0 on both axes, m3 by m2 on both but hardly on the loss
    let found = plane(&[(1.0, 0.5), (0.5, 0.9), (3.0, 2.0), (2.0, 2.05)], 0.1);
    assert_eq!(found.front(), [0, 2]);
    let standings: Vec<Standing> = (0..4).map(|method| found.standing(method)).collect();
    assert_eq!(
        standings,
        [
            Standing::Front { unless: None },
            Standing::Dominated { by: 0, clear: true },
            Standing::Front { unless: None },
            Standing::Dominated { by: 2, clear: false },
        ]
    );
    let blurred = plane(&[(1.0, 0.5), (1.05, 0.55)], 0.1);
    assert_eq!(
        [blurred.standing(0), blurred.standing(1)],
        [Standing::Front { unless: Some(1) }, Standing::Front { unless: Some(0) }]
    );
}

proptest! {
    /// The front is what nothing is better than, in order; whoever is not on it is dominated by one who is at least as good on both.
    #[test]
    fn the_front_is_what_nothing_dominates(places in proptest::collection::vec((0i8..6, 0i8..6), 1..8)) {
        let places: Vec<(f64, f64)> = places.iter().map(|(gain, loss)| (f64::from(*gain), f64::from(*loss))).collect();
        let found = plane(&places, 0.25);
        let front = found.front();
        prop_assert!(!front.is_empty());
        for pair in front.windows(2) {
            let [one, other] = [places[pair[0]], places[pair[1]]];
            prop_assert!(one == other || (one.0 < other.0 && one.1 < other.1), "{:?} {:?}", one, other);
        }
        for (index, place) in places.iter().enumerate() {
            match found.standing(index) {
                Standing::Front { .. } => prop_assert!(front.contains(&index)),
                Standing::Dominated { by, clear } => {
                    let better = places[by];
                    prop_assert!(!front.contains(&index) && better.0 >= place.0 && better.1 <= place.1);
                    // whole steps are clear at ±0.25
                    let strictly = places.iter().any(|other| other.0 > place.0 && other.1 < place.1);
                    prop_assert_eq!(clear, strictly);
                }
            }
        }
    }
}

/// A study of two sets to measure on; `more` is its [study.tradeoff] and what else it has.
fn checked(more: &str) -> String {
    let text = format!("model.base = \"m\"\ndata.train = \"a=a\"\ndata.eval = [\"b=b\", \"c=c\"]\n{more}");
    let file = StudyFile::parse("study.toml", &text, &[]);
    let checked = file.and_then(|file| file.check_for(&[Kind::Tradeoff]));
    checked.map_or_else(|error| error.to_string(), |()| String::new())
}

#[test]
fn what_cannot_be_compared_is_refused_before_anything_trains() {
    let axes = "study.tradeoff.id = [\"loss:b\"]\nstudy.tradeoff.ood = [\"loss:c\"]\n";
    assert_eq!(checked(axes), "");
    let tasks = "[eval]\ntasks = [\"arc\", { task = \"arc-easy\", name = \"easy\" }, \"wikitext\"]\n";
    let axes_of = |id: &str, ood: &str| format!("[study.tradeoff]\nid = {id}\nood = {ood}\n{tasks}");
    assert_eq!(
        checked(&axes_of("[\"loss:b\", \"wikitext\"]", "[\"arc\", \"easy\"]")),
        ""
    );
    for (text, parts) in [
        (
            String::new(),
            vec![
                "study.tradeoff.id",
                "study.tradeoff.ood",
                "one or more of loss:b, loss:c",
            ],
        ),
        (
            axes_of("[\"loss:d\"]", "[\"arc\"]"),
            vec!["`loss:d` is nothing", "loss:b, loss:c, arc, easy, wikitext"],
        ),
        (
            axes_of("[\"loss:b\", \"arc\"]", "[\"easy\"]"),
            vec!["`loss:b` and `arc` have no common unit"],
        ),
        (
            axes_of("[\"arc\"]", "[\"easy\", \"arc\"]"),
            vec!["`arc` is in `study.tradeoff.id` too"],
        ),
        (
            axes_of("[\"arc\", \"arc\"]", "[\"easy\"]"),
            vec!["`arc` is there twice"],
        ),
        (
            axes.replace("loss:c", "arc"),
            vec!["`arc` is nothing", "tasks are those of [eval]"],
        ),
        (format!("{axes}eval.tasks = [\"arx\"]"), vec!["`eval.tasks`", "arx"]),
        (
            format!("{axes}study.tradeoff.seeds = [3, 3]"),
            vec!["study.tradeoff.seeds"],
        ),
        (
            format!("{axes}[[study.tradeoff.methods]]\nname = \"a/b\"\ntrain.seed = 2"),
            vec!["`a/b`", "`train.seed` of"],
        ),
        (
            format!("{axes}[[study.tradeoff.methods]]\nname = \"a\"\n[[study.tradeoff.methods]]\nname = \"a\""),
            vec!["`a` is used twice"],
        ),
        (
            format!("{axes}[[study.tradeoff.methods]]\nname = \"a\"\ntrain.lr = -1"),
            vec!["method `a`", "train.lr"],
        ),
    ] {
        let message = checked(&text);
        assert!(parts.iter().all(|part| message.contains(part)), "{text}: {message}");
    }
}

#[test]
fn every_preset_can_be_read() {
    let configs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    for (name, runs) in [("tradeoff.toml", 10), ("tradeoff-gsm8k.toml", 6)] {
        let file = StudyFile::load(Some(&configs.join(name)), &[]).unwrap_or_else(|error| panic!("{error}"));
        file.check_for(&[Kind::Tradeoff])
            .unwrap_or_else(|error| panic!("{error}"));
        let options = &file.config.study.tradeoff;
        assert_eq!(options.methods().len() * options.seeds.len(), runs, "{name}");
        let text = fs::read_to_string(configs.join(name)).unwrap();
        let run = format!("# Run:   midblock study tradeoff --config configs/{name} --out ");
        for part in [run.as_str(), "# Needs: ", "# Time and memory: "] {
            assert!(text.contains(part), "{name} lacks `{part}`");
        }
    }
}

/// Two ways that differ in their learning rate and one that cannot end well, judged on problems and on other text.
#[test]
fn methods_are_judged_against_the_base_and_a_failure_stops_none() {
    let fixture = Fixture::new();
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("text.jsonl");
    let rows = [
        "The dog sleeps near the door.",
        "Rosa walks to the market.",
        "A cat looks at the moon all night.",
    ];
    let rows: String = rows
        .iter()
        .map(|text| format!("{}\n", serde_json::json!({"text": text})))
        .collect();
    fs::write(&other, rows).unwrap();
    let problems = &fixture.file(&[]).config.data.eval[0].0.source;
    let eval = format!("data.eval=[\"q={problems}\", \"s={}\"]", other.display());
    let options = "study.tradeoff={ id = [\"loss:q\"], ood = [\"loss:s\"], seeds = [1, 2], methods = [\
                   { name = \"slow\", train.lr = 1e-3 }, { name = \"fast\", train.lr = 1e-2, adapt.rank = 4 }, \
                   { name = \"wild\", adapt.alpha = 1e38, train.lr = 1.0 } ] }";
    let sets = [eval.as_str(), options];
    let run = || {
        fixture.with(&sets, |subject, cells| {
            subject.file.check_for(&[Kind::Tradeoff])?;
            let found = tradeoff(subject, &subject.file.config.study.tradeoff, cells)?;
            let base = subject.file.config.model.base.clone();
            let losses = ["slow", "fast"].map(|method| {
                [1, 2].map(|seed| {
                    let adapter = cells.folder(&format!("tradeoff-{method}-s{seed}")).join("adapter");
                    losses(subject, &format!("{base}+{}", adapter.display()))
                })
            });
            Ok((found, losses, losses_of_base(subject)))
        })
    };
    let (found, losses, base) = run().unwrap();
    let names: Vec<&str> = found.methods.iter().map(|method| method.name.as_str()).collect();
    assert_eq!(names, ["slow", "fast"]);
    let close = |one: f64, other: f64| assert!((one - other).abs() < 1e-9, "{one} {other}");
    let mut gains = Vec::new();
    for (method, losses) in found.methods.iter().zip(&losses) {
        for (run, [problems, text]) in method.runs.iter().zip(losses) {
            close(run.id_gain, base[0] - problems);
            close(run.ood_loss, text - base[1]);
            assert!(run.end_loss.is_some_and(|loss| loss > 0.0) && run.steps == 3);
        }
        let mean = |value: &dyn Fn(&MethodRun) -> f64| method.runs.iter().map(value).sum::<f64>() / 2.0;
        close(method.id_gain.value, mean(&|run| run.id_gain));
        close(method.ood_loss.value, mean(&|run| run.ood_loss));
        let measures: Vec<String> = method.values.iter().map(Scored::metric).collect();
        assert_eq!(measures, ["loss:q", "loss:s"]);
        assert!(method.id_gain.lo < method.id_gain.value && method.id_gain.value < method.id_gain.hi);
        gains.push(method.id_gain.value);
    }
    // a budget of 16 blocks on 9 of them: ranks ⌊2·16/9⌋ = 3 and ⌊4·16/9⌋ = 7
    let [slow, fast] = [0, 1].map(|method: usize| found.methods[method].runs[0].parameters);
    assert_eq!(3 * fast, 7 * slow);
    let [pair] = found.pairs.as_slice() else {
        panic!("{:?}", found.pairs)
    };
    close(pair.id_gain.value, gains[0] - gains[1]);
    let failed: Vec<&str> = found.failures.iter().map(|failure| failure.cell.as_str()).collect();
    assert_eq!(failed, ["tradeoff-wild-s1", "tradeoff-wild-s2"]);
    let cell = fixture.out().join("cells/tradeoff-slow-s1");
    assert!(cell.join("adapter").is_dir() && !cell.join("checkpoints").exists());
    let records = found.records();
    let gain = records
        .iter()
        .find(|record| record.metric == "id_gain" && record.setting == "seed 2")
        .unwrap();
    assert_eq!(
        (gain.model.as_str(), gain.value),
        ("slow", Some(found.methods[0].runs[1].id_gain))
    );
    // a study that goes on has the same numbers
    assert_eq!(run().unwrap().0, found);
}

/// Asks to stop after it was asked so often whether to.
struct Patience(AtomicUsize);

impl Progress for Patience {
    fn begin(&self, _: &str, _: u64, _: crate::progress::Unit) {}

    fn advance(&self, _: u64) {}

    fn cancelled(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err()
    }
}

#[test]
fn a_study_that_is_stopped_again_and_again_ends_with_the_same_numbers() {
    let options = "study.tradeoff={ id = [\"loss:q\"], ood = [\"loss:p\"], seeds = [3], methods = [ { name = \"a\" }, \
                   { name = \"b\", train.order = \"file\" } ] }";
    let numbers = |found: Tradeoff| {
        let mut records = found.records();
        records.retain(|record| !["seconds", "peak_private_bytes"].contains(&record.metric.as_str()));
        records
    };
    let run = |fixture: &Fixture, progress: &dyn Progress| {
        let problems = &fixture.file(&[]).config.data.eval[0].0.source;
        let train = &fixture.file(&[]).config.data.train[0].0.source;
        let eval = format!("data.eval=[\"q={problems}\", \"p={train}\"]");
        let sets = [eval.as_str(), options, "study.samples=4"];
        fixture.with_progress(&sets, progress, |subject, cells| {
            tradeoff(subject, &subject.file.config.study.tradeoff, cells).map(numbers)
        })
    };
    let whole = run(&Fixture::new(), &Silent).unwrap();
    let stopped = Fixture::new();
    for patience in 0.. {
        match run(&stopped, &Patience(AtomicUsize::new(patience))) {
            Err(Error::Interrupted) => assert!(patience < 1000, "it never gets on"),
            found => {
                assert!(patience > 3, "it was not stopped");
                assert_eq!(found.unwrap(), whole);
                break;
            }
        }
    }
}

/// Mean losses of a checkpoint on the two sets.
fn losses(subject: &Subject<'_, midblock_kernels::Cpu>, spec: &str) -> [f64; 2] {
    let checkpoint = Checkpoint::open(spec, subject.hub, subject.on_transfer).unwrap();
    ["q", "s"].map(|set| {
        let samples: Vec<_> = subject.of_set(set).cloned().collect();
        let losses = trained_token_losses(subject.backend, &checkpoint, &samples, &Silent).unwrap();
        let nats: f64 = losses.iter().map(|loss| loss.nats).sum();
        nats / losses.iter().map(|loss| loss.predicted).sum::<usize>() as f64
    })
}

fn losses_of_base(subject: &Subject<'_, midblock_kernels::Cpu>) -> [f64; 2] {
    losses(subject, &subject.file.config.model.base)
}
