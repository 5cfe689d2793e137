//! `midblock eval`: what it writes, how it is interrupted and gone on with, and what it refuses.

use crate::models::{asset, base, midblock, sft};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn problems() -> String {
    format!("gsm8k={}", asset("assets/quickstart/data.jsonl"))
}

fn eval(out: &Path, more: &[&str]) -> assert_cmd::Command {
    let mut command = midblock();
    command
        .args(["eval", &base(), "--max-new", "24", "--out"])
        .arg(out)
        .args(more);
    command
}

fn refused(more: &[&str]) -> String {
    let dir = TempDir::new().unwrap();
    let output = eval(&dir.path().join("out"), more).assert().code(2);
    String::from_utf8(output.get_output().stderr.clone()).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn two_models_are_evaluated_and_compared() {
    let dir = TempDir::new().unwrap();
    let out = dir.path().join("run");
    let mut command = midblock();
    let [a, b] = [format!("a={}", base()), format!("b={}", sft())];
    command.args([
        "eval",
        &a,
        &b,
        "--task",
        &problems(),
        "--samples",
        "24",
        "--max-new",
        "32",
        "--json",
        "--out",
    ]);
    let output = command.arg(&out).assert().success().get_output().stdout.clone();
    let printed: Value = serde_json::from_slice(&output).unwrap();
    let comparison = &printed["comparisons"][0];
    assert_eq!(
        (&comparison["items"], &comparison["metric"]),
        (&Value::from(24), &Value::from("flexible"))
    );
    for (place, name) in ["a", "b"].into_iter().enumerate() {
        let folder = out.join(name);
        let items = lines(&folder.join("items.jsonl"));
        let right = items
            .iter()
            .filter(|item| item["outputs"][0]["values"]["flexible"] == 1.0)
            .count();
        let score = &printed["evaluations"][place]["evaluation"]["tasks"][0]["metrics"][0];
        assert!((score["mean"].as_f64().unwrap() - right as f64 / 24.0).abs() < 1e-12);
        assert!(folder.join("DONE").exists() && folder.join("report.html").exists());
        midblock().arg("report").arg(&folder).assert().success();
    }
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains(comparison["sentence"].as_str().unwrap()));
    assert!(out.join("comparison.json").exists());
}

#[test]
fn no_result_depends_on_the_batch() {
    let dir = TempDir::new().unwrap();
    let task = problems();
    let sampled = [
        "--task",
        &task,
        "--samples",
        "6",
        "--repeats",
        "3",
        "--temperature",
        "0.8",
    ];
    for batch in ["1", "16"] {
        eval(&dir.path().join(batch), &sampled)
            .args(["--batch", batch])
            .assert()
            .success();
    }
    let [one, many] = ["1", "16"].map(|batch| lines(&dir.path().join(batch).join("items.jsonl")));
    assert_eq!(one, many);
    assert_ne!(one[0]["outputs"][0]["text"], one[0]["outputs"][1]["text"]);
}

#[test]
fn every_method_works_on_a_task_of_ones_own() {
    let dir = TempDir::new().unwrap();
    let rows = dir.path().join("rows.jsonl");
    fs::write(&rows, "{\"q\": \"3 + 4 =\", \"wrong\": \"cat\", \"right\": \" 7\"}\n").unwrap();
    let task = dir.path().join("own.toml");
    let text = "title = \"Own\"\nmethod = \"choices\"\n[item]\nprompt = \"{{ q }}\"\nchoices = \"[wrong, right]\"\ngold = \"'B'\"\n\
                text = \"{{ q }} {{ right }}\"\n[[metric]]\nname = \"number\"\nextract = \"last-number\"\njudge = \"number\"\n";
    fs::write(&task, text).unwrap();
    let spec = format!("{}={}", task.display(), rows.display());
    for method in ["choices", "letters", "generate", "perplexity"] {
        let out = dir.path().join(method);
        eval(&out, &["--task", &spec, "--method", method]).assert().success();
        let item = &lines(&out.join("items.jsonl"))[0];
        assert_eq!(item["task"], "own");
        assert!(
            item["outputs"][0]["values"]
                .as_object()
                .is_some_and(|values| !values.is_empty())
        );
    }
}

