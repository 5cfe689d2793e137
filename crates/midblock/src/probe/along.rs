//! What every route predicts: the tokens asked for, read through each route's final norm and head once all blocks are done.

use super::{Lockstep, Participant, Readout, Route};
use crate::{
    Error, Result,
    progress::{Progress, Unit},
};
use midblock_kernels::{Backend, Prediction};

/// Leads `routes` over the same sequences and gives the predictions of the tokens (sequence, t), t ≥ 1, that are wanted:
/// (routes, sequences, tokens). Where routes do the same they are computed once, and final norm and head of each mix are made
/// once, one at a time. Memory holds the states of every set of routes that do the same to the end.
///
/// # Errors
/// As [`Lockstep::along`] and [`Lockstep::advance`]; [`Error::StateNotFinite`] with the route's name if a prediction is not a
/// number.
pub fn route_predictions<B: Backend>(
    backend: &B,
    participants: &[Participant<'_>],
    routes: Vec<Route>,
    sequences: &[Vec<u32>],
    wanted: &dyn Fn(usize, usize) -> bool,
    progress: &dyn Progress,
) -> Result<Vec<Vec<Vec<Prediction>>>> {
    let count = routes.len();
    let mut lockstep = Lockstep::along(backend, participants, routes, sequences)?;
    let (tokens, blocks) = (sequences.iter().map(Vec::len).sum::<usize>(), lockstep.blocks());
    let unit = Unit::BlockTokens { blocks: blocks as u64 };
    progress.begin("follow routes", (tokens * blocks * count) as u64, unit);
    while let Some(tensors) = lockstep.next_block()? {
        lockstep.advance(&tensors, progress)?;
    }
    let readout = Readout::new(lockstep.batches(), wanted);
    let mixes = lockstep.ends_mixes()?;
    let mut predictions = vec![Vec::new(); count];
    for (first, &mix) in mixes.iter().enumerate() {
        if mixes[..first].contains(&mix) {
            continue;
        }
        let ends = lockstep.ends(mix)?;
        for track in lockstep.tracks() {
            let mut members = track.members.iter().copied().filter(|&route| mixes[route] == mix);
            let Some(member) = members.next() else { continue };
            if progress.cancelled() {
                return Err(Error::Interrupted);
            }
            let read = readout.read(backend, &ends, &track.states);
            members.for_each(|other| predictions[other].clone_from(&read));
            predictions[member] = read;
        }
    }
    for (route, predictions) in lockstep.routes().iter().zip(&predictions) {
        let bad = |tokens: &Vec<Prediction>| tokens.iter().any(|token| !token.nats.is_finite());
        if let Some(sequence) = predictions.iter().position(bad) {
            return Err(Error::StateNotFinite {
                model: route.name.clone(),
                layer: blocks,
                sample: (sequence + 1).to_string(),
            });
        }
    }
    Ok(predictions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkpoint::{Checkpoint, Tensor, WriteOptions},
        hub::HubOptions,
        model::{Architecture, Batch, Decoder, Interior, Keep, Labels, ParameterId, Pass, Scratch},
        probe::Mix,
        progress::Silent,
        rng,
    };
    use midblock_kernels::{Cpu, Dtype};
    use rand::RngExt;
    use std::{path::Path, sync::Arc};
    use tempfile::TempDir;

    const SEQUENCES: usize = 3;

    fn open(spec: &str) -> Checkpoint {
        let hub = HubOptions {
            offline: true,
            ..HubOptions::from_env()
        };
        Checkpoint::open(spec, &hub, &|_| {}).unwrap()
    }

    fn fixture(path: &str) -> Checkpoint {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        open(&root.join(path).display().to_string())
    }

    /// A checkpoint whose tensors are put together by hand.
    fn made(
        dir: &TempDir,
        name: &str,
        from: &Checkpoint,
        dtype: Option<Dtype>,
        values: impl Fn(&Tensor) -> Vec<f32>,
    ) -> Checkpoint {
        let out = dir.path().join(name);
        let options = WriteOptions {
            dtype,
            ..WriteOptions::default()
        };
        from.write(&out, &options, &Silent, |tensor| Ok(values(tensor)))
            .unwrap();
        open(&out.display().to_string())
    }

    /// The base with every number, of norms, embedding and head too, moved by up to 20 %.
    fn variant(dir: &TempDir, base: &Checkpoint) -> Checkpoint {
        made(dir, "variant", base, None, |tensor| {
            let mut random = rng::stream(7, &tensor.name, &[]);
            let values = tensor.to_f32().into_iter();
            values.map(|value| value * random.random_range(0.8..1.2f32)).collect()
        })
    }

    fn participant<'a>(name: &str, checkpoint: &'a Checkpoint) -> Participant<'a> {
        Participant {
            name: name.into(),
            checkpoint,
            architecture: Architecture::resolve(checkpoint.config()).unwrap(),
        }
    }

    fn sequences(vocab: usize) -> Vec<Vec<u32>> {
        let id = |s: usize, t: usize| ((s * 31 + t * 17 + t * t) % vocab) as u32;
        (0..SEQUENCES)
            .map(|s| (0..5 + 2 * s).map(|t| id(s, t)).collect())
            .collect()
    }

    /// Of every next token of every sequence, by a model as a whole.
    fn direct(checkpoint: &Checkpoint, added: &[Option<Arc<[f32]>>]) -> Vec<Vec<Prediction>> {
        let backend = Cpu::new();
        let decoder = Decoder::load(&backend, checkpoint).unwrap();
        let predict = |ids: Vec<u32>| {
            let (batch, rope) = (Batch::new(&[&ids]), decoder.rope(ids.len()));
            let pass = Pass::inference(&backend, &batch, &rope);
            let (mut interior, mut scratch) = (Interior::new(&backend), Scratch::new(&backend));
            let mut hidden = backend.zeros(0);
            decoder.ends().embed(&backend, &batch, &mut hidden);
            for (l, block) in decoder.blocks().iter().enumerate() {
                block.forward(&pass, Keep::Nothing, &mut hidden, &mut interior, &mut scratch);
                if let Some(vector) = added.get(l).and_then(Option::as_ref) {
                    let mut values = vec![0.0; backend.len(&hidden)];
                    backend.read(&hidden, 0, &mut values);
                    let rows = values.chunks_mut(vector.len());
                    rows.for_each(|row| row.iter_mut().zip(vector.iter()).for_each(|(h, v)| *h += v));
                    hidden = backend.upload(&values);
                }
            }
            decoder
                .ends()
                .predictions(&backend, &hidden, &Labels::of(&batch, |_, _| true))
        };
        sequences(decoder.architecture().vocab)
            .into_iter()
            .map(predict)
            .collect()
    }

    fn followed(participants: &[Participant<'_>], routes: Vec<Route>) -> Vec<Vec<Vec<Prediction>>> {
        let sequences = sequences(participants[0].architecture.vocab);
        route_predictions(&Cpu::new(), participants, routes, &sequences, &|_, _| true, &Silent).unwrap()
    }

    /// The checkpoint that a route is made of.
    fn assembled(
        dir: &TempDir,
        name: &str,
        route: &Route,
        models: [&Checkpoint; 2],
        dtype: Option<Dtype>,
    ) -> Checkpoint {
        let architecture = Architecture::resolve(models[0].config()).unwrap();
        made(dir, name, models[0], dtype, |tensor| {
            let mix = match ParameterId::parse(&tensor.name, &architecture).unwrap() {
                ParameterId::Embedding => route.embedding,
                id => id.block().map_or(route.ends, |block| route.blocks[block]),
            };
            let [base, other] = models.map(|model| model.tensor(&tensor.name).unwrap().to_f32());
            let alpha = if mix.variant == 0 { 0.0 } else { mix.alpha };
            let pairs = base.into_iter().zip(other);
            pairs.map(|(a, b)| (1.0 - alpha) * a + alpha * b).collect()
        })
    }

    #[test]
    fn blocks_and_ends_of_another_model_are_those_of_a_checkpoint_made_of_both() {
        // a head of its own, and one that is the embedding
        for (path, tied) in [("fixtures/mistral", false), ("fixtures/llama-tied", true)] {
            let dir = TempDir::new().unwrap();
            let base = fixture(path);
            let variant = variant(&dir, &base);
            let participants = [participant("base", &base), participant("sft", &variant)];
            let blocks = participants[0].architecture.blocks;
            let plain = |participant| Route::of("route", participant, blocks);
            let mut routes = vec![
                plain(0),
                plain(1),
                plain(0).with_blocks(blocks - 1..blocks, 1),
                plain(1).with_blocks(0..1, 0),
            ];
            if !tied {
                routes.extend([plain(0).with_ends(1), plain(1).with_blocks(0..1, 0).with_ends(0)]);
            }
            for (i, (route, got)) in routes.iter().zip(followed(&participants, routes.clone())).enumerate() {
                let whole = assembled(&dir, &i.to_string(), route, [&base, &variant], None);
                assert_eq!(got, direct(&whole, &[]), "{path}, route {i}");
            }
        }
    }

    #[test]
    fn a_transferred_head_reads_the_hosts_own_states() {
        let dir = TempDir::new().unwrap();
        let base = fixture("fixtures/llama-tied");
        let variant = variant(&dir, &base);
        let participants = [participant("base", &base), participant("sft", &variant)];
        let route = Route::of("route", 0, participants[0].architecture.blocks).with_ends(1);
        let backend = Cpu::new();
        let [host, donor] = [&base, &variant].map(|model| Decoder::load(&backend, model).unwrap());
        let ids = &sequences(host.architecture().vocab)[0];
        let (batch, mut scratch) = (Batch::new(&[ids]), Scratch::new(&backend));
        let states = host.forward(&backend, &batch, &host.rope(ids.len()), &mut scratch, |_, _| {});
        let expected = donor
            .ends()
            .predictions(&backend, &states, &Labels::of(&batch, |_, _| true));
        assert_eq!(followed(&participants, vec![route])[0][0], expected);
    }

    #[test]
    fn blends_are_those_of_a_checkpoint_with_blended_numbers() {
        for path in ["fixtures/mistral", "fixtures/llama-tied"] {
            let dir = TempDir::new().unwrap();
            let base = fixture(path);
            let variant = variant(&dir, &base);
            let participants = [participant("base", &base), participant("sft", &variant)];
            let architecture = &participants[0].architecture;
            let alphas: Vec<f32> = (0..architecture.blocks).map(|l| [0.3, 1.0, 0.0, 1.25][l % 4]).collect();
            let reversed: Vec<f32> = alphas.iter().rev().copied().collect();
            let merged = |alphas: &[f32]| Route::merged("route", 1, alphas, architecture);
            let routes = vec![merged(&alphas), merged(&reversed)];
            for (i, (route, got)) in routes.iter().zip(followed(&participants, routes.clone())).enumerate() {
                let whole = assembled(&dir, &i.to_string(), route, [&base, &variant], Some(Dtype::F32));
                for (got, expected) in got.iter().flatten().zip(direct(&whole, &[]).iter().flatten()) {
                    // the same numbers, those that are one model's in other storage formats
                    assert!((got.nats - expected.nats).abs() < 1e-4, "{path}: {got:?}, {expected:?}");
                }
            }
        }
    }

    #[test]
    fn vectors_are_added_after_their_blocks() {
        let base = fixture("fixtures/mistral");
        let participants = [participant("base", &base)];
        let Architecture { blocks, hidden, .. } = participants[0].architecture;
        let vector = |scale: f32| -> Option<Arc<[f32]>> { Some((0..hidden).map(|i| scale * i as f32).collect()) };
        let mut added = vec![None; blocks];
        (added[0], added[blocks - 1]) = (vector(0.01), vector(-0.02));
        let steered = Route {
            added: added.clone(),
            ..Route::of("steered", 0, blocks)
        };
        let plain = Route::of("plain", 0, blocks);
        let got = followed(&participants, vec![plain, steered]);
        assert_eq!(got[0], direct(&base, &[]));
        assert_eq!(got[1], direct(&base, &added));
        assert_ne!(got[0], got[1]);
    }

    #[test]
    fn what_is_common_is_computed_once() {
        let dir = TempDir::new().unwrap();
        let base = fixture("fixtures/llama-tied");
        let variant = variant(&dir, &base);
        let participants = [participant("base", &base), participant("sft", &variant)];
        let blocks = participants[0].architecture.blocks;
        let swapped = |l: usize| Route::of("swapped", 0, blocks).with_blocks(l..l + 1, 1);
        let mut routes: Vec<Route> = (0..blocks).map(swapped).collect();
        // the base in three ways of writing
        routes.push(Route::of("base", 0, blocks));
        routes.push(Route::merged(
            "α 0",
            1,
            &vec![0.0; blocks],
            &participants[0].architecture,
        ));
        routes.push(Route {
            blocks: vec![Mix { variant: 0, alpha: 0.7 }; blocks],
            ..Route::of("base", 0, blocks)
        });
        let backend = Cpu::new();
        let ids = sequences(participants[0].architecture.vocab);
        let mut lockstep = Lockstep::along(&backend, &participants, routes, &ids).unwrap();
        while let Some(tensors) = lockstep.next_block().unwrap() {
            lockstep.advance(&tensors, &Silent).unwrap();
        }
        let tokens: usize = ids.iter().map(Vec::len).sum();
        // route l leaves the base's at block l: L − l blocks of its own
        let passes = blocks + (1..=blocks).sum::<usize>();
        assert_eq!(lockstep.tokens_computed(), (tokens * passes) as u64);
        assert_eq!(lockstep.tracks().len(), blocks + 1);
    }
}
