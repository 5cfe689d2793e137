//! Singular blocks on disk: computed once for each matrix, whichever run asks.
//!
//! One safetensors file a block, `KEY.safetensors` with KEY the BLAKE3 hash of the version of the method, shape, k and values:
//! another matrix never finds it, and a checkpoint under another name does. Its header states the hash of its data. A file
//! that is damaged, or not the block it claims to be, is computed again and replaced.
//!
//! Files appear complete or not at all. The cache is bounded: beyond 16 GiB those that were not used for the longest time go
//! (a 7B model with k = 768 takes 8 GiB, SmolLM2-135M with k = 128 0.2 GB). A disk that refuses costs the computation only.
//! What killed processes left half-written goes an hour later.

use super::SingularBlock;
use crate::{Error, Result, atomic::is_partial, progress::Progress, run::write_bytes};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// Changes with the numbers that the method gives.
const VERSION: &str = "midblock singular block v1";
const MOST_BYTES: u64 = 16 << 30;
/// After this a file that is not complete is nobody's any more.
const ABANDONED: Duration = Duration::from_secs(3600);
const EXTENSION: &str = "safetensors";
/// Name of the header's entry with the hash of the data.
const HASH: &str = "blake3";

/// Where blocks are kept, if anywhere.
#[derive(Clone, Debug)]
pub struct SingularCache {
    dir: Option<PathBuf>,
    most_bytes: u64,
}

impl SingularCache {
    /// `None`: nothing is kept.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self {
            dir,
            most_bytes: MOST_BYTES,
        }
    }

    /// The user's own: `$MIDBLOCK_CACHE/singular`, else `$XDG_CACHE_HOME/midblock/singular`, else
    /// `~/.cache/midblock/singular`. Nothing is kept if there is no home.
    pub fn of_user() -> Self {
        let var = |name| {
            std::env::var_os(name)
                .filter(|value| !value.is_empty())
                .map(PathBuf::from)
        };
        let user_cache = || var("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")));
        let own = var("MIDBLOCK_CACHE").or_else(|| Some(user_cache()?.join("midblock")));
        Self::new(own.map(|dir| dir.join("singular")))
    }

    /// The `k` leading triplets of `values` (out, in), all of them if there are no more than `k`: read if they are there,
    /// computed and kept otherwise. `name` is for messages. Progress is asked only whether to stop.
    ///
    /// # Errors
    /// Those of [`SingularBlock::of`].
    ///
    /// # Panics
    /// As [`SingularBlock::of`].
    pub fn block(
        &self,
        name: &str,
        values: &[f32],
        shape: [usize; 2],
        k: usize,
        progress: &dyn Progress,
    ) -> Result<SingularBlock> {
        if progress.cancelled() {
            return Err(Error::Interrupted);
        }
        let compute = || SingularBlock::of(name, values, shape, k, progress);
        let Some(dir) = &self.dir else {
            return compute();
        };
        let k = k.min(shape[0]).min(shape[1]);
        let path = dir.join(key(values, shape, k)).with_extension(EXTENSION);
        match read(&path, shape, k) {
            Ok(Some(block)) => return Ok(block),
            Ok(None) => {}
            Err(problem) => {
                tracing::warn!(path = %path.display(), problem, "a cached singular block is computed again")
            }
        }
        let block = compute()?;
        if let Err(error) = self.keep(dir, &path, &block) {
            tracing::warn!(%error, "a singular block is not kept");
        }
        Ok(block)
    }

    fn keep(&self, dir: &Path, path: &Path, block: &SingularBlock) -> Result<()> {
        let bytes = encode(block);
        fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
        make_room(dir, self.most_bytes.saturating_sub(bytes.len() as u64)).map_err(Error::io("make room in", dir))?;
        write_bytes(path, &bytes)
    }
}

/// Name of the block of a matrix: 64 hexadecimal digits.
fn key(values: &[f32], shape: [usize; 2], k: usize) -> String {
    let mut hasher = blake3::Hasher::new_derive_key(VERSION);
    for number in [shape[0], shape[1], k] {
        hasher.update(&(number as u64).to_le_bytes());
    }
    let mut bytes = Vec::new();
    for chunk in values.chunks(1 << 20) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|v| v.to_le_bytes()));
        hasher.update_rayon(&bytes);
    }
    hasher.finalize().to_hex().to_string()
}

