//! Data sets on the Hugging Face hub: `org/name`, `org/name:split`, `org/name:config` or `org/name:config/split`.
//!
//! Files are chosen by their names, as the hub's own layouts go: `config/split-00000-of-00001.parquet`,
//! `data/split-….parquet`, `config/split/0000.parquet` or `split.jsonl`. Without a configuration the only one is taken, or the
//! one called `default` or `main`; without a split `test`, else `validation`, else `train`. Of several file formats the first of
//! Parquet, JSONL, JSON, CSV and text is read.

use std::{
    collections::BTreeSet,
    path::{Component, Path},
    str::FromStr,
};

use super::DataFile;
use crate::{
    Error, Result,
    hub::{HubOptions, OnTransfer, RepoType, Repository, Source},
};

/// Splits in the order of preference, each with the words that mean it in file names.
const SPLITS: [(&str, &[&str]); 3] = [
    ("test", &["test"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("train", &["train", "training"]),
];

/// File name endings in the order of preference.
const EXTENSIONS: [&str; 6] = ["parquet", "jsonl", "ndjson", "json", "csv", "txt"];

/// A data set on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubId {
    /// `org/name`.
    pub repository: String,
    /// Configuration, called subset on the hub's pages.
    pub config: Option<String>,
    /// Split: `train`, `test` or whatever the data set calls it.
    pub split: Option<String>,
}

impl FromStr for HubId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (repository, part) = text.split_once(':').map_or((text, None), |(id, part)| (id, Some(part)));
        let word = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_alphanumeric())
                && word.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
        };
        let (config, split) = match part.map(|part| part.split_once('/').ok_or(part)) {
            None => (None, None),
            Some(Ok((config, split))) => (Some(config), Some(split)),
            Some(Err(split)) if canonical_split(split).is_some() => (None, Some(split)),
            Some(Err(config)) => (Some(config), None),
        };
        let repository_is_fine = repository
            .split_once('/')
            .is_some_and(|(org, name)| word(org) && word(name));
        if !repository_is_fine || !config.is_none_or(word) || !split.is_none_or(word) {
            return Err(argument(
                text,
                "there is no such file or folder, and it is not a hub id".into(),
            ));
        }
        Ok(Self {
            repository: repository.into(),
            config: config.map(Into::into),
            split: split.map(Into::into),
        })
    }
}

fn argument(value: &str, problem: String) -> Error {
    Error::Argument {
        what: "--data".into(),
        value: value.into(),
        problem,
        help: "give a file, a folder, or a data set on the hub as org/name, org/name:split or org/name:config/split"
            .into(),
    }
}

/// `test`, `validation` or `train` for a word that means one of them.
fn canonical_split(word: &str) -> Option<&'static str> {
    let word = word.to_ascii_lowercase();
    SPLITS
        .iter()
        .find(|(_, words)| words.contains(&word.as_str()))
        .map(|(split, _)| *split)
}

/// Whether a file describes a data set instead of being part of it.
pub(super) fn is_metadata(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    matches!(
        name,
        "dataset_infos.json" | "dataset_info.json" | "state.json" | "LICENSE.txt" | "requirements.txt"
    ) || name.starts_with('.')
}

/// Finds the data set's files in the cache or downloads them.
pub(super) fn resolve(id: &HubId, hub: &HubOptions, on_transfer: OnTransfer<'_>) -> Result<Vec<DataFile>> {
    let repository = Repository {
        id: id.repository.clone(),
        revision: "main".to_owned(),
        kind: RepoType::Dataset,
    };
    match repository.open(hub, on_transfer)? {
        Source::Remote(remote) => {
            let chosen = choose_files(id, remote.names())?.into_iter();
            let files = chosen.map(|name| {
                Ok(DataFile {
                    label: name.into(),
                    path: remote.get(name)?,
                })
            });
            let files = files.collect::<Result<_>>()?;
            remote.finish()?;
            Ok(files)
        }
        Source::Cached(folder) => {
            let mut names = Vec::new();
            list_files(&folder, &folder, &mut names)?;
            let chosen = choose_files(id, &names)?.into_iter();
            Ok(chosen
                .map(|name| DataFile {
                    label: name.into(),
                    path: folder.join(name),
                })
                .collect())
        }
    }
}

fn list_files(root: &Path, folder: &Path, names: &mut Vec<String>) -> Result<()> {
    for entry in folder.read_dir().map_err(Error::io("list", folder))? {
        let path = entry.map_err(Error::io("list", folder))?.path();
        if path.is_dir() {
            list_files(root, &path, names)?;
        } else if let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str) {
            names.push(name.replace(std::path::MAIN_SEPARATOR, "/"));
        }
    }
    Ok(())
}

