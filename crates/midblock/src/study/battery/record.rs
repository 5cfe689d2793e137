//! One number of a study.

use crate::run::table::{Column, Row, Value};
use serde::{Deserialize, Serialize};

/// A line of `KIND.csv`: `model,reference,setting,layer,metric,value,lo,hi`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StudyRecord {
    /// Name of the model measured.
    pub model: String,
    /// The model it is compared with; empty for numbers of one model.
    pub reference: String,
    /// What was done to the model, such as `segment 2`; may be empty.
    pub setting: String,
    /// 0 is the embedding, `l` the residual stream after block `l`, or block `l` itself; `None` where no layer is meant.
    pub layer: Option<usize>,
    /// What the number is, in snake_case.
    pub metric: String,
    /// The number; `None` where it is not defined.
    pub value: Option<f64>,
    /// Lower end of its 95 % interval, if it has one.
    pub lo: Option<f64>,
    /// Upper end.
    pub hi: Option<f64>,
}

impl Row for StudyRecord {
    const COLUMNS: &'static [(&'static str, Column)] = &[
        ("model", Column::Text),
        ("reference", Column::Text),
        ("setting", Column::Text),
        ("layer", Column::MaybeCount),
        ("metric", Column::Text),
        ("value", Column::MaybeNumber),
        ("lo", Column::MaybeNumber),
        ("hi", Column::MaybeNumber),
    ];

    fn value(&self, column: usize) -> Value<'_> {
        match column {
            0 => Value::Text(&self.model),
            1 => Value::Text(&self.reference),
            2 => Value::Text(&self.setting),
            3 => Value::Count(self.layer.map(|layer| layer as u64)),
            4 => Value::Text(&self.metric),
            5 => Value::Number(self.value),
            6 => Value::Number(self.lo),
            _ => Value::Number(self.hi),
        }
    }
}