fn encode(block: &SingularBlock) -> Vec<u8> {
    let [rows, cols] = block.shape;
    let k = block.directions();
    let parts = [
        ("sigma", vec![k], &block.sigma),
        ("left", vec![k, rows], &block.left),
        ("right", vec![k, cols], &block.right),
    ];
    let parts = parts.map(|(name, shape, values)| {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        (name, shape, bytes)
    });
    let hash = hash_of(parts.iter().map(|(_, _, bytes)| bytes.as_slice()));
    let views = parts.iter().map(|(name, shape, bytes)| {
        let view =
            TensorView::new(Dtype::F32, shape.clone(), bytes).expect("invariant: k vectors of the shape's lengths");
        (*name, view)
    });
    let header = HashMap::from([(HASH.to_owned(), hash)]);
    safetensors::serialize(views, Some(header)).expect("invariant: three tensors of different names")
}

fn hash_of<'a>(parts: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hasher = blake3::Hasher::new();
    parts.for_each(|bytes| {
        hasher.update(bytes);
    });
    hasher.finalize().to_hex().to_string()
}

/// The block in a file, `None` if there is no file; what is wrong with it otherwise. Marks the file as used.
fn read(path: &Path, shape: [usize; 2], k: usize) -> Result<Option<SingularBlock>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let block = decode(&bytes, shape, k)?;
    let touched = File::options()
        .append(true)
        .open(path)
        .and_then(|file| file.set_modified(SystemTime::now()));
    if let Err(error) = touched {
        tracing::debug!(%error, path = %path.display(), "not marked as used");
    }
    Ok(Some(block))
}

fn decode(bytes: &[u8], shape: [usize; 2], k: usize) -> Result<SingularBlock, String> {
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let stored = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let wanted = [
        ("sigma", vec![k]),
        ("left", vec![k, shape[0]]),
        ("right", vec![k, shape[1]]),
    ];
    let mut parts = Vec::with_capacity(wanted.len());
    for (name, shape) in wanted {
        let tensor = stored.tensor(name).map_err(|error| error.to_string())?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            return Err(format!(
                "{name} is {:?} {:?}, expected F32 {shape:?}",
                tensor.dtype(),
                tensor.shape()
            ));
        }
        parts.push(tensor.data());
    }
    let hash = hash_of(parts.iter().copied());
    let stated = header.metadata().as_ref().and_then(|entries| entries.get(HASH));
    if stated != Some(&hash) {
        return Err(format!("the data hash to {hash}, the header states {stated:?}"));
    }
    let [sigma, left, right] = [0, 1, 2].map(|part| {
        let (values, _) = parts[part].as_chunks::<4>();
        values.iter().map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>()
    });
    if ![&sigma, &left, &right].into_iter().flatten().all(|v| v.is_finite()) {
        return Err("a value is not finite".to_owned());
    }
    Ok(SingularBlock {
        shape,
        sigma,
        left,
        right,
    })
}

/// Removes blocks, the longest unused first, until those in `dir` take no more than `bytes`, and what was left half-written.
fn make_room(dir: &Path, bytes: u64) -> io::Result<()> {
    let mut blocks = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == EXTENSION) {
            let metadata = entry.metadata()?;
            blocks.push((metadata.modified()?, metadata.len(), entry.path()));
        } else if is_partial(&entry.file_name().to_string_lossy()) {
            remove_abandoned(&entry)?;
        }
    }
    blocks.sort();
    let mut total: u64 = blocks.iter().map(|(_, len, _)| len).sum();
    for (_, len, path) in blocks {
        if total <= bytes {
            break;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error), // another run may have removed it
            _ => total -= len,
        }
    }
    Ok(())
}

