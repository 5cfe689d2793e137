//! One step, repeated: the loop that trains, what it tells, what it saves and how it goes on after an interruption.

mod checkpoints;
mod fit;
mod jsonl;
mod observer;
mod schedule;
mod stepper;
mod tensorboard;
mod timeline;

pub use checkpoints::{Checkpoints, Identity, Saved, restore};
pub use fit::{Best, Fit, Habits, Position};
pub use jsonl::{JsonLines, Line, read_lines};
pub use observer::{Ending, Evaluation, Observer, Outlook, StepMetrics};
pub use schedule::{Schedule, Shape};
pub use stepper::{LossSum, MicroBatch, StateTensor, StepReport, Stepper};
pub use tensorboard::TensorBoard;
pub use timeline::{Batching, Length, Timeline};