/// What a file's name says about it.
struct Candidate<'a> {
    name: &'a str,
    config: Option<&'a str>,
    split: Option<String>,
    rank: usize,
}

impl<'a> Candidate<'a> {
    fn new(name: &'a str, wanted: Option<&str>) -> Option<Self> {
        let path = Path::new(name);
        if is_metadata(path) || !path.components().all(|part| matches!(part, Component::Normal(_))) {
            return None;
        }
        let extension = path.extension()?.to_str()?;
        let rank = EXTENSIONS.iter().position(|known| *known == extension)?;
        let mut parts: Vec<&str> = name.split('/').collect();
        let stem = parts.pop()?.split('.').next()?;
        let named = |part: &str| {
            let is_wanted = wanted.is_some_and(|wanted| part == wanted || part.starts_with(&format!("{wanted}-")));
            let mut words = part.split(|c: char| !c.is_ascii_alphanumeric());
            is_wanted
                .then(|| wanted.unwrap_or_default().to_owned())
                .or_else(|| words.find_map(canonical_split).map(Into::into))
        };
        let mut split = named(stem);
        if let (None, Some(found)) = (&split, parts.last().and_then(|folder| named(folder))) {
            split = Some(found);
            parts.pop();
        }
        let config = parts.into_iter().rfind(|folder| *folder != "data");
        Some(Self {
            name,
            config,
            split,
            rank,
        })
    }
}

/// The files of a data set that hold a configuration's split, sorted. A pure function of the names.
///
/// # Errors
/// If nothing fits or the choice is not clear; lists what there is.
pub fn choose_files<'a>(id: &HubId, names: &'a [String]) -> Result<Vec<&'a str>> {
    let failed = |problem| argument(&id.repository, problem);
    let wanted = id.split.as_deref().map(|split| canonical_split(split).unwrap_or(split));
    let mut files: Vec<_> = names.iter().filter_map(|name| Candidate::new(name, wanted)).collect();
    if files.is_empty() {
        return Err(failed(
            "the data set has no Parquet, JSONL, JSON, CSV or text file".into(),
        ));
    }
    let configs: BTreeSet<_> = files.iter().map(|file| file.config).collect();
    let config = match &id.config {
        Some(config) => Some(config.as_str()),
        None if configs.len() == 1 => configs.first().copied().flatten(),
        None => [None, Some("default"), Some("main")]
            .into_iter()
            .find(|usual| configs.contains(usual))
            .ok_or_else(|| {
                failed(format!(
                    "it has several configurations: {}; name one",
                    list(configs.iter().flatten())
                ))
            })?,
    };
    files.retain(|file| file.config == config);
    if files.is_empty() {
        let problem = format!(
            "no configuration {:?}; there are: {}",
            config.unwrap_or(""),
            list(configs.iter().flatten())
        );
        return Err(failed(problem));
    }
    let splits: BTreeSet<_> = files.iter().filter_map(|file| file.split.clone()).collect();
    let split = wanted.or_else(|| {
        SPLITS
            .map(|(split, _)| split)
            .into_iter()
            .find(|split| splits.contains(*split))
    });
    files.retain(|file| file.split.as_deref() == split);
    let Some(best) = files.iter().map(|file| file.rank).min() else {
        return Err(failed(format!(
            "no split {:?}; there are: {}",
            split.unwrap_or(""),
            list(&splits)
        )));
    };
    let mut chosen: Vec<&str> = files
        .iter()
        .filter(|file| file.rank == best)
        .map(|file| file.name)
        .collect();
    chosen.sort_unstable();
    Ok(chosen)
}

