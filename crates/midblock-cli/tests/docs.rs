//! README, book and examples say what is there: paths of the tree, pages, links, flags and metrics.

#![allow(clippy::unwrap_used)] // how a test fails

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use yaml_rust2::{Yaml, YamlLoader};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What `midblock ARGS` prints.
fn output(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_midblock"))
        .args(args)
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "midblock {args:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The part of `text` from the line that begins with `heading` to the next heading of the second level.
fn section<'a>(text: &'a str, heading: &str) -> &'a str {
    let start = text
        .find(&format!("\n{heading}"))
        .unwrap_or_else(|| panic!("no `{heading}`"));
    let body = &text[start + 1 + heading.len()..];
    &body[..body.find("\n## ").unwrap_or(body.len())]
}

/// The tree is indented by two spaces a level; a line's first word is a path below the line it is indented under.
#[test]
fn every_path_of_the_tree_exists() {
    let readme = read("README.md");
    let tree = section(&readme, "## Where things are").split("```").nth(1).unwrap();
    let lines: Vec<&str> = tree.lines().filter(|line| !line.trim().is_empty()).collect();
    assert!(lines.len() > 20);
    let mut above: Vec<&str> = Vec::new();
    for line in lines {
        above.truncate((line.len() - line.trim_start().len()) / 2);
        above.push(line.split_whitespace().next().unwrap());
        let path = above.concat();
        assert!(root().join(&path).exists(), "the README's tree names {path}");
    }
}

#[test]
fn the_summary_names_every_page_and_no_other() {
    let summary = read("docs/src/SUMMARY.md");
    let links = summary.split("](").skip(1);
    let named: BTreeSet<String> = links.map(|rest| rest.split(')').next().unwrap().to_owned()).collect();
    let files = fs::read_dir(root().join("docs/src")).unwrap();
    let mut pages: BTreeSet<String> = files
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.retain(|name| name.ends_with(".md") && name != "SUMMARY.md");
    assert_eq!(named, pages);
}

