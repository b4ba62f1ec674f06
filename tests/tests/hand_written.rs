//! A kernel that this project did not generate, executed as the PTX that NVRTC makes of it: the hand-written MLA decode
//! beside the repository (512 + 64, pages of 64 tokens, LSE in base 2). Held to f64 and checked under every schedule; each
//! barrier and wait that is taken out must be noticed.

use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use mlafuse_runtime::nvrtc::{CudaSource, Nvrtc};
use mlafuse_tensor::{DType, HostTensor, write_safetensors};
use mlafuse_tests::case::Numbers;
use ptxsim::check::{CheckOptions, check};
use ptxsim::launch_file::LaunchFile;
use ptxsim::machine::Options;
use ptxsim::mutate::{Fate, MutateOptions, mutate};
use serde_json::json;
use std::ops::Range;
use std::path::{Path, PathBuf};

const D_LATENT: usize = 512;
const D_ROPE: usize = 64;
const WIDTH: usize = D_LATENT + D_ROPE;
const PAGE: usize = 64;
/// Tokens of a step of the kernel's loop, and heads of a block.
const TILE: usize = 32;
const BLOCK_HEADS: usize = 64;

/// The source; `None`, with a notice, where it does not lie beside the repository and may be missing.
fn source() -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/kernels/mla_decode_sm80.cu");
    if let Ok(text) = std::fs::read_to_string(&path) {
        return Some(text);
    }
    let required = std::env::var("MLAFUSE_REQUIRE_FIXTURES").is_ok_and(|value| value == "1");
    assert!(!required, "{} is missing", path.display());
    eprintln!("skipped: {} is missing", path.display());
    None
}

fn compile(nvrtc: &Nvrtc, text: String, arch: &str) -> String {
    let source = CudaSource {
        name: "mla_decode_sm80.cu".to_string(),
        text,
        arch: arch.to_string(),
        options: Vec::new(),
    };
    nvrtc.compile(&source).unwrap().ptx
}

/// A batch of sequences of these lengths, at least 1 each.
struct Batch {
    lengths: Vec<usize>,
    heads: usize,
    splits: usize,
}

impl Batch {
    fn pages_each(&self) -> usize {
        self.lengths.iter().max().unwrap().div_ceil(PAGE) + 1
    }

    /// The tokens of a split of a sequence: whole tiles, as the kernel divides them.
    fn tokens(&self, length: usize, split: usize) -> Range<usize> {
        let tiles = length.div_ceil(TILE);
        let each = tiles.div_ceil(self.splits);
        let bound = |tile: usize| (tile.min(tiles) * TILE).min(length);
        bound(split * each)..bound((split + 1) * each)
    }

