//! What a user types for a checkpoint: `BASE` or `BASE+ADAPTER`.
//!
//! Each part is a local path, or a hub id `org/name`, `org/name@revision`, `org/name/file.gguf` or
//! `org/name/file.gguf@revision`. What exists on disk wins: a path with a `+` in its name is not split if it is there,
//! and a folder `org/name` hides the hub id.

use crate::{Error, Result};
use std::path::PathBuf;

/// A repository on the hub, and where in it.
#[derive(Clone, Debug, PartialEq)]
pub struct HubId {
    /// `org/name`.
    pub repo: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// A single file of it, if one was named.
    pub file: Option<String>,
}

impl HubId {
    /// Reads a hub id; `None` if `text` does not look like one.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, revision) = text.split_once('@').unwrap_or((text, "main"));
        let mut parts = id.split('/');
        let (org, name, file) = (parts.next()?, parts.next()?, parts.next());
        let plain = |part: &str| {
            !part.starts_with('.')
                && !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        let gguf = |file: &str| plain(file) && file.to_ascii_lowercase().ends_with(".gguf");
        let revision_is_plain = revision.split('/').all(plain);
        let fits = plain(org) && plain(name) && file.is_none_or(gguf) && parts.next().is_none() && revision_is_plain;
        fits.then(|| Self {
            repo: format!("{org}/{name}"),
            revision: revision.to_owned(),
            file: file.map(str::to_owned),
        })
    }
}

/// Where one part of a checkpoint is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    /// It exists on this machine.
    Local(PathBuf),
    /// It may be on the hub or in its cache.
    Hub(HubId),
}

/// A parsed checkpoint argument.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec {
    pub(crate) base: Place,
    pub(crate) adapter: Option<Place>,
}

/// Reads a checkpoint argument; `exists` tells whether a path is on disk.
///
/// # Errors
/// [`Error::Argument`] if a part is neither on disk nor a hub id.
pub(crate) fn parse(text: &str, exists: &dyn Fn(&str) -> bool) -> Result<Spec> {
    let local = |part: &str| exists(part).then(|| Place::Local(PathBuf::from(part)));
    let place = |part: &str| local(part).or_else(|| HubId::parse(part).map(Place::Hub));
    if let Some(base) = local(text) {
        return Ok(Spec { base, adapter: None });
    }
    let splits = || text.rmatch_indices('+').map(|(at, _)| (&text[..at], &text[at + 1..]));
    // A split where both parts exist is surely meant; any other is a guess.
    let both_local = splits().find_map(|(base, adapter)| Some((local(base)?, local(adapter)?)));
    let pair = both_local.or_else(|| splits().find_map(|(base, adapter)| Some((place(base)?, place(adapter)?))));
    if let Some((base, adapter)) = pair {
        return Ok(Spec {
            base,
            adapter: Some(adapter),
        });
    }
    match place(text) {
        Some(base) => Ok(Spec { base, adapter: None }),
        None => Err(unknown(text, splits().find(|(base, _)| place(base).is_some()))),
    }
}

/// Says which part was not found.
fn unknown(text: &str, split: Option<(&str, &str)>) -> Error {
    let (what, value) = match split {
        Some((_, adapter)) => ("adapter", adapter),
        None => ("checkpoint", text),
    };
    let help = if value.starts_with('~') {
        "the shell expands `~` only at the start of a word; write $HOME instead"
    } else if what == "adapter" {
        "give the folder of a PEFT LoRA adapter, or a hub id like org/name"
    } else {
        "give a folder with config.json and safetensors, a .gguf or .safetensors file, or a hub id like org/name"
    };
    Error::Argument {
        what: what.to_owned(),
        value: value.to_owned(),
        problem: "no such file or folder, and not a hub id".to_owned(),
        help: help.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str, on_disk: &[&str]) -> Result<Spec> {
        parse(text, &|path| on_disk.contains(&path))
    }

    fn local(path: &str) -> Place {
        Place::Local(path.into())
    }

    fn hub(repo: &str, revision: &str, file: Option<&str>) -> Place {
        Place::Hub(HubId {
            repo: repo.into(),
            revision: revision.into(),
            file: file.map(str::to_owned),
        })
    }

    #[test]
    fn parts_are_told_apart() {
        let cases: [(&str, &[&str], Place, Option<Place>); 11] = [
            ("models/a", &["models/a"], local("models/a"), None),
            ("org/name", &[], hub("org/name", "main", None), None),
            ("org/name@v1.0", &[], hub("org/name", "v1.0", None), None),
            ("org/name@refs/pr/3", &[], hub("org/name", "refs/pr/3", None), None),
            ("org/name/q4.gguf@v1", &[], hub("org/name", "v1", Some("q4.gguf")), None),
            ("a+b", &["a+b", "a", "b"], local("a+b"), None),
            ("a+b", &["a", "b"], local("a"), Some(local("b"))),
            ("a+b+c", &["a", "b+c"], local("a"), Some(local("b+c"))),
            ("a+b+o/m", &["a", "a+b", "b+o/m"], local("a"), Some(local("b+o/m"))),
            ("a+b+c", &["a+b", "c", "b+c"], local("a+b"), Some(local("c"))),
            (
                "org/m+./lora",
                &["./lora"],
                hub("org/m", "main", None),
                Some(local("./lora")),
            ),
        ];
        for (text, on_disk, base, adapter) in cases {
            assert_eq!(parsed(text, on_disk).unwrap(), Spec { base, adapter }, "{text}");
        }
    }

    #[test]
    fn unknown_parts_are_named() {
        let message = |text, on_disk| parsed(text, on_disk).unwrap_err().to_string();
        assert_eq!(
            message("./nowhere", &[]),
            "checkpoint `./nowhere`: no such file or folder, and not a hub id\n  help: give a folder with config.json \
             and safetensors, a .gguf or .safetensors file, or a hub id like org/name"
        );
        assert_eq!(
            message("a+./lora", &["a"]),
            "adapter `./lora`: no such file or folder, and not a hub id\n  help: give the folder of a PEFT LoRA \
             adapter, or a hub id like org/name"
        );
        assert!(message("~/models/x", &[]).contains("$HOME"));
        assert!(message("", &[]).contains("checkpoint ``"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}", plus in "[a-c+/@.]{0,12}") {
            _ = parsed(&text, &["a", "b/c"]);
            _ = parsed(&plus, &["a", "b/c"]);
        }
    }
}
