//! One optimiser step, repeated.

mod batch;
mod gradients;
mod optimizer;
mod prefix;
mod probe;
mod state;
mod step;

pub use batch::Item;
pub use gradients::Gradients;
pub use optimizer::trained;
pub use prefix::{PrefixOptions, PrefixUse};
pub use probe::gradient_scores;
pub use step::{LossSum, StepInfo, StepOptions, StepReport, Trainer};
