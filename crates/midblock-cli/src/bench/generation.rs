//! Greedy writing: prompts, then a token a sequence and step, against the time that reading the weights once takes.

use super::{median, round, sequences};
use crate::{args, progress, rates::Memory};
use anyhow::Result;
use midblock::{
    checkpoint::Checkpoint,
    generate::{Completion, Engine, LanguageModel, Request, Sampling, Stops},
    model::Architecture,
    tokens::Tokenizer,
};
use midblock_kernels::Cpu;
use serde_json::{Value, json};
use std::{ops::ControlFlow, time::Instant};

/// Times `new` tokens after each prompt, in turns with prompts alone and with reading memory.
pub(super) fn run(backend: &Cpu, checkpoint: &Checkpoint, new: usize, args: &args::Bench) -> Result<Value> {
    anyhow::ensure!(
        new > 1,
        "--generate {new}: a step is timed after the first token\n  help: give at least 2"
    );
    let architecture = Architecture::resolve(checkpoint.config())?;
    let tokenizer = Tokenizer::of(checkpoint)?;
    let prompts = sequences(architecture.vocab, args);
    let mut engine =
        Engine::new(backend, checkpoint, &tokenizer, args.batch.get())?.stopping(&progress::stop_requested);
    let memory = Memory::new();
    let mut seconds = [Vec::new(), Vec::new()]; // prompts, prompts and steps
    let mut rates = Vec::new(); // memory's
    let mut ids = 0;
    for round in 0..1 + args.steps.get() {
        let start = Instant::now();
        write(&mut engine, &prompts, 1)?;
        let prompted = Instant::now();
        ids = write(&mut engine, &prompts, new)?;
        let written = Instant::now();
        let rate = memory.bytes_per_s();
        if round > 0 {
            rates.push(rate);
            let times = [(prompted - start).as_secs_f64(), (written - prompted).as_secs_f64()];
            times
                .into_iter()
                .zip(&mut seconds)
                .for_each(|(time, all)| all.push(time));
        }
    }
    let [prompt, whole] = seconds.each_ref().map(|all| median(all));
    let step = (whole - prompt) / (new - 1) as f64;
    let bandwidth = median(&rates);
    let bytes = weight_bytes(checkpoint, &architecture);
    let floor = bytes as f64 / bandwidth;
    let batch = args.batch.get() as f64;
    Ok(json!({
        "checkpoint": checkpoint.label(),
        "threads": rayon::current_num_threads(),
        "what": "greedy generation",
        "batch": args.batch, "prompt_tokens": args.length, "new_tokens": new, "rounds": args.steps,
        "prompt_tokens_per_s": round(batch * args.length.get() as f64 / prompt),
        "decode_tokens_per_s": round(batch / step),
        "whole_tokens_per_s": round(batch * new as f64 / whole),
        "step_s": round(step),
        "weight_bytes": bytes,
        "memory_bytes_per_s": round(bandwidth),
        "bandwidth_floor_step_s": round(floor),
        "share_of_bandwidth": round(floor / step),
        "checksum_ids": ids,
    }))
}

/// Writes `new` tokens after each prompt, whatever they are; returns the sum of their ids.
fn write(engine: &mut Engine<'_, Cpu>, prompts: &[Vec<u32>], new: usize) -> Result<u64> {
    let request = |prompt: &Vec<u32>| Request {
        prompt: prompt.clone(),
        max_new: new,
        seed: 0,
    };
    let requests: Vec<Request> = prompts.iter().map(request).collect();
    let mut ids = 0;
    let mut done = |_: usize, completion: Completion| {
        ids += completion.ids.iter().map(|id| u64::from(*id)).sum::<u64>();
        ControlFlow::Continue(())
    };
    engine.generate(&requests, &Sampling::default(), &Stops::default(), &mut done)?;
    Ok(ids)
}

/// Bytes of the matrices that a step multiplies with, as they are stored.
fn weight_bytes(checkpoint: &Checkpoint, architecture: &Architecture) -> usize {
    let tensors = checkpoint.tensors();
    let names = tensors.names().into_iter();
    let head = if architecture.tied_head {
        "model.embed_tokens.weight"
    } else {
        "lm_head.weight"
    };
    let multiplied = names.filter(|name| name.starts_with("model.layers.") || *name == head);
    multiplied
        .filter_map(|name| checkpoint.describe(name))
        .filter_map(|(dtype, shape)| dtype.bytes_for(shape.iter().product()))
        .sum()
}
