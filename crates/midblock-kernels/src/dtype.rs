//! How numbers are stored in checkpoints: plain floats and the block-quantised kinds of GGUF.

use crate::{quant, quantize};

/// Storage format of a tensor. Arithmetic is never done in these; they are widened to f32 (or f64) on use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, missing_docs)] // the names are the formats' own
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
}

impl Dtype {
    /// Every storage format, for tables and tests.
    pub const ALL: [Dtype; 12] = [
        Dtype::F64,
        Dtype::F32,
        Dtype::F16,
        Dtype::BF16,
        Dtype::Q4_0,
        Dtype::Q4_1,
        Dtype::Q5_0,
        Dtype::Q5_1,
        Dtype::Q8_0,
        Dtype::Q4_K,
        Dtype::Q5_K,
        Dtype::Q6_K,
    ];

    /// The quantised kinds that [`quantize`](Self::quantize) makes, from the smallest.
    pub const QUANTIZERS: [Dtype; 5] = [Dtype::Q4_0, Dtype::Q4_1, Dtype::Q5_0, Dtype::Q5_1, Dtype::Q8_0];

    /// Elements that are stored together: 1 for plain floats, 32 or 256 for quantised kinds. A row's length is a multiple of it.
    pub const fn block_len(self) -> usize {
        match self {
            Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16 => 1,
            Dtype::Q4_0 | Dtype::Q4_1 | Dtype::Q5_0 | Dtype::Q5_1 | Dtype::Q8_0 => 32,
            Dtype::Q4_K | Dtype::Q5_K | Dtype::Q6_K => 256,
        }
    }

    /// Bytes of one block of [`block_len`](Self::block_len) elements.
    pub const fn block_bytes(self) -> usize {
        match self {
            Dtype::F64 => 8,
            Dtype::F32 => 4,
            Dtype::F16 | Dtype::BF16 => 2,
            Dtype::Q4_0 => 18,
            Dtype::Q4_1 => 20,
            Dtype::Q5_0 => 22,
            Dtype::Q5_1 => 24,
            Dtype::Q8_0 => 34,
            Dtype::Q4_K => 144,
            Dtype::Q5_K => 176,
            Dtype::Q6_K => 210,
        }
    }

    /// Bytes of `elements` numbers, or `None` if they do not fill whole blocks or the product overflows.
    pub const fn bytes_for(self, elements: usize) -> Option<usize> {
        if !elements.is_multiple_of(self.block_len()) {
            return None;
        }
        (elements / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Widens `bytes` (whole blocks, little endian, any alignment) into `out`.
    ///
    /// # Panics
    /// If the two lengths do not describe the same number of elements.
    pub fn widen(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(
            self.bytes_for(out.len()),
            Some(bytes.len()),
            "{self}: {} bytes cannot hold {} elements",
            bytes.len(),
            out.len()
        );
        quant::widen(self, bytes, out);
    }

    /// Rounds `values` to one of the [`QUANTIZERS`](Self::QUANTIZERS), whole blocks, as ggml's reference does. A number moves by
    /// half a step at most, or by one where it is clipped (`q4_0`, `q5_0`); numbers must be finite and below the reach of
    /// an f16 scale (65504 times 8 for `q4_0`), else blocks hold infinities.
    ///
    /// # Panics
    /// If this is another kind, or the two lengths do not describe the same number of elements.
    pub fn quantize(self, values: &[f32], out: &mut [u8]) {
        assert_eq!(
            self.bytes_for(values.len()),
            Some(out.len()),
            "{self}: {} elements do not fit {} bytes",
            values.len(),
            out.len()
        );
        quantize::quantize(self, values, out);
    }
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Dtype::F64 => "f64",
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::BF16 => "bf16",
            Dtype::Q4_0 => "q4_0",
            Dtype::Q4_1 => "q4_1",
            Dtype::Q5_0 => "q5_0",
            Dtype::Q5_1 => "q5_1",
            Dtype::Q8_0 => "q8_0",
            Dtype::Q4_K => "q4_k",
            Dtype::Q5_K => "q5_k",
            Dtype::Q6_K => "q6_k",
        })
    }
}

impl std::str::FromStr for Dtype {
    type Err = String;

    /// The name that is displayed.
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|dtype| dtype.to_string() == text);
        found.ok_or_else(|| {
            format!(
                "expected one of {}",
                Self::ALL.map(|dtype| dtype.to_string()).join(", ")
            )
        })
    }
}
