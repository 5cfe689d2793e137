//! What frozen parts of a model say of each sample: it never changes, so that it is computed once.
//!
//! The output of the frozen blocks below the first trained one, for instance: epochs from the second on start at that block. Memory is
//! used first, up to a bound, then a nameless temporary file, up to another; samples beyond both are computed every time. Values are
//! kept as the f32 that the backend computes in, and a row's value does not depend on its batch, so results are the same bits with and
//! without. A disk that refuses to take more only ends the caching; what does not come back as it was is computed again.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::PathBuf,
};

/// Where a cache may keep how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Folder of the temporary file.
    pub folder: PathBuf,
}

/// How much a cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheUse {
    /// Samples cached.
    pub samples: usize,
    /// Bytes in memory.
    pub memory_bytes: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
}

/// See the module's documentation.
pub(super) struct StateCache {
    options: CacheOptions,
    places: HashMap<u64, Place>,
    file: Option<File>,
    used: CacheUse,
}

enum Place {
    Memory(Vec<f32>),
    Disk(Stretch),
}

/// Bytes of the temporary file.
#[derive(Clone, Copy)]
struct Stretch {
    offset: u64,
    len: usize,
    checksum: u32,
}

impl StateCache {
    pub fn new(options: CacheOptions) -> Self {
        Self {
            options,
            places: HashMap::new(),
            file: None,
            used: CacheUse::default(),
        }
    }

    pub fn used(&self) -> CacheUse {
        self.used
    }

    /// What is kept of a sample, if anything is and can be read.
    pub fn get(&mut self, key: u64) -> Option<Vec<f32>> {
        let stretch = match self.places.get(&key)? {
            Place::Memory(values) => return Some(values.clone()),
            Place::Disk(stretch) => *stretch,
        };
        match self.read(stretch) {
            Ok(values) => Some(values),
            Err(problem) => {
                tracing::warn!(folder = %self.options.folder.display(), %problem, "cached states are computed again");
                self.places.remove(&key);
                self.used.samples = self.places.len();
                None
            }
        }
    }

    fn read(&mut self, stretch: Stretch) -> io::Result<Vec<f32>> {
        let mut bytes = vec![0; stretch.len];
        let file = self.file.as_mut().expect("invariant: something was written to it");
        file.seek(SeekFrom::Start(stretch.offset))?;
        file.read_exact(&mut bytes)?;
        if crc32c::crc32c(&bytes) != stretch.checksum {
            return Err(io::Error::other("they are not what was written"));
        }
        let (values, _) = bytes.as_chunks::<4>();
        Ok(values.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    /// Keeps the values of a sample, if there is room and they are not there already.
    pub fn insert(&mut self, key: u64, values: &[f32]) {
        if self.places.contains_key(&key) {
            return; // a batch of which another sample was missing
        }
        let bytes = size_of_val(values) as u64;
        if self.used.memory_bytes + bytes <= self.options.memory_bytes {
            self.used.memory_bytes += bytes;
            self.places.insert(key, Place::Memory(values.to_vec()));
        } else if self.used.disk_bytes + bytes <= self.options.disk_bytes {
            let Ok(stretch) = self.append(values) else {
                self.options.disk_bytes = 0; // full or gone: what is there stays good
                return;
            };
            self.places.insert(key, Place::Disk(stretch));
            self.used.disk_bytes += bytes;
        } else {
            return;
        }
        self.used.samples = self.places.len();
    }

    fn append(&mut self, values: &[f32]) -> io::Result<Stretch> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(tempfile::tempfile_in(&self.options.folder)?),
        };
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        file.seek(SeekFrom::Start(self.used.disk_bytes))?;
        file.write_all(&bytes)?;
        Ok(Stretch {
            offset: self.used.disk_bytes,
            len: bytes.len(),
            checksum: crc32c::crc32c(&bytes),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(memory_bytes: u64, disk_bytes: u64, folder: PathBuf) -> StateCache {
        StateCache::new(CacheOptions {
            memory_bytes,
            disk_bytes,
            folder,
        })
    }

    #[test]
    fn memory_then_disk_then_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = cache(8, 12, folder.path().into());
        let samples: [&[f32]; 4] = [&[1.0, f32::MIN_POSITIVE], &[-0.0], &[3.5, 7.25], &[9.0]];
        for (key, values) in samples.iter().enumerate() {
            cache.insert(key as u64, values);
            cache.insert(key as u64, values); // takes no room again
        }
        let found: Vec<_> = (0..5).map(|key| cache.get(key)).collect();
        let kept = |i: usize| Some(samples[i].to_vec());
        assert_eq!(found, [kept(0), kept(1), kept(2), None, None]);
        let used = CacheUse {
            samples: 3,
            memory_bytes: 8,
            disk_bytes: 12,
        };
        assert_eq!(cache.used(), used);
    }

    #[test]
    fn a_disk_that_refuses_ends_the_caching_only() {
        let mut cache = cache(4, 1 << 20, "/nowhere".into());
        cache.insert(0, &[1.0]);
        cache.insert(1, &[2.0]);
        assert_eq!(cache.get(0), Some(vec![1.0]));
        assert_eq!(cache.get(1), None);
    }

    #[test]
    fn what_does_not_come_back_as_it_was_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = cache(0, 1 << 20, folder.path().into());
        for key in 0..3 {
            cache.insert(key, &[key as f32, 1.0]);
        }
        let file = cache.file.as_mut().unwrap();
        file.seek(SeekFrom::Start(9)).unwrap(); // in the second
        file.write_all(&[0x55]).unwrap();
        file.set_len(20).unwrap(); // cuts the third
        let found: Vec<_> = (0..3).map(|key| cache.get(key)).collect();
        assert_eq!(found, [Some(vec![0.0, 1.0]), None, None]);
        assert_eq!(cache.used().samples, 1);
        cache.insert(1, &[1.0, 1.0]);
        assert_eq!(cache.get(1), Some(vec![1.0, 1.0]));
    }
}
