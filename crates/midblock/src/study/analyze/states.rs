//! What all models say of all samples at one layer: as bytes, and put together from shards.
//!
//! The bytes are a safetensors file: for track t and data set d `pooled.t.d` (N, D) f64, `views.t.d` (N, VIEWS, D) f64 where views
//! are wanted, `tokens.t.d` (ΣT, D) f32, and the lengths `token_lengths.d` (samples kept token by token) i64. Layer and members of
//! the tracks are in the header's `layer_states`.

use super::Shard;
use crate::{
    Error, Result,
    checkpoint::shards::explain,
    metrics::{Capture, VIEWS},
};
use safetensors::{
    Dtype, SafeTensors,
    tensor::{TensorView, View},
};
use serde::{Deserialize, Serialize};
use std::{borrow::Cow, collections::HashMap, path::Path};

const FORMAT: &str = "layer states";
/// The entry of the file's header that holds [`Header`].
const HEADER: &str = "layer_states";

/// States of every model at one layer, over some samples.
#[derive(Clone, Debug, Default)]
pub struct LayerStates {
    /// 0 is the embedding, `l` the output of block `l`.
    pub layer: usize,
    /// Sorted by their first member; the base is in the first.
    pub tracks: Vec<TrackStates>,
}

/// States of models that say the same up to this layer.
#[derive(Clone, Debug, Default)]
pub struct TrackStates {
    /// Indices of the models, ascending; 0 is the base.
    pub members: Vec<usize>,
    /// One for each data set.
    pub captures: Vec<Capture>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    layer: usize,
    tracks: Vec<Vec<usize>>,
    datasets: usize,
}

impl LayerStates {
    /// As the bytes of a file.
    pub fn encode(&self) -> Vec<u8> {
        let header = serde_json::to_string(&self.header()).expect("invariant: numbers can be written as JSON");
        let mut tensors = Vec::new();
        for (t, track) in self.tracks.iter().enumerate() {
            for (d, capture) in track.captures.iter().enumerate() {
                let (n, width) = (capture.samples(), capture.dim);
                let mut push = |name: &str, shape: &[usize], values| {
                    let shape = shape.to_vec();
                    tensors.push((format!("{name}.{t}.{d}"), Stored { shape, values }));
                };
                push("pooled", &[n, width], Values::F64(&capture.pooled));
                if !capture.views.is_empty() {
                    push("views", &[n, VIEWS, width], Values::F64(&capture.views));
                }
                let rows = capture.tokens.iter().map(Vec::len).sum::<usize>() / width.max(1);
                push("tokens", &[rows, width], Values::F32(&capture.tokens));
            }
        }
        let first = self.tracks.first().map_or(&[][..], |track| &track.captures);
        for (d, capture) in first.iter().enumerate() {
            let length = |tokens: &Vec<f32>| (tokens.len() / capture.dim.max(1)) as i64;
            let lengths: Vec<i64> = capture.tokens.iter().map(length).collect();
            let shape = vec![lengths.len()];
            let values = Values::I64(lengths);
            tensors.push((format!("token_lengths.{d}"), Stored { shape, values }));
        }
        safetensors::serialize(tensors, Some(HashMap::from([(HEADER.to_owned(), header)])))
            .expect("invariant: names differ, and shapes are those of the values")
    }

    /// From the bytes of the file `path`, which is for messages.
    ///
    /// # Errors
    /// [`Error::Malformed`] saying what is wrong with them.
    pub fn decode(path: &Path, bytes: &[u8]) -> Result<Self> {
        let stored =
            SafeTensors::deserialize(bytes).map_err(|error| Error::malformed(path, FORMAT, explain(&error, bytes)))?;
        let reader = Reader { path, stored };
        let header = reader.header(bytes)?;
        let lengths: Vec<Vec<usize>> = (0..header.datasets).map(|d| reader.lengths(d)).collect::<Result<_>>()?;
        let track = |(t, members): (usize, Vec<usize>)| {
            let capture = |(d, lengths): (usize, &Vec<usize>)| reader.capture(t, d, lengths);
            let captures = lengths.iter().enumerate().map(capture).collect::<Result<_>>()?;
            Ok(TrackStates { members, captures })
        };
        Ok(Self {
            layer: header.layer,
            tracks: header
                .tracks
                .into_iter()
                .enumerate()
                .map(track)
                .collect::<Result<_>>()?,
        })
    }

