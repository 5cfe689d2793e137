//! Which elements dropout keeps: a hash of (key, index), so a mask needs no memory and no order of drawing.
//!
//! Element `i` is dropped where `h(i) < p · 2³²`, with `h` a bijection of the 32-bit index chosen by the 64-bit key. Any part
//! of a mask can be made alone, and the same key makes the same mask on every backend.
//!
//! The rounds are multiplications and shifted xors with the constants of `lowbias32` (C. Wellons, "Prospecting for Hash
//! Functions", 2018); the key is spread by the finaliser of SplitMix64 (Steele, Lea & Flood 2014).

/// The mask of 2³² consecutive elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mask {
    key: [u32; 2],
    threshold: u32,
}

impl Mask {
    /// Elements `span · 2³² ..` of the stream `key`, dropped with probability `p`.
    pub fn new(p: f32, key: u64, span: u64) -> Self {
        let key = spread(spread(key) ^ span);
        Self {
            key: [key as u32, (key >> 32) as u32],
            threshold: (f64::from(p) * 4_294_967_296.0) as u32,
        }
    }

    /// Whether the element is kept.
    #[inline(always)]
    pub fn keeps(self, index: u32) -> bool {
        let [first, second] = self.key;
        mix(mix(index ^ first) ^ second) >= self.threshold
    }
}

/// What kept elements are multiplied by: 1 / (1 − p).
pub(crate) fn factor(p: f32) -> f64 {
    1.0 / (1.0 - f64::from(p))
}

#[inline(always)]
fn mix(mut x: u32) -> u32 {
    x = (x ^ (x >> 16)).wrapping_mul(0x21f0_aaad);
    x = (x ^ (x >> 15)).wrapping_mul(0xd35a_2d97);
    x ^ (x >> 15)
}

fn spread(key: u64) -> u64 {
    let x = key.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
