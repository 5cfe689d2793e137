//! Which files of a model or an adapter on the hub are needed.

use super::{
    HubId,
    folder::{ADAPTER_CONFIG, CHAT_TEMPLATE, CONFIG, TOKENIZER, TOKENIZER_CONFIG, Weights, choose_weights},
    lora::ADAPTER_WEIGHTS,
    shards,
};
use crate::{
    Error, Result,
    hub::{HubOptions, OnTransfer, RepoType, Repository, Source},
};
use std::path::PathBuf;

/// Small files of a model that are fetched if it has them.
const BESIDE_WEIGHTS: [&str; 5] = [
    CONFIG,
    TOKENIZER,
    TOKENIZER_CONFIG,
    CHAT_TEMPLATE,
    "generation_config.json",
];

/// Makes a model complete in the cache; returns its folder there, or the file if the id names one.
///
/// # Errors
/// [`Error::Argument`] if it is neither in the cache nor to be had from the hub.
pub(super) fn fetch_model(id: &HubId, hub: &HubOptions, on_transfer: OnTransfer<'_>) -> Result<PathBuf> {
    let repository = repository(id);
    let remote = match (repository.open(hub, on_transfer)?, &id.file) {
        (Source::Remote(remote), None) => remote,
        (Source::Remote(remote), Some(file)) => {
            let path = remote.get(file)?;
            remote.finish()?;
            return Ok(path);
        }
        (Source::Cached(folder), None) => return Ok(folder),
        (Source::Cached(folder), Some(file)) if folder.join(file).exists() => return Ok(folder.join(file)),
        (Source::Cached(_), Some(_)) => return Err(repository.not_cached(hub)),
    };
    let weights = choose_weights(remote.names()).map_err(|problem| repository.refused(problem, ""))?;
    for name in BESIDE_WEIGHTS.iter().filter(|name| remote.has(name)) {
        remote.get(name)?;
    }
    match weights {
        Weights::Single(name) | Weights::Gguf(name) => _ = remote.get(&name)?,
        Weights::Index(name) => {
            let path = remote.get(&name)?;
            let index = std::fs::read(&path).map_err(Error::io("read", &path))?;
            let mut shards = Vec::from_iter(shards::read_index(&path, &index)?.into_values());
            shards.sort();
            shards.dedup();
            for shard in shards {
                remote.get(&shard)?;
            }
        }
    }
    remote.finish()
}

/// Makes an adapter complete in the cache; returns its folder there.
///
/// # Errors
/// As [`fetch_model`].
pub(super) fn fetch_adapter(id: &HubId, hub: &HubOptions, on_transfer: OnTransfer<'_>) -> Result<PathBuf> {
    let repository = repository(id);
    match repository.open(hub, on_transfer)? {
        Source::Cached(folder) => Ok(folder),
        Source::Remote(remote) => {
            for file in [ADAPTER_CONFIG, ADAPTER_WEIGHTS] {
                remote.get(file)?;
            }
            remote.finish()
        }
    }
}

