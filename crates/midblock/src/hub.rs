//! The Hugging Face hub: repositories of models and data sets, in the cache that Python's `huggingface_hub` shares.
//!
//! Every file of one repository comes from one commit. Offline, and where the hub does not answer, what the cache holds of
//! the revision is used as it is.

use crate::{Error, Result};
pub(crate) use hf_hub::RepoType;
use hf_hub::{
    Cache, Repo,
    api::sync::{Api, ApiBuilder, ApiError, ApiRepo},
};
use std::path::PathBuf;

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

/// A repository at a revision.
pub(crate) struct Repository {
    /// `org/name`.
    pub(crate) id: String,
    /// Branch, tag or commit.
    pub(crate) revision: String,
    /// Model or data set.
    pub(crate) kind: RepoType,
}

/// Where a repository's files come from.
pub(crate) enum Source<'a> {
    /// One commit that the hub has answered for.
    Remote(Box<Remote<'a>>),
    /// The folder of an earlier download.
    Cached(PathBuf),
}

impl Repository {
    /// Asks the hub for the commit and its files; offline, or if the hub does not answer, looks into the cache.
    ///
    /// # Errors
    /// [`Error::Argument`] if it is neither in the cache nor to be had from the hub.
    pub(crate) fn open<'a>(&'a self, hub: &HubOptions, on_transfer: OnTransfer<'a>) -> Result<Source<'a>> {
        let from_cache = || self.cached(hub).map(Source::Cached);
        if hub.offline {
            return from_cache().ok_or_else(|| self.not_cached(hub));
        }
        let cache = Cache::new(hub.cache.clone());
        let builder = ApiBuilder::from_cache(cache.clone()).with_endpoint(hub.endpoint.clone());
        let builder = builder
            .with_token(hub.token.clone())
            .with_progress(false)
            .with_retries(3);
        let api = builder.build().map_err(|error| self.failed("reached", &error))?;
        let info = match api.repo(self.at(&self.revision)).info() {
            Ok(info) => info,
            Err(error) if status(&error).is_none() => {
                tracing::warn!(repository = self.id, %error, "the hub does not answer; using the cache");
                return from_cache().ok_or_else(|| self.failed("found on the hub", &error));
            }
            Err(error) => return Err(self.failed("found on the hub", &error)),
        };
        Ok(Source::Remote(Box::new(Remote {
            repository: self,
            cache,
            repo: api.repo(self.at(&info.sha)),
            api,
            commit: info.sha,
            names: info.siblings.into_iter().map(|sibling| sibling.rfilename).collect(),
            on_transfer,
        })))
    }

    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.id.clone(), self.kind, revision.to_owned())
    }

    /// The cached files of the revision: it is a commit itself, or a name that `refs/` resolves.
    fn cached(&self, hub: &HubOptions) -> Option<PathBuf> {
        let root = hub.cache.join(self.at(&self.revision).folder_name());
        let commit = std::fs::read_to_string(root.join("refs").join(&self.revision));
        let commit = commit.map_or_else(|_| self.revision.clone(), |commit| commit.trim().to_owned());
        Some(root.join("snapshots").join(commit)).filter(|folder| folder.is_dir())
    }

    /// The error for what an offline run does not find.
    pub(crate) fn not_cached(&self, hub: &HubOptions) -> Error {
        let cache = hub.cache.display();
        let problem = format!("it is no local path and not in the cache {cache}, and the hub may not be asked");
        self.refused(
            problem,
            "drop --offline (and HF_HUB_OFFLINE) once to download it, or give a local path",
        )
    }

    fn failed(&self, action: &str, error: &ApiError) -> Error {
        let help = match status(error) {
            Some(401 | 403) => "it may be private or gated: accept its terms on the hub and set HF_TOKEN",
            Some(404) => "no such local path either; check the spelling, and set HF_TOKEN if it is private",
            Some(_) => "",
            None => "check the connection, or give a local path",
        };
        self.refused(format!("it cannot be {action}: {error}"), help)
    }

    /// An error about this repository.
    pub(crate) fn refused(&self, problem: impl Into<String>, help: &str) -> Error {
        Error::Argument {
            what: "hub id".to_owned(),
            value: format!("{}@{}", self.id, self.revision),
            problem: problem.into(),
            help: help.to_owned(),
        }
    }
}

