//! Whole evaluations: of the embedded tiny model's tokenizer with answers from a script, so that every answer is known.

use super::{evaluate::Job, *};
use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    generate::{Answers, Completion, Continuation, Finish, LanguageModel, Question, Request, Sampling, Stops},
    hub::HubOptions,
    progress::{Progress, Silent, Unit},
    ranks::{Ranks, tests::on_ranks},
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
        self.run_on(&Ranks::alone(), script, config, out, progress)?;
        EvaluationRun::open(&self.path(out))
    }

    fn run_on(
        &self,
        ranks: &Ranks,
        script: &Script,
        config: &EvalConfig,
        out: &str,
        progress: &dyn Progress,
    ) -> Result<Option<Evaluation>> {
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
            ranks,
            progress,
        };
        job.run(&open)
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

#[test]
fn ranks_write_what_one_process_writes_and_another_number_of_them_goes_on() {
    let place = Place::new(None);
    let texts: Vec<_> = (0..5)
        .map(|i| json!({"text": format!("a text of {i} and {}", i * i)}))
        .collect();
    let perplexity = format!("text={}", place.rows("texts.jsonl", &texts));
    let mut config = config(&[sums(&place, 9), quiz(&place), perplexity]);
    config.repeats = 2;
    config.sampling.temperature = 1.0;
    let mut script = adder();
    script.write = |prompt, seed| format!("{}", adds(prompt) + i64::from(seed % 3 == 0));
    script.score = |prompt, text| 0.1 * text.len() as f64 / (1.0 + prompt.len() as f64);
    place.run(&script, &config, "whole", &Silent).unwrap();
    for size in [2, 3, 4] {
        let out = format!("on-{size}");
        for result in on_ranks(size, |ranks| {
            let evaluation = place.run_on(ranks, &script, &config, &out, &Silent)?;
            assert_eq!(evaluation.is_some(), ranks.is_first());
            Ok(())
        }) {
            result.unwrap();
        }
        assert_eq!(files(&place.path(&out)), files(&place.path("whole")), "{size} ranks");
    }
    // each stops after two items, however many there are; what is done is never asked again
    let stopped = |size: usize| {
        for result in on_ranks(size, |ranks| {
            let stop = StopAfter {
                items: 2,
                done: AtomicUsize::new(0),
            };
            place.run_on(ranks, &script, &config, "stopped", &stop)
        }) {
            assert!(matches!(result, Err(Error::Interrupted)));
        }
        let kept = fs::read_dir(place.path("stopped"))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let kept = kept.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("items"));
        let kept: Vec<usize> = kept
            .map(|path| fs::read_to_string(path).unwrap().lines().count())
            .collect();
        kept.iter().sum::<usize>()
    };
    assert_eq!(stopped(3), 6);
    assert_eq!(stopped(2), 6); // what is known counts too: nothing is lost, and nothing is new
    place.run(&script, &config, "stopped", &Silent).unwrap();
    assert_eq!(files(&place.path("stopped")), files(&place.path("whole")));
}

/// `question` rows with choices; the right one is the longest.
fn quiz(place: &Place) -> String {
    let row = |id: &str, labels: [&str; 3], texts: [&str; 3], key: &str| json!({"id": id, "question": format!("{id}?"), "choices": {"text": texts, "label": labels}, "answerKey": key});
    let rows = [
        row("a", ["A", "B", "C"], ["one", "three", "seventeen"], "C"),
        row("b", ["1", "2", "3"], ["seventeen", "two", "six"], "1"),
        row("c", ["A", "B", "C"], ["one", "three", "six"], "A"),
    ];
    format!("arc={}", place.rows("quiz.jsonl", &rows))
}