fn remove_abandoned(entry: &fs::DirEntry) -> io::Result<()> {
    let age = entry
        .metadata()
        .and_then(|metadata| metadata.modified())
        .map(|time| time.elapsed());
    match age {
        Ok(Ok(age)) if age > ABANDONED => match fs::remove_file(entry.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        },
        _ => Ok(()), // being written, or gone meanwhile
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        progress::{Silent, Unit},
        rng,
    };

    const SHAPE: [usize; 2] = [6, 4];

    fn matrix(seed: u64) -> Vec<f32> {
        let mut stream = rng::stream(seed, "test matrix", &[]);
        (0..24).map(|_| rng::normal(&mut stream) as f32).collect()
    }

    fn in_folder(dir: &Path) -> SingularCache {
        SingularCache::new(Some(dir.join("made/on/demand")))
    }

    fn files(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir.join("made/on/demand")).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    fn get(cache: &SingularCache, seed: u64, k: usize) -> SingularBlock {
        cache.block("w", &matrix(seed), SHAPE, k, &Silent).unwrap()
    }

    /// Asked for the second time the block comes from the file: a forged one with the right hash is believed.
    #[test]
    fn a_block_is_computed_once() {
        let dir = tempfile::tempdir().unwrap();
        let cache = in_folder(dir.path());
        let mut block = get(&cache, 0, 2);
        assert_eq!(block, SingularBlock::of("w", &matrix(0), SHAPE, 2, &Silent).unwrap());
        assert_eq!(get(&cache, 0, 2), block);
        let [path] = &files(dir.path())[..] else { panic!() };
        block.sigma[1] = 0.125;
        fs::write(path, encode(&block)).unwrap();
        assert_eq!(get(&cache, 0, 2), block);
        assert_eq!(get(&SingularCache::new(None), 0, 2).left, block.left);
    }

    #[test]
    fn other_values_shapes_and_directions_are_other_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let cache = in_folder(dir.path());
        get(&cache, 0, 2);
        get(&cache, 1, 2);
        get(&cache, 0, 3);
        cache.block("w", &matrix(0), [4, 6], 2, &Silent).unwrap();
        assert_eq!(files(dir.path()).len(), 4);
        get(&cache, 0, 4);
        get(&cache, 0, 9); // there are only four
        assert_eq!(files(dir.path()).len(), 5);
    }

    #[test]
    fn a_file_that_is_wrong_in_any_way_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let cache = in_folder(dir.path());
        let block = get(&cache, 0, 2);
        let path = &files(dir.path())[0];
        let good = fs::read(path).unwrap();
        let transposed = SingularBlock {
            shape: [4, 6],
            left: block.right.clone(),
            right: block.left.clone(),
            ..block.clone()
        };
        let mut infinite = block.clone();
        infinite.left[3] = f32::INFINITY;
        let fewer = SingularBlock::of("w", &matrix(0), SHAPE, 1, &Silent).unwrap();
        let mut wrong = vec![Vec::new(), encode(&transposed), encode(&infinite), encode(&fewer)];
        wrong.extend((0..good.len()).map(|len| good[..len].to_vec()));
        let data = good.len() - 4 * (2 + 12 + 8);
        wrong.extend((data..good.len()).map(|at| {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            flipped
        }));
        for bytes in wrong {
            fs::write(path, &bytes).unwrap();
            assert_eq!(get(&cache, 0, 2), block);
            assert_eq!(fs::read(path).unwrap(), good);
        }
    }

    #[test]
    fn the_longest_unused_blocks_go() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = in_folder(dir.path());
        get(&cache, 0, 2);
        let size = fs::metadata(&files(dir.path())[0]).unwrap().len();
        cache.most_bytes = 3 * size;
        get(&cache, 1, 2);
        get(&cache, 2, 2);
        let name = |seed| key(&matrix(seed), SHAPE, 2);
        let path = |seed| {
            dir.path()
                .join("made/on/demand")
                .join(name(seed))
                .with_extension(EXTENSION)
        };
        for (seed, age_s) in [(0, 30), (1, 20), (2, 10)] {
            let time = SystemTime::now() - Duration::from_secs(age_s);
            File::options()
                .append(true)
                .open(path(seed))
                .unwrap()
                .set_modified(time)
                .unwrap();
        }
        get(&cache, 0, 2); // used, so that 1 is the oldest
        get(&cache, 3, 2);
        let mut expected = vec![path(0), path(2), path(3)];
        expected.sort();
        assert_eq!(files(dir.path()), expected);
    }

    #[test]
    fn what_was_left_half_written_goes_after_an_hour() {
        let dir = tempfile::tempdir().unwrap();
        let cache = in_folder(dir.path());
        get(&cache, 0, 2);
        let left = |name: &str, age_s| {
            let path = dir.path().join("made/on/demand").join(name);
            fs::write(&path, "half").unwrap();
            let time = SystemTime::now() - Duration::from_secs(age_s);
            File::options()
                .append(true)
                .open(&path)
                .unwrap()
                .set_modified(time)
                .unwrap();
            path
        };
        let (old, new) = (left(".partial-old", 3700), left(".partial-new", 3500));
        get(&cache, 1, 2);
        assert!(!old.exists() && new.exists());
    }

    #[test]
    fn a_folder_that_cannot_be_used_costs_the_computation_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let cache = SingularCache::new(Some(file));
        assert_eq!(get(&cache, 0, 2), get(&SingularCache::new(None), 0, 2));
    }

    #[test]
    fn it_can_be_interrupted() {
        struct Stop;
        impl Progress for Stop {
            fn begin(&self, _: &str, _: u64, _: Unit) {}
            fn advance(&self, _: u64) {}
            fn cancelled(&self) -> bool {
                true
            }
        }
        let result = SingularCache::new(None).block("w", &matrix(0), SHAPE, 2, &Stop);
        assert!(matches!(result, Err(Error::Interrupted)));
    }
}
