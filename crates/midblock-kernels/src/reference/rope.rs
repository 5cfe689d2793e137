//! Rotation of the pairs `(j, j + E/2)` of each head, and its transpose.

use crate::RopeTable;

pub(super) fn forward(x: &mut [f64], table: &RopeTable, positions: &[u32], heads: usize) {
    rotate(x, table, positions, heads, 1.0);
}

pub(super) fn backward(dx: &mut [f64], table: &RopeTable, positions: &[u32], heads: usize) {
    rotate(dx, table, positions, heads, -1.0);
}

/// The transpose of a rotation is the rotation the other way: `direction` is the sign of its sines.
fn rotate(x: &mut [f64], table: &RopeTable, positions: &[u32], heads: usize, direction: f64) {
    let half = table.half_dim;
    for (row, &position) in positions.iter().enumerate() {
        for head in 0..heads {
            let base = (row * heads + head) * 2 * half;
            for j in 0..half {
                let entry = position as usize * half + j;
                let (cos, sin) = (f64::from(table.cos[entry]), direction * f64::from(table.sin[entry]));
                let (a, b) = (x[base + j], x[base + half + j]);
                x[base + j] = a * cos - b * sin;
                x[base + half + j] = b * cos + a * sin;
            }
        }
    }
}
