//! One measured number.

use serde::{Deserialize, Serialize};

/// A line of `metrics.csv`: `model,reference,dataset,metric,layer,depth,value,lo,hi,floor`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Name of the model measured: "base" or a variant's name.
    pub model: String,
    /// The model it is compared with; empty for metrics of one model.
    pub reference: String,
    /// Name of the data set; empty for weight metrics.
    pub dataset: String,
    /// Metric name in snake_case.
    pub metric: String,
    /// 0 is the embedding, `l` the residual stream after block `l`; weight metrics use the block number 1..=L.
    pub layer: usize,
    /// `layer / L`, in [0, 1].
    pub depth: f64,
    /// Point estimate; empty in the CSV (and null in Parquet) where it is not defined, such as entropy of one token.
    pub value: Option<f64>,
    /// Lower end of the 95 % bootstrap interval over samples; `None` where a metric has none.
    pub lo: Option<f64>,
    /// Upper end.
    pub hi: Option<f64>,
    /// Mean of the metric under shuffled sample pairing; alignment metrics only.
    pub floor: Option<f64>,
}

impl Record {
    /// The header of `metrics.csv`, in the order of the fields.
    pub const COLUMNS: [&str; 10] = [
        "model",
        "reference",
        "dataset",
        "metric",
        "layer",
        "depth",
        "value",
        "lo",
        "hi",
        "floor",
    ];
}

/// A line of `weights.csv`: one number about one matrix, `model,reference,parameter,metric,value`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WeightRecord {
    /// Name of the variant.
    pub model: String,
    /// The model its weights are compared with.
    pub reference: String,
    /// Hugging Face parameter name, such as `model.layers.3.mlp.up_proj.weight` (block index 0-based, as there).
    pub parameter: String,
    /// Metric name in snake_case.
    pub metric: String,
    /// The number; `None` where it is not defined, such as the rotation of an unchanged matrix.
    pub value: Option<f64>,
}

impl WeightRecord {
    /// The header of `weights.csv`, in the order of the fields.
    pub const COLUMNS: [&str; 5] = ["model", "reference", "parameter", "metric", "value"];
}
