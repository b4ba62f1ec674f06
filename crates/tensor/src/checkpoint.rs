//! Reading a checkpoint folder, in one file or in shards.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use serde::Deserialize;

use crate::safetensors_file::{MAX_HEADER_BYTES, io_error, near_names, regular_file_bytes};
use crate::{HostTensor, Result, SafetensorsFile, StoredTensor, TensorError};

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";

/// A folder with a model's weights as Hugging Face lays them out: `model.safetensors`, or
/// `model.safetensors.index.json` and the shards it names. Where both are there, the single file is
/// read.
///
/// A shard is mapped when a tensor of it is first asked for, so a layer of a large model can be read
/// where the other layers' shards are absent.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    /// The file that names the tensors: the single file, or the index.
    listing: PathBuf,
    shards: Vec<Shard>,
    /// Tensor name to index in `shards`.
    shard_of: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: OnceLock<SafetensorsFile>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens the single file, or reads the index.
    ///
    /// # Errors
    /// [`TensorError::NoCheckpoint`] for a folder with neither; [`TensorError::Index`];
    /// [`TensorError::ShardName`] for a shard that is an absolute path or goes up by `..`; those of
    /// [`SafetensorsFile::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let (single, index) = (dir.join(SINGLE_FILE), dir.join(INDEX_FILE));
        if single.exists() {
            Self::open_single(dir, &single)
        } else if index.exists() {
            Self::open_sharded(dir, &index)
        } else {
            // A folder that cannot be read at all has the better message.
            fs::read_dir(dir).map_err(|source| io_error("open folder", dir, source))?;
            Err(TensorError::NoCheckpoint { path: dir.into() })
        }
    }

    fn open_single(dir: &Path, path: &Path) -> Result<Self> {
        let file = SafetensorsFile::open(path)?;
        let shard_of = file.names().map(|name| (name.to_owned(), 0)).collect();
        let shard = Shard {
            path: path.into(),
            file: OnceLock::from(file),
        };
        Ok(Self {
            dir: dir.into(),
            listing: path.into(),
            shards: vec![shard],
            shard_of,
        })
    }

    fn open_sharded(dir: &Path, index: &Path) -> Result<Self> {
        let mut shards: Vec<Shard> = Vec::new();
        let mut shard_of = BTreeMap::new();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (tensor, found) in read_index(index)?.weight_map {
            if !stays_inside(&found) {
                return Err(TensorError::ShardName {
                    path: index.into(),
                    tensor,
                    found,
                });
            }
            let path = dir.join(&found);
            let shard = *seen.entry(found).or_insert_with(|| {
                shards.push(Shard {
                    path,
                    file: OnceLock::new(),
                });
                shards.len() - 1
            });
            shard_of.insert(tensor, shard);
        }
        tracing::debug!(index = %index.display(), shards = shards.len(), tensors = shard_of.len(), "read index");
        Ok(Self {
            dir: dir.into(),
            listing: index.into(),
            shards,
            shard_of,
        })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.shard_of.keys().map(String::as_str)
    }

    /// Whether the checkpoint lists a tensor of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.shard_of.contains_key(name)
    }

    /// The tensor; maps its shard if that has not been done yet.
    ///
    /// # Errors
    /// [`TensorError::MissingTensor`], with up to three near names; those of
    /// [`SafetensorsFile::open`] and [`SafetensorsFile::tensor`] for its shard.
    pub fn tensor(&self, name: &str) -> Result<HostTensor> {
        self.file_of(name)?.tensor(name)
    }

    /// The tensor, of any type, which must have this shape.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor), and [`TensorError::TensorShape`].
    pub fn tensor_shaped(&self, name: &str, shape: &[usize]) -> Result<HostTensor> {
        self.file_of(name)?.tensor_shaped(name, shape)
    }

    /// The tensor, of any type, which must have this shape; to be read later.
    ///
    /// # Errors
    /// As [`SafetensorsFile::stored_shaped`], and those of [`SafetensorsFile::open`] for its shard.
    pub fn stored_shaped(&self, name: &str, shape: &[usize]) -> Result<StoredTensor> {
        self.file_of(name)?.stored_shaped(name, shape)
    }

    /// The file that holds a tensor.
    fn file_of(&self, name: &str) -> Result<&SafetensorsFile> {
        match self.shard_of.get(name) {
            Some(&shard) => self.shards[shard].open(),
            None => Err(TensorError::MissingTensor {
                path: self.listing.clone(),
                name: name.to_owned(),
                near: near_names(name, self.names()),
            }),
        }
    }
}

impl Shard {
    fn open(&self) -> Result<&SafetensorsFile> {
        if let Some(file) = self.file.get() {
            return Ok(file);
        }
        // Two threads may both map the file here; the first one's is kept.
        let file = SafetensorsFile::open(&self.path)?;
        Ok(self.file.get_or_init(|| file))
    }
}

