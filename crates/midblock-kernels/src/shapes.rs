//! Shape checks that every backend makes before it computes: a wrong shape is a programming error and panics with the shapes.

use crate::{Attention, RopeTable};

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

#[track_caller]
pub(crate) fn linear(x: usize, w: [usize; 2], rows: usize, out: usize) {
    let [n, k] = w;
    assert_eq!(x, rows * k, "linear: {rows} rows, W ({n}, {k}), x {x}");
    assert_eq!(out, rows * n, "linear: {rows} rows, W ({n}, {k}), out {out}");
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
    let (queries, keys) = (rows * heads * head_dim, rows * kv_heads * head_dim);
    assert_eq!(
        [q, k, v, out],
        [queries, keys, keys, queries],
        "attention: q, k, v, out for {rows} rows, {heads} heads, {kv_heads} kv heads of {head_dim}"
    );
}

#[track_caller]
pub(crate) fn cross_entropy(x: usize, head: [usize; 2], targets: &[u32]) {
    let [vocab, dim] = head;
    let rows = targets.len();
    assert_eq!(
        x,
        rows * dim,
        "cross_entropy: {rows} targets, head ({vocab}, {dim}), x {x}"
    );
    for (row, &target) in targets.iter().enumerate() {
        assert!(
            (target as usize) < vocab,
            "cross_entropy: target {target} at row {row}, head ({vocab}, {dim})"
        );
    }
}
