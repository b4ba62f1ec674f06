//! Damaged files: opening them and reading every tensor must give values or an error, never a
//! panic, and never more bytes than the file has.

use std::fs;
use std::path::Path;

use mlafuse_tensor::{Checkpoint, DType, HostTensor, SafetensorsFile, write_safetensors};

const CASES: usize = 10_000;

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// One to four changes, most of them in the first `header` bytes, where the structure is.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>, header: usize) {
    for _ in 0..1 + random.below(4) {
        let end = if random.below(8) == 0 {
            bytes.len()
        } else {
            header.min(bytes.len())
        };
        let at = random.below(end);
        match random.below(7) {
            0 => bytes.truncate(at),
            1 => bytes.extend((0..random.below(40)).map(|i| i as u8)),
            2 => drop(bytes.drain(at..(at + random.below(8)).min(end))),
            3 => bytes.splice(at..at, b"9".repeat(random.below(20))).for_each(drop),
            4 if !bytes.is_empty() => bytes[at] = b"0123456789{}[],:\"\\ -eF"[random.below(22)],
            5 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            6 if bytes.len() >= 8 => bytes[random.below(8)] = random.next() as u8,
            _ => {}
        }
    }
}

fn valid_tensors() -> Vec<(&'static str, HostTensor)> {
    let base = HostTensor::from_f32(&[2, 3], &[1.0, -2.0, 0.5, 3.0, f32::INFINITY, 0.0]).unwrap();
    let names = ["kv_a", "kv_b", "q_a", "q_b", "lengths", "pages"];
    let mut tensors: Vec<_> = names.into_iter().zip(DType::ALL.map(|t| base.to_dtype(t))).collect();
    tensors.push(("empty", HostTensor::zeros(DType::F32, &[0, 4]).unwrap()));
    tensors
}

/// A new file each time: cutting an old one to nothing makes some file systems flush it to the disk.
fn write_new(path: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(path);
    fs::write(path, bytes).unwrap();
}

/// Uses every byte and every element.
fn read_tensor(tensor: &HostTensor) -> usize {
    let size = tensor.dtype().size_bytes();
    assert_eq!(tensor.bytes().len(), tensor.numel() * size);
    assert_eq!(tensor.bytes().as_ptr().addr() % size, 0);
    assert_eq!(tensor.to_f64_vec().len(), tensor.shape().iter().product::<usize>());
    tensor.bytes().len()
}

/// Whether it opened at all.
fn read_file(path: &Path) -> bool {
    let Ok(file) = SafetensorsFile::open(path) else {
        return false;
    };
    let tensors = file.names().filter_map(|name| file.tensor(name).ok());
    let bytes: usize = tensors.map(|tensor| read_tensor(&tensor)).sum();
    assert!(bytes as u64 <= fs::metadata(path).unwrap().len());
    true
}

#[test]
fn damaged_safetensors_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("case.safetensors");
    write_safetensors(&path, &valid_tensors()).unwrap();
    let valid = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(valid[..8].try_into().unwrap()) as usize;
    assert!(read_file(&path));

    let mut random = Random(1);
    let mut opened = 0;
    for _ in 0..CASES {
        let mut bytes = valid.clone();
        mutate(&mut random, &mut bytes, header);
        write_new(&path, &bytes);
        opened += usize::from(read_file(&path));
    }
    // Damage to a name or a value is not detectable; most other damage must be.
    assert!(opened > 0 && opened < CASES / 2, "{opened} of {CASES} opened");
}

#[test]
fn damaged_indexes() {
    let dir = tempfile::tempdir().unwrap();
    let tensors = valid_tensors();
    let (first, second) = tensors.split_at(3);
    write_safetensors(dir.path().join("a.safetensors"), first).unwrap();
    write_safetensors(dir.path().join("b.safetensors"), second).unwrap();
    let shard = |part: &[(&str, HostTensor)], file: &str| {
        part.iter()
            .map(|(name, _)| format!("\"{name}\":\"{file}\""))
            .collect::<Vec<_>>()
            .join(",")
    };
    let maps = [shard(first, "a.safetensors"), shard(second, "b.safetensors")].join(",");
    let valid = format!("{{\"metadata\":{{\"total_size\":9}},\"weight_map\":{{{maps}}}}}");
    let index = dir.path().join("model.safetensors.index.json");

    let mut random = Random(2);
    let (mut opened, mut read) = (0, 0);
    for _ in 0..CASES {
        let mut bytes = valid.clone().into_bytes();
        let len = bytes.len();
        mutate(&mut random, &mut bytes, len);
        write_new(&index, &bytes);
        let Ok(checkpoint) = Checkpoint::open(dir.path()) else {
            continue;
        };
        opened += 1;
        let tensors = checkpoint.names().filter_map(|name| checkpoint.tensor(name).ok());
        for tensor in tensors {
            read_tensor(&tensor);
            read += 1;
        }
    }
    assert!(opened > 0 && opened < CASES, "{opened} of {CASES} opened");
    assert!(read > 0);
}

#[test]
fn every_truncation_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("case.safetensors");
    write_safetensors(&path, &valid_tensors()).unwrap();
    let valid = fs::read(&path).unwrap();
    for len in 0..valid.len() {
        write_new(&path, &valid[..len]);
        assert!(!read_file(&path), "{len} of {} bytes opened", valid.len());
    }
}