#[test]
fn likelihoods_choose_letters_or_texts() {
    let place = Place::new(None);
    let mut config = config(&[quiz(&place)]);
    let mut script = Script {
        score: |prompt, letter| {
            if prompt.contains(&format!("{}. seventeen", letter.trim())) {
                1.0
            } else {
                2.0
            }
        },
        ..Script::default()
    };
    let run = place.run(&script, &config, "letters", &Silent).unwrap();
    assert_eq!(
        run.items[1].prompt,
        "Question: b?\nA. seventeen\nB. two\nC. six\nAnswer:"
    );
    let answers: Vec<_> = run
        .items
        .iter()
        .map(|item| item.outputs[0].extracted["accuracy"].clone().unwrap())
        .collect();
    assert_eq!(answers, ["C", "A", "A"]); // of equals the first
    assert_eq!(run.evaluation.tasks[0].score().unwrap().mean, 1.0);
    config.method = Some(Method::Choices);
    script.score = |prompt, choice| {
        assert!(!prompt.contains("A. "), "{prompt}");
        if choice.contains("seventeen") { 4.0 } else { 3.0 }
    };
    let run = place.run(&script, &config, "choices", &Silent).unwrap();
    let of = |metric: &str| -> Vec<f64> { run.items.iter().map(|item| item.value(metric).unwrap()).collect() };
    // 4/9 nats a character beat 3/3, 3/5; "three" has the fewest a character in the third
    assert_eq!(
        (of("accuracy"), of("accuracy_norm")),
        (vec![0.0, 0.0, 1.0], vec![1.0, 1.0, 0.0])
    );
    assert_eq!(run.evaluation.tasks[0].primary, "accuracy_norm");
}

#[test]
fn chat_rows_are_items_of_any_task() {
    let place = Place::new(Some(
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}\n{% endfor %}[assistant]",
    ));
    let choices =
        "Which?\n\nChoices:\nA. one\nB. two\nlines\n\nPlease answer with the single correct option letter (e.g., A).";
    let chat = |content: &str, truth: serde_json::Value| json!({"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": content}], "reward_model": {"ground_truth": truth}});
    let maths = place.rows(
        "m.jsonl",
        &[
            chat("1+1?", json!(2)),
            chat("x?", json!(["$3$", "4"])),
            chat("y?", json!(null)),
        ],
    );
    let quiz = place.rows("q.jsonl", &[chat(choices, json!("B"))]);
    let script = Script {
        write: |prompt, _| {
            if prompt.contains("1+1") {
                "\\boxed{2}".into()
            } else {
                "so \\boxed{4.0}".into()
            }
        },
        score: |_, letter| if letter == "B" { 0.5 } else { 1.0 },
        ..Script::default()
    };
    let config = config(&[format!("math-500={maths}"), format!("arc={quiz}")]);
    let run = place.run(&script, &config, "out", &Silent).unwrap();
    assert_eq!(run.items[0].prompt, "[system]S\n[user]1+1?\n[assistant]");
    assert_eq!(run.items[1].gold, ["$3$", "4"]);
    let means: Vec<f64> = run
        .evaluation
        .tasks
        .iter()
        .map(|task| task.score().unwrap().mean)
        .collect();
    assert_eq!(means, [1.0, 1.0]);
    let unusable = &run.evaluation.tasks[0].counts.rows_unusable;
    assert_eq!((unusable.len(), run.evaluation.tasks[0].counts.rows), (1, 3));
    assert!(
        unusable.keys().next().unwrap().contains("reward_model.ground_truth"),
        "{unusable:?}"
    );
    assert_eq!(run.items[2].outputs[0].nats, [1.0, 0.5]);
}

