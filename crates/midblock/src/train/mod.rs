//! One step, repeated: the loop that trains, what it tells, what it saves and how it goes on after an interruption.

mod checkpoints;
mod fit;
mod gradients;
mod jsonl;
mod observer;
mod prefix;
mod schedule;
mod step;
mod stepper;
mod tensorboard;
mod timeline;

pub use checkpoints::{Checkpoints, Identity, Saved, restore};
pub use fit::{Best, Fit, Habits, Position};
pub use gradients::Gradients;
pub use jsonl::{JsonLines, Line, read_lines};
pub use observer::{Ending, Evaluation, Observer, Outlook, StepMetrics};
pub use prefix::{PrefixOptions, PrefixUse};
pub use schedule::{Schedule, Shape};
pub use step::{Item, LossSum, StepInfo, StepOptions, StepReport, Trainer, trained};
pub use stepper::Stepper;
pub use tensorboard::TensorBoard;
pub use timeline::{Batching, Length, Timeline};
