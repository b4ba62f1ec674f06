//! Damaged launch folders: whatever they hold, reading and running them gives an answer or an error, and no panic.
//!
//! `PTXSIM_FUZZ_ROUNDS` sets how many rounds each folder gets, `PTXSIM_FUZZ_SEED` where they start.

use std::collections::BTreeMap;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ptxsim::launch_file::LaunchFile;
use ptxsim::machine::{Asynchrony, MmaArithmetic, Options, Schedule};

/// Rounds of each folder where nothing else is asked for.
const ROUNDS: u64 = 150;
/// Launches larger than this are read but not run.
const MAX_BYTES: u64 = 16 << 20;
const MAX_BLOCKS: u64 = 64;
/// Instructions of a block: what bounds the time of a round.
const STEPS: u64 = 5_000;

/// Words that a mutated file gets.
const WORDS: [&str; 40] = [
    "-1",
    "0",
    "1",
    "3",
    "33",
    "255",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "18446744073709551615",
    "1e999",
    "-0.0",
    "0f7F800000",
    "0d7FF0000000000000",
    ".b8",
    ".b16",
    ".b64",
    ".f32",
    ".pred",
    ".v2",
    ".v4",
    ".shared",
    ".local",
    ".param",
    ".const",
    ".global",
    "%r1",
    "%rd1",
    "%p1",
    "%tid.x",
    "%clock64",
    "bar.sync",
    "exit;",
    "ret;",
    "{",
    "}",
    "[",
    "]",
    ";",
    "null",
];

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Changes a file in one place.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    match random.below(12) {
        0 => {
            let end = random.below(bytes.len());
            bytes.truncate(end);
        }
        1 => flip(bytes, random),
        2 | 3 => replace_word(bytes, random),
        4 => swap_words(bytes, random),
        5 => repeat_line(bytes, random),
        6 => remove_line(bytes, random),
        7 => change_digit(bytes, random),
        _ => replace_by_like(bytes, random),
    }
}

fn flip(bytes: &mut [u8], random: &mut Random) {
    let place = random.below(bytes.len());
    if let Some(byte) = bytes.get_mut(place) {
        *byte ^= 1 << random.below(8);
    }
}

/// The ranges of what stands between separators, or of lines.
fn parts(bytes: &[u8], is_separator: fn(u8) -> bool) -> Vec<(usize, usize)> {
    let mut parts = Vec::new();
    let mut start = 0;
    for (index, byte) in bytes.iter().enumerate() {
        if is_separator(*byte) {
            if index > start {
                parts.push((start, index));
            }
            start = index + 1;
        }
    }
    parts
}

fn words(bytes: &[u8]) -> Vec<(usize, usize)> {
    parts(bytes, |byte| {
        !byte.is_ascii_alphanumeric() && !b".%_$-\"".contains(&byte)
    })
}

fn lines(bytes: &[u8]) -> Vec<(usize, usize)> {
    parts(bytes, |byte| byte == b'\n')
}

fn pick(parts: &[(usize, usize)], random: &mut Random) -> Option<(usize, usize)> {
    parts.get(random.below(parts.len())).copied()
}

fn replace_word(bytes: &mut Vec<u8>, random: &mut Random) {
    if let Some((start, end)) = pick(&words(bytes), random) {
        let word = WORDS[random.below(WORDS.len())];
        bytes.splice(start..end, word.bytes());
    }
}

fn swap_words(bytes: &mut Vec<u8>, random: &mut Random) {
    let words = words(bytes);
    let (Some(a), Some(b)) = (pick(&words, random), pick(&words, random)) else {
        return;
    };
    let (first, second) = (a.min(b), a.max(b));
    let (one, two) = (bytes[first.0..first.1].to_vec(), bytes[second.0..second.1].to_vec());
    bytes.splice(second.0..second.1, one);
    bytes.splice(first.0..first.1, two);
}

/// Another register for a register, another opcode for an opcode: what is still PTX.
fn replace_by_like(bytes: &mut Vec<u8>, random: &mut Random) {
    let words = words(bytes);
    let Some((start, end)) = pick(&words, random) else {
        return;
    };
    let kind = &bytes[start..end.min(start + 2)];
    let like: Vec<_> = words
        .iter()
        .filter(|(start, _)| bytes[*start..].starts_with(kind))
        .copied()
        .collect();
    if let Some((from, to)) = pick(&like, random) {
        let word = bytes[from..to].to_vec();
        bytes.splice(start..end, word);
    }
}

fn change_digit(bytes: &mut [u8], random: &mut Random) {
    let mut digits: Vec<&mut u8> = bytes.iter_mut().filter(|byte| byte.is_ascii_digit()).collect();
    let place = random.below(digits.len());
    if let Some(digit) = digits.get_mut(place) {
        **digit = b'0' + random.below(10) as u8;
    }
}