fn list(names: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
    if names.is_empty() {
        "none".into()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::tests::{Files, options, serve};
    use proptest::prelude::*;

    fn choose(id: &str, names: &[&str]) -> std::result::Result<Vec<String>, String> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let chosen = choose_files(&id.parse().unwrap(), &names).map_err(|e| e.to_string())?;
        Ok(chosen.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn ids_name_repository_config_and_split() {
        let parse = |text: &str| text.parse::<HubId>().map(|id| (id.repository, id.config, id.split));
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parse("openai/gsm8k").unwrap(), ("openai/gsm8k".into(), None, None));
        assert_eq!(
            parse("openai/gsm8k:main").unwrap(),
            ("openai/gsm8k".into(), some("main"), None)
        );
        assert_eq!(
            parse("openai/gsm8k:train").unwrap(),
            ("openai/gsm8k".into(), None, some("train"))
        );
        assert_eq!(
            parse("cais/mmlu:all/test").unwrap(),
            ("cais/mmlu".into(), some("all"), some("test"))
        );
        for text in [
            "gsm8k",
            "a/b/c",
            "a/",
            "a/b:",
            "a/b:c/",
            "a/b:c/d/e",
            "../x",
            "a b/c",
            "",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(
                error.contains("no such file") && error.contains("org/name:config/split"),
                "{error}"
            );
        }
    }

    #[test]
    fn configurations_are_folders_and_splits_are_words() {
        let gsm8k = [
            ".gitattributes",
            "README.md",
            "dataset_infos.json",
            "main/test-00000-of-00001.parquet",
            "main/train-00000-of-00001.parquet",
            "socratic/test-00000-of-00001.parquet",
        ];
        assert_eq!(choose("a/b", &gsm8k).unwrap(), ["main/test-00000-of-00001.parquet"]);
        assert_eq!(
            choose("a/b:train", &gsm8k).unwrap(),
            ["main/train-00000-of-00001.parquet"]
        );
        assert_eq!(
            choose("a/b:socratic", &gsm8k).unwrap(),
            ["socratic/test-00000-of-00001.parquet"]
        );
        let error = choose("a/b:socratic/train", &gsm8k).unwrap_err();
        assert!(error.contains("no split \"train\"; there are: test"), "{error}");
        let error = choose("a/b:other", &gsm8k).unwrap_err();
        assert!(
            error.contains("no configuration \"other\"; there are: main, socratic"),
            "{error}"
        );
    }

    #[test]
    fn other_layouts_of_the_hub() {
        let shards = [
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            "data/test_sft-0.parquet",
        ];
        assert_eq!(
            choose("a/b:train", &shards).unwrap(),
            ["data/train-00000-of-00002.parquet", shards[0]]
        );
        assert_eq!(choose("a/b", &shards).unwrap(), ["data/test_sft-0.parquet"]);
        assert_eq!(
            choose(
                "a/b:default/test",
                &["default/test/0000.parquet", "default/train/0000.parquet"]
            )
            .unwrap(),
            ["default/test/0000.parquet"]
        );
        assert_eq!(
            choose("a/b", &["question.jsonl", "README.md"]).unwrap(),
            ["question.jsonl"]
        );
        assert_eq!(choose("a/b", &["train.jsonl", "dev.jsonl"]).unwrap(), ["dev.jsonl"]);
        assert_eq!(
            choose("a/b", &["test.csv", "test.parquet", "test.jsonl"]).unwrap(),
            ["test.parquet"]
        );
        let named = ["data/annotated-0.parquet", "data/prompts-0.parquet"];
        assert_eq!(choose("a/b", &named).unwrap(), named);
        let split = HubId {
            repository: "a/b".into(),
            config: None,
            split: Some("annotated".into()),
        };
        assert_eq!(choose_files(&split, &named.map(str::to_owned)).unwrap(), [named[0]]);
    }

    #[test]
    fn unclear_choices_list_what_there_is() {
        let error = choose("a/b", &["en/test.jsonl", "de/test.jsonl"]).unwrap_err();
        assert!(error.contains("several configurations: de, en"), "{error}");
        let error = choose("a/b", &["README.md", "model.safetensors"]).unwrap_err();
        assert!(error.contains("no Parquet, JSONL"), "{error}");
        assert!(choose("a/b", &["../test.jsonl"]).is_err());
    }

    #[test]
    fn a_split_is_downloaded_once_and_then_needs_no_hub() {
        let cache = tempfile::tempdir().unwrap();
        let id: HubId = "org/tiny:main/test".parse().unwrap();
        let offline = options(cache.path(), "http://127.0.0.1:1", true);
        let error = resolve(&id, &offline, &|_| {}).unwrap_err().to_string();
        assert!(
            error.contains("not in the cache") && error.contains("drop --offline"),
            "{error}"
        );

        let (test, train) = ("main/test-00000-of-00001.jsonl", "main/train-00000-of-00001.jsonl");
        let files = Files::from([
            ("README.md", vec![b'x']),
            (test, b"{}\n".to_vec()),
            (train, b"{}\n".to_vec()),
        ]);
        let online = options(cache.path(), &serve(files), false);
        let downloaded = resolve(&id, &online, &|_| {}).unwrap();
        assert_eq!(downloaded.iter().map(|file| &*file.label).collect::<Vec<_>>(), [test]);
        assert_eq!(std::fs::read(&downloaded[0].path).unwrap(), b"{}\n");
        assert_eq!(resolve(&id, &offline, &|_| {}).unwrap(), downloaded);
    }

    proptest! {
        #[test]
        fn any_names_are_fine(names in proptest::collection::vec("[a-z./-]{0,12}(\\.jsonl|\\.csv|/)?", 0..8)) {
            if let Ok(chosen) = choose_files(&"a/b".parse().unwrap(), &names) {
                prop_assert!(!chosen.is_empty());
                prop_assert!(chosen.is_sorted());
            }
        }
    }
}
