//! `midblock generate` and `chat`.

use crate::models::{base, midblock};
use serde_json::{Value, json};
use std::{fs, process::Output};

fn generate(args: &[&str], stdin: &str) -> Output {
    midblock()
        .args(["generate", &base()])
        .args(args)
        .args(if args.contains(&"--max-new") {
            &[][..]
        } else {
            &["--max-new", "12"]
        })
        .write_stdin(stdin)
        .output()
        .unwrap()
}

#[track_caller]
fn written(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn refused(output: &Output) -> String {
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// `(completion, finish, completion_tokens)` of each line.
fn lines(text: &str) -> Vec<(String, String, u64)> {
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.map(|row| {
        let string = |key: &str| row[key].as_str().unwrap().to_owned();
        let tokens = row["completion_tokens"].as_u64().unwrap();
        (string("completion"), string("finish"), tokens)
    })
    .collect()
}

#[test]
fn prompts_get_the_same_alone_and_together() {
    let prompts = [
        "Tom has 5 red",
        "Ann has 12 apples and",
        "A",
        "What is 3 + 4?",
        "Tom has 5 red",
    ];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompts.jsonl");
    let rows: Vec<String> = prompts.iter().map(|p| json!({"prompt": p}).to_string()).collect();
    fs::write(&file, rows.join("\n")).unwrap();
    let file = file.to_str().unwrap();
    for drawn in [&[][..], &["--temperature", "0.8", "--top-p", "0.95"]] {
        let run = |more: &[&str]| {
            lines(&written(&generate(
                &[&["--prompts", file, "--json"], drawn, more].concat(),
                "",
            )))
        };
        let together = run(&["--batch", "3"]);
        assert_eq!(together.len(), 5);
        assert_eq!(together, run(&["--batch", "1"]));
        assert!(together.iter().any(|(text, _, _)| !text.is_empty()));
        if drawn.is_empty() {
            assert_eq!(together[0], together[4]);
            let alone = written(&generate(&[prompts[1]], ""));
            assert_eq!(alone, format!("{}\n", together[1].0));
            assert_eq!(written(&generate(&["-"], prompts[1])), alone);
            let texts = written(&generate(&prompts[..2], ""));
            assert_eq!(
                texts,
                format!("── 1 ──\n{}\n\n── 2 ──\n{}\n\n", together[0].0, together[1].0)
            );
        } else {
            assert_eq!(run(&["--seed", "42"]), together);
            assert_ne!(run(&["--seed", "4"]), together);
        }
    }
}

#[test]
fn a_stop_text_ends_it() {
    let whole = lines(&written(&generate(&["Tom has 5 red", "--json"], ""))).remove(0);
    let cut = whole.0.char_indices().nth(whole.0.chars().count() / 2).unwrap().0;
    let stop = &whole.0[cut..whole.0.len().min(cut + 3)];
    let first = whole.0.find(stop).unwrap();
    let ended = lines(&written(&generate(&["Tom has 5 red", "--json", "--stop", stop], ""))).remove(0);
    assert_eq!((ended.0.as_str(), ended.1.as_str()), (&whole.0[..first], "text"));
    assert!(ended.2 <= whole.2);
}

#[test]
fn what_cannot_be_asked_is_named() {
    let problem = |args: &[&str]| refused(&generate(args, ""));
    assert!(problem(&["x", "--template", "chat"]).contains("it has no chat template\n  help: --template plain"));
    assert!(problem(&["x", "--system", "Be kind."]).contains("prompt 1: --system needs a chat template"));
    assert!(problem(&["x", "--temperature", "nan"]).starts_with("error: temperature `NaN`: expected at least 0"));
    assert!(problem(&["x", "--top-p", "1.5"]).starts_with("error: top_p `1.5`"));
    assert!(problem(&["x", "--max-new", "0"]).contains("prompt 1 `0`: expected at least 1"));
    assert!(problem(&[""]).starts_with("error: prompt 1 `0 tokens`: it has no tokens"));
    let long = "word ".repeat(20_000);
    assert!(
        problem(&[&long]).contains("longer than the model's context"),
        "{}",
        problem(&[&long])
    );
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompts.jsonl");
    fs::write(&file, "{\"prompt\": \"fine\"}\n{\"question\": \"?\"}\n").unwrap();
    let named = problem(&["--prompts", file.to_str().unwrap()]);
    assert!(named.contains("prompts.jsonl: row 2 has neither `prompt`"), "{named}");
    let chat = midblock().args(["chat", &base()]).output().unwrap();
    assert!(refused(&chat).contains("it has no chat template"));
    // usage
    let usage = midblock().args(["generate", &base()]).output().unwrap();
    assert!(refused(&usage).contains("<PROMPT>"));
}

#[test]
fn a_conversation_remembers_until_it_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(base()).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
    fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    let model = dir.path().to_str().unwrap();
    let answers = |lines: &str| {
        let mut chat = midblock();
        chat.args(["chat", model, "--max-new", "8", "--system", "Sums.", "--quiet"]);
        let text = written(&chat.write_stdin(lines).output().unwrap());
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let asked = |messages: Value| {
        let file = dir.path().join("prompts.jsonl");
        fs::write(&file, json!({"prompt": messages}).to_string()).unwrap();
        let mut generate = midblock();
        generate
            .args(["generate", model, "--max-new", "8", "--prompts"])
            .arg(&file);
        written(&generate.output().unwrap()).trim_end_matches('\n').to_owned()
    };
    let said = |role: &str, content: &str| json!({"role": role, "content": content});
    let (system, first, second) = (
        said("system", "Sums."),
        said("user", "Tom has 2 red pens."),
        said("user", "How many?"),
    );
    let one = asked(json!([system, first]));
    let two = asked(json!([system, first, said("assistant", &one), second]));
    let alone = asked(json!([system, second]));
    assert_eq!(
        [&one, &two, &alone].map(|text| text.lines().count()),
        [1; 3],
        "{one:?} {two:?} {alone:?}"
    );
    assert_eq!(answers("Tom has 2 red pens.\nHow many?\n"), [one.as_str(), &two]);
    assert_eq!(
        answers("Tom has 2 red pens.\n\n/clear\nHow many?\n/exit\nx\n"),
        [one.as_str(), &alone]
    );
    assert_ne!(two, alone, "what was said before makes a difference");
}
