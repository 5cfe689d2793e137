//! What a training run looks like while it goes: a full-screen view on a terminal, lines elsewhere.

use crate::progress::request_stop;
use anyhow::{Context, Result};
use midblock::train::{CarrierMetrics, DriftMetrics, Evaluation, Observer, Outlook, StepMetrics};
use ratatui::{
    DefaultTerminal, Frame,
    crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    symbols::Marker,
    text::{Line, Span},
    widgets::{Axis, Block, Chart, Dataset, GraphType, LineGauge, Paragraph},
};
use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// How often the screen is drawn and keys are looked at.
const FRAME: Duration = Duration::from_millis(150);

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Messages shown.
const MESSAGES: usize = 4;

/// Prints a line now and then, and for each evaluation and measurement of drift.
pub struct Plain {
    last: Option<Instant>,
    outlook: Outlook,
}

impl Default for Plain {
    fn default() -> Self {
        Self {
            last: None,
            outlook: Outlook { steps: 0, done: 0 },
        }
    }
}

impl Observer for Plain {
    fn begin(&mut self, outlook: &Outlook) -> midblock::Result<()> {
        self.outlook = *outlook;
        if outlook.done > 0 {
            eprintln!("going on after step {} of {}", outlook.done, outlook.steps);
        }
        Ok(())
    }

    fn step(&mut self, m: &StepMetrics) -> midblock::Result<()> {
        let due = self.last.is_none_or(|last| last.elapsed() >= LINE_EVERY) || m.step == self.outlook.steps;
        if due {
            self.last = Some(Instant::now());
            let masks = m.carrier.as_ref().map_or_else(String::new, |carrier| {
                let [lambda, masks] = carried(carrier);
                format!(" λ {lambda}, masks {masks},")
            });
            eprintln!(
                "step {}/{} epoch {:.2} loss {:.4} lr {:.3e} gradient {:.3}{masks} {:.0} tokens/s, {} left",
                m.step,
                self.outlook.steps,
                m.epoch,
                m.loss,
                m.lr,
                m.gradient_norm,
                m.tokens_per_s,
                duration(m.seconds_left)
            );
        }
        Ok(())
    }

    fn evaluation(&mut self, e: &Evaluation) -> midblock::Result<()> {
        eprintln!("{}", evaluated(e));
        Ok(())
    }

    fn drift(&mut self, d: &DriftMetrics) -> midblock::Result<()> {
        eprintln!("{}", drifted(d));
        Ok(())
    }
}

/// "0.0123 (0.5432 of 0.6000)", what masks are pressed with, and the loss and its limit; "81 % open".
fn carried(carrier: &CarrierMetrics) -> [String; 2] {
    let limit = carrier
        .limit
        .map_or("no limit yet".to_owned(), |limit| format!("of {limit:.4}"));
    [
        format!("{:.4} ({:.4} {limit})", carrier.lambda, carrier.loss_ema),
        format!(
            "{:.1} % open",
            100.0 * carrier.active as f64 / carrier.masks.max(1) as f64
        ),
    ]
}

/// "step 40: rotation 0.0123, CKA with the start 0.9876".
fn drifted(d: &DriftMetrics) -> String {
    let number = |value: Option<f64>| value.map_or_else(|| "not defined".to_owned(), |value| format!("{value:.4}"));
    format!(
        "step {}: rotation {}, CKA with the start {}",
        d.step,
        number(d.summary().map(|summary| summary.rotation)),
        number(d.mean_cka())
    )
}

/// "step 40: evaluation loss 1.2345, the lowest so far".
fn evaluated(e: &Evaluation) -> String {
    match (e.step, e.best) {
        (0, _) => format!("before training: evaluation loss {:.4}", e.loss),
        (step, true) => format!("step {step}: evaluation loss {:.4}, the lowest so far", e.loss),
        (step, false) => format!("step {step}: evaluation loss {:.4}", e.loss),
    }
}

