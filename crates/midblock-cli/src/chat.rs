//! `midblock chat`: a conversation in the terminal. Lines are edited by rustyline; Ctrl-C ends an answer, or at a prompt the
//! conversation.

use crate::{
    args, checkpoint,
    generate::{print, sampling, set_trigger, template, turn},
    progress,
};
use anyhow::Result;
use midblock::{
    Error,
    generate::{Completion, Engine, Finish, Request, Stops},
    rng,
    tokens::Tokenizer,
};
use midblock_kernels::Cpu;
use rand::Rng;
use rustyline::{DefaultEditor, error::ReadlineError};
use serde_json::{Value, json};
use std::{ops::ControlFlow, time::Instant};

const HELP: &str = "/clear forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C ends an answer";

/// Reads, answers, again.
pub fn run(args: &args::Chat, common: &args::Common) -> Result<()> {
    let checkpoint = checkpoint::open_quantized(&args.checkpoint, args.writing.quantize, common)?;
    let tokenizer = Tokenizer::of(&checkpoint)?;
    let template = template(args::Prompting::Chat, &checkpoint, &tokenizer)?;
    let template = template.expect("invariant: it was asked for");
    let backend = Cpu::new();
    let mut engine = Engine::new(&backend, &checkpoint, &tokenizer, 1)?.stopping(&progress::stop_requested);
    set_trigger(&mut engine, args.trigger.as_deref())?;
    let mut stops = Stops::of(&checkpoint, &tokenizer)?;
    stops.strings.clone_from(&args.writing.stop);
    let system: Vec<Value> = args
        .system
        .iter()
        .map(|text| json!({"role": "system", "content": text}))
        .collect();
    let mut messages = system.clone();
    let mut editor = DefaultEditor::new()?;
    if !common.quiet {
        eprintln!("{}: {HELP}", checkpoint.label());
    }
    for answers in 0.. {
        let line = match editor.readline("> ") {
            Ok(line) => line,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => return Ok(()),
            "/help" => {
                eprintln!("{HELP}");
                continue;
            }
            "/clear" => {
                messages.clone_from(&system);
                continue;
            }
            text => messages.push(json!({"role": "user", "content": text})),
        }
        editor.add_history_entry(&line)?;
        let request = Request {
            prompt: turn(&messages, &template, &tokenizer)?,
            max_new: args.writing.max_new,
            seed: rng::stream(args.writing.seed, "prompt", &[answers]).next_u64(),
        };
        let (mut written, mut end) = (String::new(), None);
        let start = Instant::now();
        let answered = engine.generate_streaming(
            &[request],
            &sampling(&args.writing),
            &stops,
            &mut |_, piece| {
                written += piece;
                match print(piece) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            },
            &mut |_, completion| {
                end = Some(completion);
                ControlFlow::Continue(())
            },
        );
        print("\n")?;
        match answered {
            Ok(()) => (),
            Err(Error::Interrupted) => progress::go_on(),
            // such as a conversation that has become too long: the question is taken back
            Err(error @ Error::Argument { .. }) => {
                eprintln!("error: {error}\n  help: /clear forgets the conversation");
                messages.pop();
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        messages.push(json!({"role": "assistant", "content": written}));
        if let Some(end) = end.filter(|_| !common.quiet) {
            eprintln!("{}", summary(&end, start.elapsed().as_secs_f64()));
        }
    }
    Ok(())
}

/// Length, speed, and why the answer ended if not by itself.
fn summary(completion: &Completion, seconds: f64) -> String {
    let tokens = completion.ids.len();
    let cut = match completion.finish {
        Finish::Length => ", cut: --max-new",
        Finish::Context => ", cut: the context is full",
        Finish::Token | Finish::Text => "",
    };
    format!("[{tokens} tokens, {:.1} tokens/s{cut}]", tokens as f64 / seconds)
}
