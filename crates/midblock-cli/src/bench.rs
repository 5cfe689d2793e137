//! `midblock bench`: what this machine can do and how much of it the engine uses, as JSON, with checksums.

mod erasing;
mod generation;
mod training;

use crate::{args, checkpoint};
use anyhow::{Result, ensure};
use midblock::{
    checkpoint::Checkpoint,
    costs::WeightBytes,
    model::{Architecture, Batch, Decoder, ParameterId, Scratch},
    rng,
    run::Machine,
};
use midblock_kernels::{Accumulate, Backend, Cpu, Dtype, StoredMatrix, baseline::gemm_linear};
use rand::RngExt;
use serde_json::{Value, json};
use std::time::Instant;

/// Name of the head among the products.
const HEAD: &str = "lm_head";

/// Most rounds that warm caches and clocks up before timing.
const WARM_UP: usize = 2;

/// Runs the products and the forward pass in turns, so that all figures share the machine's good and bad moments.
pub fn run(args: &args::Bench, common: &args::Common) -> Result<()> {
    let several = args.quantize.len() > 1;
    ensure!(
        !several || (args.train.is_some() && args.objective.is_none()),
        "--quantize: several formats are timed in turns with --train, and without --objective"
    );
    let first = args.quantize.first().copied();
    let checkpoint = weights(args, first, common)?;
    let backend = Cpu::new();
    if let Some(new) = args.generate {
        let report = generation::run(&backend, &checkpoint, new.get(), args)?;
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    let architecture = Architecture::resolve(checkpoint.config())?;
    let mut rows = args.batch.get() * args.length.get();
    let (label, bytes) = (
        checkpoint.label().to_owned(),
        WeightBytes::of(&checkpoint, &architecture),
    );
    let mut timed: Box<dyn Timed> = match args.train {
        None if args.erase => {
            let steps = erasing::Steps::new(
                &backend,
                [weights(args, first, common)?, weights(args, first, common)?],
                args,
            )?;
            rows = steps.rows();
            Box::new(steps)
        }
        None => Box::new(Forward::new(&backend, &checkpoint, args)?),
        Some(kind) => {
            let others = args.quantize.iter().skip(1);
            let others: Vec<(Dtype, Checkpoint)> = others
                .map(|dtype| Ok((*dtype, weights(args, Some(*dtype), common)?)))
                .collect::<Result<_>>()?;
            Box::new(training::Steps::new(&backend, &checkpoint, &others, kind, args)?)
        }
    };
    drop(checkpoint); // what is trained has its own values
    let warm_up = WARM_UP.min(args.steps.get());
    for _ in 0..warm_up {
        timed.step(false)?;
    }
    let peak = midblock::run::peak_rss_bytes(); // before the products' own operands
    let mut products = Products::new(&architecture, rows);
    for round in 0..warm_up + args.steps.get() {
        products.step(&backend, round >= warm_up);
        timed.step(round >= warm_up)?;
    }
    let floor = products.gemm_floor_s(timed.products());
    let report = json!({
        "checkpoint": label,
        "blocks_stored_as": first.map(|dtype| dtype.to_string()),
        "weights_mib": bytes.all() >> 20,
        "threads": rayon::current_num_threads(),
        "rows": rows,
        "steps": args.steps.get(),
        "products": products.report(),
        "what": timed.name(),
        "timing": timing(timed.seconds(), rows, floor),
        "details": timed.details(),
        "peak_rss_mib": peak.map(|bytes| bytes >> 20),
    });
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// The weights to run, with the matrices of the blocks in the format given.
fn weights(args: &args::Bench, dtype: Option<Dtype>, common: &args::Common) -> Result<Checkpoint> {
    let Some(spec) = &args.checkpoint else {
        let checkpoint = args.shape.checkpoint(dtype)?;
        let bytes = WeightBytes::of(&checkpoint, &Architecture::resolve(checkpoint.config())?).all() as u64;
        let memory = Machine::this().memory_bytes;
        ensure!(
            memory == 0 || bytes < memory,
            "--shape: its random weights take {} GiB, and this machine has {} GiB of memory\n  help: --quantize q4_0 makes them smaller",
            bytes >> 30,
            memory >> 30
        );
        return Ok(checkpoint);
    };
    match dtype {
        None => Ok(checkpoint::open(spec, common)?),
        Some(dtype) if Dtype::QUANTIZERS.contains(&dtype) => {
            let kind = dtype.to_string().parse().map_err(anyhow::Error::msg)?;
            Ok(checkpoint::open_quantized(spec, Some(kind), common)?)
        }
        Some(dtype) => {
            let checkpoint = checkpoint::open(spec, common)?;
            let architecture = Architecture::resolve(checkpoint.config())?;
            let matrices = ParameterId::all(&architecture).into_iter();
            let matrices = matrices.filter(|(id, shape)| id.block().is_some() && shape.len() == 2);
            for (id, _) in matrices {
                let name = id.name(&architecture);
                let stored = checkpoint.describe(&name).map(|(stored, _)| stored);
                ensure!(
                    stored.is_none_or(|stored| stored == dtype),
                    "--quantize {dtype}: `{name}` of {spec} is stored as {}, and a checkpoint's matrices stay so or become one of {}",
                    stored.map_or_else(String::new, |stored| stored.to_string()),
                    Dtype::QUANTIZERS.map(|dtype| dtype.to_string()).join(", ")
                );
            }
            Ok(checkpoint)
        }
    }
}

/// Something that is timed in turns with the products.
trait Timed {
    /// What it is.
    fn name(&self) -> String;
    /// Does it once.
    fn step(&mut self, record: bool) -> Result<()>;
    /// Seconds of each recorded step.
    fn seconds(&self) -> &[f64];
    /// How often it multiplies: all matrices of a block, and the head.
    fn products(&self) -> Counts;
    /// A checksum and what else there is to say.
    fn details(&self) -> Value;
}

/// How often something multiplies with all rows.
struct Counts {
    /// All matrices of how many blocks.
    blocks: usize,
    /// The head.
    head: usize,
}

/// Tokens per second, and how near they are to the time that the matrix products alone take with the `gemm` crate.
fn timing(seconds: &[f64], rows: usize, floor: f64) -> Value {
    let tokens = rows as f64;
    let typical = median(seconds);
    json!({
        "tokens_per_s": round(tokens / typical),
        "median_s": round(typical),
        "min_s": round(seconds.iter().copied().fold(f64::INFINITY, f64::min)),
        "max_s": round(seconds.iter().copied().fold(0.0, f64::max)),
        "gemm_floor_tokens_per_s": round(tokens / floor),
        "share_of_gemm_rate": round(floor / typical),
    })
}

/// The matrix products of one block and the head: the engine's against the `gemm` crate's.
struct Products {
    rows: usize,
    shapes: Vec<Shape>,
}

struct Shape {
    name: &'static str,
    n: usize,
    k: usize,
    x: Vec<f32>,
    w: Vec<f32>,
    ours_s: Vec<f64>,
    gemm_s: Vec<f64>,
    largest_difference: f32,
}

impl Products {
    fn new(architecture: &Architecture, rows: usize) -> Self {
        let mut random = rng::stream(0, "bench", &[]);
        let mut values = |len: usize| (0..len).map(|_| random.random::<f32>() - 0.5).collect::<Vec<f32>>();
        let shape = |&(name, [n, k], _): &(&'static str, [usize; 2], bool)| Shape {
            name,
            n,
            k,
            x: values(rows * k),
            w: values(n * k),
            ours_s: Vec::new(),
            gemm_s: Vec::new(),
            largest_difference: 0.0,
        };
        let head = (HEAD, [architecture.vocab, architecture.hidden], false);
        Self {
            rows,
            shapes: architecture
                .block_shape()
                .linears
                .iter()
                .chain([&head])
                .map(shape)
                .collect(),
        }
    }

    fn step(&mut self, backend: &Cpu, record: bool) {
        let rows = self.rows;
        for shape in &mut self.shapes {
            let (n, k) = (shape.n, shape.k);
            let mut expected = vec![0.0; rows * n];
            let start = Instant::now();
            gemm_linear(rows, n, k, &shape.x, &shape.w, &mut expected);
            let gemm_s = start.elapsed().as_secs_f64();

            let matrix = backend.matrix(StoredMatrix::from_f32([n, k], &shape.w));
            let x = backend.upload(&shape.x);
            let mut y = backend.zeros(rows * n);
            let start = Instant::now();
            backend.linear(&x, &matrix, rows, Accumulate::Write, &mut y);
            let ours_s = start.elapsed().as_secs_f64();

            let mut got = vec![0f32; rows * n];
            backend.read(&y, 0, &mut got);
            let difference = got
                .iter()
                .zip(&expected)
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            shape.largest_difference = shape.largest_difference.max(difference);
            if record {
                shape.gemm_s.push(gemm_s);
                shape.ours_s.push(ours_s);
            }
        }
    }

    /// Median seconds the `gemm` crate takes for so many products.
    fn gemm_floor_s(&self, counts: Counts) -> f64 {
        let seconds =
            |shape: &Shape| median(&shape.gemm_s) * if shape.name == HEAD { counts.head } else { counts.blocks } as f64;
        self.shapes.iter().map(seconds).sum()
    }

    fn report(&self) -> Value {
        let one = |shape: &Shape| {
            let gflop = 2e-9 * (self.rows * shape.n * shape.k) as f64;
            let (ours, gemm) = (median(&shape.ours_s), median(&shape.gemm_s));
            json!({
                "name": shape.name,
                "out_in": [shape.n, shape.k],
                "ours_gflop_per_s": round(gflop / ours),
                "gemm_gflop_per_s": round(gflop / gemm),
                "ours_over_gemm": round(gemm / ours),
                "largest_difference": shape.largest_difference,
            })
        };
        self.shapes.iter().map(one).collect()
    }
}

/// The whole forward pass with all hidden states looked at.
struct Forward<'a> {
    backend: &'a Cpu,
    decoder: Decoder<Cpu>,
    batch: Batch,
    length: usize,
    scratch: Scratch<Cpu>,
    seconds: Vec<f64>,
    checksum: f64,
}

impl<'a> Forward<'a> {
    fn new(backend: &'a Cpu, checkpoint: &Checkpoint, args: &args::Bench) -> Result<Self> {
        let decoder = Decoder::load(backend, checkpoint)?;
        let batch = Batch::new(&sequences(decoder.architecture().vocab, args));
        let scratch = Scratch::new(backend);
        Ok(Self {
            backend,
            decoder,
            batch,
            length: args.length.get(),
            scratch,
            seconds: Vec::new(),
            checksum: 0.0,
        })
    }
}

impl Timed for Forward<'_> {
    fn name(&self) -> String {
        "forward, all hidden states".to_owned()
    }

    fn step(&mut self, record: bool) -> Result<()> {
        let mut checksum = 0.0;
        let start = Instant::now();
        let rope = self.decoder.rope(self.length);
        let tap = |_, hidden: &_| {
            let mut first = [0f64];
            self.backend.read(hidden, 0, &mut first);
            checksum += first[0];
        };
        self.decoder
            .forward(self.backend, &self.batch, &rope, &mut self.scratch, tap);
        if record {
            self.seconds.push(start.elapsed().as_secs_f64());
        }
        self.checksum = checksum;
        Ok(())
    }

    fn seconds(&self) -> &[f64] {
        &self.seconds
    }

    fn products(&self) -> Counts {
        Counts {
            blocks: self.decoder.architecture().blocks,
            head: 0,
        }
    }

    fn details(&self) -> Value {
        let architecture = self.decoder.architecture();
        let flop = (self.batch.rows() * architecture.blocks * architecture.block_flops_per_token()) as f64;
        json!({
            "gflop_per_s": round(1e-9 * flop / median(&self.seconds)),
            "checksum": self.checksum,
        })
    }
}

/// Random token ids.
fn sequences(vocab: usize, args: &args::Bench) -> Vec<Vec<u32>> {
    let mut random = rng::stream(1, "bench", &[]);
    let mut sequence = |_| {
        (0..args.length.get())
            .map(|_| random.random_range(0..vocab as u32))
            .collect()
    };
    (0..args.batch.get()).map(&mut sequence).collect()
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len.is_multiple_of(2) => 0.5 * (sorted[len / 2 - 1] + sorted[len / 2]),
        len => sorted[len / 2],
    }
}

/// Four significant digits: what a timing is worth.
fn round(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}
