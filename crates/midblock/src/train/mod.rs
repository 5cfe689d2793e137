//! One step, repeated: the loop that trains, what it tells, what it saves and how it goes on after an interruption.

mod checkpoints;
mod estimate;
mod experiment;
mod fit;
mod folder;
mod gradients;
mod jsonl;
mod observer;
mod prefix;
mod schedule;
mod step;
mod stepper;
mod tensorboard;
mod timeline;
mod tune;
mod untrained;

pub use checkpoints::{Checkpoints, Identity, Saved, restore};
pub use estimate::{Estimate, product_rate};
pub use experiment::{DataCount, Experiment, Purpose};
pub use fit::{Best, Fit, Habits, Position};
pub use folder::{TrainedBlock, Training, TrainingFolder, TrainingInfo, TrainingRun};
pub use gradients::Gradients;
pub use jsonl::{JsonLines, Line, read_lines};
pub use observer::{Ending, Evaluation, Observer, Outlook, StepMetrics};
pub use prefix::{PrefixOptions, PrefixUse};
pub use schedule::{Schedule, Shape};
pub use step::{Item, LossSum, StepInfo, StepOptions, StepReport, Trainer, trained};
pub use stepper::Stepper;
pub use tensorboard::TensorBoard;
pub use timeline::{Batching, Length, Timeline};
pub use tune::{Tuned, selection_json, trained_blocks, tune};
