//! `midblock plan`: what training and analysing a model would take, on this machine or on many of another kind.

use crate::{args, checkpoint, inspect::bytes_text, rates::Memory};
use anyhow::{Result, bail};
use midblock::{
    adapt::{Kind, LoraOptions, Plan, Recipe, Scaling},
    costs::{self, Costs, Rates, StepSize, WeightBytes},
    model::{
        Architecture,
        memory::{AnalysisSize, TrainingMemory, analysis_bytes},
    },
    train::{rate_of_product, trained},
};
use midblock_kernels::Cpu;
use serde_json::{Value, json};
use std::io::Write;

/// Prints costs as text or JSON.
pub fn run(args: &args::Plan, common: &args::Common) -> Result<()> {
    let (name, mut checkpoint) = match (&args.checkpoint, args.shape) {
        (Some(spec), None) => (spec.clone(), checkpoint::open(spec, common)?),
        (None, Some(shape)) => (
            shape.model().to_owned(),
            shape.checkpoint(Some(midblock_kernels::Dtype::BF16))?,
        ),
        _ => bail!("name either a CHECKPOINT or a --shape"),
    };
    let architecture = Architecture::resolve(checkpoint.config())?;
    let plan = plan(args, &architecture)?;
    let stored = WeightBytes::of(&checkpoint, &architecture);
    if let Some(kind) = args.quantize {
        checkpoint.quantize(kind, &plan.moved_whole())?;
    }
    let weights = WeightBytes::of(&checkpoint, &architecture);
    let rates = rates(args, &architecture);
    let step = Step::of(args, &architecture, &plan, &weights, checkpoint.quantized_bytes());
    let analysis = Analysis::of(args, &architecture, &stored);
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({
                "model": name, "parameters": architecture.parameters(), "trained_parameters": plan.parameters(),
                "weight_bytes": weights.all(), "machines": args.machines,
                "rates": {"flop_per_s": rates.flop_per_s, "read_bytes_per_s": rates.read_bytes_per_s,
                          "sent_bytes_per_s": rates.sent_bytes_per_s, "latency_s": rates.latency_s},
                "step": step.json(&rates), "analysis": analysis.json(&rates),
            }))?
        );
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    let giga = |value: f64| 1e-9 * value;
    writeln!(
        out,
        "model       {name}: {} parameters, {} trained; weights take {}",
        architecture.parameters(),
        plan.parameters(),
        size(weights.all()),
    )?;
    writeln!(
        out,
        "a machine   {:.0} GFLOP/s, reads {:.1} GB/s{}",
        giga(rates.flop_per_s),
        giga(rates.read_bytes_per_s),
        match args.machines.get() {
            1 => String::new(),
            n => format!(
                "; {n} of them, which send {:.1} GB/s and take {:.0} µs for a message",
                giga(rates.sent_bytes_per_s),
                1e6 * rates.latency_s
            ),
        }
    )?;
    step.print(&mut out, &rates)?;
    analysis.print(&mut out, &rates)?;
    Ok(())
}

/// What is trained: LoRA of some blocks with the budget of a uniform rank, or the parameters themselves.
fn plan(args: &args::Plan, architecture: &Architecture) -> Result<Plan> {
    let kind = match args.full {
        true => Kind::Full,
        false => Kind::Lora(LoraOptions {
            rank: args.rank.get(),
            alpha: None,
            dropout: 0.0,
            scaling: Scaling::default(),
        }),
    };
    let recipe = Recipe {
        kind,
        layers: args.layers.parse()?,
        modules: None,
        extra: Vec::new(),
        seed: 0,
    };
    if recipe.layers.needs_scores().is_some() {
        bail!(
            "--layers {}: it needs a model's numbers, and a plan has none\n  help: `midblock tune --dry-run` knows them",
            args.layers
        );
    }
    Ok(Plan::resolve(architecture, &recipe, None)?)
}

/// As given, or as this machine has them.
fn rates(args: &args::Plan, architecture: &Architecture) -> Rates {
    let rows = args.batch.get() * args.length.get();
    Rates {
        flop_per_s: args
            .gflops
            .map_or_else(|| rate_of_product(&Cpu::new(), architecture, rows), |rate| 1e9 * rate),
        read_bytes_per_s: args
            .bandwidth
            .map_or_else(|| Memory::new().bytes_per_s(), |rate| 1e9 * rate),
        sent_bytes_per_s: 1e9 * args.network,
        latency_s: 1e-6 * args.latency,
    }
}

/// An optimiser step.
struct Step {
    machines: usize,
    tokens: usize,
    costs: Costs,
    memory: TrainingMemory,
    mapped: usize,
}

