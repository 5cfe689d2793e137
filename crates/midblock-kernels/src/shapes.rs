//! Shape checks that every backend makes before it computes: a wrong shape is a programming error and panics with the shapes.

use crate::{AdamW, Attention, RopeTable};

#[track_caller]
pub(crate) fn embed(table: [usize; 2], ids: &[u32], out: usize) {
    let [vocab, dim] = table;
    assert_eq!(
        out,
        ids.len() * dim,
        "embed: table ({vocab}, {dim}), {} ids, out {out}",
        ids.len()
    );
    for (row, &id) in ids.iter().enumerate() {
        assert!(
            (id as usize) < vocab,
            "embed: id {id} at row {row}, table ({vocab}, {dim})"
        );
    }
}

/// Returns D.
#[track_caller]
pub(crate) fn embed_backward(ids: &[u32], d_out: usize, d_table: usize) -> usize {
    let rows = ids.len();
    assert!(
        d_out.is_multiple_of(rows.max(1)),
        "embed_backward: {rows} ids, d_out {d_out}"
    );
    let dim = (d_out / rows.max(1)).max(1);
    assert!(
        d_table.is_multiple_of(dim),
        "embed_backward: {rows} ids, d_out {d_out}, d_table {d_table}"
    );
    embed([d_table / dim, dim], ids, d_out);
    dim
}

/// Named rows of an array of `all` elements, `some` elements in all.
#[track_caller]
pub(crate) fn rows_of(operation: &str, all: usize, rows: &[usize], width: usize, some: usize) {
    grouped(operation, all, width);
    let (height, named) = (all / width, rows.len());
    assert_eq!(some, named * width, "{operation}: {named} rows of {width}, got {some}");
    for row in rows {
        assert!(*row < height, "{operation}: row {row} of {height}");
    }
}

#[track_caller]
pub(crate) fn trained([n, k]: [usize; 2], values: usize) {
    assert_eq!(values, n * k, "trained: ({n}, {k}), {values} values");
}

#[track_caller]
pub(crate) fn linear(x: usize, w: [usize; 2], rows: usize, out: usize) {
    let [n, k] = w;
    assert_eq!(x, rows * k, "linear: {rows} rows, W ({n}, {k}), x {x}");
    assert_eq!(out, rows * n, "linear: {rows} rows, W ({n}, {k}), out {out}");
}

#[track_caller]
pub(crate) fn linear_dx(dy: usize, w: [usize; 2], rows: usize, dx: usize) {
    let [n, k] = w;
    assert_eq!(dy, rows * n, "linear_dx: {rows} rows, W ({n}, {k}), dy {dy}");
    assert_eq!(dx, rows * k, "linear_dx: {rows} rows, W ({n}, {k}), dx {dx}");
}

/// Returns (out, in).
#[track_caller]
pub(crate) fn linear_dw(dy: usize, x: usize, rows: usize, dw: usize) -> [usize; 2] {
    let shape @ [n, k] = [dy, x].map(|len| len / rows.max(1));
    assert!(
        [rows * n, rows * k] == [dy, x] && (rows == 0 || dw == n * k),
        "linear_dw: {rows} rows, dy {dy}, x {x}, dw {dw}"
    );
    shape
}

#[track_caller]
pub(crate) fn rms_norm_backward(weight: usize, [x, dy, dx]: [usize; 3], d_weight: Option<usize>) {
    grouped("rms_norm_backward", x, weight);
    same("rms_norm_backward", x, dy);
    same("rms_norm_backward", x, dx);
    if let Some(d_weight) = d_weight {
        same("rms_norm_backward", weight, d_weight);
    }
}

#[track_caller]
pub(crate) fn grouped(operation: &str, x: usize, group: usize) {
    assert!(
        group > 0 && x.is_multiple_of(group),
        "{operation}: x {x} is not made of groups of {group}"
    );
}

#[track_caller]
pub(crate) fn same(operation: &str, x: usize, y: usize) {
    assert_eq!(x, y, "{operation}: {x} elements against {y}");
}

#[track_caller]
pub(crate) fn rope(x: usize, table: &RopeTable, positions: &[u32], heads: usize) {
    let (rows, half) = (positions.len(), table.half_dim);
    assert!(heads > 0 && half > 0, "rope: {heads} heads of 2 · {half}");
    assert_eq!(
        x,
        rows * heads * 2 * half,
        "rope: {rows} positions, {heads} heads of 2 · {half}, x {x}"
    );
    let (cos, sin) = (table.cos.len(), table.sin.len());
    assert_eq!(cos, sin, "rope: cos {cos}, sin {sin}");
    for &p in positions {
        assert!(
            (p as usize + 1) * half <= cos,
            "rope: position {p}, table {cos} / {half}"
        );
    }
}

