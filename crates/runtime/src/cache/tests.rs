//! The cache against damaged, foreign and concurrent entries.

use super::entry::CHECKED_FROM;
use super::*;
use crate::nvrtc::KernelResources;
use crate::nvrtc::testing::nvrtc_or_skip;

fn source(text: &str) -> CudaSource {
    CudaSource {
        name: "k.cu".into(),
        text: text.into(),
        arch: "sm_80".into(),
        options: vec![],
    }
}

fn compiled(ptx_len: usize) -> Compiled {
    Compiled {
        ptx: "p".repeat(ptx_len),
        cubin: (0..ptx_len).map(|i| i as u8).collect(),
        log: "log".into(),
        resources: vec![KernelResources {
            name: "k".into(),
            registers: 255,
            spill_store_bytes: 1,
            spill_load_bytes: 2,
            stack_bytes: 3,
            static_shared_bytes: 4,
            constant_bytes: None,
            barriers: Some(1),
        }],
        compile_ms: 18_647_342.0 / 1e6,
    }
}

/// A cache with one kernel, and an NVRTC that would fail if it were opened.
fn filled(folder: &Path, kernel: &Compiled) -> (KernelCache, Nvrtc, CudaSource, PathBuf) {
    let cache = KernelCache::open(folder);
    let (nvrtc, source) = (Nvrtc::unloadable("build 1"), source("text"));
    let key = kernel_key(&nvrtc, &source);
    cache.write(&key, &source, kernel);
    let path = entry_path(folder, &key);
    (cache, nvrtc, source, path)
}