impl Step {
    fn of(args: &args::Plan, a: &Architecture, plan: &Plan, weights: &WeightBytes, quantized: usize) -> Self {
        let rows = args.batch.get() * args.length.get();
        let lengths: Vec<_> = trained(plan)
            .iter()
            .map(|(id, shape)| (*id, shape.iter().product()))
            .collect();
        let memory =
            TrainingMemory::plan::<Cpu>(a, &lengths, [rows; 2], plan.copies(), false, 0, None).with_weights(quantized);
        let tokens = rows * args.accumulation.get();
        let size = StepSize {
            tokens: tokens as f64,
            labelled: tokens as f64,
            micro_batches: args.accumulation.get(),
            again: memory.blocks - memory.kept,
            cached: false,
            ranks: args.machines.get(),
        };
        Self {
            machines: args.machines.get(),
            tokens,
            costs: costs::step(a, plan, weights, &size),
            memory,
            mapped: weights.all() - quantized,
        }
    }

    fn tokens_per_s(&self, rates: &Rates) -> f64 {
        (self.machines * self.tokens) as f64 / self.costs.seconds(rates)
    }

    fn print(&self, out: &mut impl Write, rates: &Rates) -> std::io::Result<()> {
        let Costs {
            flop,
            read_bytes,
            sent_bytes,
            ..
        } = self.costs;
        let (sends, summing) = match self.machines {
            1 => (String::new(), String::new()),
            _ => (
                format!(", sends {:.1} MB", 1e-6 * sent_bytes),
                format!(", {:.3} s of them to sum gradients", self.costs.sending_s(rates)),
            ),
        };
        writeln!(
            out,
            "step        {} tokens a machine: {:.2} TFLOP, reads {:.1} GB of weights{sends}",
            self.tokens,
            1e-12 * flop,
            1e-9 * read_bytes,
        )?;
        writeln!(
            out,
            "            {:.2} s{summing}: {:.1} tokens/s in all",
            self.costs.seconds(rates),
            self.tokens_per_s(rates)
        )?;
        writeln!(
            out,
            "            {} private: {} of quantised weights, {} of parameters, gradients and moments, {} of a batch; {} mapped",
            size(self.memory.bytes()),
            size(self.memory.weights),
            size(self.memory.state),
            size(self.memory.bytes() - self.memory.weights - self.memory.state),
            size(self.mapped),
        )
    }

    fn json(&self, rates: &Rates) -> Value {
        json!({
            "tokens_a_machine": self.tokens, "flop": self.costs.flop, "read_bytes": self.costs.read_bytes,
            "sent_bytes": self.costs.sent_bytes, "messages": self.costs.messages,
            "seconds": self.costs.seconds(rates), "sending_s": self.costs.sending_s(rates),
            "tokens_per_s": self.tokens_per_s(rates), "private_bytes": self.memory.bytes(),
            "quantised_bytes": self.memory.weights, "mapped_bytes": self.mapped,
        })
    }
}

/// An analysis of a base and a variant that share no block, its texts dealt to the machines.
struct Analysis {
    texts: usize,
    costs: Costs,
    private: usize,
    mapped: usize,
}

impl Analysis {
    const MODELS: usize = 2;

    fn of(args: &args::Plan, a: &Architecture, weights: &WeightBytes) -> Self {
        let texts = args.samples.get().div_ceil(args.machines.get());
        let tokens = args.length.get();
        let size = AnalysisSize {
            samples: texts,
            tokens,
            token_samples: texts.min(50),
        };
        Self {
            texts,
            costs: costs::analysis(a, weights, Self::MODELS, (texts * tokens) as f64),
            private: analysis_bytes::<Cpu>(a, Self::MODELS, size),
            mapped: Self::MODELS * (weights.blocks / a.blocks).max(weights.embedding),
        }
    }

    fn print(&self, out: &mut impl Write, rates: &Rates) -> std::io::Result<()> {
        writeln!(
            out,
            "analysis    base and variant, {} texts a machine: {:.2} TFLOP, reads {:.1} GB of weights",
            self.texts,
            1e-12 * self.costs.flop,
            1e-9 * self.costs.read_bytes
        )?;
        writeln!(
            out,
            "            {:.1} s before metrics; {} private, and {} mapped at a time",
            self.costs.seconds(rates),
            size(self.private),
            size(self.mapped)
        )
    }

    fn json(&self, rates: &Rates) -> Value {
        json!({
            "texts_a_machine": self.texts, "flop": self.costs.flop, "read_bytes": self.costs.read_bytes,
            "seconds": self.costs.seconds(rates), "private_bytes": self.private, "mapped_bytes_at_a_time": self.mapped,
        })
    }
}

fn size(bytes: usize) -> String {
    bytes_text(bytes as u64)
}
