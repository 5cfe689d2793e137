//! How far two tensors are apart, over all of their elements.

use std::fmt;

/// Two tensors compared element by element; any NaN counts as infinitely far.
#[derive(Clone, Debug)]
pub struct Difference {
    what: String,
    /// max |got − expected| / max(1, |expected|).
    pub max: f64,
    /// ‖got − expected‖ / ‖expected‖.
    relative_frobenius: f64,
    /// Flat index of the largest difference, with both values there.
    worst: (usize, f64, f64),
}

impl Difference {
    /// Compares whole tensors; `what` names them in messages.
    pub fn between(what: impl Into<String>, got: &[f64], expected: &[f64]) -> Self {
        let what = what.into();
        assert_eq!(got.len(), expected.len(), "{what}: number of elements");
        let (mut max, mut worst) = (0.0, (0, 0.0, 0.0));
        let (mut squares, mut norm) = (0.0, 0.0);
        for (index, (&g, &e)) in got.iter().zip(expected).enumerate() {
            let scaled = (g - e).abs() / e.abs().max(1.0);
            let scaled = if scaled.is_nan() { f64::INFINITY } else { scaled };
            if scaled > max {
                (max, worst) = (scaled, (index, g, e));
            }
            squares += (g - e) * (g - e);
            norm += e * e;
        }
        Self {
            what,
            max,
            relative_frobenius: (squares / norm).sqrt(),
            worst,
        }
    }

    /// The largest of several.
    pub fn worst_of(all: impl IntoIterator<Item = Self>) -> Self {
        all.into_iter()
            .max_by(|a, b| a.max.total_cmp(&b.max))
            .expect("something was compared")
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            max,
            relative_frobenius,
            worst: (index, got, expected),
        } = self;
        write!(
            f,
            "{what}: max-abs (scaled) {max:.2e}, relative Frobenius {relative_frobenius:.2e}, "
        )?;
        write!(f, "worst at [{index}]: got {got}, expected {expected}")
    }
}

#[test]
fn the_worst_element_decides() {
    let d = Difference::between("x", &[1.0, 8.0, -4.0], &[1.0, 10.0, -4.5]);
    assert_eq!((d.max, d.worst), (0.2, (1, 8.0, 10.0)));
    assert_eq!(d.relative_frobenius, (4.25_f64 / 121.25).sqrt());
    assert_eq!(
        Difference::between("x", &[f64::NAN, 1.0], &[1.0, 0.0]).max,
        f64::INFINITY
    );
}
