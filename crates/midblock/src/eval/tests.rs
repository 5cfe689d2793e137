//! Whole evaluations: of the embedded tiny model's tokenizer with answers from a script, so that every answer is known.

use super::{evaluate::Job, *};
use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    generate::{Answers, Completion, Continuation, Finish, LanguageModel, Question, Request, Sampling, Stops},
    hub::HubOptions,
    progress::{Progress, Silent, Unit},
    tokens::Tokenizer,
};
use serde_json::json;
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};
use tempfile::TempDir;

/// A model that answers by rule.
#[derive(Clone)]
struct Script {
    context: usize,
    /// Requests are answered in this order of groups: the last of each group first.
    group: usize,
    /// Prompt and seed → completion.
    write: fn(&str, u64) -> String,
    /// Prompt and continuation → nats.
    score: fn(&str, &str) -> f64,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            context: 512,
            group: 3,
            write: |_, _| String::new(),
            score: |_, continuation| continuation.len() as f64,
        }
    }
}

struct Scripted<'a> {
    script: Script,
    tokenizer: &'a Tokenizer,
}

impl Scripted<'_> {
    fn order(&self, n: usize) -> Vec<usize> {
        let all: Vec<usize> = (0..n).collect();
        let groups = all.chunks(self.script.group).map(|group| group.iter().rev().copied());
        groups.flatten().collect()
    }
}

impl LanguageModel for Scripted<'_> {
    fn context(&self) -> usize {
        self.script.context
    }

    fn generate(
        &mut self,
        requests: &[Request],
        _: &Sampling,
        stops: &Stops,
        done: Answers<'_, Completion>,
    ) -> Result<()> {
        for number in self.order(requests.len()) {
            let request = &requests[number];
            assert!(request.prompt.len() + request.max_new <= self.script.context);
            let prompt = self.tokenizer.decode(&request.prompt)?;
            let mut text = (self.script.write)(&prompt, request.seed);
            let mut ids = self.tokenizer.encode(&text, None)?;
            let mut finish = Finish::Token;
            if let Some(at) = stops.strings.iter().filter_map(|stop| text.find(stop)).min() {
                text.truncate(at);
                finish = Finish::Text;
            } else if ids.len() > request.max_new {
                ids.truncate(request.max_new);
                text = self.tokenizer.decode(&ids)?;
                finish = Finish::Length;
            }
            if done(number, Completion { ids, text, finish }) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn score(&mut self, questions: &[Question], done: Answers<'_, Vec<Continuation>>) -> Result<()> {
        for number in self.order(questions.len()) {
            let question = &questions[number];
            let prompt = self.tokenizer.decode(&question.prompt)?;
            let mut answers = Vec::new();
            for ids in &question.continuations {
                assert!(!ids.is_empty() && question.prompt.len() + ids.len() <= self.script.context);
                let nats = (self.script.score)(&prompt, &self.tokenizer.decode(ids)?);
                let tokens = ids.len();
                answers.push(Continuation {
                    nats,
                    tokens,
                    greedy: false,
                });
            }
            if done(number, answers) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }
}

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../midblock-cli/assets/quickstart/base")
}

fn hub() -> HubOptions {
    let mut hub = HubOptions::from_env();
    hub.offline = true;
    hub
}

/// A workplace: data, a checkpoint with or without a chat template, folders.
struct Place {
    dir: TempDir,
    checkpoint: Checkpoint,
}

impl Place {
    fn new(chat_template: Option<&str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        fs::create_dir(&model).unwrap();
        for entry in fs::read_dir(base()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
        }
        if let Some(template) = chat_template {
            fs::write(model.join("chat_template.jinja"), template).unwrap();
        }
        let checkpoint = Checkpoint::open(model.to_str().unwrap(), &hub(), &|_| {}).unwrap();
        Self { dir, checkpoint }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn rows(&self, name: &str, rows: &[serde_json::Value]) -> String {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        self.file(name, &text)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn run(&self, script: &Script, config: &EvalConfig, out: &str, progress: &dyn Progress) -> Result<EvaluationRun> {
        let tokenizer = Tokenizer::of(&self.checkpoint)?;
        let open = || -> Result<Box<dyn LanguageModel + '_>> {
            Ok(Box::new(Scripted {
                script: script.clone(),
                tokenizer: &tokenizer,
            }))
        };
        let dir = self.path(out);
        let job = Job {
            checkpoint: &self.checkpoint,
            tokenizer: &tokenizer,
            config,
            hub: &hub(),
            on_transfer: &|_| {},
            dir: &dir,
            progress,
        };
        job.run(&open)?;
        EvaluationRun::open(&dir)
    }

    fn error(&self, script: &Script, config: &EvalConfig) -> String {
        self.run(script, config, "failed", &Silent).unwrap_err().to_string()
    }
}

fn config(tasks: &[String]) -> EvalConfig {
    EvalConfig {
        tasks: tasks.iter().map(|task| task.parse().unwrap()).collect(),
        ..EvalConfig::default()
    }
}

/// Sums of two numbers: row i is i + 2i.
fn sums(place: &Place, n: i64) -> String {
    let row = |i: i64| json!({"question": format!("{i} + {}?", 2 * i), "answer": format!("so\n#### {}", 3 * i)});
    let rows: Vec<_> = (0..n).map(row).collect();
    format!("gsm8k={}", place.rows("sums.jsonl", &rows))
}

/// Adds right where the first number is even.
fn adds(prompt: &str) -> i64 {
    let question = prompt.rsplit("Question:").next().unwrap();
    let digits = question
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|w| w.parse::<i64>().ok());
    let numbers: Vec<i64> = digits.collect();
    numbers[0] + numbers[1] + numbers[0] % 2
}

fn adder() -> Script {
    Script {
        write: |prompt, _| format!(" it is {}\n#### {}\nQuestion: more", adds(prompt), adds(prompt)),
        ..Script::default()
    }
}

#[test]
fn every_item_is_kept_with_its_verdict() {
    let place = Place::new(None);
    let run = place
        .run(&adder(), &config(&[sums(&place, 7)]), "out", &Silent)
        .unwrap();
    let task = &run.evaluation.tasks[0];
    assert_eq!((task.items, task.repeats, task.primary.as_str()), (7, 1, "flexible"));
    let score = task.score().unwrap();
    assert!((score.mean - 4.0 / 7.0).abs() < 1e-12 && score.interval == IntervalKind::Wilson);
    assert_eq!(task.metrics[1].name, "strict");
    assert_eq!(task.metrics[1].mean, score.mean);
    let item = &run.items[3];
    assert_eq!(
        (item.index, item.prompt.as_str(), item.gold[0].as_str()),
        (3, "Question: 3 + 6?\nAnswer:", "9")
    );
    let output = &item.outputs[0];
    assert_eq!(
        (output.text.as_str(), &output.finish),
        (" it is 10\n#### 10", &Some(Finish::Text))
    );
    assert_eq!(output.extracted["strict"].as_deref(), Some("10"));
    assert_eq!(output.values["strict"], 0.0);
    assert_eq!(run.items[2].outputs[0].values["strict"], 1.0);
    let order: Vec<usize> = run.items.iter().map(|item| item.index).collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6]);
}