    /// Writes a launch with random inputs and its f64 reference; the launch file's path.
    fn write(&self, dir: &Path, ptx: &str) -> PathBuf {
        let mut numbers = Numbers::new(11);
        let (sequences, pages_each) = (self.lengths.len(), self.pages_each());
        let pages = sequences * pages_each + 1;
        let mut draw = |shape: &[usize]| {
            let values: Vec<f64> = (0..shape.iter().product()).map(|_| numbers.normal()).collect();
            HostTensor::from_f64(shape, &values).unwrap().to_dtype(DType::BF16)
        };
        let q = draw(&[sequences, self.heads, WIDTH]);
        let cache = draw(&[pages, PAGE, WIDTH]);
        let table = self.table();
        let scale = (std::f64::consts::LOG2_E / (192_f64).sqrt()) as f32;
        let lengths: Vec<i32> = self.lengths.iter().map(|&length| length as i32).collect();
        let inputs = [
            ("q", q.clone()),
            ("cache", cache.clone()),
            ("table", HostTensor::from_i32(&[sequences, pages_each], &table).unwrap()),
            ("lengths", HostTensor::from_i32(&[sequences], &lengths).unwrap()),
        ];
        write_safetensors(dir.join("in.safetensors"), &inputs).unwrap();
        let references = self.reference(&q.to_f64_vec(), &cache.to_f64_vec(), &table, f64::from(scale));
        write_safetensors(dir.join("want.safetensors"), &references).unwrap();
        std::fs::write(dir.join("kernel.ptx"), ptx).unwrap();
        let tensor = |name: &str| json!({ "tensor": format!("in.safetensors#{name}") });
        let output = |name: &str, shape: &[usize]| json!({ "output": name, "dtype": "f32", "shape": shape });
        let parts = [sequences, self.splits, self.heads];
        let launch = json!({
            "ptx": "kernel.ptx",
            "entry": "mla_decode",
            "grid": [self.heads.div_ceil(BLOCK_HEADS), sequences, self.splits],
            "block": [256, 1, 1],
            "dynamic_shared": (BLOCK_HEADS + 2 * TILE) * WIDTH * 2 + BLOCK_HEADS * TILE * 2 + 2 * BLOCK_HEADS * 4,
            "args": [
                tensor("q"), tensor("cache"), tensor("table"), {"i32": pages_each}, tensor("lengths"),
                output("part", &[sequences, self.splits, self.heads, D_LATENT]), output("lse", &parts),
                {"i32": self.heads}, {"i32": self.splits}, {"f32": scale},
            ],
            "reference": { "file": "want.safetensors", "rel_l2": 3e-3 },
        });
        let path = dir.join("LAUNCH.json");
        std::fs::write(&path, launch.to_string()).unwrap();
        path
    }

    /// Pages from the last to the first; entries past a sequence's length hold what must never be looked at.
    fn table(&self) -> Vec<i32> {
        let (pages_each, count) = (self.pages_each(), self.lengths.len() * self.pages_each());
        let entry = |(sequence, entry): (usize, usize)| {
            let used = entry * PAGE < self.lengths[sequence];
            let page = count - (sequence * pages_each + entry);
            if used { page as i32 } else { 2_147_480_000 }
        };
        let entries = |sequence| (0..pages_each).map(move |entry| (sequence, entry));
        (0..self.lengths.len()).flat_map(entries).map(entry).collect()
    }

    /// LSE in base 2 of each part, -inf where it has no tokens, and the parts themselves where all have.
    fn reference(&self, q: &[f64], cache: &[f64], table: &[i32], scale: f64) -> Vec<(&'static str, HostTensor)> {
        let shape = [self.lengths.len(), self.splits, self.heads];
        let (mut parts, mut lse) = (Vec::new(), Vec::new());
        for (sequence, &length) in self.lengths.iter().enumerate() {
            let row = |token: usize| {
                let page = table[sequence * self.pages_each() + token / PAGE] as usize;
                &cache[(page * PAGE + token % PAGE) * WIDTH..][..WIDTH]
            };
            for split in 0..self.splits {
                for head in 0..self.heads {
                    let query = &q[(sequence * self.heads + head) * WIDTH..][..WIDTH];
                    let rows: Vec<&[f64]> = self.tokens(length, split).map(row).collect();
                    let score = |row: &&[f64]| query.iter().zip(*row).map(|(a, b)| a * b).sum::<f64>() * scale;
                    let scores: Vec<f64> = rows.iter().map(score).collect();
                    let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp2()).collect();
                    let sum: f64 = weights.iter().sum();
                    lse.push(if rows.is_empty() {
                        f64::NEG_INFINITY
                    } else {
                        most + sum.log2()
                    });
                    let column = |d: usize| rows.iter().zip(&weights).map(|(row, w)| row[d] * w).sum::<f64>() / sum;
                    parts.extend((0..D_LATENT).map(column));
                }
            }
        }
        let mut references = vec![("lse", HostTensor::from_f64(&shape, &lse).unwrap())];
        if lse.iter().all(|value| value.is_finite()) {
            let shape = [shape[0], shape[1], shape[2], D_LATENT];
            references.push(("part", HostTensor::from_f64(&shape, &parts).unwrap()));
        }
        references
    }
}

