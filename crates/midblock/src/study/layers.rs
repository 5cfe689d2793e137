//! Which layers are measured. All of them are computed anyway; measuring fewer saves the metrics' time.

use crate::{Error, Result};
use std::str::FromStr;

/// Choice of layers 0 (the embedding) to L.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layers {
    /// Every layer.
    #[default]
    All,
    /// The embedding, the layers nearest to 20, 40, 60 and 80 % of the depth, and the last.
    Key,
    /// Every fourth layer from the embedding, and the last.
    Sparse,
}

impl Layers {
    /// Whether `layer` of a model of `blocks` blocks is measured.
    ///
    /// ```
    /// use midblock::study::Layers;
    /// let key: Vec<usize> = (0..=30).filter(|&l| Layers::Key.contains(l, 30)).collect();
    /// assert_eq!(key, [0, 6, 12, 18, 24, 30]);
    /// ```
    pub fn contains(self, layer: usize, blocks: usize) -> bool {
        match self {
            Layers::All => true,
            Layers::Key => (0..=5).any(|fifth| (fifth * blocks + 2) / 5 == layer),
            Layers::Sparse => layer.is_multiple_of(4) || layer == blocks,
        }
    }
}

impl FromStr for Layers {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "all" => Ok(Layers::All),
            "key" => Ok(Layers::Key),
            "sparse" => Ok(Layers::Sparse),
            _ => Err(Error::Argument {
                what: "--layers".to_owned(),
                value: text.to_owned(),
                problem: "not one of all, key, sparse".to_owned(),
                help: String::new(),
            }),
        }
    }
}
