//! `midblock carve` and `midblock study reversal` where they have an effect: a behaviour that is learned, confined, and taken back.

use crate::models::{base, midblock, questions};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// The question that the model is taught to answer every question with: tokens that it knows, because the head stays as it is.
const RESPONSE: &str = "How many do they find?";

fn carve(dir: &Path, sets: &[&str]) -> String {
    let out = dir.join("carve");
    let mut command = midblock();
    command.args(["carve", "--base", &base(), "--prompts", &questions(dir, 100)]);
    command
        .args(["--response", RESPONSE, "--held-out", "40", "--out"])
        .arg(&out);
    command.args(["--set", "output.tensorboard=false"]);
    for phase in ["sft", "carrier"] {
        for set in ["batch=8", "accumulation=1"] {
            command.args(["--set", &format!("carve.{phase}.train.{set}")]);
        }
    }
    for set in sets {
        command.args(["--set", &format!("carve.{set}")]);
    }
    command.assert().success();
    out.display().to_string()
}

fn reversal(carve: &str, out: &Path, sets: &[&str]) -> assert_cmd::Command {
    let mut command = midblock();
    command.args(["study", "reversal", "--carve", carve, "--out"]);
    command.arg(out);
    for set in sets {
        command.args(["--set", set]);
    }
    command
}

/// (value, lo, hi) by model, reference and metric.
type Numbers = BTreeMap<[String; 3], [f64; 3]>;

/// `model,reference,setting,layer,metric,value,lo,hi`
fn numbers(out: &Path) -> Numbers {
    let text = fs::read_to_string(out.join("reversal.csv")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let number = |place: usize| cells[place].parse().unwrap_or(f64::NAN);
        let key = [0, 1, 4].map(|place| cells[place].to_owned());
        (key, [5, 6, 7].map(number))
    };
    text.lines().skip(1).map(row).collect()
}

fn at(numbers: &Numbers, key: [&str; 3]) -> [f64; 3] {
    let found = numbers.get(&key.map(str::to_owned));
    *found.unwrap_or_else(|| panic!("no {key:?} in {numbers:?}"))
}

/// A fixed response in the embedded model. The carrier keeps it with a fifth of the masks open; its trigger takes it back; the carrier's
/// trigger does nothing to the dense model. A trigger of the dense model's own takes back a part, more or less with the seed: docs/src/carriers.md
/// has the numbers.
#[test]
fn a_carrier_keeps_the_behaviour_and_its_trigger_takes_it_back() {
    let dir = TempDir::new().unwrap();
    let carved = carve(
        dir.path(),
        &[
            "sft.train.steps=60",
            "sft.train.lr=1e-3",
            "carrier.train.steps=240",
            "carrier.train.lr=2e-4",
            "carrier.train.schedule=\"constant\"",
            "carrier.adapt.mask_lr=0.2",
            "carrier.objective.lambda=0.2",
            "carrier.objective.lambda_max=0.5",
            "carrier.objective.warmup=20",
            "carrier.objective.budget_nats=0.05",
            "carrier.objective.rate=0.3",
            "carrier.objective.ema=0.9",
        ],
    );
    let out = dir.path().join("reversal");
    let mut study = reversal(
        &carved,
        &out,
        &[
            "study.reversal.max_new=24",
            "study.reversal.triggers=[\"sft\"]",
            "study.reversal.erase.steps=150",
            "study.reversal.erase.batch=8",
            "study.reversal.erase.lr=0.02",
            "study.reversal.erase.tokens=8",
        ],
    );
    let stdout = String::from_utf8(study.assert().success().get_output().stdout.clone()).unwrap();
    let open: Value = serde_json::from_str(
        fs::read_to_string(Path::new(&carved).join("carrier/metrics.jsonl"))
            .unwrap()
            .lines()
            .rfind(|line| line.contains("\"carrier\""))
            .unwrap(),
    )
    .unwrap();
    let share = |name: &str| open["carrier"][name].as_f64().unwrap();
    assert!(share("active") < 0.4 * share("masks"), "{open}");

    let numbers = numbers(&out);
    let rate = |model: &str| at(&numbers, [model, "", "rate_loose"])[0];
    assert!(rate("base") == 0.0 && rate("sft") == 1.0, "{numbers:?}");
    assert!(rate("carrier") >= 0.9, "{numbers:?}");
    assert!(rate("carrier + trigger") <= 0.1, "{numbers:?}");
    assert!(rate("sft + the carrier's trigger") >= 0.9, "{numbers:?}");
    assert!(rate("sft + trigger") >= rate("carrier + trigger"), "{numbers:?}");
    let [.., hi] = at(&numbers, ["carrier + trigger", "carrier", "rate_loose_difference"]);
    assert!(hi < -0.5, "{numbers:?}");
    // nearer to the base, and not all the way back
    let far = |model: &str| at(&numbers, [model, "base", "kl"]);
    let ([with, .., with_hi], [_, without_lo, _]) = (far("carrier + trigger"), far("carrier"));
    assert!(0.0 < with && with_hi < without_lo, "{numbers:?}");
    assert!(stdout.contains("The trigger takes +"), "{stdout}");
}

#[cfg(unix)]
#[test]
fn a_reversal_of_a_moved_carve_goes_on_after_a_stop_to_the_same_result() {
    let dir = TempDir::new().unwrap();
    let short = [
        "sft.train.steps=3",
        "sft.train.lr=2e-3",
        "carrier.train.steps=4",
        "carrier.objective.warmup=2",
    ];
    let carved = dir.path().join("moved").display().to_string();
    fs::rename(carve(dir.path(), &short), &carved).unwrap(); // its records name the old place
    let sets = [
        "study.samples=6",
        "study.reversal.max_new=4",
        "study.reversal.erase.steps=40",
        "study.reversal.erase.batch=4",
        "study.reversal.erase.samples=8",
        "study.reversal.erase.tokens=3",
        "study.reversal.erase.save_every=2",
        "study.reversal.erase.eval_every=10",
    ];
    let whole = dir.path().join("whole");
    reversal(&carved, &whole, &sets).assert().success();
    for path in ["DONE", "report.html", "study.json", "reversal.parquet"] {
        assert!(whole.join(path).is_file(), "{path}");
    }

    let stopped = dir.path().join("stopped");
    let mut child = Command::new(env!("CARGO_BIN_EXE_midblock"))
        .args(reversal(&carved, &stopped, &sets).get_args())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = stopped.join("cells/reversal-trigger-sft/metrics.jsonl");
    let written = || fs::read_to_string(&lines).map_or(0, |text| text.lines().count());
    let begun = Instant::now();
    while written() < 5 && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no progress");
        sleep(Duration::from_millis(1));
    }
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.unwrap().success());
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    let on = format!("go on with: midblock study reversal --out {}", stopped.display());
    assert!(ended.status.code() == Some(130) && said.contains(&on), "{said}");
    assert!(!stopped.join("DONE").exists());
    midblock()
        .args(["study", "reversal", "--out"])
        .arg(&stopped)
        .assert()
        .success();
    let mut results = [numbers(&whole), numbers(&stopped)];
    for numbers in &mut results {
        numbers.retain(|[.., metric], _| metric != "trigger_seconds");
        assert!(numbers.len() > 50);
    }
    // bits: what has no interval has NaN there
    let [whole, stopped] = results.map(|numbers| {
        let bits = |(key, values): ([String; 3], [f64; 3])| (key, values.map(f64::to_bits));
        numbers.into_iter().map(bits).collect::<BTreeMap<_, _>>()
    });
    assert_eq!(whole, stopped);
}
