//! Whether a tuned model is a change of the base that masks can take back, and what of it they cannot.

use crate::{
    Error, Result,
    adapt::Plan,
    checkpoint::{Checkpoint, Tensor},
    model::{Architecture, BlockTensors, Kind, ParameterId, Part},
    probe::{Participant, check_same_architecture},
};

/// Holds the tuned model against the base: outside of the masked blocks' matrices, norms and biases they must agree, but for blocks without
/// masks, whose change is left out. Returns what the user should know before trusting the result.
///
/// # Errors
/// [`Error::Argument`] if the tuned model is unfinished or has another embedding, final norm or head; [`Error::Mismatch`] if it is of another
/// architecture; those of reading weights.
pub(in crate::train) fn check_origin(
    base: &Checkpoint,
    tuned: &Checkpoint,
    architecture: &Architecture,
    plan: &Plan,
) -> Result<Vec<String>> {
    if let Some(adapter) = tuned.adapter() {
        let problem = format!("it has the adapter {} beside its weights", adapter.path.display());
        let help = "merge it first: midblock merge MODEL+ADAPTER --out DIR";
        return Err(refused(tuned, problem, help));
    }
    let participant = |name: &str, checkpoint| -> Result<Participant<'_>> {
        Ok(Participant {
            name: name.to_owned(),
            checkpoint,
            architecture: Architecture::resolve(Checkpoint::config(checkpoint))?,
        })
    };
    check_same_architecture(&participant("base", base)?, &participant("adapt.tuned", tuned)?)?;
    BlockTensors::check_all(base, architecture)?;
    BlockTensors::check_all(tuned, architecture)?;
    let masked = plan.trained_blocks();
    let (mut vectors, mut blocks) = (Vec::new(), Vec::new());
    for (id, shape) in ParameterId::all(architecture) {
        let name = id.name(architecture);
        let of_matrix = |part: &Part, kind: &Kind| Part::LINEARS.contains(part) && *kind == Kind::Weight;
        let in_masked = id.block().is_some_and(|block| masked.binary_search(&block).is_ok());
        let is_masked = in_masked && matches!(&id, ParameterId::Block { part, kind, .. } if of_matrix(part, kind));
        let known = id.block().is_some_and(|block| blocks.last() == Some(&block));
        if is_masked || known {
            continue;
        }
        let own = |checkpoint: &Checkpoint| checkpoint.tensor_of(&name, &shape, "the architecture");
        let same = same_numbers(&own(base)?, &own(tuned)?);
        [base, tuned]
            .iter()
            .for_each(|checkpoint| checkpoint.tensors().release(&name));
        match id.block() {
            _ if same => {}
            None => {
                let problem = format!("its {name} differs from the base's, and masks cannot take that back");
                let help = "mask a model of which only blocks were trained, such as one of `midblock tune` with adapt.kind = \
                            \"full\" and select.layers = \"range:0..L\" (L is the number of blocks), without output.dtype";
                return Err(refused(tuned, problem, help));
            }
            Some(_) if in_masked => vectors.push(name),
            Some(block) => blocks.push(block),
        }
    }
    Ok(warnings(&vectors, &blocks))
}

fn warnings(vectors: &[String], blocks: &[usize]) -> Vec<String> {
    let mut warnings = Vec::new();
    if let [first, more @ ..] = vectors {
        let others = if more.is_empty() {
            String::new()
        } else {
            format!(" and {} more", more.len())
        };
        warnings.push(format!(
            "norms or biases of the tuned model differ from the base's ({first}{others}): the result has the tuned ones, which no mask takes back"
        ));
    }
    if !blocks.is_empty() {
        let blocks: Vec<String> = blocks.iter().map(usize::to_string).collect();
        warnings.push(format!(
            "the tuned model differs from the base in blocks that have no masks ({}): the result has the base's",
            blocks.join(", ")
        ));
    }
    warnings
}

fn refused(tuned: &Checkpoint, problem: String, help: &str) -> Error {
    Error::Argument {
        what: "adapt.tuned".into(),
        value: tuned.label().into(),
        problem,
        help: help.into(),
    }
}

/// Whether both are the same numbers, in whatever formats.
fn same_numbers(a: &Tensor, b: &Tensor) -> bool {
    const PIECE: usize = 1 << 16; // whole blocks of every format
    if a.dtype == b.dtype {
        return a.same_values(b);
    }
    let piece = |tensor: &Tensor, start: usize, out: &mut [f32]| {
        let bytes = |elements| {
            tensor
                .dtype
                .bytes_for(elements)
                .expect("invariant: pieces are whole blocks")
        };
        let range = bytes(start)..bytes(start + out.len());
        tensor.dtype.widen(&tensor.bytes.as_ref()[range], out);
    };
    let mut values = [vec![0.0; PIECE], vec![0.0; PIECE]];
    (0..a.len()).step_by(PIECE).all(|start| {
        let len = PIECE.min(a.len() - start);
        let [left, right] = &mut values;
        piece(a, start, &mut left[..len]);
        piece(b, start, &mut right[..len]);
        left[..len] == right[..len]
    })
}