fn repository(id: &HubId) -> Repository {
    Repository {
        id: id.repo.clone(),
        revision: id.revision.clone(),
        kind: RepoType::Model,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::{Checkpoint, shards::tests::file},
        hub::{
            Transfer,
            tests::{COMMIT, Files, options, serve},
        },
    };
    use std::{cell::RefCell, collections::BTreeMap, fs};

    fn tiny() -> Files {
        let index = r#"{"weight_map":{"model.a":"model-1.safetensors","model.b":"model-2.safetensors"}}"#;
        BTreeMap::from([
            (".gitattributes", b"x".to_vec()),
            ("config.json", br#"{"model_type":"llama"}"#.to_vec()),
            ("consolidated.safetensors", b"large".to_vec()),
            ("model-1.safetensors", file(&[("model.a", &[1], &[1.])])),
            ("model-2.safetensors", file(&[("model.b", &[1], &[2.])])),
            ("model.safetensors.index.json", index.as_bytes().to_vec()),
            ("pytorch_model.bin", b"large".to_vec()),
            ("tokenizer.json", b"{}".to_vec()),
        ])
    }

    fn open(spec: &str, hub: &HubOptions) -> Result<Checkpoint> {
        Checkpoint::open(spec, hub, &|_| {})
    }

    #[test]
    fn downloads_what_is_needed_and_then_needs_no_hub() {
        let cache = tempfile::tempdir().unwrap();
        let online = options(cache.path(), &serve(tiny()), false);
        let seen = RefCell::new(BTreeMap::new());
        let checkpoint = Checkpoint::open("org/tiny", &online, &|t: Transfer<'_>| {
            seen.borrow_mut()
                .insert(t.file.to_owned(), (t.done_bytes, t.total_bytes));
        })
        .unwrap();
        assert_eq!(checkpoint.tensor("model.b").unwrap().to_f32(), [2.]);
        let needed = tiny()
            .into_iter()
            .filter(|(name, _)| ![".gitattributes", "consolidated.safetensors", "pytorch_model.bin"].contains(name));
        let complete = needed.map(|(name, content)| (name.to_owned(), (content.len() as u64, content.len() as u64)));
        assert_eq!(seen.into_inner(), complete.collect());

        let unreachable = "http://127.0.0.1:1";
        for hub in [
            options(cache.path(), unreachable, true),
            options(cache.path(), unreachable, false),
        ] {
            for spec in ["org/tiny".to_owned(), format!("org/tiny@{COMMIT}")] {
                assert_eq!(open(&spec, &hub).unwrap().tensor("model.a").unwrap().to_f32(), [1.]);
            }
        }
        let again = Checkpoint::open("org/tiny", &online, &|t: Transfer<'_>| {
            panic!("{t:?} was downloaded twice")
        });
        assert!(again.is_ok());
    }

    /// A file that is cut in the cache is named; once it is removed, it comes again. A download that was killed goes on, and begins anew
    /// if what is there of it cannot be right.
    #[test]
    fn a_damaged_cache_can_be_mended() {
        let cache = tempfile::tempdir().unwrap();
        let hub = options(cache.path(), &serve(tiny()), false);
        let values = |hub: &HubOptions| Ok::<_, Error>(open("org/tiny", hub)?.tensor("model.b")?.to_f32());
        values(&hub).unwrap();
        let snapshot = cache.path().join("models--org--tiny/snapshots").join(COMMIT);
        let shard = snapshot.join("model-2.safetensors");
        let bytes = fs::read(&shard).unwrap();
        fs::write(&shard, &bytes[..bytes.len() - 1]).unwrap(); // the blob that it links to
        let message = values(&hub).unwrap_err().to_string();
        assert!(
            message.contains("model-2.safetensors") && message.contains("in the cache of a hub, remove it first"),
            "{message}"
        );
        let blob = fs::canonicalize(&shard).unwrap();
        for left in [&bytes[..5], &bytes, &[&bytes[..], b"more"].concat()] {
            fs::remove_file(&shard).unwrap();
            fs::write(blob.with_extension("part"), left).unwrap();
            assert_eq!(values(&hub).unwrap(), [2.]);
        }
    }

    #[test]
    fn a_named_file_is_fetched_alone() {
        let cache = tempfile::tempdir().unwrap();
        let files = BTreeMap::from([("a.gguf", b"GGUF".to_vec()), ("b.gguf", b"GGUF".to_vec())]);
        let hub = options(cache.path(), &serve(files), false);
        let id = |text: &str| HubId::parse(text).unwrap();
        let path = fetch_model(&id("org/tiny/b.gguf"), &hub, &|_| {}).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"GGUF");
        assert!(path.ends_with(format!("snapshots/{COMMIT}/b.gguf")) && !path.with_file_name("a.gguf").exists());
        let offline = HubOptions {
            offline: true,
            ..hub.clone()
        };
        assert_eq!(fetch_model(&id("org/tiny/b.gguf"), &offline, &|_| {}).unwrap(), path);
        assert!(fetch_model(&id("org/tiny/a.gguf"), &offline, &|_| {}).is_err());
        let ambiguous = fetch_model(&id("org/tiny"), &hub, &|_| {}).unwrap_err().to_string();
        assert!(ambiguous.contains("`org/tiny@main`: it holds several GGUF files, name one of them: a.gguf, b.gguf"));
        let absent = fetch_model(&id("org/tiny/c.gguf"), &hub, &|_| {})
            .unwrap_err()
            .to_string();
        assert!(absent.contains("it holds no c.gguf"), "{absent}");
    }

    #[test]
    fn adapters_are_their_two_files() {
        let cache = tempfile::tempdir().unwrap();
        let mut files = tiny();
        files.insert(ADAPTER_CONFIG, b"{}".to_vec());
        files.insert(ADAPTER_WEIGHTS, b"a".to_vec());
        let id = HubId::parse("org/tiny").unwrap();
        let folder = fetch_adapter(&id, &options(cache.path(), &serve(files), false), &|_| {}).unwrap();
        let names = crate::checkpoint::folder::file_names(&folder).unwrap();
        assert_eq!(names, [ADAPTER_CONFIG, ADAPTER_WEIGHTS]);
    }

    #[test]
    fn refusals_say_what_to_do() {
        let cache = tempfile::tempdir().unwrap();
        let endpoint = serve(tiny());
        let message = |spec: &str, hub: &HubOptions| open(spec, hub).err().unwrap().to_string();
        let offline = message("org/tiny", &options(cache.path(), &endpoint, true));
        assert!(
            offline.starts_with("hub id `org/tiny@main`: it is no local path and not in the cache "),
            "{offline}"
        );
        assert!(offline.contains("help: drop --offline"), "{offline}");
        let online = options(cache.path(), &endpoint, false);
        assert!(message("org/other", &online).contains("help: no such local path either"));
        let stranger = HubOptions { token: None, ..online };
        assert!(message("org/tiny", &stranger).contains("set HF_TOKEN"));
        let unreachable = message("org/tiny", &options(cache.path(), "http://127.0.0.1:1", false));
        assert!(unreachable.contains("help: check the connection"), "{unreachable}");
    }
}