fn read_index(path: &Path) -> Result<Index> {
    let found = regular_file_bytes(path)?;
    if found > MAX_HEADER_BYTES {
        return Err(TensorError::FileTooLarge {
            path: path.into(),
            found,
            allowed: MAX_HEADER_BYTES,
        });
    }
    let bytes = fs::read(path).map_err(|source| io_error("read", path, source))?;
    serde_json::from_slice(&bytes).map_err(|source| TensorError::Index {
        path: path.into(),
        source,
    })
}

/// By its text alone: shards that are symbolic links to elsewhere are usual in download caches.
fn stays_inside(shard: &str) -> bool {
    let mut components = Path::new(shard).components().peekable();
    components.peek().is_some() && components.all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write_safetensors;

    fn sharded(weight_map: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (shard, name, value) in [("one.safetensors", "a", 1.0), ("two.safetensors", "b", 2.0)] {
            let tensor = HostTensor::from_f32(&[1], &[value]).unwrap();
            write_safetensors(dir.path().join(shard), &[(name, tensor)]).unwrap();
        }
        let index = format!(r#"{{"metadata":{{"total_size":8}},"weight_map":{weight_map}}}"#);
        fs::write(dir.path().join(INDEX_FILE), index).unwrap();
        dir
    }

    #[test]
    fn shards_are_mapped_when_needed() {
        let dir =
            sharded(r#"{"b":"two.safetensors","a":"one.safetensors","c":"absent.safetensors","d":"one.safetensors"}"#);
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c", "d"]);
        assert_eq!(checkpoint.tensor("b").unwrap().to_f32_vec(), [2.0]);
        let mapped = |c: &Checkpoint| c.shards.iter().filter(|s| s.file.get().is_some()).count();
        assert_eq!(mapped(&checkpoint), 1);
        assert_eq!(checkpoint.tensor_shaped("a", &[1]).unwrap().to_f32_vec(), [1.0]);
        let absent = checkpoint.tensor("c").unwrap_err().to_string();
        assert!(absent.contains("absent.safetensors"), "{absent}");
        // The index promises it, the shard has it not.
        let broken = checkpoint.tensor("d").unwrap_err().to_string();
        assert!(
            broken.contains("one.safetensors") && broken.contains("\"d\""),
            "{broken}"
        );
        let unknown = checkpoint.tensor("aa").unwrap_err().to_string();
        assert!(unknown.contains("near names: a"), "{unknown}");
    }

    #[test]
    fn a_single_file_wins_over_an_index() {
        let dir = sharded(r#"{"a":"one.safetensors"}"#);
        let tensor = HostTensor::from_f32(&[2], &[3.0, 4.0]).unwrap();
        write_safetensors(dir.path().join(SINGLE_FILE), &[("a", tensor)]).unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        assert_eq!(checkpoint.tensor("a").unwrap().to_f32_vec(), [3.0, 4.0]);
        let error = checkpoint.tensor_shaped("a", &[1]).unwrap_err().to_string();
        assert!(error.contains("expected shape [1], got [2]"), "{error}");
    }

    #[test]
    fn shards_outside_the_folder_are_refused() {
        for shard in ["/etc/hostname", "../one.safetensors", "x/../../y", "", ".", "./../z"] {
            let dir = sharded(&format!(r#"{{"a":{shard:?}}}"#));
            let error = Checkpoint::open(dir.path()).unwrap_err();
            assert!(
                matches!(&error, TensorError::ShardName { found, .. } if found == shard),
                "{shard}: {error}"
            );
        }
        assert!(stays_inside("part/one.safetensors"));
    }

    #[test]
    fn bad_folders_and_indexes() {
        let dir = tempfile::tempdir().unwrap();
        let none = Checkpoint::open(dir.path()).unwrap_err();
        assert!(matches!(none, TensorError::NoCheckpoint { .. }), "{none}");
        let absent = Checkpoint::open(dir.path().join("absent")).unwrap_err();
        assert!(matches!(absent, TensorError::Io { .. }), "{absent}");
        for text in ["", "[]", "{}", r#"{"weight_map":{"a":1}}"#, "{\"weight_map\":"] {
            fs::write(dir.path().join(INDEX_FILE), text).unwrap();
            let error = Checkpoint::open(dir.path()).unwrap_err();
            assert!(matches!(error, TensorError::Index { .. }), "{text}: {error}");
        }
        fs::remove_file(dir.path().join(INDEX_FILE)).unwrap();
        fs::create_dir(dir.path().join(INDEX_FILE)).unwrap();
        let folder = Checkpoint::open(dir.path()).unwrap_err();
        assert!(matches!(folder, TensorError::NotAFile { .. }), "{folder}");
    }
}
