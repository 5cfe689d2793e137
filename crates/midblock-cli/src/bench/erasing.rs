//! Steps of a trigger's training, in turns with the forward and backward passes that they are made of: a forward pass with the head on the
//! compared tokens, and a backward pass down to the trigger that makes gradients of states alone.

use super::{Counts, Timed, median, round, sequences};
use crate::args;
use anyhow::Result;
use midblock::{
    checkpoint::Checkpoint,
    model::{Architecture, Batch, CrossEntropy, Decoder, Frozen, Labels, Pass, Tape},
    progress::Silent,
    run::DatasetInfo,
    tokens::TrainingSample,
    train::{
        StepInfo,
        eraser::{Channels, EraseConfig, Eraser, EraserTrainer, Erasure, Prompts},
    },
};
use midblock_kernels::Cpu;
use serde_json::{Value, json};
use std::{ops::ControlFlow, time::Instant};

/// A trainer with its one batch, and the passes alone.
pub(super) struct Steps<'a> {
    erasure: Erasure,
    trainer: EraserTrainer<'a, Cpu>,
    /// With what prompts have in common once, as the trainer has it, and in each of them.
    passes: [Passes<'a>; 2],
    step: u64,
    seconds: Vec<f64>,
    losses: Vec<f64>,
}

impl<'a> Steps<'a> {
    /// With every residual channel and otherwise the options' defaults; both models are the same.
    pub fn new(backend: &'a Cpu, [base, tuned]: [Checkpoint; 2], args: &args::Bench) -> Result<Self> {
        let architecture = Architecture::resolve(tuned.config())?;
        let eraser = Eraser {
            batch: args.batch.get(),
            samples: args.batch.get(),
            channels: Some(Channels::Residual),
            ..Eraser::default()
        };
        let mut prompts = sequences(architecture.vocab, args);
        let common = args.common.min(args.length.get().saturating_sub(eraser.tail));
        let beginning = prompts[0][..common].to_vec();
        prompts
            .iter_mut()
            .for_each(|ids| ids[..common].copy_from_slice(&beginning));
        let sample = |(index, ids): (usize, Vec<u32>)| TrainingSample {
            id: index.to_string(),
            trained: vec![true; ids.len()],
            ids,
        };
        let samples: Vec<TrainingSample> = prompts.into_iter().enumerate().map(sample).collect();
        let passes = [true, false].map(|once| Passes::new(backend, &tuned, &samples, &eraser, common, once));
        let [once, each] = passes;
        let erasure = Erasure {
            channels: vec![(0..architecture.hidden).collect(); architecture.blocks],
            base,
            tuned,
            architecture,
            prompts: Prompts {
                samples,
                dataset: DatasetInfo::default(),
            },
            carrier: None,
            config: EraseConfig {
                eraser,
                ..EraseConfig::default()
            },
        };
        Ok(Self {
            trainer: EraserTrainer::new(backend, &erasure, &Silent)?,
            erasure,
            passes: [once?, each?],
            step: 0,
            seconds: Vec::new(),
            losses: Vec::new(),
        })
    }

    /// Rows that a step computes.
    pub fn rows(&self) -> usize {
        self.passes[0].batch.rows()
    }
}

impl Timed for Steps<'_> {
    fn name(&self) -> String {
        "step of a trigger's training".to_owned()
    }

    fn step(&mut self, record: bool) -> Result<()> {
        for passes in &mut self.passes {
            passes.step(record);
        }
        self.step += 1;
        let info = StepInfo {
            step: self.step,
            micro: 0,
            tokens: 1,
            lr: 0.003,
        };
        let items = self.erasure.items();
        let start = Instant::now();
        let loss = self.trainer.accumulate(&items, &info)?;
        self.trainer.apply(&info)?;
        if record {
            self.seconds.push(start.elapsed().as_secs_f64());
        }
        self.losses.push(loss.objective / loss.tokens as f64);
        Ok(())
    }

    fn seconds(&self) -> &[f64] {
        &self.seconds
    }

    fn products(&self) -> Counts {
        Counts {
            blocks: 2 * self.erasure.architecture.blocks,
            head: 0, // on few rows only
        }
    }

    fn details(&self) -> Value {
        let [once, each] = self.passes.each_ref().map(|passes| median(&passes.seconds));
        // of each round its own ratio: its passes have had the same moment of the machine
        let [times_once, times_each] = self.passes.each_ref().map(|passes| {
            let rounds = self.seconds.iter().zip(&passes.seconds);
            median(&rounds.map(|(step, passes)| step / passes).collect::<Vec<_>>())
        });
        let memory = self.trainer.memory();
        json!({
            "common_tokens": self.trainer.common(),
            "rows_in_each": self.passes[1].batch.rows(),
            "passes_s": round(once),
            "passes_in_each_s": round(each),
            "times_its_passes": round(times_once),
            "times_passes_in_each": round(times_each),
            "interiors_kept": memory.kept,
            "planned_private_mib": memory.bytes() >> 20,
            "losses": self.losses,
        })
    }
}

/// Forward and backward of a batch.
struct Passes<'a> {
    backend: &'a Cpu,
    decoder: Decoder<Cpu>,
    batch: Batch,
    labels: Labels,
    tape: Tape<Cpu>,
    seconds: Vec<f64>,
}

impl<'a> Passes<'a> {
    /// Of prompts behind placeholders; with `once`, what they have in common is laid once.
    fn new(
        backend: &'a Cpu,
        checkpoint: &Checkpoint,
        samples: &[TrainingSample],
        eraser: &Eraser,
        common: usize,
        once: bool,
    ) -> Result<Self> {
        let decoder = Decoder::load(backend, checkpoint)?;
        let behind = |sample: &TrainingSample| [&vec![0; eraser.tokens][..], &sample.ids].concat();
        let whole: Vec<Vec<u32>> = samples.iter().map(behind).collect();
        let trunk = if once { eraser.tokens + common } else { 0 };
        let branches: Vec<&[u32]> = whole.iter().map(|ids| &ids[trunk..]).collect();
        let batch = Batch::branching(&whole[0][..trunk], &branches);
        let ends = &batch.offsets()[batch.offsets().len() - samples.len()..];
        let rows: Vec<usize> = ends.iter().flat_map(|end| end - eraser.tail..*end).collect();
        let labels = Labels {
            targets: vec![0; rows.len()],
            rows,
        };
        Ok(Self {
            backend,
            tape: Tape::new(backend, &decoder, 0, usize::MAX),
            decoder,
            batch,
            labels,
            seconds: Vec::new(),
        })
    }

    fn step(&mut self, record: bool) {
        let positions = self.batch.positions().iter().max().map_or(0, |last| *last as usize + 1);
        let rope = self.decoder.rope(positions);
        let start = Instant::now();
        let pass = Pass::inference(self.backend, &self.batch, &rope);
        let (decoder, tape) = (&mut self.decoder, &mut self.tape);
        decoder.ends().embed(self.backend, &self.batch, tape.hidden_mut());
        tape.forward(decoder, &pass);
        tape.backward_to_input(
            decoder,
            &pass,
            &self.labels,
            &mut CrossEntropy { weight: 1.0 },
            &mut (),
            &mut Frozen,
            |_, _, _| ControlFlow::Continue(()),
        );
        if record {
            self.seconds.push(start.elapsed().as_secs_f64());
        }
    }
}