/// Words that stand where something is still to be written.
#[test]
fn no_page_is_unfinished() {
    let mut pages = files_in("docs/src", "md");
    pages.extend(["README.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(|name| (name.to_owned(), read(name))));
    assert!(pages.len() > 20);
    for (name, text) in pages {
        for word in ["TODO", "FIXME", "TBD", "PLACEHOLDER", "SPEED", "LATER"] {
            assert!(!text.contains(word), "{name} has a {word}");
        }
    }
}

#[test]
fn links_lead_somewhere() {
    let pages = fs::read_dir(root().join("docs/src"))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    for page in pages.chain([root().join("README.md"), root().join("CONTRIBUTING.md")]) {
        for rest in fs::read_to_string(&page).unwrap().split("](").skip(1) {
            let target = rest.split([')', '#']).next().unwrap();
            let elsewhere = target.is_empty() || target.starts_with("https://");
            let path = page.parent().unwrap().join(target);
            assert!(elsewhere || path.exists(), "{}: {target}", page.display());
        }
    }
}

#[test]
fn every_flag_is_in_the_reference() {
    let page = read("docs/src/cli.md");
    let common = section(&page, "## Every command");
    let help = output(&["--help"]);
    let commands = section(&help, "Commands:").split("Options:").next().unwrap();
    // continued descriptions are indented further
    let commands = commands
        .lines()
        .filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let commands: Vec<_> = commands.map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(commands.len() >= 8, "{commands:?}");
    for command in commands.into_iter().filter(|command| *command != "help") {
        let own = section(&page, &format!("## `midblock {command}"));
        let help = output(&[command, "--help"]);
        let options = help.lines().filter(|line| line.trim_start().starts_with('-'));
        let flags: BTreeSet<&str> = options
            .flat_map(str::split_whitespace)
            .filter(|word| word.starts_with("--"))
            .map(|word| word.trim_end_matches([',', ';', '.'])) // a wrapped help text may begin with a flag
            .collect();
        assert!(flags.len() >= 5, "{command}: {flags:?}");
        for flag in flags {
            let names = |text: &str| text.contains(&format!("`{flag}`")) || text.contains(&format!("`{flag} "));
            assert!(names(own) || names(common), "docs/src/cli.md: {command} {flag}");
        }
    }
}

/// Whether bash can read a script.
fn assert_is_bash(name: &str, script: &str) {
    let mut bash = Command::new("bash")
        .arg("-n")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("there is a bash");
    bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = bash.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Commands and flags of `midblock` in a script: `midblock COMMAND … --flag …`, over continued lines, up to a comment.
fn midblock_commands(script: &str) -> Vec<(String, Vec<String>)> {
    let joined = script.replace("\\\n", " ");
    let lines = joined
        .lines()
        .map(|line| line.split(" #").next().unwrap_or(line).trim_start_matches("# "));
    let after = lines.filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let program = words.iter().position(|word| *word == "midblock")?;
        let command = words.get(program + 1)?;
        let is_command = !command.is_empty() && command.chars().all(|letter| letter.is_ascii_lowercase());
        let flags = words[program..].iter().filter(|word| word.starts_with("--"));
        let name = |flag: &&str| {
            flag.split('=')
                .next()
                .unwrap_or(flag)
                .trim_end_matches(['`', '.', ',', ')'])
                .to_owned()
        };
        is_command.then(|| ((*command).to_owned(), flags.map(name).collect()))
    });
    after.collect()
}

/// Whether each command of a script is there and has the flags that it is given.
fn assert_flags_exist(name: &str, script: &str, helps: &mut BTreeMap<String, String>) -> usize {
    let commands = midblock_commands(script);
    for (command, flags) in &commands {
        let help = helps
            .entry(command.clone())
            .or_insert_with(|| output(&[command, "--help"]));
        for flag in flags {
            let is_word = |word: &str| word.trim_end_matches([',', ';', '.']) == flag;
            assert!(
                help.split_whitespace().any(is_word),
                "{name}: midblock {command} has no {flag}"
            );
        }
    }
    commands.len()
}

fn files_in(folder: &str, extension: &str) -> Vec<(String, String)> {
    let entries = fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries
        .filter(|path| path.extension().is_some_and(|own| own == extension))
        .collect();
    paths.sort();
    let read = |path: PathBuf| (path.display().to_string(), fs::read_to_string(&path).unwrap());
    paths.into_iter().map(read).collect()
}

#[test]
fn job_scripts_can_be_read_and_use_flags_that_exist() {
    let (mut helps, mut commands) = (BTreeMap::new(), 0);
    let scripts = files_in("examples/slurm", "sh");
    assert!(scripts.len() >= 5);
    for (name, script) in scripts {
        assert_is_bash(&name, &script);
        commands += assert_flags_exist(&name, &script, &mut helps);
        let submits = script.lines().filter(|line| line.starts_with("#SBATCH"));
        assert!(submits.clone().count() >= 5 || script.contains("sbatch --"), "{name}");
        for line in submits {
            assert!(
                line.starts_with("#SBATCH --") && line.split_whitespace().count() == 2,
                "{name}: {line}"
            );
        }
        for config in script.split_whitespace().filter(|word| word.ends_with(".toml")) {
            assert!(root().join(config).is_file(), "{name}: {config}");
        }
    }
    let tasks = files_in("examples/skypilot", "yaml");
    assert!(tasks.len() >= 3);
    for (name, text) in tasks {
        let documents = YamlLoader::load_from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let [Yaml::Hash(task)] = &documents[..] else {
            panic!("{name}: it is no task")
        };
        let keys: BTreeSet<&str> = task.keys().filter_map(Yaml::as_str).collect();
        let expected = ["name", "resources", "envs", "file_mounts", "setup", "run"];
        assert_eq!(keys, BTreeSet::from(expected), "{name}");
        let mount = &documents[0]["file_mounts"]["/runs"];
        assert_eq!(
            mount["mode"].as_str(),
            Some("MOUNT_CACHED"),
            "{name}: files are appended to and renamed"
        );
        for part in ["setup", "run"] {
            let script = documents[0][part].as_str().unwrap_or_else(|| panic!("{name}: {part}"));
            assert_is_bash(&name, script);
            commands += assert_flags_exist(&name, script, &mut helps);
        }
    }
    assert!(commands >= 7, "{commands} commands were found");
}

#[test]
fn the_commands_of_the_book_use_flags_that_exist() {
    let (mut helps, mut commands) = (BTreeMap::new(), 0);
    let readme = [("README.md".to_owned(), read("README.md"))];
    for (name, page) in files_in("docs/src", "md").into_iter().chain(readme) {
        for block in page.split("```").skip(1).step_by(2) {
            commands += assert_flags_exist(&name, block, &mut helps);
        }
    }
    assert!(commands > 40, "{commands} commands were found");
}

#[test]
fn every_metric_is_in_the_book_with_its_formula_and_meaning() {
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" "); // lines may be wrapped
    let page = words(&read("docs/src/metrics.md"));
    let mut metrics = 0;
    for line in output(&["metrics"]).lines() {
        let expected = line.strip_prefix("    ").map(words).unwrap_or_else(|| {
            metrics += 1;
            format!("### `{}` ", line.split_whitespace().next().unwrap())
        });
        assert!(page.contains(&expected), "docs/src/metrics.md lacks {expected}");
    }
    assert_eq!(page.matches("### ").count(), metrics);
}