/// "1 h 02 min", "3 min 20 s", "4 s".
pub fn duration(seconds: f64) -> String {
    match seconds.round() as u64 {
        whole @ 0..60 => format!("{whole} s"),
        whole @ 60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        whole => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// What is on the screen.
struct View {
    title: String,
    outlook: Outlook,
    /// Micro-batches of the step, or batches of the evaluation, that are done.
    batch: (usize, usize),
    losses: Vec<(f64, f64)>,
    evaluations: Vec<(f64, f64)>,
    last: Option<StepMetrics>,
    best: Option<(u64, f64)>,
    messages: Vec<String>,
    stopping: bool,
}

impl View {
    fn new(title: String) -> Self {
        Self {
            title,
            outlook: Outlook { steps: 0, done: 0 },
            batch: (0, 0),
            losses: Vec::new(),
            evaluations: Vec::new(),
            last: None,
            best: None,
            messages: Vec::new(),
            stopping: false,
        }
    }

    fn say(&mut self, message: String) {
        self.messages.push(message);
        let surplus = self.messages.len().saturating_sub(MESSAGES);
        self.messages.drain(..surplus);
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let rows = [
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Min(5),
            Constraint::Length(5),
            Constraint::Length(MESSAGES as u16),
            Constraint::Length(1),
        ];
        let [title, progress, chart, numbers, messages, keys] = Layout::vertical(rows).areas(frame.area());
        frame.render_widget(
            Line::from(vec!["midblock tune ".bold(), Span::raw(&self.title).dim()]),
            title,
        );
        self.draw_progress(frame, progress);
        self.draw_chart(frame, chart);
        self.draw_numbers(frame, numbers);
        let lines: Vec<Line<'_>> = self.messages.iter().map(|message| Line::raw(message).dim()).collect();
        frame.render_widget(Paragraph::new(lines), messages);
        let help = match self.stopping {
            true => "stopping after this micro-batch; the run is saved (again: end at once)",
            false => "q or Ctrl-C: save and stop",
        };
        frame.render_widget(Line::raw(help).dim(), keys);
    }

    fn draw_progress(&self, frame: &mut Frame<'_>, area: Rect) {
        let (step, steps) = (
            self.last.as_ref().map_or(self.outlook.done, |m| m.step),
            self.outlook.steps,
        );
        let epoch = self.last.as_ref().map_or(0.0, |m| m.epoch);
        let left = self.last.as_ref().map_or("…".to_owned(), |m| duration(m.seconds_left));
        let (done, of) = self.batch;
        let label = format!("step {step}/{steps} · epoch {epoch:.2} · batch {done}/{of} · {left} left ");
        let gauge = LineGauge::default()
            .ratio((step as f64 / steps.max(1) as f64).clamp(0.0, 1.0))
            .label(label)
            .filled_style(Style::new().fg(Color::Blue))
            .unfilled_style(Style::new().fg(Color::DarkGray));
        frame.render_widget(gauge, area);
    }

    fn draw_chart(&self, frame: &mut Frame<'_>, area: Rect) {
        let points = || self.losses.iter().chain(&self.evaluations);
        let (low, high) = points().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (_, loss)| {
            (low.min(*loss), high.max(*loss))
        });
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let margin = 0.05 * (high - low).max(1e-3);
        let y = [low - margin, high + margin];
        let x = [0.0, points().map(|(step, _)| *step).fold(1.0, f64::max)];
        let datasets = vec![
            Dataset::default()
                .name("training")
                .marker(Marker::Braille)
                .graph_type(GraphType::Line)
                .style(Style::new().fg(Color::Blue))
                .data(&self.losses),
            Dataset::default()
                .name("evaluation")
                .marker(Marker::Dot)
                .graph_type(GraphType::Scatter)
                .style(Style::new().fg(Color::LightRed))
                .data(&self.evaluations),
        ];
        let axis = |bounds: [f64; 2], labels: Vec<String>| {
            Axis::default()
                .bounds(bounds)
                .labels(labels)
                .style(Style::new().fg(Color::DarkGray))
        };
        let levels = (0..=3).map(|i| format!("{:.3}", y[0] + (y[1] - y[0]) * f64::from(i) / 3.0));
        let chart = Chart::new(datasets)
            .block(
                Block::bordered()
                    .title(" loss, nats per token ")
                    .border_style(Style::new().fg(Color::DarkGray)),
            )
            .x_axis(axis(x, vec!["0".to_owned(), format!("step {:.0}", x[1])]))
            .y_axis(axis(y, levels.collect()))
            .hidden_legend_constraints((Constraint::Ratio(1, 2), Constraint::Ratio(1, 2)));
        frame.render_widget(chart, area);
    }

    fn draw_numbers(&self, frame: &mut Frame<'_>, area: Rect) {
        let Some(m) = &self.last else { return };
        let memory = m.private_bytes.map_or("–".to_owned(), |bytes| {
            format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
        });
        let best = self
            .best
            .map_or("–".to_owned(), |(step, loss)| format!("{loss:.4} at step {step}"));
        let mut left = vec![
            ("loss", format!("{:.4}", m.loss)),
            ("learning rate", format!("{:.3e}", m.lr)),
            ("gradient norm", format!("{:.4}", m.gradient_norm)),
            ("best evaluation", best),
        ];
        let mut right = vec![
            ("tokens/s", format!("{:.0}", m.tokens_per_s)),
            ("in the loss/s", format!("{:.0}", m.trained_tokens_per_s)),
            ("step", format!("{:.2} s", m.seconds)),
            ("private memory", memory),
        ];
        if let Some(carrier) = &m.carrier {
            let [lambda, masks] = carried(carrier);
            left.push(("λ", lambda));
            right.push(("masks", masks));
        }
        let halves: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2]).areas(area);
        for (numbers, area) in [left, right].into_iter().zip(halves) {
            let line = |(name, value): (&str, String)| Line::from(vec![format!("{name:>16}  ").dim(), value.bold()]);
            let lines: Vec<Line<'_>> = numbers.into_iter().map(line).collect();
            frame.render_widget(Paragraph::new(lines), area);
        }
    }
}

