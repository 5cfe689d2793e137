//! `midblock generate`: completions of prompts, as they are written or in order.

use crate::{args, checkpoint, progress};
use anyhow::{Context, Result, bail};
use midblock::{
    adapt::SoftPrompt,
    checkpoint::Checkpoint,
    generate::{Completion, Engine, Request, Sampling, Stops},
    rng,
    tokens::{ChatTemplate, Tokenizer, data::read_rows},
};
use midblock_kernels::Cpu;
use rand::Rng;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::{Read, Write},
    ops::ControlFlow,
    path::Path,
    time::{Instant, SystemTime},
};

/// What is asked.
enum Prompt {
    Text(String),
    Messages(Vec<Value>),
}

/// Answers all prompts. One is printed as it is written; several in their order, each when it and those before are done.
pub fn run(args: &args::Generate, common: &args::Common) -> Result<()> {
    let prompts = prompts(args)?;
    let checkpoint = checkpoint::open_quantized(&args.checkpoint, args.writing.quantize, common)?;
    let tokenizer = Tokenizer::of(&checkpoint)?;
    let template = template(args.template, &checkpoint, &tokenizer)?;
    let mut requests = Vec::with_capacity(prompts.len());
    for (index, prompt) in (0..).zip(&prompts) {
        let ids = encode(prompt, args.system.as_deref(), template.as_ref(), &tokenizer);
        requests.push(Request {
            prompt: ids.with_context(|| format!("prompt {}", index + 1))?,
            max_new: args.writing.max_new,
            seed: rng::stream(args.writing.seed, "prompt", &[index]).next_u64(),
        });
    }
    let backend = Cpu::new();
    let mut engine = Engine::new(&backend, &checkpoint, &tokenizer, args.batch.get().min(requests.len()))?
        .stopping(&progress::stop_requested);
    set_trigger(&mut engine, args.trigger.as_deref())?;
    let mut stops = Stops::of(&checkpoint, &tokenizer)?;
    stops.strings.clone_from(&args.writing.stop);
    let stream = requests.len() == 1 && !args.json;
    let mut printer = Printer {
        json: args.json,
        many: requests.len() > 1,
        prompts: &prompts,
        requests: &requests,
        waiting: BTreeMap::new(),
        next: 0,
        tokens: 0,
        failed: None,
    };
    let start = Instant::now();
    let mut piece = |_: usize, text: &str| match stream {
        true => flow(print(text)),
        false => ControlFlow::Continue(()),
    };
    engine.generate_streaming(
        &requests,
        &sampling(&args.writing),
        &stops,
        &mut piece,
        &mut |index, completion| printer.take(index, completion, stream),
    )?;
    if let Some(error) = printer.failed {
        return Err(error.into());
    }
    if !common.quiet {
        let seconds = start.elapsed().as_secs_f64();
        let rate = printer.tokens as f64 / seconds;
        eprintln!("{} tokens in {seconds:.1} s, {rate:.1} tokens/s", printer.tokens);
    }
    Ok(())
}

/// The settings of the command line.
pub fn sampling(args: &args::Writing) -> Sampling {
    Sampling {
        temperature: args.temperature,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
    }
}

/// Puts the trigger of a file, if one is named, in front of every prompt.
pub fn set_trigger(engine: &mut Engine<'_, Cpu>, path: Option<&Path>) -> Result<()> {
    let trigger = path.map(SoftPrompt::open).transpose()?;
    Ok(engine.set_trigger(trigger.as_ref())?)
}

/// The checkpoint's chat template, if prompts are to be put through one.
pub fn template(
    prompting: args::Prompting,
    checkpoint: &Checkpoint,
    tokenizer: &Tokenizer,
) -> Result<Option<ChatTemplate>> {
    let template = match prompting {
        args::Prompting::Plain => None,
        _ => ChatTemplate::of(checkpoint, tokenizer, SystemTime::now())?,
    };
    if prompting == args::Prompting::Chat && template.is_none() {
        bail!(
            "{}: it has no chat template\n  help: --template plain goes on with a prompt as it is",
            checkpoint.label()
        );
    }
    Ok(template)
}

fn prompts(args: &args::Generate) -> Result<Vec<Prompt>> {
    let mut prompts = Vec::new();
    for prompt in &args.prompt {
        let mut text = prompt.clone();
        if prompt == "-" {
            text.clear();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
        }
        prompts.push(Prompt::Text(text));
    }
    if let Some(path) = &args.prompts {
        prompts.extend(read_prompts(path)?);
    }
    anyhow::ensure!(!prompts.is_empty(), "there are no prompts");
    Ok(prompts)
}

