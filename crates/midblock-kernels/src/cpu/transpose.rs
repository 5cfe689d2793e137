//! Turning rows into columns, a strip of rows at a time: a cache line of each is taken apart before the next is fetched.

/// Elements of a cache line.
const LINE: usize = 16;
/// Rows of a strip: what they leave at one place of the sum fills a cache line.
const ROWS: usize = 16;

/// `out[k · stride + r] = row(r)[k]` for `r < rows`, `k < depth`.
pub(super) fn transpose<'a>(
    rows: usize,
    depth: usize,
    row: impl Fn(usize) -> &'a [f32],
    out: &mut [f32],
    stride: usize,
) {
    if depth == 0 {
        return;
    }
    for first in (0..rows).step_by(ROWS) {
        let height = ROWS.min(rows - first);
        let strip: [&[f32]; ROWS] = std::array::from_fn(|r| &row(first + r.min(height - 1))[..depth]);
        let out = &mut out[first..][..(depth - 1) * stride + height];
        transpose_strip(&strip[..height], depth, out, stride);
    }
}

fn transpose_strip(rows: &[&[f32]], depth: usize, out: &mut [f32], stride: usize) {
    let blocks = [rows.len() - rows.len() % 4, depth - depth % 4];
    #[cfg(target_arch = "x86_64")]
    let done = if is_x86_feature_detected!("avx") {
        // SAFETY: the instructions are there; `out` reaches to the last row at the last place of the sum.
        unsafe { x86::blocks(rows, blocks, out, stride) };
        blocks
    } else {
        [0, 0]
    };
    #[cfg(not(target_arch = "x86_64"))]
    let done = [0, 0];
    for (r, row) in rows.iter().enumerate() {
        let from = if r < done[0] { done[1] } else { 0 };
        for k in from..depth {
            out[k * stride + r] = row[k];
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::LINE;
    use std::arch::x86_64::*;

    /// Transposes the first `rows` rows up to `depth`, both multiples of 4.
    ///
    /// # Safety
    /// The processor has AVX; each of the rows has `depth` elements; and `out` has as many elements as `rows` at each of the
    /// first `depth` multiples of `stride`.
    #[target_feature(enable = "avx")]
    pub(super) unsafe fn blocks(strip: &[&[f32]], [rows, depth]: [usize; 2], out: &mut [f32], stride: usize) {
        for start in (0..depth).step_by(LINE) {
            let next = start + LINE;
            for row in &strip[..if next < depth { rows } else { 0 }] {
                // A prefetch may name any address.
                _mm_prefetch::<_MM_HINT_T0>(row.as_ptr().wrapping_add(next).cast());
            }
            for first in (0..rows).step_by(8) {
                for k in (start..depth.min(start + LINE)).step_by(4) {
                    // SAFETY: k + 4 <= depth; first + 8 <= rows, or first + 4 == rows.
                    unsafe {
                        let out = out.as_mut_ptr().add(k * stride + first);
                        let row = |r: usize| strip.get_unchecked(first + r).as_ptr().add(k);
                        if first + 8 <= rows {
                            eight(std::array::from_fn(row), out, stride);
                        } else {
                            four(std::array::from_fn(row), out, stride);
                        }
                    }
                }
            }
        }
    }

    /// Four elements of eight rows, rows 4..8 in the upper halves of the registers.
    ///
    /// # Safety
    /// Each row is good for four reads, and `out` for eight writes at 0, `stride`, 2 · `stride` and 3 · `stride`.
    #[inline]
    #[target_feature(enable = "avx")]
    unsafe fn eight(rows: [*const f32; 8], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b, c, d, e, f, g, h] = rows;
            let a = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_loadu_ps(a)), _mm_loadu_ps(e));
            let b = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_loadu_ps(b)), _mm_loadu_ps(f));
            let c = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_loadu_ps(c)), _mm_loadu_ps(g));
            let d = _mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_loadu_ps(d)), _mm_loadu_ps(h));
            let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
            let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
            _mm256_storeu_ps(out, _mm256_shuffle_ps::<0x44>(ab_low, cd_low));
            _mm256_storeu_ps(out.add(stride), _mm256_shuffle_ps::<0xee>(ab_low, cd_low));
            _mm256_storeu_ps(out.add(2 * stride), _mm256_shuffle_ps::<0x44>(ab_high, cd_high));
            _mm256_storeu_ps(out.add(3 * stride), _mm256_shuffle_ps::<0xee>(ab_high, cd_high));
        }
    }

    /// Four elements of four rows.
    ///
    /// # Safety
    /// Each row is good for four reads, and `out` for four writes at 0, `stride`, 2 · `stride` and 3 · `stride`.
    #[inline]
    #[target_feature(enable = "avx")]
    unsafe fn four([a, b, c, d]: [*const f32; 4], out: *mut f32, stride: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            let [mut a, mut b, mut c, mut d] = [_mm_loadu_ps(a), _mm_loadu_ps(b), _mm_loadu_ps(c), _mm_loadu_ps(d)];
            _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
            _mm_storeu_ps(out, a);
            _mm_storeu_ps(out.add(stride), b);
            _mm_storeu_ps(out.add(2 * stride), c);
            _mm_storeu_ps(out.add(3 * stride), d);
        }
    }
}
