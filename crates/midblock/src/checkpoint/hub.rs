//! Models on the Hugging Face hub: downloads what is needed into the cache that Python's `huggingface_hub` shares.
//!
//! Every file of one checkpoint comes from one commit. Offline, and where the hub does not answer, what the cache holds of
//! the revision is used as it is.

use super::{
    HubId,
    folder::{ADAPTER_CONFIG, CHAT_TEMPLATE, CONFIG, TOKENIZER, TOKENIZER_CONFIG, Weights, choose_weights},
    lora::ADAPTER_WEIGHTS,
    shards,
};
use crate::{Error, Result};
use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
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

/// How to reach the hub and where its cache is.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Folder of the cache, the one that Python's `huggingface_hub` shares.
    pub cache: PathBuf,
    /// Address of the hub.
    pub endpoint: String,
    /// Access token, for private and gated repositories.
    pub token: Option<String>,
    /// Use the cache only.
    pub offline: bool,
}

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer<'a> {
    /// Name of the file in its repository.
    pub file: &'a str,
    /// Bytes received so far.
    pub done_bytes: u64,
    /// Size of the file.
    pub total_bytes: u64,
}

impl HubOptions {
    /// Reads what the Hugging Face tools read: `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`.
    pub fn from_env() -> Self {
        Self::from_vars(&|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// As [`from_env`](Self::from_env), with another source of variables.
    fn from_vars(var: &dyn Fn(&str) -> Option<String>) -> Self {
        let user_cache = || {
            let home = || std::env::home_dir().unwrap_or_default().join(".cache");
            var("XDG_CACHE_HOME")
                .map_or_else(home, PathBuf::from)
                .join("huggingface")
        };
        let home = var("HF_HOME").map_or_else(user_cache, PathBuf::from);
        let token_file = var("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
        let stored_token = || std::fs::read_to_string(token_file).ok();
        let token = var("HF_TOKEN")
            .or_else(stored_token)
            .map(|token| token.trim().to_owned());
        let truthy = |value: String| matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE");
        Self {
            cache: var("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            endpoint: var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: token.filter(|token| !token.is_empty()),
            offline: var("HF_HUB_OFFLINE").is_some_and(truthy),
        }
    }
}

/// Is told about downloads as they proceed.
pub type OnTransfer<'a> = &'a dyn Fn(Transfer<'_>);

/// Makes a model complete in the cache; returns its folder there, or the file if the id names one.
///
/// # Errors
/// [`Error::Argument`] if it is neither in the cache nor to be had from the hub.
pub(super) fn fetch_model(id: &HubId, hub: &HubOptions, on_transfer: OnTransfer<'_>) -> Result<PathBuf> {
    let Some(remote) = Remote::connect(id, hub, on_transfer)? else {
        let folder = cached(id, hub).ok_or_else(|| not_cached(id, hub))?;
        return match &id.file {
            Some(file) if !folder.join(file).exists() => Err(not_cached(id, hub)),
            Some(file) => Ok(folder.join(file)),
            None => Ok(folder),
        };
    };
    if let Some(file) = &id.file {
        remote.require(file)?;
        let path = remote.get(file)?;
        remote.finish()?;
        return Ok(path);
    }
    let weights = choose_weights(&remote.names).map_err(|problem| refused(id, problem, ""))?;
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
                remote.require(&shard)?;
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
    let Some(remote) = Remote::connect(id, hub, on_transfer)? else {
        return cached(id, hub).ok_or_else(|| not_cached(id, hub));
    };
    for file in [ADAPTER_CONFIG, ADAPTER_WEIGHTS] {
        remote.require(file)?;
        remote.get(file)?;
    }
    remote.finish()
}

/// One commit of a repository that the hub has answered for.
struct Remote<'a> {
    id: &'a HubId,
    cache: Cache,
    repo: ApiRepo,
    commit: String,
    /// The files of the repository.
    names: Vec<String>,
    on_transfer: OnTransfer<'a>,
}

impl<'a> Remote<'a> {
    /// Asks the hub for the commit and its files; `None` if the cache has to do.
    fn connect(id: &'a HubId, hub: &HubOptions, on_transfer: OnTransfer<'a>) -> Result<Option<Self>> {
        if hub.offline {
            return Ok(None);
        }
        let cache = Cache::new(hub.cache.clone());
        let builder = ApiBuilder::from_cache(cache.clone()).with_endpoint(hub.endpoint.clone());
        let builder = builder
            .with_token(hub.token.clone())
            .with_progress(false)
            .with_retries(3);
        let api = builder.build().map_err(|error| failed(id, "reached", &error))?;
        let info = match api.repo(repo(id, &id.revision)).info() {
            Ok(info) => info,
            Err(error) if status(&error).is_none() && cached(id, hub).is_some() => {
                tracing::warn!(repo = id.repo, %error, "the hub does not answer; using the cache");
                return Ok(None);
            }
            Err(error) => return Err(failed(id, "found on the hub", &error)),
        };
        Ok(Some(Self {
            id,
            cache,
            repo: api.repo(repo(id, &info.sha)),
            commit: info.sha,
            names: info.siblings.into_iter().map(|sibling| sibling.rfilename).collect(),
            on_transfer,
        }))
    }

    fn has(&self, file: &str) -> bool {
        self.names.iter().any(|name| name == file)
    }

    fn require(&self, file: &str) -> Result<()> {
        if self.has(file) {
            return Ok(());
        }
        Err(refused(self.id, format!("it holds no {file}"), ""))
    }

    /// Path of the file in the cache, after a download if it is not there.
    fn get(&self, file: &str) -> Result<PathBuf> {
        let path = self.folder().join(file);
        if path.exists() {
            return Ok(path);
        }
        let report = Report {
            file: file.to_owned(),
            done_bytes: 0,
            total_bytes: 0,
            on_transfer: self.on_transfer,
        };
        let downloaded = self.repo.download_with_progress(file, report);
        downloaded.map_err(|error| failed(self.id, &format!("downloaded ({file})"), &error))
    }

    fn folder(&self) -> PathBuf {
        self.cache.repo(repo(self.id, &self.commit)).pointer_path(&self.commit)
    }

    /// Remembers which commit the revision was, for later use without a connection.
    fn finish(&self) -> Result<PathBuf> {
        let named = self.cache.repo(repo(self.id, &self.id.revision));
        named
            .create_ref(&self.commit)
            .map_err(Error::io("write", &self.cache.path()))?;
        Ok(self.folder())
    }
}

fn repo(id: &HubId, revision: &str) -> Repo {
    Repo::with_revision(id.repo.clone(), RepoType::Model, revision.to_owned())
}

/// The cached files of a revision: it is a commit itself, or a name that `refs/` resolves.
fn cached(id: &HubId, hub: &HubOptions) -> Option<PathBuf> {
    let root = hub.cache.join(repo(id, &id.revision).folder_name());
    let commit = std::fs::read_to_string(root.join("refs").join(&id.revision));
    let commit = commit.map_or_else(|_| id.revision.clone(), |commit| commit.trim().to_owned());
    Some(root.join("snapshots").join(commit)).filter(|folder| folder.is_dir())
}

fn not_cached(id: &HubId, hub: &HubOptions) -> Error {
    let problem = format!(
        "it is no local path and not in the cache {}, and the hub may not be asked",
        hub.cache.display()
    );
    refused(
        id,
        problem,
        "drop --offline (and HF_HUB_OFFLINE) once to download it, or give a local folder",
    )
}

/// The HTTP status of an answer that was not the one hoped for.
fn status(error: &ApiError) -> Option<u16> {
    let text = error.to_string();
    text.split_once("http status: ")?.1.get(..3)?.parse().ok()
}

fn failed(id: &HubId, action: &str, error: &ApiError) -> Error {
    let help = match status(error) {
        Some(401 | 403) => "it may be private or gated: accept its terms on the hub and set HF_TOKEN",
        Some(404) => "no such local path either; check the spelling, and set HF_TOKEN if it is private",
        Some(_) => "",
        None => "check the connection, or give a local folder",
    };
    refused(id, format!("it cannot be {action}: {error}"), help)
}

fn refused(id: &HubId, problem: impl Into<String>, help: &str) -> Error {
    let file = id.file.as_ref().map(|file| format!("/{file}")).unwrap_or_default();
    Error::Argument {
        what: "hub id".to_owned(),
        value: format!("{}{file}@{}", id.repo, id.revision),
        problem: problem.into(),
        help: help.to_owned(),
    }
}

/// Turns the client's increments into states.
struct Report<'a> {
    file: String,
    done_bytes: u64,
    total_bytes: u64,
    on_transfer: OnTransfer<'a>,
}

impl Report<'_> {
    fn tell(&self) {
        (self.on_transfer)(Transfer {
            file: &self.file,
            done_bytes: self.done_bytes,
            total_bytes: self.total_bytes,
        });
    }
}

impl hf_hub::api::Progress for Report<'_> {
    fn init(&mut self, size: usize, _file: &str) {
        // Called again after each interruption; what was already there follows as an update.
        (self.done_bytes, self.total_bytes) = (0, size as u64);
        self.tell();
    }

    fn update(&mut self, size: usize) {
        self.done_bytes += size as u64;
        self.tell();
    }

    fn finish(&mut self) {}
}
