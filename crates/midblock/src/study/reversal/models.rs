//! The three models of a carve, each loaded when it is first asked.

use super::ModelOf;
use crate::{
    Error, Result,
    checkpoint::Checkpoint,
    generate::Engine,
    run::{FileHash, ModelInfo},
    study::{
        battery::{Cells, Subject},
        carve::{CarvePhase, CarveRun},
    },
    tokens::Tokenizer,
    train::MODEL,
};
use midblock_kernels::Backend;
use serde_json::json;
use std::path::Path;

/// The fine-tuned model and the carrier.
pub(super) struct Opened {
    sft: Checkpoint,
    carrier: Checkpoint,
}

/// Opens what a carve has left, and checks that the study's base is the carve's. What they are, is a cell: a study goes on only with the
/// models that it has begun with.
pub(super) fn open<B: Backend>(
    subject: &Subject<'_, B>,
    carve: &CarveRun,
    dir: &Path,
    cells: &Cells,
) -> Result<Opened> {
    let base = &subject.models[0];
    let content = |files: &[FileHash]| {
        let hashes = files.iter().map(|file| file.blake3.get(..12).unwrap_or_default());
        hashes.collect::<Vec<_>>().join(" ")
    };
    let own = content(&base.checkpoint.fingerprint()?);
    let carved = carve.run.models.first().map(|model: &ModelInfo| content(&model.files));
    if let Some(carved) = carved.filter(|carved| *carved != own) {
        return Err(Error::Mismatch {
            left: dir.display().to_string(),
            right: base.checkpoint.label().to_owned(),
            what: "the content of the base".into(),
            left_value: carved,
            right_value: own,
            help: "leave out `model.base`: the carve names its own".into(),
        });
    }
    let carrier = dir.join(CarvePhase::Carrier.name()).join(MODEL);
    let open = |spec: &str| Checkpoint::open(spec, subject.hub, subject.on_transfer);
    let opened = Opened {
        sft: open(&carve.dense(dir))?,
        carrier: open(&carrier.display().to_string())?,
    };
    let identity = json!({
        "content of sft": content(&opened.sft.fingerprint()?),
        "content of the carrier": content(&opened.carrier.fingerprint()?),
    });
    cells.cell("reversal-models", &identity, || Ok(()))?;
    Ok(opened)
}

/// Engines of the three.
pub(super) struct Models<'a, B: Backend> {
    backend: &'a B,
    tokenizer: &'a Tokenizer,
    checkpoints: [&'a Checkpoint; 3],
    engines: [Option<Engine<'a, B>>; 3],
    batch: usize,
    stop: &'a dyn Fn() -> bool,
}

impl<'a, B: Backend> Models<'a, B> {
    pub fn new(subject: &Subject<'a, B>, opened: &'a Opened, batch: usize, stop: &'a dyn Fn() -> bool) -> Self {
        Self {
            backend: subject.backend,
            tokenizer: subject.tokenizer,
            checkpoints: [subject.models[0].checkpoint, &opened.sft, &opened.carrier],
            engines: [None, None, None],
            batch,
            stop,
        }
    }

    pub fn checkpoint(&self, model: ModelOf) -> &'a Checkpoint {
        self.checkpoints[model as usize]
    }

    /// The engine of a model.
    pub fn engine(&mut self, model: ModelOf) -> Result<&mut Engine<'a, B>> {
        let engine = &mut self.engines[model as usize];
        if engine.is_none() {
            let made = Engine::new(
                self.backend,
                self.checkpoints[model as usize],
                self.tokenizer,
                self.batch,
            )?;
            *engine = Some(made.stopping(self.stop));
        }
        Ok(engine.as_mut().expect("invariant: it was just made"))
    }

    /// KL(p ‖ q) in nats at each place, p of one model's states and q of another's.
    pub fn divergences(&mut self, one: (ModelOf, &[f32]), other: (ModelOf, &[f32])) -> Result<Vec<f64>> {
        for model in [one.0, other.0] {
            self.engine(model)?;
        }
        let of = |model: ModelOf| self.engines[model as usize].as_ref().expect("invariant: it is loaded");
        of(one.0).divergences(one.1, of(other.0), other.1)
    }
}