    fn header(&self) -> Header {
        Header {
            layer: self.layer,
            tracks: self.tracks.iter().map(|track| track.members.clone()).collect(),
            datasets: self.tracks.first().map_or(0, |track| track.captures.len()),
        }
    }

    /// The states of all samples in their order, from those of all shards in theirs.
    ///
    /// # Errors
    /// [`Error::Mismatch`] if they are not all shards of one analysis at one layer.
    pub fn join(shards: Vec<Self>) -> Result<Self> {
        let Some(first) = shards.first() else {
            return Ok(Self::default());
        };
        let (header, of) = (first.header(), shards.len());
        for (index, shard) in shards.iter().enumerate() {
            let own = shard.header();
            if own != header {
                return Err(differs(
                    index,
                    of,
                    "what a file holds",
                    format!("{header:?}"),
                    format!("{own:?}"),
                ));
            }
        }
        let mut start = 0; // number of the data set's first sample
        let mut starts = Vec::new();
        for dataset in 0..header.datasets {
            starts.push(start);
            start += check_shares(&shards, dataset, start)?;
        }
        let mut shards: Vec<_> = shards.into_iter().map(|shard| shard.tracks.into_iter()).collect();
        let track = |members: Vec<usize>| {
            let mut shares: Vec<_> = shards
                .iter_mut()
                .map(|tracks| {
                    tracks
                        .next()
                        .map(|track| track.captures)
                        .unwrap_or_default()
                        .into_iter()
                })
                .collect();
            let of_dataset = |start: &usize| interleave(shares.iter_mut().filter_map(Iterator::next).collect(), *start);
            TrackStates {
                members,
                captures: starts.iter().map(of_dataset).collect(),
            }
        };
        Ok(Self {
            layer: header.layer,
            tracks: header.tracks.into_iter().map(track).collect(),
        })
    }
}

fn differs(index: usize, of: usize, what: &str, left: String, right: String) -> Error {
    Error::Mismatch {
        left: format!("shard {}", Shard::new(0, of)),
        right: format!("shard {}", Shard::new(index, of)),
        what: what.to_owned(),
        left_value: left,
        right_value: right,
        help: "all shards must be of one analysis; make this one again".to_owned(),
    }
}

/// Whether each shard has its samples of a data set whose first has the number `start`; how many there are in all.
fn check_shares(shards: &[LayerStates], dataset: usize, start: usize) -> Result<usize> {
    let of = shards.len();
    for track in 0..shards[0].tracks.len() {
        let capture = |shard: &'_ LayerStates| {
            let capture = &shard.tracks[track].captures[dataset];
            (capture.samples(), capture.tokens.len(), capture.dim)
        };
        let all: Vec<_> = shards.iter().map(capture).collect();
        let sum = |of: fn(&(usize, usize, usize)) -> usize| all.iter().map(of).sum::<usize>();
        let (samples, by_token) = (sum(|share| share.0), sum(|share| share.1));
        for (index, share) in all.iter().enumerate() {
            let held = |count: usize| Shard::new(index, of).of_range(start..start + count).count();
            let expected = (held(samples), held(by_token), all[0].2);
            if *share != expected {
                let what = format!(
                    "samples, samples kept token by token and width of data set {}",
                    dataset + 1
                );
                return Err(differs(index, of, &what, format!("{expected:?}"), format!("{share:?}")));
            }
        }
    }
    let count = |shard: &LayerStates| {
        shard
            .tracks
            .first()
            .map_or(0, |track| track.captures[dataset].samples())
    };
    Ok(shards.iter().map(count).sum())
}

/// Deals the samples of a data set back; the first of them has the number `start`.
fn interleave(mut shares: Vec<Capture>, start: usize) -> Capture {
    let (of, dim) = (shares.len(), shares[0].dim);
    let sum = |count: fn(&Capture) -> usize| shares.iter().map(count).sum::<usize>();
    let (samples, by_token) = (sum(Capture::samples), sum(|share| share.tokens.len()));
    let mut whole = Capture {
        dim,
        pooled: Vec::with_capacity(samples * dim),
        views: Vec::with_capacity(sum(|share| share.views.len())),
        tokens: Vec::with_capacity(by_token),
    };
    let mut next = vec![0; of];
    for place in 0..samples {
        let from = (start + place) % of;
        let (share, row) = (&mut shares[from], next[from]);
        next[from] += 1;
        whole.pooled.extend_from_slice(&share.pooled[row * dim..][..dim]);
        if !share.views.is_empty() {
            whole
                .views
                .extend_from_slice(&share.views[row * VIEWS * dim..][..VIEWS * dim]);
        }
        if place < by_token {
            whole.tokens.push(std::mem::take(&mut share.tokens[row]));
        }
    }
    whole
}

