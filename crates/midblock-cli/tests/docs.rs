//! README and book say what is there: paths of the tree, pages, links, flags and metrics.

#![allow(clippy::unwrap_used)] // how a test fails

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

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
