//! Work whose result is kept: a study that was interrupted goes on with the first cell that is not there.
//!
//! A cell is `cells/NAME.json` with the options it was made with, the seconds it took and its result, written when it is finished.
//! What a study gives is always what was read back, so that one that goes on has the same digits as one that did not stop.

use crate::{Error, Result, atomic, run::write_bytes};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

/// The kept cells of a study's folder.
pub struct Cells {
    dir: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Kept<O, T> {
    options: O,
    seconds: f64,
    result: T,
}

impl Cells {
    /// Those in the folder of a study.
    pub fn of(study: &Path) -> Self {
        Self {
            dir: study.join("cells"),
        }
    }

    /// A folder for what is more than numbers, such as a training run: `cells/NAME`. It is not created.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Removes what a killed process left besides cells.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_leftovers(&self) -> Result<()> {
        if self.dir.is_dir() {
            atomic::remove_leftovers(&self.dir)?;
        }
        Ok(())
    }

    /// The result of `make`, kept under `name`. If it is there already, nothing is made.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if what is there was made with other options; [`Error::Malformed`] if it cannot be read; those of
    /// `make`.
    pub fn cell<T, O>(&self, name: &str, options: &O, make: impl FnOnce() -> Result<T>) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        O: Serialize,
    {
        let path = self.dir.join(format!("{name}.json"));
        let options = serde_json::to_value(options).expect("invariant: options can be written as JSON");
        if !path.is_file() {
            let start = Instant::now();
            let result = make()?;
            let kept = Kept {
                options: &options,
                seconds: start.elapsed().as_secs_f64(),
                result,
            };
            fs::create_dir_all(&self.dir).map_err(Error::io("create", &self.dir))?;
            let text = serde_json::to_vec(&kept).map_err(|error| Error::io("write", &path)(error.into()))?;
            write_bytes(&path, &text)?;
        }
        let kept: Kept<Value, Value> = read(&path)?;
        check_options(&path, &kept.options, &options)?;
        T::deserialize(kept.result).map_err(|error| malformed(&path, &error))
    }

    /// Seconds that a kept cell took.
    ///
    /// # Errors
    /// As [`cell`](Self::cell), or [`Error::Io`] if it is not there.
    pub fn seconds(&self, name: &str) -> Result<f64> {
        let kept: Kept<Value, Value> = read(&self.dir.join(format!("{name}.json")))?;
        Ok(kept.seconds)
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(Error::io("read", path))?;
    serde_json::from_slice(&text).map_err(|error| malformed(path, &error))
}

fn malformed(path: &Path, error: &serde_json::Error) -> Error {
    Error::malformed(path, "cell", format!("{error}; remove it to have it made again"))
}

/// One error for all options that differ.
pub(in crate::study) fn check_options(path: &Path, then: &Value, now: &Value) -> Result<()> {
    let mut differing = Vec::new();
    compare("", then, now, &mut differing);
    if differing.is_empty() {
        return Ok(());
    }
    let join = |of: fn(&[String; 3]) -> &String| differing.iter().map(of).cloned().collect::<Vec<_>>().join(", ");
    Err(Error::Mismatch {
        left: path.display().to_string(),
        right: "this study".into(),
        what: join(|[key, ..]| key),
        left_value: join(|[_, then, _]| then),
        right_value: join(|[.., now]| now),
        help: "go on with what it was made with, remove it to have it made again, or give another --out".into(),
    })
}

/// Dotted keys whose values differ, with both.
fn compare(key: &str, then: &Value, now: &Value, out: &mut Vec<[String; 3]>) {
    match (then, now) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
            for name in names {
                let key = if key.is_empty() {
                    name.clone()
                } else {
                    format!("{key}.{name}")
                };
                let of = |table: &serde_json::Map<String, Value>| table.get(name).cloned().unwrap_or(Value::Null);
                compare(&key, &of(a), &of(b), out);
            }
        }
        (then, now) if then != now => out.push([format!("`{key}`"), then.to_string(), now.to_string()]),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cell_is_made_once_and_comes_back_to_the_bit() {
        let folder = tempfile::tempdir().unwrap();
        let cells = Cells::of(folder.path());
        let numbers = vec![0.1 + 0.2, f64::MIN_POSITIVE, -1.0 / 3.0, 12_345.678_901_234_567];
        let options = json!({"depth": 2, "nested": {"a": 1}});
        let made = cells.cell("x", &options, || Ok(numbers.clone())).unwrap();
        assert_eq!(made, numbers);
        let again: Vec<f64> = cells.cell("x", &options, || panic!("it is there")).unwrap();
        assert_eq!(again, numbers);
    }

    #[test]
    fn other_options_are_named_with_both_values() {
        let folder = tempfile::tempdir().unwrap();
        let cells = Cells::of(folder.path());
        cells
            .cell("x", &json!({"depth": 2, "nested": {"a": 1}}), || Ok(1))
            .unwrap();
        let other = cells.cell("x", &json!({"depth": 2, "nested": {"a": 3}}), || Ok(2));
        let message = other.unwrap_err().to_string();
        assert!(
            message.contains("`nested.a`") && message.contains('1') && message.contains('3'),
            "{message}"
        );
    }

    #[test]
    fn what_fails_leaves_nothing_and_what_is_broken_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let cells = Cells::of(folder.path());
        let failed: Result<i32> = cells.cell("x", &(), || Err(Error::Interrupted));
        assert!(matches!(failed, Err(Error::Interrupted)));
        assert!(!folder.path().join("cells/x.json").exists());
        fs::create_dir_all(folder.path().join("cells")).unwrap();
        fs::write(folder.path().join("cells/x.json"), "{\"options\": nul").unwrap();
        let message = cells.cell("x", &(), || Ok(1)).unwrap_err().to_string();
        assert!(message.contains("x.json") && message.contains("remove it"), "{message}");
    }
}