/// A tensor that becomes bytes when its turn comes.
struct Stored<'a> {
    shape: Vec<usize>,
    values: Values<'a>,
}

enum Values<'a> {
    F64(&'a [f64]),
    F32(&'a [Vec<f32>]),
    I64(Vec<i64>),
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        match self.values {
            Values::F64(_) => Dtype::F64,
            Values::F32(_) => Dtype::F32,
            Values::I64(_) => Dtype::I64,
        }
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match &self.values {
            Values::F64(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Values::F32(values) => values.iter().flatten().flat_map(|v| v.to_le_bytes()).collect(),
            Values::I64(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype().bitsize() / 8
    }
}

/// Reads tensors and says of each what is wrong with it.
struct Reader<'a> {
    path: &'a Path,
    stored: SafeTensors<'a>,
}

impl Reader<'_> {
    fn malformed(&self, problem: impl Into<String>) -> Error {
        Error::malformed(self.path, FORMAT, problem)
    }

    fn header(&self, bytes: &[u8]) -> Result<Header> {
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|error| self.malformed(error.to_string()))?;
        let entry = metadata.metadata().as_ref().and_then(|entries| entries.get(HEADER));
        let text = entry.ok_or_else(|| self.malformed(format!("its header has no `{HEADER}`")))?;
        serde_json::from_str(text).map_err(|error| self.malformed(format!("`{HEADER}` in its header: {error}")))
    }

    fn tensor(&self, name: &str, dtype: Dtype) -> Result<TensorView<'_>> {
        let tensor = self
            .stored
            .tensor(name)
            .map_err(|error| self.malformed(format!("{name}: {error}")))?;
        if tensor.dtype() != dtype {
            return Err(self.malformed(format!("`{name}` is {:?}, expected {dtype:?}", tensor.dtype())));
        }
        Ok(tensor)
    }

    fn check(&self, name: &str, tensor: &TensorView<'_>, expected: &[usize]) -> Result<()> {
        match tensor.shape() == expected {
            true => Ok(()),
            false => Err(self.malformed(format!(
                "`{name}` has shape {:?}, expected {expected:?}",
                tensor.shape()
            ))),
        }
    }

    fn f64s(&self, name: &str, expected: Option<&[usize]>) -> Result<(Vec<f64>, Vec<usize>)> {
        let tensor = self.tensor(name, Dtype::F64)?;
        if let Some(expected) = expected {
            self.check(name, &tensor, expected)?;
        }
        let (values, _) = tensor.data().as_chunks::<8>();
        let values = values.iter().map(|bytes| f64::from_le_bytes(*bytes));
        Ok((values.collect(), tensor.shape().to_vec()))
    }

    /// Tokens of each sample that is kept token by token.
    fn lengths(&self, dataset: usize) -> Result<Vec<usize>> {
        let name = format!("token_lengths.{dataset}");
        let tensor = self.tensor(&name, Dtype::I64)?;
        let (values, _) = tensor.data().as_chunks::<8>();
        let values = values.iter().map(|bytes| usize::try_from(i64::from_le_bytes(*bytes)));
        values
            .collect::<Result<_, _>>()
            .map_err(|error| self.malformed(format!("`{name}`: {error}")))
    }

    fn capture(&self, track: usize, dataset: usize, lengths: &[usize]) -> Result<Capture> {
        let name = |what: &str| format!("{what}.{track}.{dataset}");
        let (pooled, shape) = self.f64s(&name("pooled"), None)?;
        let &[samples, dim] = shape.as_slice() else {
            return Err(self.malformed(format!("`{}` has shape {shape:?}, expected (N, D)", name("pooled"))));
        };
        let views = match self.stored.names().contains(&name("views").as_str()) {
            true => self.f64s(&name("views"), Some(&[samples, VIEWS, dim]))?.0,
            false => Vec::new(),
        };
        let stored = self.tensor(&name("tokens"), Dtype::F32)?;
        let rows = lengths.iter().try_fold(0_usize, |sum, length| sum.checked_add(*length));
        self.check(&name("tokens"), &stored, &[rows.unwrap_or(usize::MAX), dim])?;
        let (values, _) = stored.data().as_chunks::<4>();
        let mut rest = values;
        let mut sample = |length: &usize| {
            let (own, after) = rest.split_at(length * dim);
            rest = after;
            own.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        };
        let tokens = lengths.iter().map(&mut sample).collect();
        Ok(Capture {
            dim,
            pooled,
            views,
            tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sample's values say which it is: number n, of track t, has n + 1000·t in all places.
    fn states(shard: Shard, sizes: &[usize], by_token: usize) -> LayerStates {
        let mut start = 0;
        let mut tracks = vec![TrackStates::default(), TrackStates::default()];
        (tracks[0].members, tracks[1].members) = (vec![0, 2], vec![1]);
        for &size in sizes {
            let numbers: Vec<usize> = shard.of_range(start..start + size).collect();
            for (t, track) in tracks.iter_mut().enumerate() {
                let value = |number: &usize| (number + 1000 * t) as f64;
                let rows = |each: usize| numbers.iter().flat_map(move |n| vec![value(n); each]).collect();
                let kept = numbers.iter().filter(|number| **number < start + by_token);
                track.captures.push(Capture {
                    dim: 2,
                    pooled: rows(2),
                    views: rows(2 * VIEWS),
                    tokens: kept.map(|n| vec![value(n) as f32; 2 * (1 + n % 3)]).collect(),
                });
            }
            start += size;
        }
        LayerStates { layer: 7, tracks }
    }

    /// Everything, NaN included.
    fn text(states: &LayerStates) -> String {
        format!("{states:?}")
    }

    #[test]
    fn joined_shards_are_the_whole() {
        let whole = states(Shard::WHOLE, &[5, 9], 3);
        for of in [1, 2, 3, 4, 11, 20] {
            let shards = (0..of).map(|index| states(Shard::new(index, of), &[5, 9], 3)).collect();
            assert_eq!(text(&LayerStates::join(shards).unwrap()), text(&whole), "{of} shards");
        }
    }

    #[test]
    fn what_is_encoded_reads_back_to_the_same_bits() {
        let mut whole = states(Shard::WHOLE, &[5, 9], 3);
        whole.tracks[1].captures[0].views[3] = f64::NAN;
        whole.tracks[0].captures[1].tokens[0][1] = -0.0;
        let read = |states: &LayerStates| LayerStates::decode(Path::new("x"), &states.encode()).unwrap();
        assert_eq!(text(&read(&whole)), text(&whole));
        let empty = states(Shard::new(15, 16), &[5, 9], 3);
        assert_eq!(text(&read(&empty)), text(&empty));
        whole
            .tracks
            .iter_mut()
            .flat_map(|t| &mut t.captures)
            .for_each(|c| c.views.clear());
        assert_eq!(text(&read(&whole)), text(&whole));
    }

    #[test]
    fn bytes_that_are_cut_or_something_else_are_refused() {
        let good = states(Shard::WHOLE, &[4], 2).encode();
        for len in (0..good.len()).step_by(7) {
            let error = LayerStates::decode(Path::new("a/layer.safetensors"), &good[..len]).unwrap_err();
            assert!(
                error
                    .to_string()
                    .starts_with("a/layer.safetensors: not a valid layer states file"),
                "{error}"
            );
        }
        let plain = safetensors::serialize(
            [(
                "x",
                Stored {
                    shape: vec![1],
                    values: Values::F64(&[1.0]),
                },
            )],
            None,
        );
        let error = LayerStates::decode(Path::new("a"), &plain.unwrap())
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("its header has no `layer_states`"), "{error}");
    }

    #[test]
    fn shards_of_other_analyses_do_not_join() {
        let shard = |index| states(Shard::new(index, 2), &[6], 3);
        let problem = |shards| LayerStates::join(shards).unwrap_err().to_string();
        let swapped = problem(vec![
            states(Shard::new(1, 2), &[7], 3),
            states(Shard::new(0, 2), &[7], 3),
        ]);
        assert!(
            swapped.contains("of data set 1 is (4, 2, 2) against (3, 1, 2)"),
            "{swapped}"
        );
        let other = LayerStates { layer: 6, ..shard(1) };
        let problem = problem(vec![shard(0), other]);
        assert!(problem.starts_with("shard 1/2 and shard 2/2 do not match"), "{problem}");
    }
}