/// Stops after a number of items, as Ctrl-C does.
struct StopAfter {
    items: usize,
    done: AtomicUsize,
}

impl Progress for StopAfter {
    fn begin(&self, _: &str, _: u64, _: Unit) {}

    fn advance(&self, units: u64) {
        self.done.fetch_add(units as usize, Ordering::SeqCst);
    }

    fn cancelled(&self) -> bool {
        self.done.load(Ordering::SeqCst) >= self.items
    }
}

fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    ["items.jsonl", "evaluation.json", "metrics.csv"]
        .map(|name| (name.to_owned(), fs::read(dir.join(name)).unwrap()))
        .to_vec()
}

#[test]
fn an_interrupted_evaluation_goes_on_to_the_same_files_in_any_batch() {
    let place = Place::new(None);
    let mut config = config(&[sums(&place, 9)]);
    config.repeats = 3;
    config.sampling.temperature = 1.0;
    let mut script = adder();
    script.write = |prompt, seed| format!("{}", adds(prompt) + i64::from(seed % 3 == 0));
    place.run(&script, &config, "whole", &Silent).unwrap();
    for items in 1..9 {
        let out = format!("stopped-{items}");
        let stop = StopAfter {
            items,
            done: AtomicUsize::new(0),
        };
        script.group = 5;
        let stopped = place.run(&script, &config, &out, &stop);
        assert!(matches!(stopped, Err(Error::Interrupted)), "{items}");
        // a kill leaves half a line
        let path = place.path(&out).join("items.jsonl");
        let mut text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), items);
        text.push_str("{\"task\": \"gs");
        fs::write(&path, text).unwrap();
        script.group = 2;
        config.batch = 2;
        place.run(&script, &config, &out, &Silent).unwrap();
        assert_eq!(files(&place.path(&out)), files(&place.path("whole")), "{items}");
    }
}