fn repeat_line(bytes: &mut Vec<u8>, random: &mut Random) {
    let lines = lines(bytes);
    if let (Some(from), Some(to)) = (pick(&lines, random), pick(&lines, random)) {
        let line = bytes[from.0..from.1 + 1].to_vec();
        bytes.splice(to.0..to.0, line);
    }
}

fn remove_line(bytes: &mut Vec<u8>, random: &mut Random) {
    if let Some((start, end)) = pick(&lines(bytes), random) {
        bytes.drain(start..end + 1);
    }
}

/// A folder's files, of which a round changes one.
struct Seed {
    name: String,
    files: Vec<(String, Vec<u8>)>,
}

fn seeds() -> Vec<Seed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/launch");
    let mut folders: Vec<PathBuf> = fs::read_dir(folder)
        .expect("test data")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir())
        .collect();
    folders.sort();
    let seed = |folder: PathBuf| Seed {
        name: folder.file_name().expect("a name").to_string_lossy().into_owned(),
        files: fs::read_dir(&folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry"))
            .map(|entry| {
                (
                    entry.file_name().to_string_lossy().into_owned(),
                    fs::read(entry.path()).expect("a file"),
                )
            })
            .collect(),
    };
    folders.into_iter().map(seed).collect()
}

/// Writes the files with a few changes in one of them, PTX more often than the others.
fn write(seed: &Seed, folder: &Path, random: &mut Random) {
    let ptx = seed
        .files
        .iter()
        .position(|(name, _)| name.ends_with(".ptx"))
        .expect("PTX");
    let changed = match random.below(2) {
        0 => ptx,
        _ => random.below(seed.files.len()),
    };
    for (index, (name, bytes)) in seed.files.iter().enumerate() {
        let mut bytes = bytes.clone();
        if index == changed {
            for _ in 0..=random.below(3) {
                // A safetensors file's header is where it can be wrong.
                if name.ends_with(".safetensors") && random.below(4) > 0 {
                    let mut header: Vec<u8> = bytes.drain(..bytes.len().min(200)).collect();
                    mutate(&mut header, random);
                    bytes.splice(0..0, header);
                } else {
                    mutate(&mut bytes, random);
                }
            }
        }
        fs::write(folder.join(name), bytes).expect("a file");
    }
}

/// Whether the folder was good enough to be run.
fn run(folder: &Path, random: &mut Random) -> bool {
    let launch = match LaunchFile::read(&folder.join("LAUNCH.json")) {
        Ok(launch) if launch.bytes() <= MAX_BYTES && launch.blocks() <= MAX_BLOCKS => launch,
        _ => return false,
    };
    let schedules = [Schedule::Fixed, Schedule::Random(random.next()), Schedule::Starve(0)];
    let options = Options {
        schedule: schedules[random.below(3)],
        asynchrony: [Asynchrony::Lazy, Asynchrony::Eager][random.below(2)],
        mma: [MmaArithmetic::Fast, MmaArithmetic::Exact][random.below(2)],
        step_limit: STEPS,
        threads: Some(1),
        ..Options::default()
    };
    let run = launch.run(launch.kernel(), &options);
    run.is_ok_and(|run| {
        launch.compare(&run.outputs);
        true
    })
}

/// Where the last panic was.
static PANICKED_AT: Mutex<String> = Mutex::new(String::new());

#[test]
fn damaged_folders_never_panic() {
    let number = |name, default| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let (rounds, first) = (number("PTXSIM_FUZZ_ROUNDS", ROUNDS), number("PTXSIM_FUZZ_SEED", 1));
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|info| {
        let message = info.payload_as_str().unwrap_or_default();
        let place = info.location().map_or(String::new(), ToString::to_string);
        *PANICKED_AT.lock().expect("no panic while it is held") = format!("{place}: {message}");
    }));
    let (mut panics, mut executed, mut tried) = (BTreeMap::new(), 0, 0);
    for seed in seeds() {
        for round in first..first + rounds {
            let folder = tempfile::tempdir().expect("a folder");
            let mut random = Random(round);
            write(&seed, folder.path(), &mut random);
            tried += 1;
            match panic::catch_unwind(AssertUnwindSafe(|| run(folder.path(), &mut random))) {
                Ok(was_run) => executed += u64::from(was_run),
                Err(_) => {
                    let place = PANICKED_AT.lock().expect("no panic while it is held").clone();
                    panics
                        .entry(place)
                        .or_insert_with(|| format!("{} with PTXSIM_FUZZ_SEED={round}", seed.name));
                }
            }
        }
    }
    panic::set_hook(hook);
    assert!(panics.is_empty(), "{panics:#?}");
    assert!(
        tried < 100 || executed * 5 > tried,
        "only {executed} of {tried} folders could be run"
    );
    println!("{executed} of {tried} folders could be run");
}