/// Prompts of a file of rows.
fn read_prompts(path: &Path) -> Result<Vec<Prompt>> {
    let (mut prompts, mut problem) = (Vec::new(), None);
    read_rows(path, &mut |_, row| {
        let prompt = match (row.get("prompt"), row.get("messages")) {
            (Some(Value::String(text)), _) => Some(Prompt::Text(text.clone())),
            (Some(Value::Array(messages)), _) | (None, Some(Value::Array(messages))) => {
                Some(Prompt::Messages(messages.clone()))
            }
            _ => None,
        };
        match prompt {
            Some(prompt) => prompts.push(prompt),
            None if problem.is_none() => problem = Some(prompts.len() + 1),
            None => (),
        }
        Ok(())
    })?;
    if let Some(row) = problem {
        bail!(
            "{}: row {row} has neither `prompt` (a text or chat messages) nor `messages`",
            path.display()
        );
    }
    Ok(prompts)
}

/// Ids of a prompt: a turn of the chat template, or text with what the tokenizer puts before it.
fn encode(
    prompt: &Prompt,
    system: Option<&str>,
    template: Option<&ChatTemplate>,
    tokenizer: &Tokenizer,
) -> Result<Vec<u32>> {
    let system = system.map(|text| json!({"role": "system", "content": text}));
    match (prompt, template) {
        (Prompt::Text(text), None) => {
            anyhow::ensure!(system.is_none(), "--system needs a chat template");
            Ok(tokenizer.encode(text, None)?)
        }
        (Prompt::Messages(_), None) => bail!("it is chat messages, and the checkpoint has no chat template"),
        (Prompt::Text(text), Some(template)) => {
            let user = json!({"role": "user", "content": text});
            turn(
                &system.into_iter().chain([user]).collect::<Vec<_>>(),
                template,
                tokenizer,
            )
        }
        (Prompt::Messages(messages), Some(template)) => {
            let messages: Vec<Value> = system.into_iter().chain(messages.iter().cloned()).collect();
            turn(&messages, template, tokenizer)
        }
    }
}

/// Ids of a conversation up to the assistant's next turn. The template writes special tokens itself.
pub fn turn(messages: &[Value], template: &ChatTemplate, tokenizer: &Tokenizer) -> Result<Vec<u32>> {
    let text = template
        .render(messages, true)
        .map_err(|reason| anyhow::anyhow!("{reason}"))?;
    let tokens = tokenizer.tokens(&text, false)?;
    Ok(tokens.into_iter().map(|token| token.id).collect())
}

/// Prints completions in the order of their prompts.
struct Printer<'a> {
    json: bool,
    many: bool,
    prompts: &'a [Prompt],
    requests: &'a [Request],
    waiting: BTreeMap<usize, Completion>,
    next: usize,
    tokens: usize,
    failed: Option<std::io::Error>,
}

impl Printer<'_> {
    fn take(&mut self, index: usize, completion: Completion, printed: bool) -> ControlFlow<()> {
        self.tokens += completion.ids.len();
        if printed {
            return flow(print("\n"));
        }
        self.waiting.insert(index, completion);
        while let Some(completion) = self.waiting.remove(&self.next) {
            if let Err(error) = print(&self.text(self.next, &completion)) {
                self.failed = Some(error);
                return ControlFlow::Break(());
            }
            self.next += 1;
        }
        ControlFlow::Continue(())
    }

    fn text(&self, index: usize, completion: &Completion) -> String {
        if self.json {
            let prompt = match &self.prompts[index] {
                Prompt::Text(text) => json!(text),
                Prompt::Messages(messages) => json!(messages),
            };
            let line = json!({
                "prompt": prompt, "completion": completion.text, "finish": completion.finish,
                "prompt_tokens": self.requests[index].prompt.len(), "completion_tokens": completion.ids.len(),
            });
            return format!("{line}\n");
        }
        match self.many {
            true => format!("── {} ──\n{}\n\n", index + 1, completion.text),
            false => format!("{}\n", completion.text),
        }
    }
}

/// Writes at once, so that it is seen.
pub fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// A closed pipe ends the work.
fn flow(printed: std::io::Result<()>) -> ControlFlow<()> {
    match printed {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}
