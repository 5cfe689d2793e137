//! What a step minimises: a function of the trained tokens' probabilities, and, for one objective, of the weights too.
//!
//! With ℓ_t = −ln p_θ(y_t) in nats, N the trained tokens of the step, and p_ref the start model, which stays as it was:
//!
//! | objective | minimised |
//! |---|---|
//! | `sft` | Σ_t ℓ_t / N |
//! | `dft` | Σ_t sg(p_θ(y_t)) ℓ_t / N: the weight is a constant (arXiv 2508.05629, eq. 9) |
//! | `iw` | Σ_s w_s Σ_{t∈s} ℓ_t / N with w_s = min(cap, exp(τ (mean_{t∈s} ln p_θ − mean_{t∈s} ln p_ref))) of each sequence s (arXiv 2507.12856) |
//! | `kl` | Σ_t (ℓ_t + β KL(p_θ ‖ p_ref)_t) / N, over the whole vocabulary |
//! | `lcdd` | Σ_t ℓ_t / N, or Σ_t KL(p_tuned ‖ p_θ)_t / N, + λ w Σ σ(θ) over masks (arXiv 2605.06632): see [`Lcdd`] |
//! | `rpsft` | Σ_t ℓ_t / N + λ Σ_W ‖U_kᵀ W V_k − S_ref‖²_F (arXiv 2605.10973): see `held` |

mod criterion;
mod held;
mod lcdd;
mod rotation;
mod start;

pub use lcdd::{Lcdd, Target};
pub use rotation::Rotation;
pub(super) use {
    criterion::{Minimised, sequences},
    held::Held,
    lcdd::Dual,
    start::{Seen, StartModel},
};

use crate::{
    adapt::Plan,
    config::{self, ObjectiveKind},
    model::HEAD_ROWS,
};
use std::collections::BTreeMap;

/// What is minimised.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Objective {
    /// The mean negative log-likelihood.
    #[default]
    Sft,
    /// Each token weighs as much as the model believes in it.
    Dft,
    /// Each sequence weighs by how much likelier it has become.
    Iw {
        /// τ.
        tau: f64,
        /// Largest weight.
        cap: f64,
        /// Whether weights are taken as constants.
        detach: bool,
    },
    /// With the divergence from the start model.
    Kl {
        /// β.
        beta: f64,
    },
    /// With a penalty on change inside of the leading singular blocks.
    Rpsft(Rotation),
    /// Under a limit, with as few open masks as it allows.
    Lcdd(Lcdd),
}

impl Objective {
    /// Of a resolved configuration; `rpsft` without the singular blocks that it holds.
    ///
    /// # Panics
    /// If it is not resolved.
    pub fn of(own: &config::Objective) -> Self {
        let filled = "invariant: a resolved configuration says everything";
        match own.kind {
            ObjectiveKind::Sft => Self::Sft,
            ObjectiveKind::Dft => Self::Dft,
            ObjectiveKind::Iw => Self::Iw {
                tau: own.tau.expect(filled),
                cap: own.cap.expect(filled),
                detach: own.detach.expect(filled),
            },
            ObjectiveKind::Kl => Self::Kl {
                beta: own.beta.expect(filled),
            },
            ObjectiveKind::Rpsft => Self::Rpsft(Rotation {
                lambda: own.lambda.expect(filled),
                directions: own.directions.expect(filled),
                normalised: own.normalised.expect(filled),
                ends: own.ends.expect(filled),
                blocks: BTreeMap::new(),
            }),
            ObjectiveKind::Lcdd => Self::Lcdd(Lcdd::of(own)),
        }
    }

    /// Private bytes it takes besides what every step takes, for micro-batches of at most `labelled` trained tokens.
    pub fn bytes(&self, plan: &Plan, vocab: usize, labelled: usize) -> usize {
        let logits = 4 * vocab * labelled.min(HEAD_ROWS);
        match self {
            Self::Sft | Self::Dft | Self::Iw { .. } => 0,
            Self::Kl { .. } => logits,
            Self::Rpsft(rotation) => rotation.bytes(plan),
            Self::Lcdd(Lcdd { target, .. }) => {
                // θ, momentum, masks before and after, gradients
                let masks: usize = plan.masks().map(|(.., channels)| 4 * 5 * channels).sum();
                masks + if *target == Target::Tuned { logits } else { 0 }
            }
        }
    }
}