#[test]
fn a_hit_is_the_same_and_does_not_open_nvrtc() {
    let dir = tempfile::tempdir().unwrap();
    let kernel = compiled(200_000);
    let (cache, nvrtc, source, _) = filled(dir.path(), &kernel);
    for _ in 0..2 {
        let (got, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
        assert_eq!(got, kernel);
        assert!(outcome.from_cache);
    }
}

#[test]
fn every_part_of_the_source_is_in_the_key() {
    let nvrtc = Nvrtc::unloadable("build 1");
    let base = source("text");
    let with = |change: fn(&mut CudaSource)| {
        let mut changed = base.clone();
        change(&mut changed);
        kernel_key(&nvrtc, &changed)
    };
    let mut keys = vec![
        kernel_key(&nvrtc, &base),
        kernel_key(&Nvrtc::unloadable("build 2"), &base),
        with(|s| s.text.push(' ')),
        with(|s| s.name = "other".into()),
        with(|s| s.arch = "sm_90".into()),
        with(|s| s.options = vec!["-DA".into()]),
        with(|s| s.options = vec!["-DA".into(), "-DB".into()]),
        with(|s| s.options = vec!["-DA-DB".into()]),
        with(|s| {
            s.name = "k.cut".into();
            s.text = "ext".into();
        }),
    ];
    assert_eq!(kernel_key(&nvrtc, &base), keys[0]);
    let count = keys.len();
    keys.sort_by_key(|key| *key.as_bytes());
    keys.dedup();
    assert_eq!(keys.len(), count);
}

#[test]
fn compiles_once_then_hits() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("a/b");
    let cache = KernelCache::open(&folder);
    let source = source("extern \"C\" __global__ void k(int* p) { p[0] = 7; }");
    let (cold, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
    assert!(!outcome.from_cache);
    let (warm, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
    assert!(outcome.from_cache);
    assert_eq!(cold, warm);
    let mode = fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let disabled = KernelCache::disabled();
    for _ in 0..2 {
        let (again, outcome) = disabled.get_or_compile(&nvrtc, &source).unwrap();
        assert!(!outcome.from_cache);
        assert_eq!(again.ptx, cold.ptx);
    }
}

#[test]
fn a_damaged_entry_is_compiled_again_and_rewritten() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let dir = tempfile::tempdir().unwrap();
    let cache = KernelCache::open(dir.path());
    let source = source("extern \"C\" __global__ void k(int* p) { p[0] = 7; }");
    let (cold, _) = cache.get_or_compile(&nvrtc, &source).unwrap();
    let path = entry_path(dir.path(), &kernel_key(&nvrtc, &source));
    let whole = fs::read(&path).unwrap();
    for cut in [0, 7, 43, 100, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        let (again, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
        assert!(!outcome.from_cache, "cut at {cut}");
        assert_eq!((&again.ptx, &again.cubin), (&cold.ptx, &cold.cubin));
        let (_, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
        assert!(outcome.from_cache, "cut at {cut}");
    }
}

#[test]
fn a_cache_that_cannot_work_costs_only_time() {
    let Some(nvrtc) = nvrtc_or_skip() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "in the way").unwrap();
    let source = source("extern \"C\" __global__ void k(int* p) { p[0] = 7; }");
    for folder in [file.clone(), file.join("below")] {
        let cache = KernelCache::open(folder);
        for _ in 0..2 {
            let (_, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
            assert!(!outcome.from_cache);
        }
        assert!(cache.warned.load(Ordering::Relaxed));
        assert!(cache.list().is_err());
    }
    // A folder where an entry should be: the miss stays a miss, nothing else fails.
    let cache = KernelCache::open(dir.path());
    let path = entry_path(dir.path(), &kernel_key(&nvrtc, &source));
    fs::create_dir(path).unwrap();
    let (_, outcome) = cache.get_or_compile(&nvrtc, &source).unwrap();
    assert!(!outcome.from_cache);
}

#[test]
fn list_and_clear_see_only_their_own_files() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(KernelCache::open(dir.path().join("none")).list().unwrap(), []);
    let (cache, _, _, path) = filled(dir.path(), &compiled(100));
    let foreign = ["notes.txt", "abc.mlk", "records.jsonl"];
    for name in foreign {
        fs::write(dir.path().join(name), "mine").unwrap();
    }
    fs::write(dir.path().join(".mlafuse-left"), "over").unwrap();
    let damaged = path.with_file_name(format!("{}.mlk", "0".repeat(64)));
    fs::copy(&path, damaged).unwrap();

    let list = cache.list().unwrap();
    let contents: Vec<&CacheContent> = list.iter().map(|entry| &entry.content).collect();
    assert_eq!(list.len(), 2);
    assert!(matches!(contents[0], CacheContent::Damaged { reason } if reason.contains("key")));
    assert!(contents.contains(&&CacheContent::Kernel {
        name: "k.cu".into(),
        arch: "sm_80".into()
    }));
    let bytes: u64 = list.iter().map(|entry| entry.bytes).sum();

    let cleared = cache.clear().unwrap();
    assert_eq!((cleared.files, cleared.bytes), (3, bytes + 4));
    assert_eq!(cache.list().unwrap(), []);
    for name in foreign {
        assert!(dir.path().join(name).exists(), "{name}");
    }
}

#[test]
fn writers_of_one_entry_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let lengths = [1, 1000, 2000, 3000];
    let (cache, nvrtc, source, _) = filled(dir.path(), &compiled(lengths[0]));
    let key = kernel_key(&nvrtc, &source);
    std::thread::scope(|scope| {
        for len in lengths {
            let (cache, source) = (KernelCache::open(dir.path()), &source);
            scope.spawn(move || {
                for _ in 0..20 {
                    cache.write(&key, source, &compiled(len));
                    let got = cache.read(&key).unwrap();
                    assert!(lengths.iter().any(|&len| got == compiled(len)));
                }
                assert!(!cache.warned.load(Ordering::Relaxed));
            });
        }
    });
    assert_eq!(cache.clear().unwrap().files, 1);
}

/// A small generator (SplitMix64), so that a failure repeats by its seed.
fn random(state: &mut u64) -> usize {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as u32 as usize
}

fn mutate(bytes: &mut Vec<u8>, state: &mut u64) {
    let at = random(state) % bytes.len().max(1);
    match random(state) % 6 {
        0 => bytes.truncate(at),
        1 => bytes.insert(at, random(state) as u8),
        2 => drop(bytes.drain(at..(at + random(state) % 40).min(bytes.len()))),
        3 => bytes.extend(vec![0; random(state) % 40]),
        // An absurd length, wherever it falls.
        4 => bytes.iter_mut().skip(at).take(8).for_each(|byte| *byte = 0xff),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (random(state) % 8);
            }
        }
    }
}

#[test]
fn mutated_entries_are_misses_or_identical() {
    let kernel = compiled(300);
    let source = source("text");
    let key = kernel_key(&Nvrtc::unloadable("build 1"), &source);
    let whole = encode(&key, &source, &kernel).unwrap();
    for seed in 0..20_000 {
        let mut state = seed;
        let mut bytes = whole.clone();
        for _ in 0..=random(&mut state) % 3 {
            mutate(&mut bytes, &mut state);
        }
        if let Ok(got) = decode(&bytes, &key) {
            assert_eq!(got, kernel, "seed {seed}");
        }
        // Past the checksum the sections themselves must hold: mend it and try again.
        if bytes.len() > CHECKED_FROM {
            let checksum = blake3::hash(&bytes[CHECKED_FROM..]);
            bytes[12..CHECKED_FROM].copy_from_slice(checksum.as_bytes());
            let _ = decode(&bytes, &key);
        }
    }
}