/// The HTTP status of an answer that was not the one hoped for.
fn status(error: &ApiError) -> Option<u16> {
    let text = error.to_string();
    text.split_once("http status: ")?.1.get(..3)?.parse().ok()
}

/// Whether what is there of a file is longer than the file, or as long, so that the hub has no rest of it.
fn cannot_resume(error: &ApiError) -> bool {
    matches!(error, ApiError::InvalidResume) || status(error) == Some(416)
}

/// One commit of a repository that the hub has answered for.
pub(crate) struct Remote<'a> {
    repository: &'a Repository,
    cache: Cache,
    api: Api,
    repo: ApiRepo,
    commit: String,
    /// The files of the repository.
    names: Vec<String>,
    on_transfer: OnTransfer<'a>,
}

impl Remote<'_> {
    /// The files of the repository.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether it has the file.
    pub(crate) fn has(&self, file: &str) -> bool {
        self.names.iter().any(|name| name == file)
    }

    /// Path of the file in the cache, after a download if it is not there.
    pub(crate) fn get(&self, file: &str) -> Result<PathBuf> {
        if !self.has(file) {
            return Err(self.repository.refused(format!("it holds no {file}"), ""));
        }
        let path = self.folder().join(file);
        if path.exists() {
            return Ok(path);
        }
        let downloaded = match self.download(file) {
            Err(error) if cannot_resume(&error) => self.forget_part(file).and_then(|()| self.download(file)),
            downloaded => downloaded,
        };
        downloaded.map_err(|error| self.repository.failed(&format!("downloaded ({file})"), &error))
    }

    fn download(&self, file: &str) -> Result<PathBuf, ApiError> {
        let report = Report {
            file: file.to_owned(),
            done_bytes: 0,
            total_bytes: 0,
            on_transfer: self.on_transfer,
        };
        self.repo.download_with_progress(file, report)
    }

    /// Removes what an interrupted download left of a file.
    fn forget_part(&self, file: &str) -> Result<(), ApiError> {
        let metadata = self.api.metadata(&self.repo.url(file))?;
        let blobs = self.cache.repo(self.repository.at(&self.commit));
        let part = blobs.blob_path(metadata.etag()).with_extension("part");
        tracing::warn!(part = %part.display(), "an interrupted download cannot go on; it begins anew");
        Ok(std::fs::remove_file(part)?)
    }

    fn folder(&self) -> PathBuf {
        self.cache
            .repo(self.repository.at(&self.commit))
            .pointer_path(&self.commit)
    }

    /// Remembers which commit the revision was, for later use without a connection; returns the folder of the files.
    pub(crate) fn finish(&self) -> Result<PathBuf> {
        let named = self.cache.repo(self.repository.at(&self.repository.revision));
        named
            .create_ref(&self.commit)
            .map_err(Error::io("write", self.cache.path()))?;
        Ok(self.folder())
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
pub(crate) mod tests {
    //! A hub on this machine, for the rooms that fetch from one.

    use super::*;
    use std::{
        collections::BTreeMap,
        fs,
        io::{BufRead, BufReader, Write},
        net::{TcpListener, TcpStream},
        path::Path,
        sync::Arc,
    };

    pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    pub(crate) type Files = BTreeMap<&'static str, Vec<u8>>;

    pub(crate) fn options(cache: &Path, endpoint: &str, offline: bool) -> HubOptions {
        HubOptions {
            cache: cache.to_path_buf(),
            endpoint: endpoint.to_owned(),
            token: Some("secret".to_owned()),
            offline,
        }
    }

    /// A hub with the one repository `org/tiny` for whoever has the token; returns its address.
    pub(crate) fn serve(files: Files) -> String {
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
        if ["models", "datasets"]
            .iter()
            .any(|kind| path == format!("/api/{kind}/org/tiny/revision/main"))
        {
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
            .trim_start_matches("/datasets")
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