#[test]
fn conversations_need_a_template_or_plain_text() {
    let place = Place::new(None);
    let row = json!({"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "1+1?"}], "reward_model": {"ground_truth": "2"}});
    let mut config = config(&[format!("math-500={}", place.rows("m.jsonl", &[row]))]);
    let error = place.error(&Script::default(), &config);
    assert!(
        error.contains("has no chat template") && error.contains("help: `--template plain`"),
        "{error}"
    );
    config.template = Template::Chat;
    assert!(
        place
            .error(&Script::default(), &config)
            .contains("has no chat template")
    );
    config.template = Template::Plain;
    let run = place.run(&Script::default(), &config, "plain", &Silent).unwrap();
    assert_eq!(run.items[0].prompt, "S\n\n1+1?\n\nAnswer:");
    assert_eq!(run.evaluation.tasks[0].counts.no_answer, 1);
}

#[test]
fn what_does_not_fit_is_cut_and_counted() {
    let place = Place::new(None);
    let long = format!("first {} last", "marbles and ".repeat(40));
    let rows = [
        json!({"question": long, "answer": "#### 1"}),
        json!({"question": "1?", "answer": "#### 1"}),
        json!({"question": "no answer"}),
    ];
    let config = config(&[format!("gsm8k={}", place.rows("g.jsonl", &rows))]);
    let script = Script {
        context: 64,
        write: |prompt, _| {
            assert!(prompt.ends_with("Answer:"));
            if prompt.contains("last") {
                "never stops ".repeat(99)
            } else {
                "1".into()
            }
        },
        ..Script::default()
    };
    let run = place.run(&script, &config, "out", &Silent).unwrap();
    let task = &run.evaluation.tasks[0];
    let counts = &task.counts;
    assert_eq!(
        (counts.prompts_truncated, counts.out_of_length, counts.no_answer),
        (1, 1, 1)
    );
    assert_eq!(counts.rows_unusable["field `answer` is missing"], 1);
    assert_eq!((run.items[0].prompt_tokens, run.items[0].truncated), (32, true));
    assert!(run.items[0].prompt.starts_with("Question: first"));
    assert_eq!(run.items[0].outputs[0].tokens, 32);
    assert_eq!(task.score().unwrap().mean, 0.5);
    assert_eq!(
        run.evaluation.warnings,
        ["gsm8k: 1 of 3 rows are no items: field `answer` is missing"]
    );
}

#[test]
fn every_token_but_the_first_is_predicted_once() {
    let place = Place::new(None);
    let text = "Hugo finds 14 marbles in the school. Rosa finds 14. ".repeat(20);
    let rows = place.rows(
        "t.jsonl",
        &[json!({"text": text}), json!({"text": " "}), json!({"text": "Hugo"})],
    );
    let task = place.file(
        "ppl.toml",
        "title = \"t\"\nmethod = \"perplexity\"\n[item]\ntext = \"{{ text }}\"\n[window]\nlength = 40\nstride = 16\n",
    );
    let script = Script {
        score: |_, text| text.len() as f64,
        ..Script::default()
    };
    let run = place
        .run(&script, &config(&[format!("{task}={rows}")]), "out", &Silent)
        .unwrap();
    let tokenizer = Tokenizer::of(&place.checkpoint).unwrap();
    let ids = tokenizer.encode(&text, None).unwrap();
    let first = tokenizer.decode(&ids[..1]).unwrap().len();
    let record = &run.items[0];
    assert_eq!(record.outputs[0].tokens, ids.len() - 1);
    let nats = record.outputs[0].values["nats_per_token"] * (ids.len() - 1) as f64;
    assert!((nats - (text.len() - first) as f64).abs() < 1e-6);
    let task = &run.evaluation.tasks[0];
    assert_eq!(
        (
            task.items,
            task.primary.as_str(),
            task.score().unwrap().higher_is_better
        ),
        (2, "perplexity", false)
    );
    assert!((task.metrics[0].mean.ln() - task.metrics[1].mean).abs() < 1e-9);
}

#[test]
fn examples_come_before_items_and_are_not_asked() {
    let place = Place::new(None);
    let mut config = config(&[sums(&place, 9)]);
    config.few_shot = Some(2);
    config.tasks[0].examples = None;
    let task = "title = \"t\"\nmethod = \"generate\"\n[item]\nprompt = \"Question: {{ question }}\\nAnswer:\"\ngold = \"answer.split('####') | last | trim\"\n[[metric]]\nname = \"m\"\nextract = \"last-number\"\njudge = \"number\"\n[few_shot]\nanswer = \"{{ answer }}\"\n";
    config.tasks[0].task = place.file("own.toml", task);
    let run = place.run(&adder(), &config, "out", &Silent).unwrap();
    assert_eq!(run.items.len(), 7);
    for item in &run.items {
        assert_eq!(item.prompt.matches("Question:").count(), 3);
        let own = item.prompt.rsplit("\n\n").next().unwrap();
        assert_eq!(item.prompt.matches(own).count(), 1, "{}", item.prompt);
        assert!(item.prompt.contains("Answer: so\n#### "));
    }
    let fixed = format!("{task}[[few_shot.rows]]\nquestion = \"0?\"\nanswer = \"#### 0\"\n");
    config.tasks[0].task = place.file("fixed.toml", &fixed);
    config.few_shot = Some(1);
    let run = place.run(&adder(), &config, "fixed", &Silent).unwrap();
    assert_eq!(run.items.len(), 9);
    assert!(
        run.items[0]
            .prompt
            .starts_with("Question: 0?\nAnswer: #### 0\n\nQuestion: 0 + 0?\n")
    );
    config.few_shot = Some(2);
    let error = place.error(&adder(), &config);
    assert!(error.contains("2 examples are asked for, and there are 1"), "{error}");
}

#[test]
fn repeats_give_pass_and_majority() {
    let place = Place::new(None);
    let mut config = config(&[sums(&place, 4)]);
    config.repeats = 4;
    config.sampling.temperature = 0.7;
    let script = Script {
        write: |prompt, seed| format!("#### {}", adds(prompt) / if seed % 4 == 0 { 1 } else { 2 }),
        ..Script::default()
    };
    let run = place.run(&script, &config, "out", &Silent).unwrap();
    let task = &run.evaluation.tasks[0];
    let names: Vec<&str> = task.metrics.iter().map(|score| score.name.as_str()).collect();
    let of = |metric: &str| ["", " pass@2", " pass@4", " maj@4"].map(|suffix| format!("{metric}{suffix}"));
    assert_eq!(names, [of("flexible"), of("strict")].concat());
    let right = |item: &ItemRecord| {
        item.outputs
            .iter()
            .filter(|output| output.values["strict"] == 1.0)
            .count()
    };
    let pass = |k: usize| run.items.iter().map(|item| pass_at(4, right(item), k)).sum::<f64>() / 4.0;
    for (place, expected) in [(1, pass(2)), (2, pass(4))] {
        assert!((task.metrics[place].mean - expected).abs() < 1e-12);
    }
    assert!(
        run.items.iter().any(|item| (1..4).contains(&right(item))),
        "the script gives all repeats the same seed"
    );
}

#[test]
fn a_folder_goes_on_with_the_same_evaluation_only() {
    let place = Place::new(None);
    let mut config = config(&[sums(&place, 5)]);
    let first = place.run(&adder(), &config, "failed", &Silent).unwrap();
    config.batch = 3;
    assert_eq!(
        place.run(&Script::default(), &config, "failed", &Silent).unwrap(),
        first
    ); // nothing is asked again
    config.seed = 1;
    let error = place.error(&adder(), &config);
    assert!(
        error.contains("option `seed` is 42 against 1") && error.contains("name another folder"),
        "{error}"
    );
    config.seed = 42;
    sums(&place, 6);
    let error = place.error(&adder(), &config);
    assert!(error.contains("the data of task gsm8k"), "{error}");
}

#[test]
fn bad_tasks_name_file_and_key() {
    let place = Place::new(None);
    let fine = "title = \"t\"\nmethod = \"generate\"\n[item]\nprompt = \"{{ q }}\"\ngold = \"a\"\n[[metric]]\nname = \"m\"\njudge = \"exact\"\n";
    let cases = [
        (
            "title = \"t\"\nmethods = \"generate\"\n",
            "methods",
            "did you mean `method`",
        ),
        (
            &fine.replace("\"generate\"", "\"guess\""),
            "method",
            "`guess` is not one of",
        ),
        (&fine.replace("gold = \"a\"\n", ""), "item.gold", "missing"),
        (&fine.replace("{{ q }}", "{{ q"), "item.prompt", "not a template"),
        (
            &fine.replace("gold = \"a\"", "gold = \"a |\""),
            "item.gold",
            "not an expression",
        ),
        (
            &fine.replace("[[metric]]\nname = \"m\"\njudge = \"exact\"\n", ""),
            "metric",
            "nothing would be measured",
        ),
        (&fine.replace("exact", "nearly"), "judge", "nearly"),
        (&fine.replace("\"generate\"", "\"letters\""), "item", "needs `choices`"),
        (&fine.replace("\"generate\"", "\"perplexity\""), "item.text", "missing"),
        (&format!("primary = \"n\"\n{fine}"), "primary", "no metric of the task"),
    ];
    for (text, key, problem) in cases {
        let error = Task::parse("my.toml", text).unwrap_err().to_string();
        assert!(
            error.starts_with("my.toml") && error.contains(key) && error.contains(problem),
            "{error}"
        );
    }
    let data = place.rows("d.jsonl", &[json!({"q": "1?"}), json!({"q": "2?"})]);
    let task = place.file("fine.toml", fine);
    let error = place.error(&Script::default(), &config(&[format!("{task}={data}")]));
    assert!(
        error.contains("none of its 2 rows") && error.contains("field `a` is missing"),
        "{error}"
    );
    let error = place.error(&Script::default(), &config(&["gsm9k".to_owned()]));
    assert!(
        error.contains("no task of that name") && error.contains("gsm8k, "),
        "{error}"
    );
    let error = place.error(&Script::default(), &config(&["humaneval=x.jsonl".to_owned()]));
    assert!(error.contains("--run-programs"), "{error}");
    let error = place.error(&Script::default(), &config(&[sums(&place, 1), sums(&place, 1)]));
    assert!(error.contains("two tasks have this name"), "{error}");
}

#[test]
fn a_difference_is_tested_on_the_same_items() {
    let place = Place::new(None);
    let config = config(&[sums(&place, 40)]);
    let run = |write, out: &str| {
        let script = Script {
            write,
            ..Script::default()
        };
        place.run(&script, &config, out, &Silent).unwrap()
    };
    let weak = run(|prompt, _| format!("{}", adds(prompt)), "weak");
    let right = run(|prompt, _| format!("{}", adds(prompt) / 3 * 3), "right");
    let runs = [("weak".to_owned(), weak), ("right".to_owned(), right)];
    let comparison = compare_all(&runs, 42).unwrap().remove(0);
    assert!(comparison.clear && comparison.lo > 0.0 && comparison.items == 40);
    assert!((comparison.difference - 0.5).abs() < 1e-12);
    assert!(
        comparison
            .sentence
            .starts_with("On gsm8k right is better than weak: flexible +50.0 points"),
        "{}",
        comparison.sentence
    );
    let same = [runs[0].clone(), ("again".to_owned(), runs[0].1.clone())];
    let comparison = compare_all(&same, 42).unwrap().remove(0);
    assert!(
        comparison.sentence.contains("is within noise"),
        "{}",
        comparison.sentence
    );
}

#[test]
fn what_a_model_wrote_is_never_markup() {
    let place = Place::new(None);
    let script = Script {
        write: |_, _| "</script><script>alert(1)</script><!--".to_owned(),
        ..Script::default()
    };
    place.run(&script, &config(&[sums(&place, 2)]), "out", &Silent).unwrap();
    let page = fs::read_to_string(place.path("out").join("report.html")).unwrap();
    assert_eq!(page.matches("<script").count(), 2);
    assert!(page.contains("\\u003c/script>") && !page.contains("alert(1)</script>"));
}

/// Each built-in task understands the rows of its data set: the prompt and the answer of one.
#[test]
fn built_in_tasks_know_their_rows() {
    let rows = built_in_rows();
    let tasks: Vec<(&str, Task)> = builtin_tasks().collect();
    assert_eq!(tasks.len(), rows.len());
    for (name, task) in tasks {
        let (row, prompt, gold) = &rows[name];
        let shape = shape::Shape::new(&task.item, &task.few_shot).unwrap();
        let row = row.as_object().unwrap().clone();
        if task.method == Method::Perplexity {
            assert_eq!(shape.text(&row).unwrap(), *prompt, "{name}");
            continue;
        }
        let item = shape
            .item(0, row, !gold.is_empty())
            .unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let shape::Asked::Text { plain, .. } = &item.asked else {
            panic!("{name}")
        };
        assert_eq!(
            (plain.as_str(), item.gold.join("|").as_str()),
            (*prompt, *gold),
            "{name}"
        );
        assert!(task.paper.is_some() || !["gsm8k", "mmlu"].contains(&name));
    }
}

type Rows = std::collections::BTreeMap<&'static str, (serde_json::Value, &'static str, &'static str)>;

fn built_in_rows() -> Rows {
    let listed = "Question: q?\nA. x\nB. y\nAnswer:";
    let labelled = json!({"question": "q?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "B"});
    let maths = json!({"problem": "p?", "answer": "7"});
    Rows::from([
        (
            "gsm8k",
            (
                json!({"question": "q?", "answer": "1 < 2\n#### 1,234"}),
                "Question: q?\nAnswer:",
                "1,234",
            ),
        ),
        ("math-500", (maths.clone(), "Problem: p?\nAnswer:", "7")),
        ("aime-24", (maths.clone(), "Problem: p?\nAnswer:", "7")),
        ("aime-25", (maths.clone(), "Problem: p?\nAnswer:", "7")),
        (
            "amc",
            (json!({"problem": "p?", "answer": 27.0}), "Problem: p?\nAnswer:", "27.0"),
        ),
        (
            "minerva",
            (
                json!({"question": "p?", "answer": "1.6"}),
                "Problem: p?\nAnswer:",
                "1.6",
            ),
        ),
        (
            "olympiadbench",
            (
                json!({"question": "p?", "final_answer": ["1", "2"]}),
                "Problem: p?\nAnswer:",
                "1|2",
            ),
        ),
        (
            "mmlu",
            (
                json!({"question": "q?", "choices": ["x", "y"], "answer": 1}),
                listed,
                "B",
            ),
        ),
        (
            "mmlu-pro",
            (
                json!({"question": "q?", "options": ["x", "y"], "answer": "B"}),
                listed,
                "B",
            ),
        ),
        ("arc", (labelled.clone(), listed, "B")),
        ("arc-easy", (labelled.clone(), listed, "B")),
        ("commonsenseqa", (labelled, listed, "B")),
        (
            "gpqa",
            (
                json!({"Question": "q?", "Correct Answer": "r", "Incorrect Answer 1": "a", "Incorrect Answer 2": "b", "Incorrect Answer 3": "c"}),
                "Question: q?\nA. b\nB. c\nC. a\nD. r\nAnswer:",
                "D",
            ),
        ),
        (
            "supergpqa",
            (
                json!({"question": "q?", "options": ["x", "y"], "answer": "y", "answer_letter": "B"}),
                listed,
                "B",
            ),
        ),
        (
            "truthfulqa-mc",
            (
                json!({"question": "q?", "mc1_targets": {"choices": ["x", "y"], "labels": [1, 0]}}),
                "Question: q?\nA. y\nB. x\nAnswer:",
                "B",
            ),
        ),
        (
            "safety",
            (
                json!({"question": "q?", "choices": ["x", "y"], "answer": "B"}),
                listed,
                "B",
            ),
        ),
        (
            "ifeval",
            (
                json!({"key": 1, "prompt": "Do.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}),
                "Do.\n",
                "",
            ),
        ),
        (
            "humaneval",
            (
                json!({"task_id": "H/0", "prompt": "def f():\n", "test": "", "entry_point": "f"}),
                "def f():\n",
                "",
            ),
        ),
        ("wikitext", (json!({"text": " = A = \n"}), " = A = \n", "")),
        ("text", (json!({"text": "a"}), "a", "")),
    ])
}

#[test]
fn programs_are_run_whatever_shape_they_are_written_in() {
    let row = |name: &str, test: &str| {
        let prompt = format!("def {name}(x):\n    \"\"\"{name} of x.\"\"\"\n");
        json!({"task_id": name, "prompt": prompt, "entry_point": name, "test": format!("def check(f):\n    {test}\n")})
    };
    let rows = [row("double", "assert f(3) == 6"), row("triple", "assert f(3) == 9")];
    // right for one of both: a body to go on with, or in a conversation the whole function and words around it
    let body = |_: &str, _: u64| "    return 2 * x\n\nprint(double(1))".to_owned();
    let whole = |prompt: &str, _: u64| {
        let name = if prompt.contains("def double") {
            "double"
        } else {
            "triple"
        };
        format!("Sure:\n\n```python\ndef {name}(x):\n    return x + x\n```\nIt adds.\n#")
    };
    let chat = "{% for m in messages %}{{ m.content }}\n{% endfor %}";
    for (template, write) in [(None, body as fn(&str, u64) -> String), (Some(chat), whole)] {
        let place = Place::new(template);
        let mut config = config(&[format!("humaneval={}", place.rows("programs.jsonl", &rows))]);
        config.run_programs = true;
        let script = Script {
            write,
            ..Script::default()
        };
        let run = place.run(&script, &config, "out", &Silent).unwrap();
        let verdict = |item: &ItemRecord| (item.id.clone(), item.outputs[0].values["pass@1"]);
        let mut verdicts: Vec<_> = run.items.iter().map(verdict).collect();
        verdicts.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [("double", 1.0), ("triple", 0.0)].map(|(name, value)| (name.to_owned(), value));
        assert_eq!(verdicts, expected, "{:#?}", run.items);
        let failed = run.items.iter().find(|item| item.id == "triple").unwrap();
        assert!(
            failed.outputs[0].note.contains("AssertionError"),
            "{}",
            failed.outputs[0].note
        );
        assert_eq!(run.evaluation.tasks[0].score().unwrap().mean, 0.5);
    }
}