/// The view on the screen, drawn by a thread of its own until it is dropped.
pub struct Live {
    view: Arc<Mutex<View>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Takes the terminal over. A panic gives it back before it is reported.
pub fn start(model: &str, dir: &Path) -> Result<Live> {
    let terminal = ratatui::try_init().context("preparing the terminal")?;
    let view = Arc::new(Mutex::new(View::new(format!("{model} → {}", dir.display()))));
    let over = Arc::new(AtomicBool::new(false));
    let thread = {
        let (view, over) = (view.clone(), over.clone());
        std::thread::spawn(move || show(terminal, &view, &over))
    };
    Ok(Live {
        view,
        over,
        thread: Some(thread),
    })
}

fn lock(view: &Mutex<View>) -> MutexGuard<'_, View> {
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Draws and looks at keys until it is over. A terminal that is gone ends the view, not the training.
fn show(mut terminal: DefaultTerminal, view: &Mutex<View>, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        if terminal.draw(|frame| lock(view).draw(frame)).is_err() {
            return;
        }
        match event::poll(FRAME).and_then(|waiting| if waiting { event::read().map(Some) } else { Ok(None) }) {
            Ok(Some(Event::Key(key))) if stops(&key) => {
                if request_stop() {
                    ratatui::restore();
                    std::process::exit(130);
                }
                lock(view).stopping = true;
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

/// Raw mode turns Ctrl-C into a key.
fn stops(key: &KeyEvent) -> bool {
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (control_c || key.code == KeyCode::Char('q'))
}

impl Drop for Live {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it panics only while drawing, and that was reported
        }
        ratatui::restore();
    }
}

impl Observer for Live {
    fn begin(&mut self, outlook: &Outlook) -> midblock::Result<()> {
        let mut view = lock(&self.view);
        view.outlook = *outlook;
        if outlook.done > 0 {
            view.say(format!("going on after step {}", outlook.done));
        }
        Ok(())
    }

    fn batch(&mut self, done: usize, of: usize) {
        lock(&self.view).batch = (done, of);
    }

    fn step(&mut self, metrics: &StepMetrics) -> midblock::Result<()> {
        let mut view = lock(&self.view);
        view.losses.push((metrics.step as f64, metrics.loss));
        view.last = Some(metrics.clone());
        Ok(())
    }

    fn evaluation(&mut self, evaluation: &Evaluation) -> midblock::Result<()> {
        let mut view = lock(&self.view);
        view.evaluations.push((evaluation.step as f64, evaluation.loss));
        if evaluation.best {
            view.best = Some((evaluation.step, evaluation.loss));
        }
        view.say(evaluated(evaluation));
        Ok(())
    }

    fn drift(&mut self, metrics: &DriftMetrics) -> midblock::Result<()> {
        lock(&self.view).say(drifted(metrics));
        Ok(())
    }

    fn saved(&mut self, step: u64, folder: &Path) -> midblock::Result<()> {
        lock(&self.view).say(format!("step {step}: saved {}", folder.display()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::{Terminal, backend::TestBackend};

    fn screen(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(row).collect::<Vec<_>>().join("\n")
    }

    fn view() -> View {
        let mut view = View::new("smollm2 → out".to_owned());
        view.outlook = Outlook { steps: 200, done: 0 };
        view.batch = (3, 8);
        view.losses = (1..=80)
            .map(|step| (f64::from(step), 1.0 + 2.0 / f64::from(step)))
            .collect();
        view.evaluations = vec![(0.0, 3.2), (40.0, 1.3), (80.0, 1.2)];
        view.best = Some((80, 1.2));
        view.last = Some(StepMetrics {
            step: 80,
            epoch: 0.4,
            loss: 1.025,
            objective: Some(1.025),
            lr: 6e-5,
            gradient_norm: 0.5,
            samples: vec![vec!["gsm8k.jsonl:1".to_owned(); 4]; 8],
            tokens: 4096,
            trained_tokens: 2048,
            seconds: 20.0,
            tokens_per_s: 204.8,
            trained_tokens_per_s: 102.4,
            seconds_left: 2400.0,
            private_bytes: Some(300 << 20),
            carrier: Some(CarrierMetrics {
                lambda: 0.0123,
                loss_ema: 1.1,
                limit: Some(1.25),
                active: 810,
                masks: 1000,
            }),
        });
        (0..6).for_each(|i| view.say(format!("message {i}")));
        view
    }

    #[test]
    fn the_screen_says_where_the_run_is() {
        let screen = screen(&view(), 100, 30);
        for part in [
            "midblock tune smollm2 → out",
            "step 80/200 · epoch 0.40 · batch 3/8 · 40 min 00 s left",
            "loss, nats per token",
            "1.0250",
            "6.000e-5",
            "205",
            "300 MiB",
            "0.0123 (1.1000 of 1.2500)",
            "81.0 % open",
            "1.2000 at step 80",
            "message 5",
            "q or Ctrl-C: save and stop",
            "step 80",
        ] {
            assert!(screen.contains(part), "{part} in\n{screen}");
        }
        assert!(!screen.contains("message 1"), "{screen}");
        assert!(
            screen.contains('⠁') || screen.contains('⡀') || screen.contains('⠒'),
            "no curve in\n{screen}"
        );
    }

    #[test]
    fn it_fits_any_size_and_any_moment() {
        for (width, height) in [(1, 1), (10, 3), (40, 12), (300, 100)] {
            screen(&view(), width, height);
            screen(&View::new(String::new()), width, height);
        }
    }

    #[test]
    fn ctrl_c_and_q_stop() {
        let press = |code, modifiers| KeyEvent::new(code, modifiers);
        assert!(stops(&press(KeyCode::Char('c'), KeyModifiers::CONTROL)));
        assert!(stops(&press(KeyCode::Char('q'), KeyModifiers::NONE)));
        assert!(!stops(&press(KeyCode::Char('c'), KeyModifiers::NONE)));
    }
}
