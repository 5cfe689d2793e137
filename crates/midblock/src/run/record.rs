//! One measured number.

use super::table::{Column, Row, Value};
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

impl Row for Record {
    const COLUMNS: &'static [(&'static str, Column)] = &[
        ("model", Column::Text),
        ("reference", Column::Text),
        ("dataset", Column::Text),
        ("metric", Column::Text),
        ("layer", Column::Count),
        ("depth", Column::Number),
        ("value", Column::MaybeNumber),
        ("lo", Column::MaybeNumber),
        ("hi", Column::MaybeNumber),
        ("floor", Column::MaybeNumber),
    ];

    fn value(&self, column: usize) -> Value<'_> {
        match column {
            0 => Value::Text(&self.model),
            1 => Value::Text(&self.reference),
            2 => Value::Text(&self.dataset),
            3 => Value::Text(&self.metric),
            4 => Value::Count(Some(self.layer as u64)),
            5 => Value::Number(Some(self.depth)),
            6 => Value::Number(self.value),
            7 => Value::Number(self.lo),
            8 => Value::Number(self.hi),
            _ => Value::Number(self.floor),
        }
    }
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
