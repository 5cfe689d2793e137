//! A progress bar with rate and time left; plain lines when the output is not a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use midblock::{
    hub::Transfer,
    progress::{Progress, Unit},
};
use std::{
    io::IsTerminal,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Set by Ctrl-C or SIGTERM; long work asks for it and stops.
static CANCELLED: AtomicBool = AtomicBool::new(false);

/// How often a line is printed when there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// First Ctrl-C asks to stop, the second ends the process at once. SIGTERM, which Slurm and mpirun send, asks to stop however often
/// it comes.
pub fn install_signals() -> anyhow::Result<()> {
    ctrlc::set_handler(|| {
        if request_stop() {
            std::process::exit(130);
        }
        eprintln!("\nstopping; nothing half-written will be left (Ctrl-C again ends at once)");
    })?;
    #[cfg(unix)]
    {
        let mut terms = signal_hook::iterator::Signals::new([signal_hook::consts::SIGTERM])?;
        std::thread::spawn(move || {
            for _ in terms.forever() {
                if !request_stop() {
                    eprintln!("stopping, as SIGTERM asks; nothing half-written will be left");
                }
            }
        });
    }
    Ok(())
}

/// Asks long work to stop, as Ctrl-C does; true if it was asked before.
pub fn request_stop() -> bool {
    CANCELLED.swap(true, Ordering::SeqCst)
}

/// Whether Ctrl-C was pressed.
pub fn stop_requested() -> bool {
    CANCELLED.load(Ordering::SeqCst)
}

/// Takes a Ctrl-C that was heeded back: work goes on.
pub fn go_on() {
    CANCELLED.store(false, Ordering::SeqCst);
}

/// Progress on stderr.
pub struct Terminal {
    state: Mutex<State>,
}

struct State {
    bar: ProgressBar,
    phase: String,
    total: u64,
    done: u64,
    unit: Unit,
    started: Instant,
    last_line: Instant,
    interactive: bool,
}

impl Terminal {
    /// On stderr; silent with `quiet`.
    pub fn new(quiet: bool) -> Self {
        let interactive = std::io::stderr().is_terminal() && !quiet;
        let now = Instant::now();
        let bar = ProgressBar::with_draw_target(
            None,
            if interactive {
                ProgressDrawTarget::stderr()
            } else {
                ProgressDrawTarget::hidden()
            },
        );
        let state = State {
            bar,
            phase: String::new(),
            total: 0,
            done: 0,
            unit: Unit::Bytes,
            started: now,
            last_line: now,
            interactive: interactive || quiet,
        };
        Self {
            state: Mutex::new(state),
        }
    }

    fn with(&self, act: impl FnOnce(&mut State)) {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Terminal {
    /// Shows a download; a new file begins a new bar.
    pub fn transfer(&self, transfer: &Transfer<'_>) {
        let (mut begin, mut news) = (false, 0);
        self.with(|s| {
            begin = s.phase != transfer.file;
            news = transfer.done_bytes.saturating_sub(if begin { 0 } else { s.done });
        });
        if begin {
            self.begin(transfer.file, transfer.total_bytes, Unit::Bytes);
        }
        self.advance(news);
    }
}

impl Progress for Terminal {
    fn begin(&self, phase: &str, total: u64, unit: Unit) {
        self.with(|s| {
            s.bar.finish_and_clear();
            (s.phase, s.total, s.done, s.unit) = (phase.to_owned(), total, 0, unit);
            s.started = Instant::now();
            s.last_line = s.started;
            if s.interactive {
                s.bar.reset();
                s.bar.set_length(total);
                s.bar.set_message(s.phase.clone());
                s.bar.set_style(style(unit));
                s.bar.enable_steady_tick(Duration::from_millis(200));
            }
        });
    }

    fn advance(&self, units: u64) {
        self.with(|s| {
            s.done += units;
            s.bar.inc(units);
            if s.done >= s.total {
                s.bar.finish_and_clear();
            }
            if !s.interactive && s.last_line.elapsed() >= LINE_EVERY {
                s.last_line = Instant::now();
                eprintln!("{}", line(s));
            }
        });
    }

    fn cancelled(&self) -> bool {
        CANCELLED.load(Ordering::SeqCst)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.with(|s| s.bar.finish_and_clear());
    }
}

fn style(unit: Unit) -> ProgressStyle {
    let template = match unit {
        Unit::BlockTokens { .. } => "{msg} [{bar:32}] {percent}% {token_rate}, {eta} left",
        Unit::Bytes => "{msg} [{bar:32}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left",
        Unit::Items => "{msg} [{bar:32}] {pos}/{len} {per_sec}, {eta} left",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("█▌ ").with_key(
        "token_rate",
        move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // a failure to write into the bar's own string has nowhere to go
            let _ = out.write_str(&rate(state.per_sec(), unit));
        },
    )
}

/// `512 tokens/s`, `3.1 MiB/s`.
fn rate(per_second: f64, unit: Unit) -> String {
    match unit {
        Unit::BlockTokens { blocks } => format!("{:.0} tokens/s", per_second / blocks as f64),
        Unit::Bytes => format!("{:.1} MiB/s", per_second / f64::from(1 << 20)),
        Unit::Items => format!("{per_second:.2}/s"),
    }
}

/// `forward 42% 512 tokens/s, 80 s left`.
fn line(s: &State) -> String {
    let per_second = s.done as f64 / s.started.elapsed().as_secs_f64().max(1e-9);
    let left = s.total.saturating_sub(s.done) as f64 / per_second.max(1e-9);
    let percent = 100.0 * s.done as f64 / s.total.max(1) as f64;
    format!(
        "{} {percent:.0}% {}, {left:.0} s left",
        s.phase,
        rate(per_second, s.unit)
    )
}
