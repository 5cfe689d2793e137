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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Checkpoint, shards::tests::file};
    use std::{
        cell::RefCell,
        collections::BTreeMap,
        fs,
        io::{BufRead, BufReader, Write},
        net::{TcpListener, TcpStream},
        path::Path,
        sync::Arc,
    };

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    type Files = BTreeMap<&'static str, Vec<u8>>;

    fn options(cache: &Path, endpoint: &str, offline: bool) -> HubOptions {
        HubOptions {
            cache: cache.to_path_buf(),
            endpoint: endpoint.to_owned(),
            token: Some("secret".to_owned()),
            offline,
        }
    }

    /// A hub with the one repository `org/tiny` for whoever has the token; returns its address.
    fn serve(files: Files) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let files = Arc::new(files);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let files = files.clone();
                std::thread::spawn(move || _ = answer(&mut stream.unwrap(), &files));
            }
        });
        address
    }

    /// Answers one request the way the hub does: a list of files, or a range of one.
    fn answer(stream: &mut TcpStream, files: &Files) -> std::io::Result<()> {
        let lines: Vec<String> = BufReader::new(stream.try_clone()?)
            .lines()
            .map_while(|line| line.ok().filter(|l| !l.is_empty()))
            .collect();
        let path = lines[0].split(' ').nth(1).unwrap_or_default();
        let header = |name: &str| {
            lines
                .iter()
                .find_map(|line| Some(line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name))?.1))
        };
        if header("authorization") != Some("Bearer secret") {
            return write!(
                stream,
                "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        if path == "/api/models/org/tiny/revision/main" {
            let siblings: Vec<_> = files
                .keys()
                .map(|name| serde_json::json!({"rfilename": name}))
                .collect();
            let body = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
            return write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
        let found = path
            .strip_prefix(&format!("/org/tiny/resolve/{COMMIT}/"))
            .and_then(|name| files.get_key_value(name));
        let Some((name, content)) = found else {
            return write!(
                stream,
                "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        };
        let (start, end) = header("range")
            .unwrap()
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        let start: usize = start.parse().unwrap();
        let end = end.parse().map_or(content.len(), |last: usize| last + 1);
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\nETag: \"{}\"\r\n\
             X-Repo-Commit: {COMMIT}\r\nConnection: close\r\n\r\n",
            end - start,
            end - 1,
            content.len(),
            blake3::hash(name.as_bytes()).to_hex(),
        )?;
        stream.write_all(&content[start..end])
    }

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

    #[test]
    fn the_environment_is_read_as_by_huggingface_hub() {
        let home = tempfile::tempdir().unwrap();
        let hf_home = home.path().to_str().unwrap();
        fs::write(home.path().join("token"), "stored\n").unwrap();
        let from = |vars: &[(&str, &str)]| {
            HubOptions::from_vars(&|name| {
                vars.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| (*value).to_owned())
            })
        };
        let options = from(&[("HF_HOME", hf_home), ("HF_HUB_OFFLINE", "1")]);
        assert_eq!(
            (options.cache, options.token),
            (home.path().join("hub"), Some("stored".to_owned()))
        );
        assert!(options.offline);
        let options = from(&[
            ("HF_HOME", hf_home),
            ("HF_TOKEN", "given"),
            ("HF_HUB_CACHE", "/c"),
            ("HF_HUB_OFFLINE", "0"),
        ]);
        assert_eq!(
            (options.cache, options.token),
            (PathBuf::from("/c"), Some("given".to_owned()))
        );
        assert!(!options.offline);
        let options = from(&[("XDG_CACHE_HOME", hf_home), ("HF_ENDPOINT", "http://mirror")]);
        assert_eq!(options.cache, home.path().join("huggingface/hub"));
        assert_eq!((options.endpoint, options.token), ("http://mirror".to_owned(), None));
    }
}