/// Checks a batch under every schedule; no report is allowed, and outputs are equal bit for bit.
#[track_caller]
fn must_pass(batch: &Batch, ptx: &str) {
    let dir = tempfile::tempdir().unwrap();
    let launch = LaunchFile::read(&batch.write(dir.path(), ptx)).unwrap();
    let result = check(&launch, launch.kernel(), &CheckOptions::default(), &|_, _| ()).unwrap();
    assert!(
        result.findings.is_empty(),
        "lengths {:?}, {} splits: {:#?}",
        batch.lengths,
        batch.splits,
        result.findings
    );
    assert_eq!(result.runs, result.planned);
}

/// Ordinary lengths and those about a page, whole and in parts.
#[test]
fn decode_is_right_and_free_of_races() {
    passes_on(
        "sm_80",
        &[
            (&[1, 63, 64, 65], 1),
            (&[1000], 1),
            (&[1, 63, 64, 65, 1000], 2),
            (&[65, 1000], 3),
            (&[1000, 200, 97, 225], 4),
        ],
    );
}

/// NVRTC's other dialect.
#[test]
fn so_it_is_in_the_dialect_of_blackwell() {
    passes_on("sm_100a", &[(&[1, 63, 64, 65], 1), (&[1000], 3)]);
}

fn passes_on(arch: &str, batches: &[(&[usize], usize)]) {
    let (Some(source), Some(nvrtc)) = (source(), nvrtc_or_skip()) else {
        return;
    };
    let ptx = compile(&nvrtc, source, arch);
    for &(lengths, splits) in batches {
        let batch = Batch {
            lengths: lengths.to_vec(),
            heads: 16,
            splits,
        };
        must_pass(&batch, &ptx);
    }
}

#[test]
fn every_barrier_and_wait_is_needed() {
    let (Some(source), Some(nvrtc)) = (source(), nvrtc_or_skip()) else {
        return;
    };
    let ptx = compile(&nvrtc, source, "sm_80");
    let batch = Batch {
        lengths: vec![200],
        heads: 16,
        splits: 1,
    };
    let dir = tempfile::tempdir().unwrap();
    let launch = LaunchFile::read(&batch.write(dir.path(), &ptx)).unwrap();
    let result = mutate(&launch, &MutateOptions::default(), &|_, _| ()).unwrap();
    assert!(result.findings.is_empty(), "{:#?}", result.findings);
    let survivors: Vec<_> = result
        .mutants
        .iter()
        .filter(|(_, fate)| matches!(fate, Fate::Survived { .. }))
        .collect();
    assert!(survivors.is_empty(), "{survivors:#?}");
    // Five bar.sync, two waits and three commits, some of them in more than one way.
    assert!(result.mutants.len() >= 10, "{:#?}", result.mutants);
}

/// The counters of a launch follow from its shape.
#[test]
fn counters_are_what_the_shape_says() {
    let (Some(source), Some(nvrtc)) = (source(), nvrtc_or_skip()) else {
        return;
    };
    let ptx = compile(&nvrtc, source, "sm_80");
    let (length, heads, splits) = (1024, 64, 2);
    let batch = Batch {
        lengths: vec![length],
        heads,
        splits,
    };
    let dir = tempfile::tempdir().unwrap();
    let launch = LaunchFile::read(&batch.write(dir.path(), &ptx)).unwrap();
    let outcome = launch.run(launch.kernel(), &Options::default()).unwrap().outcome;
    assert!(
        outcome.reports.is_empty() && outcome.completed,
        "{:#?}",
        outcome.reports
    );
    let total = outcome.statistics.total;
    let flops = 2 * heads * length * (WIDTH + D_LATENT);
    assert_eq!(total.tensor_flops, flops as u64);
    assert_eq!(total.shared_wavefronts, total.shared_wavefronts_ideal);
    let read = |name: &str| {
        let traffic = &outcome.statistics.traffic;
        traffic
            .iter()
            .find(|traffic| traffic.allocation.contains(name))
            .unwrap()
            .sectors_read
    };
    assert_eq!(read("cache"), (length * WIDTH * 2 / 32) as u64);
    assert_eq!(read("q"), (heads * WIDTH * 2 / 32) as u64);
}
