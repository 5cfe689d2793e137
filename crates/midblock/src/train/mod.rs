//! One optimiser step, repeated.

mod gradients;
mod prefix;
mod step;

pub use gradients::Gradients;
pub use prefix::{PrefixOptions, PrefixUse};
pub use step::{Item, LossSum, StepInfo, StepOptions, StepReport, Trainer, trained};
