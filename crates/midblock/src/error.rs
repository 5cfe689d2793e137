//! The one public error: which input failed, what was expected, what was found and what to do about it.

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

/// `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong with what a user hands in. Every variant names the file, tensor, layer or key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused to read or write something.
    #[error("cannot {action} {}: {reason}{}", path.display(), hint(help_of(reason)))]
    Io {
        /// What was attempted: "open", "create", …
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's answer; part of the message, so not a `source` that would repeat it.
        reason: std::io::Error,
    },

    /// A file does not follow its format: truncated, lying about lengths, or not what its name says.
    #[error("{}: not a valid {format} file: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Name of the format, such as "safetensors".
        format: &'static str,
        /// Where and what, with expected and got.
        problem: String,
    },

    /// A tensor the model needs is not in the checkpoint.
    #[error("{}: tensor `{tensor}` is missing{}", path.display(), hint(help))]
    MissingTensor {
        /// The checkpoint.
        path: PathBuf,
        /// Hugging Face parameter name.
        tensor: String,
        /// What may explain it; may be empty.
        help: String,
    },

    /// A tensor has another shape than the configuration implies.
    #[error("{}: tensor `{tensor}` has shape {got:?}, expected {expected:?} ({why})", path.display())]
    TensorShape {
        /// The checkpoint.
        path: PathBuf,
        /// Hugging Face parameter name.
        tensor: String,
        /// Shape that the configuration implies.
        expected: Vec<usize>,
        /// Shape in the file.
        got: Vec<usize>,
        /// Which configuration keys imply the expected shape.
        why: String,
    },

    /// A weight is NaN or infinite.
    #[error("{}: tensor `{tensor}` is not finite: element {index} is {value}", path.display())]
    NotFinite {
        /// The checkpoint.
        path: PathBuf,
        /// Hugging Face parameter name.
        tensor: String,
        /// Flat index of the first such element.
        index: usize,
        /// NaN or ±∞.
        value: f32,
    },

    /// A key of a JSON configuration is missing or has a value that is not supported.
    #[error("{}: `{key}` is {got}, expected {expected}{}", path.display(), hint(help))]
    ConfigKey {
        /// The file.
        path: PathBuf,
        /// Dotted key.
        key: String,
        /// What is supported.
        expected: String,
        /// What was found; "missing" if nothing.
        got: String,
        /// What to do about it; may be empty.
        help: String,
    },

    /// An argument or option has a value that cannot be used.
    #[error("{what} `{value}`: {problem}{}", hint(help))]
    Argument {
        /// Which argument, such as "--data".
        what: String,
        /// The value as given.
        value: String,
        /// Why it cannot be used.
        problem: String,
        /// What to do about it; may be empty.
        help: String,
    },

    /// An experiment's TOML or what overrides it cannot be used.
    #[error("{}", lines(problems))]
    Config {
        /// Everything that is wrong with it; at least one.
        problems: Vec<crate::config::Problem>,
    },

    /// Two inputs that must agree do not.
    #[error(
        "{left} and {right} do not match: {what} is {left_value} against {right_value}{}",
        hint(help)
    )]
    Mismatch {
        /// First input, by the name the user gave it.
        left: String,
        /// Second input.
        right: String,
        /// What differs.
        what: String,
        /// Its value in the first.
        left_value: String,
        /// Its value in the second.
        right_value: String,
        /// What to do about it; may be empty.
        help: String,
    },

    /// The leading singular directions of a matrix were not found to the accuracy that is promised.
    #[error(
        "the {directions} leading singular directions of `{tensor}` ({} × {}) did not converge: residual {residual:.1e}·σ_1, expected at most {tolerance:.0e}·σ_1\n  help: are all of its values finite? otherwise ask for fewer directions",
        shape[0], shape[1]
    )]
    NotConverged {
        /// Hugging Face parameter name.
        tensor: String,
        /// (out, in).
        shape: [usize; 2],
        /// k.
        directions: usize,
        /// What was reached, in units of the largest singular value.
        residual: f64,
        /// What is promised.
        tolerance: f64,
    },

    /// A hidden state is NaN or infinite although every weight is finite.
    #[error(
        "{model}: the hidden state of sample {sample} is not finite after layer {layer}\n  help: its weights overflow f32 arithmetic; `midblock inspect` shows their formats"
    )]
    StateNotFinite {
        /// Name of the model in the run.
        model: String,
        /// 0 is the embedding, `l` the output of block `l`.
        layer: usize,
        /// `file:row`.
        sample: String,
    },

    /// A loss or a gradient is NaN or infinite: training has diverged.
    #[error(
        "step {step}: {what} is {value} (samples {samples})\n  help: a lower learning rate, a longer warm-up or clipping may help; the last checkpoint is untouched"
    )]
    Diverged {
        /// Step, from 1.
        step: u64,
        /// "the loss" or "the gradient norm".
        what: &'static str,
        /// NaN or ±∞.
        value: f64,
        /// `file:row` of the samples of the batch.
        samples: String,
    },

    /// A parameter was selected to be trained, but nothing of the loss depends on it.
    #[error("no gradient arrived at {parameters}, although selected to be trained")]
    NoGradient {
        /// Hugging Face names.
        parameters: String,
    },

    /// Programs that a model wrote cannot be run.
    #[error(
        "cannot run programs with {looked_for}: {problem}\n  help: install Python 3, or leave out the tasks that run programs"
    )]
    Interpreter {
        /// What was looked for and where.
        looked_for: String,
        /// Why it cannot be used.
        problem: String,
    },

    /// Another process of the job has failed.
    #[error("rank {rank}: {problem}")]
    Rank {
        /// Its number, from 0.
        rank: usize,
        /// What it said.
        problem: String,
    },

    /// The caller asked to stop (Ctrl-C).
    #[error("interrupted")]
    Interrupted,
}

/// One item a line.
fn lines(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// What to do about an answer of the system; may be empty.
fn help_of(reason: &std::io::Error) -> &'static str {
    match reason.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "make room on that disk and run the command again; tune with --resume, sweep, study and eval go on where they were"
        }
        ErrorKind::ReadOnlyFilesystem => "name a folder on a disk that can be written to",
        _ => "",
    }
}

/// Renders an optional hint on a line of its own.
fn hint(help: &str) -> String {
    if help.is_empty() {
        String::new()
    } else {
        format!("\n  help: {help}")
    }
}

impl Error {
    /// Whether other work had better not begin either: the caller asked to stop, or the disk takes nothing more.
    pub(crate) fn ends_all(&self) -> bool {
        match self {
            Self::Interrupted => true,
            Self::Io { reason, .. } => matches!(
                reason.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem
            ),
            _ => false,
        }
    }

    /// An [`Error::Io`] for `map_err`.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |reason| Self::Io { action, path, reason }
    }

    /// An [`Error::Malformed`].
    pub fn malformed(path: impl AsRef<Path>, format: &'static str, problem: impl Into<String>) -> Self {
        Self::Malformed {
            path: path.as_ref().to_path_buf(),
            format,
            problem: problem.into(),
        }
    }
}