/// Starts an evaluation of many seconds, one item after the other, and waits for its first items.
#[cfg(unix)]
#[test]
fn an_interrupted_evaluation_goes_on_to_the_same_files() {
    let dir = TempDir::new().unwrap();
    let (whole, stopped) = (dir.path().join("whole"), dir.path().join("stopped"));
    let task = problems();
    let args = [
        "--task",
        &task,
        "--repeats",
        "6",
        "--temperature",
        "0.9",
        "--batch",
        "1",
        "--samples",
        "60",
    ];
    for signal in ["-INT", "-KILL"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_midblock"))
            .args(["eval", &base(), "--max-new", "24", "--out"])
            .arg(&stopped)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let items = stopped.join("items.jsonl");
        let known = fs::read_to_string(&items).map_or(0, |text| text.lines().count());
        let begun = Instant::now();
        while fs::read_to_string(&items).map_or(0, |text| text.lines().count()) <= known {
            assert!(begun.elapsed() < Duration::from_secs(60), "nothing is answered");
            assert!(child.try_wait().unwrap().is_none(), "it ended too soon");
            sleep(Duration::from_millis(2));
        }
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!stopped.join("DONE").exists(), "{stderr}");
        if signal == "-INT" {
            assert_eq!(output.status.code(), Some(130), "{stderr}");
            assert!(stderr.contains("the same command goes on there"), "{stderr}");
        }
    }
    eval(&stopped, &args).assert().success();
    eval(&whole, &args).assert().success();
    for file in ["items.jsonl", "evaluation.json", "metrics.csv"] {
        assert_eq!(
            fs::read(stopped.join(file)).unwrap(),
            fs::read(whole.join(file)).unwrap(),
            "{file}"
        );
    }
    let mut other = eval(&whole, &args);
    let output = other.args(["--seed", "7"]).assert().code(2);
    let stderr = String::from_utf8_lossy(&output.get_output().stderr).into_owned();
    assert!(stderr.contains("option `seed` is 42 against 7"), "{stderr}");
}

#[test]
fn bad_input_is_named() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let no_answer = file("a.jsonl", "{\"question\": \"1?\"}\n{\"question\": \"2?\"}\n");
    let error = refused(&["--task", &format!("gsm8k={no_answer}")]);
    assert!(
        error.contains("none of its 2 rows") && error.contains("field `answer` is missing"),
        "{error}"
    );
    let error = refused(&["--task", "gsm9k"]);
    assert!(
        error.contains("no task of that name") && error.contains("olympiadbench"),
        "{error}"
    );
    let chat = file(
        "chat.jsonl",
        "{\"prompt\": [{\"role\": \"user\", \"content\": \"1+1?\"}], \"reward_model\": {\"ground_truth\": \"2\"}}\n",
    );
    let error = refused(&["--task", &format!("math-500={chat}")]);
    assert!(
        error.contains("no chat template") && error.contains("--template plain"),
        "{error}"
    );
    let error = refused(&["--task", &format!("arc={}", asset("assets/quickstart/data.jsonl"))]);
    assert!(error.contains("field `choices` is missing"), "{error}");
    let task = file(
        "t.toml",
        "title = \"t\"\nmethod = \"generate\"\n[item]\nprompt = \"{{ q }}\"\n[[metric]]\nname = \"m\"\njudge = \"exact\"\n",
    );
    let error = refused(&["--task", &format!("{task}={no_answer}")]);
    assert!(
        error.contains("t.toml") && error.contains("`item.gold`: missing"),
        "{error}"
    );
    let error = refused(&["--task", &problems(), "--repeats", "4"]);
    assert!(error.contains("all the same"), "{error}");
    let error = refused(&["--task", "humaneval=x.jsonl"]);
    assert!(error.contains("--run-programs"), "{error}");
    let config = file("c.toml", "tasks = [\"gsm8k\"]\nsample = 3\n");
    let error = refused(&["--config", &config]);
    assert!(
        error.contains("c.toml:2: `sample`: unknown key") && error.contains("did you mean `samples`"),
        "{error}"
    );
}

#[test]
fn a_prompt_longer_than_the_context_is_cut_and_counted() {
    let dir = TempDir::new().unwrap();
    let rows = dir.path().join("long.jsonl");
    let row = serde_json::json!({"question": "Hugo finds 14 marbles. ".repeat(300), "answer": "#### 1"});
    fs::write(&rows, format!("{row}\n")).unwrap();
    let out = dir.path().join("out");
    eval(&out, &["--task", &format!("gsm8k={}", rows.display())])
        .assert()
        .success();
    let result: Value = serde_json::from_slice(&fs::read(out.join("evaluation.json")).unwrap()).unwrap();
    assert_eq!(result["tasks"][0]["counts"]["prompts_truncated"], 1);
    assert_eq!(lines(&out.join("items.jsonl"))[0]["prompt_tokens"], 512 - 24);
}
