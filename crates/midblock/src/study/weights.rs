//! What a variant did to the weights of one block.

use crate::{
    Error, Result,
    checkpoint::{LowRank, Tensor},
    metrics::{Change, MatrixChange, Options, WeightPair, measure_matrix},
    model::{BlockTensors, LinearTensors},
    progress::Progress,
};
use rayon::prelude::*;

/// Blocks up to this size have their matrices measured in parallel; above, one at a time to bound memory.
const PARALLEL_PARAMETERS: usize = 1 << 25;

/// Measures every parameter of a block, norms and biases included.
///
/// # Errors
/// [`Error::Interrupted`], asked before each parameter: large matrices take minutes.
pub(super) fn block_changes(
    base: &BlockTensors<'_>,
    variant: &BlockTensors<'_>,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<MatrixChange>> {
    let measure = |(before, after): &(Parameter<'_>, Parameter<'_>)| match progress.cancelled() {
        true => Err(Error::Interrupted),
        false => Ok(parameter_change(before, after, options)),
    };
    let pairs: Vec<_> = parameters(base).into_iter().zip(parameters(variant)).collect();
    let size: usize = pairs.iter().map(|(before, _)| before.tensor.len()).sum();
    if size <= PARALLEL_PARAMETERS {
        pairs.par_iter().map(measure).collect()
    } else {
        pairs.iter().map(measure).collect()
    }
}

/// A tensor with the adapter that changes it.
pub(super) struct Parameter<'a> {
    pub tensor: &'a Tensor,
    pub delta: Option<&'a LowRank>,
}

/// The seven matrices of a block.
pub(super) fn matrices<'a>(block: &'a BlockTensors<'_>) -> Vec<Parameter<'a>> {
    block.linears.iter().map(weight).collect()
}

fn weight<'a>(linear: &'a LinearTensors<'_>) -> Parameter<'a> {
    Parameter {
        tensor: &linear.weight,
        delta: linear.delta.as_deref(),
    }
}

fn parameters<'a>(block: &'a BlockTensors<'_>) -> Vec<Parameter<'a>> {
    let vector = |tensor| Parameter { tensor, delta: None };
    let linears = block
        .linears
        .iter()
        .flat_map(|linear| std::iter::once(weight(linear)).chain(linear.bias.as_ref().map(vector)));
    linears.chain(block.norms.iter().map(vector)).collect()
}

fn parameter_change(before: &Parameter<'_>, after: &Parameter<'_>, options: &Options) -> MatrixChange {
    with_pair(before, after, |pair| measure_matrix(pair, options))
}

/// Hands what a variant did to a parameter to `measure`, described in the cheapest way.
pub(super) fn with_pair<T>(
    before: &Parameter<'_>,
    after: &Parameter<'_>,
    measure: impl FnOnce(&WeightPair<'_>) -> T,
) -> T {
    let shape = match *before.tensor.shape.as_slice() {
        [rows, cols] => [rows, cols],
        _ => [1, before.tensor.len()],
    };
    let reference = effective(before, shape);
    let same_stored = before.tensor.same_values(after.tensor);
    let merged; // the variant's own values, where they cannot be described more cheaply
    let change = match (before.delta, after.delta) {
        (before, after) if same_stored && before == after => Change::None,
        (None, Some(pair)) if same_stored => low_rank(pair),
        _ => {
            merged = effective(after, shape);
            Change::Dense { after: &merged }
        }
    };
    measure(&WeightPair {
        name: &before.tensor.name,
        shape,
        before: &reference,
        change,
    })
}

fn low_rank(pair: &LowRank) -> Change<'_> {
    Change::LowRank {
        b: &pair.b,
        a: &pair.a,
        scale: pair.scale,
    }
}

/// Stored values with the adapter merged in, row-major f32.
fn effective(parameter: &Parameter<'_>, shape: [usize; 2]) -> Vec<f32> {
    let stored = parameter.tensor.to_f32();
    let Some(pair) = parameter.delta else {
        return stored;
    };
    let pair = WeightPair {
        name: &parameter.tensor.name,
        shape,
        before: &stored,
        change: low_rank(pair),
    };
    pair.after().into_owned()
}
