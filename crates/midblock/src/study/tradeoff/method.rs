//! A way of training: what of the study's experiment it changes.

use crate::{
    Error, Result,
    config::{Adapt, AdaptKind, Config, Objective, ObjectiveKind, Override, Problem},
    study::battery::StudyFile,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use toml::{Table, Value};

/// An entry of `[[study.tradeoff.methods]]`: a name, and the keys of an experiment's tables that differ from the study's own.
///
/// A method with another `kind` of `[objective]` or `[adapt]` than the study's takes none of that table's other keys over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Method {
    /// In results and in the names of folders.
    pub name: String,
    /// Keys of `[objective]`.
    #[serde(skip_serializing_if = "Table::is_empty")]
    pub objective: Table,
    /// Keys of `[adapt]`.
    #[serde(skip_serializing_if = "Table::is_empty")]
    pub adapt: Table,
    /// Keys of `[select]`.
    #[serde(skip_serializing_if = "Table::is_empty")]
    pub select: Table,
    /// Keys of `[train]`, but for `seed`.
    #[serde(skip_serializing_if = "Table::is_empty")]
    pub train: Table,
}

impl Method {
    /// One with an objective's defaults and its name.
    pub(super) fn of(kind: ObjectiveKind) -> Self {
        Self {
            name: kind.name().to_owned(),
            objective: Table::from_iter([("kind".to_owned(), Value::from(kind.name()))]),
            ..Self::default()
        }
    }

    /// Its values by dotted key.
    pub(super) fn values(&self) -> Vec<(String, Value)> {
        let mut values = Vec::new();
        for (key, table) in [
            ("objective", &self.objective),
            ("adapt", &self.adapt),
            ("select", &self.select),
            ("train", &self.train),
        ] {
            flatten(key, table, &mut values);
        }
        values
    }

    /// The experiment with a seed, resolved.
    ///
    /// # Errors
    /// [`Error::Config`] naming method and key.
    pub(super) fn experiment(&self, file: &StudyFile, seed: u64) -> Result<Config> {
        let origin = format!("method `{}`", self.name);
        let values: Vec<Override> = (self.values().into_iter())
            .map(|(key, value)| Override::flag(&key, value, origin.clone()))
            .collect();
        let mut config = file.tables();
        if let Some(kind) = kind::<ObjectiveKind>(&self.objective).filter(|kind| *kind != config.objective.kind) {
            config.objective = Objective {
                kind,
                ..Objective::default()
            };
        }
        if let Some(kind) = kind::<AdaptKind>(&self.adapt).filter(|kind| *kind != config.adapt.kind) {
            config.adapt = Adapt {
                kind,
                ..Adapt::default()
            };
        }
        let own = |key: &str| values.iter().any(|value| value.key == key);
        let refused = |problems: Vec<Problem>| Error::Config { problems };
        let mut config = config.with(&values).map_err(refused)?;
        config.train.seed = seed;
        let origin = |key: &str| {
            if own(key) {
                Some(origin.clone())
            } else {
                file.origin(key)
            }
        };
        config.resolve(&origin).map_err(refused)
    }
}

/// The `kind` of a table; none if it is not there or none that is known, which is found when it is read as a whole.
fn kind<T: DeserializeOwned>(table: &Table) -> Option<T> {
    table.get("kind").and_then(|kind| kind.clone().try_into().ok())
}

fn flatten(key: &str, table: &Table, out: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let key = format!("{key}.{name}");
        match value {
            Value::Table(inner) => flatten(&key, inner, out),
            leaf => out.push((key, leaf.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> StudyFile {
        let text = format!("model.base = \"m\"\ndata.train = \"a=a\"\ndata.eval = \"b=b\"\n{text}");
        StudyFile::parse("study.toml", &text, &[]).unwrap()
    }

    fn method(text: &str) -> Method {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_method_changes_what_it_names_and_nothing_else() {
        let file =
            file("adapt.rank = 4\nadapt.alpha = 8.0\n[train]\nepochs = 3\nlr = 0.5\nprefix_cache.memory = \"1 MiB\"\n");
        let plain = method("name = \"plain\"").experiment(&file, 7).unwrap();
        let expected = file.experiment(|config| config.train.seed = 7).unwrap();
        assert_eq!(plain, expected);
        let other = method(
            "name = \"x\"\ntrain.steps = 9\ntrain.prefix_cache.disk = 0\nadapt.rank = 2\nselect.layers = \"last:1\"",
        );
        let config = other.experiment(&file, 1).unwrap();
        assert_eq!(
            (config.train.steps, config.train.epochs, config.train.lr),
            (Some(9), None, 0.5)
        );
        let cache = &config.train.prefix_cache;
        assert_eq!((cache.memory.0, cache.disk.0), (1 << 20, 0));
        assert_eq!((config.adapt.rank, config.adapt.alpha), (Some(2), Some(8.0)));
        assert_eq!(config.select.layers.unwrap().to_string(), "last:1");
    }

    #[test]
    fn another_kind_takes_no_options_over() {
        let file = file("adapt.rank = 4\nobjective.kind = \"iw\"\nobjective.tau = 0.5\n");
        let full = method("name = \"full\"\nadapt.kind = \"full\"\nobjective.kind = \"kl\"");
        let config = full.experiment(&file, 1).unwrap();
        assert_eq!((config.adapt.kind, config.adapt.rank), (AdaptKind::Full, None));
        assert_eq!((config.objective.kind, config.objective.tau), (ObjectiveKind::Kl, None));
        let same = method("name = \"same\"\nobjective.kind = \"iw\"")
            .experiment(&file, 1)
            .unwrap();
        assert_eq!(same.objective.tau, Some(0.5));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_method() {
        let of = |text: &str| method(text).experiment(&file(""), 1).unwrap_err().to_string();
        for (text, parts) in [
            ("name = \"a\"\ntrain.lrr = 1", ["method `a`", "did you mean `lr`"]),
            (
                "name = \"b\"\nobjective.kind = \"kll\"",
                ["method `b`", "did you mean `kl`"],
            ),
            (
                "name = \"c\"\ntrain.accumulation = 0",
                ["method `c`", "train.accumulation"],
            ),
            (
                "name = \"d\"\nadapt.kind = \"full\"\nadapt.rank = 2",
                ["method `d`", "adapt.rank"],
            ),
        ] {
            let message = of(text);
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        }
    }

    #[test]
    fn objectives_are_methods() {
        let methods = ObjectiveKind::OF_WEIGHTS.map(Method::of);
        for (method, kind) in methods.iter().zip(ObjectiveKind::OF_WEIGHTS) {
            assert_eq!(method.experiment(&file(""), 1).unwrap().objective.kind, kind);
        }
    }
}
