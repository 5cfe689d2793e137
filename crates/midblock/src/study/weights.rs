//! What a variant did to the weights of one block.

use crate::{
    Error, Result,
    checkpoint::Tensor,
    metrics::{Change, MatrixChange, Options, WeightPair, measure_matrix},
    model::BlockTensors,
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
struct Parameter<'a> {
    tensor: &'a Tensor,
    delta: Option<&'a crate::checkpoint::LowRank>,
}

fn parameters<'a>(block: &'a BlockTensors<'_>) -> Vec<Parameter<'a>> {
    let linears = block.linears.iter().flat_map(|linear| {
        let weight = Parameter {
            tensor: &linear.weight,
            delta: linear.delta.as_deref(),
        };
        let bias = linear.bias.as_ref().map(|tensor| Parameter { tensor, delta: None });
        std::iter::once(weight).chain(bias)
    });
    linears
        .chain(block.norms.iter().map(|tensor| Parameter { tensor, delta: None }))
        .collect()
}

fn parameter_change(before: &Parameter<'_>, after: &Parameter<'_>, options: &Options) -> MatrixChange {
    let shape = match *before.tensor.shape.as_slice() {
        [rows, cols] => [rows, cols],
        _ => [1, before.tensor.len()],
    };
    let reference = effective(before);
    let same_stored = before.tensor.same_values(after.tensor);
    let merged; // the variant's own values, where they cannot be described more cheaply
    let change = match (before.delta, after.delta) {
        (before, after) if same_stored && before == after => Change::None,
        (None, Some(pair)) if same_stored => Change::LowRank {
            b: &pair.b,
            a: &pair.a,
            scale: pair.scale,
        },
        _ => {
            merged = effective(after);
            Change::Dense { after: &merged }
        }
    };
    measure_matrix(
        &WeightPair {
            name: &before.tensor.name,
            shape,
            before: &reference,
            change,
        },
        options,
    )
}

/// Stored values with the adapter merged in, row-major f32.
fn effective(parameter: &Parameter<'_>) -> Vec<f32> {
    let mut values = parameter.tensor.to_f32();
    if let Some(pair) = parameter.delta {
        let cols = pair.a.len() / pair.rank;
        for (row, b) in values.chunks_exact_mut(cols).zip(pair.b.chunks_exact(pair.rank)) {
            for (a, &b) in pair.a.chunks_exact(cols).zip(b) {
                let factor = pair.scale * b;
                row.iter_mut().zip(a).for_each(|(value, &a)| *value += factor * a);
            }
        }
    }
    values
}
