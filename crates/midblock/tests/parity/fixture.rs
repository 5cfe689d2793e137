//! A checkpoint on disk with the values transformers computed for it.

use midblock::{checkpoint::Checkpoint, hub::HubOptions, tokens::TrainingSample};
use safetensors::{Dtype, SafeTensors};
use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};

/// A folder of `fixtures/`.
pub struct Fixture {
    pub name: &'static str,
    pub checkpoint: Checkpoint,
    expected: BTreeMap<String, Array>,
}

/// A tensor of `expected.safetensors`; integers too are exact in f64.
struct Array {
    shape: Vec<usize>,
    values: Vec<f64>,
}

/// Which run of transformers to compare with.
#[derive(Clone, Copy, Debug)]
pub enum Run {
    /// As it is, in f32.
    Single,
    /// The same model in f64: the truth, free of transformers' own rounding.
    Double,
}

/// The real tokens of one row of a padded batch.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which side is padded: the name of the batch.
    pub side: &'static str,
    index: usize,
    /// Columns of the real tokens.
    columns: Range<usize>,
    pub ids: Vec<u32>,
}

/// The folder of all fixtures.
pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures")
}

impl Fixture {
    /// What transformers computes.
    pub fn open(name: &'static str) -> Self {
        Self::with(name, &folder().join(name).join("expected.safetensors"))
    }

    /// What the formulas of the objectives give.
    pub fn of_objectives(name: &'static str) -> Self {
        Self::with(name, &folder().join(format!("objectives/{name}.safetensors")))
    }

    fn with(name: &'static str, expected: &Path) -> Self {
        let folder = folder().join(name);
        let spec = folder.to_str().expect("the path is UTF-8");
        let checkpoint = Checkpoint::open(spec, &HubOptions::from_env(), &|_| {}).expect("the fixture opens");
        let bytes = std::fs::read(expected).expect("the expected values are there");
        let tensors = SafeTensors::deserialize(&bytes).expect("the expected values are readable");
        let expected = tensors
            .iter()
            .map(|(name, view)| (name.to_owned(), Array::new(view.shape(), view.dtype(), view.data())));
        Self {
            name,
            checkpoint,
            expected: expected.collect(),
        }
    }

    /// Every row of both batches.
    pub fn rows(&self) -> Vec<Row> {
        ["right", "left"]
            .into_iter()
            .flat_map(|side| self.rows_of(side))
            .collect()
    }

    fn rows_of(&self, side: &'static str) -> Vec<Row> {
        let Array { shape, values: mask } = &self.expected[&format!("{side}.attention_mask")];
        let ids = &self.expected[&format!("{side}.input_ids")].values;
        let [_, t] = shape[..] else {
            panic!("{side}.attention_mask has shape {shape:?}")
        };
        let row = |(index, mask): (usize, &[f64])| {
            let start = mask.iter().position(|&m| m == 1.0).expect("a real token");
            let columns = start..start + mask.iter().filter(|&&m| m == 1.0).count();
            let ids = ids[index * t..][columns.clone()].iter().map(|&id| id as u32).collect();
            Row {
                side,
                index,
                columns,
                ids,
            }
        };
        mask.chunks(t).enumerate().map(row).collect()
    }

    /// Values of a (B, T, X) tensor, or of plane `plane` of an (L+1, B, T, X) one, at a row's real tokens: (T_n, X).
    pub fn states(&self, row: &Row, run: Run, what: &str, plane: usize) -> Vec<f64> {
        let Array { shape, values } = self.array(row.side, run, what);
        let [.., b, t, x] = shape[..] else {
            panic!("{what} has shape {shape:?}")
        };
        let start = ((plane * b + row.index) * t + row.columns.start) * x;
        values[start..start + row.columns.len() * x].to_vec()
    }

    /// Cross entropy of each real token but the first, (T_n − 1).
    pub fn token_loss(&self, row: &Row, run: Run) -> Vec<f64> {
        let Array { shape, values } = self.array(row.side, run, "token_loss");
        let [_, t] = shape[..] else {
            panic!("token_loss has shape {shape:?}")
        };
        values[row.index * t..][row.columns.start..row.columns.end - 1].to_vec()
    }

    /// Mean loss of a batch.
    pub fn loss(&self, side: &str, run: Run) -> f64 {
        self.array(side, run, "loss").values[0]
    }

    /// The values of any tensor of `expected.safetensors`.
    pub fn values(&self, name: &str) -> &[f64] {
        let found = self.expected.get(name);
        &found
            .unwrap_or_else(|| panic!("{}: no {name} among the expected values", self.name))
            .values
    }

    /// Every tensor whose name begins with `prefix`, by the rest of its name.
    pub fn beginning<'f>(&'f self, prefix: &'f str) -> impl Iterator<Item = (&'f str, &'f [f64])> {
        let all = self.expected.iter();
        all.filter_map(move |(name, array)| Some((name.strip_prefix(prefix)?, &*array.values)))
    }

    /// The rows of the right-padded batch as samples of which the labelled tokens are trained.
    pub fn samples(&self) -> Vec<TrainingSample> {
        let Array { shape, values: labels } = &self.expected["right.labels"];
        let sample = |row: Row| TrainingSample {
            id: format!("row {}", row.index),
            trained: labels[row.index * shape[1]..][row.columns]
                .iter()
                .map(|&label| label != -100.0)
                .collect(),
            ids: row.ids,
        };
        self.rows_of("right").into_iter().map(sample).collect()
    }

    /// D.
    pub fn width(&self) -> usize {
        self.expected["right.hidden"].shape[3]
    }

    /// L + 1.
    pub fn depth(&self) -> usize {
        self.expected["right.hidden"].shape[0]
    }

    fn array(&self, side: &str, run: Run, what: &str) -> &Array {
        let name = match run {
            Run::Single => format!("{side}.{what}"),
            Run::Double => format!("{side}.f64.{what}"),
        };
        self.expected
            .get(&name)
            .unwrap_or_else(|| panic!("{}: no {name} among the expected values", self.name))
    }
}

impl Array {
    fn new(shape: &[usize], dtype: Dtype, bytes: &[u8]) -> Self {
        let values = match dtype {
            Dtype::F32 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| f64::from(f32::from_le_bytes(b)))
                .collect(),
            Dtype::I64 => bytes
                .as_chunks()
                .0
                .iter()
                .map(|&b| i64::from_le_bytes(b) as f64)
                .collect(),
            other => panic!("unexpected {other:?}"),
        };
        Self {
            shape: shape.to_vec(),
            values,
        }
    }
}