#[track_caller]
pub(crate) fn attention(shape: &Attention<'_>, [q, k, v, out]: [usize; 4]) {
    let Attention {
        offsets,
        keys,
        heads,
        kv_heads,
        head_dim,
        window,
        ..
    } = *shape;
    assert!(
        kv_heads > 0 && heads > 0 && head_dim > 0 && heads.is_multiple_of(kv_heads),
        "attention: {heads} heads, {kv_heads} kv heads of {head_dim}"
    );
    assert_eq!(offsets.first(), Some(&0), "attention: offsets {offsets:?}");
    assert!(offsets.is_sorted(), "attention: offsets {offsets:?}");
    assert_ne!(window, Some(0), "attention: an empty window");
    let rows = offsets[offsets.len() - 1];
    let queries = rows * heads * head_dim;
    let keys = match keys {
        None => rows * kv_heads * head_dim,
        Some(keys) => {
            assert_eq!(
                keys.len() + 1,
                offsets.len(),
                "attention: keys {keys:?}, offsets {offsets:?}"
            );
            for (keys, bounds) in keys.iter().zip(offsets.windows(2)) {
                assert!(
                    bounds[1] - bounds[0] <= keys.len() && keys.end * kv_heads * head_dim <= k,
                    "attention: keys {keys:?} of {k} values for queries {bounds:?}"
                );
            }
            k
        }
    };
    assert_eq!(
        [q, k, v, out],
        [queries, keys, keys, queries],
        "attention: q, k, v, out for {rows} rows, {heads} heads, {kv_heads} kv heads of {head_dim}"
    );
}

#[track_caller]
pub(crate) fn log_sums(shape: &Attention<'_>, len: usize) {
    let rows = shape.offsets.last().copied().unwrap_or(0);
    assert_eq!(
        len,
        rows * shape.heads,
        "attention: log_sums for {rows} rows, {} heads",
        shape.heads
    );
}

#[track_caller]
pub(crate) fn attention_backward(shape: &Attention<'_>, forward: [usize; 4], sums: usize, gradients: [usize; 4]) {
    assert_eq!(shape.keys, None, "attention_backward: with a cache");
    attention(shape, forward);
    log_sums(shape, sums);
    attention(shape, gradients);
}

#[track_caller]
pub(crate) fn predictions(x: usize, head: [usize; 2], targets: &[u32]) {
    let [vocab, dim] = head;
    let rows = targets.len();
    assert_eq!(
        x,
        rows * dim,
        "predictions: {rows} targets, head ({vocab}, {dim}), x {x}"
    );
    for (row, &target) in targets.iter().enumerate() {
        assert!(
            (target as usize) < vocab,
            "predictions: target {target} at row {row}, head ({vocab}, {dim})"
        );
    }
}

#[track_caller]
pub(crate) fn cross_entropy_backward(logits: usize, targets: &[u32]) {
    let rows = targets.len();
    assert!(
        if rows == 0 {
            logits == 0
        } else {
            logits.is_multiple_of(rows)
        },
        "cross_entropy_backward: {rows} targets, logits {logits}"
    );
    let vocab = logits / rows.max(1);
    for (row, &target) in targets.iter().enumerate() {
        assert!(
            (target as usize) < vocab,
            "cross_entropy_backward: target {target} at row {row}, {vocab} logits a row"
        );
    }
}

#[track_caller]
pub(crate) fn divergence_backward(logits: usize, reference: usize, targets: &[u32]) {
    same("divergence_backward", logits, reference);
    cross_entropy_backward(logits, targets);
}

#[track_caller]
pub(crate) fn distillation_backward(logits: usize, reference: usize, vocab: usize) {
    same("distillation_backward", logits, reference);
    assert!(
        vocab > 0 && logits.is_multiple_of(vocab),
        "distillation_backward: logits {logits}, {vocab} a row"
    );
}

#[track_caller]
pub(crate) fn dropout(p: f32, x: usize, out: usize) {
    same("dropout", x, out);
    assert!((0.0..1.0).contains(&p), "dropout: probability {p}");
}

#[track_caller]
pub(crate) fn adamw(step: &AdamW, lengths: [usize; 4]) {
    let [gradient, others @ ..] = lengths;
    assert_eq!(
        others, [gradient; 3],
        "adamw: parameter and moments of a gradient of {gradient}"
    );
    assert!(step.t > 0, "adamw: steps are counted from 1");
}

/// Of a matrix with masks over its rows and columns, and of other buffers of its size.
#[track_caller]
pub(crate) fn masked(operation: &str, base: [usize; 2], tuned: [usize; 2], masks: &[[usize; 2]], others: &[usize]) {
    let [n, k] = base;
    assert_eq!(base, tuned, "{operation}: base and tuned");
    for mask in masks {
        assert_eq!(*mask, base, "{operation}: masks of ({n}, {k})");
    }
    for other in others {
        assert_eq!(*other, n * k, "{operation}: elements of ({n}, {k})");
    }
}
