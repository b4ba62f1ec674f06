//! What steps allocate on the processor: nothing after the first, and little beside weights and cache. A binary of its own, since
//! its allocator counts what all threads do.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlafuse::config::MlaConfig;
use mlafuse::{DType, HostTensor, LayerOptions, LayerWeights, MlaLayer, checkpoint_tensors};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Whether this thread's calls count: those of a pool while it works, and of the helpers that launches make. A thread of an
    /// earlier pool may end at any time later, and what it hands on then allocates.
    static COUNTS: Cell<bool> = const { Cell::new(false) };
}

/// Helpers are known by their names.
fn counts() -> bool {
    let mut name = [0u8; 16];
    // SAFETY: it writes 16 bytes.
    COUNTS.get() || unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) == 0 } && name.starts_with(b"mlafuse-")
}

fn taken(bytes: usize) {
    if counts() {
        CALLS.fetch_add(1, Ordering::Relaxed);
    }
    let live = LIVE.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(live, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        taken(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        taken(new_size);
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(at, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counts are of everybody: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn wave(dtype: DType, shape: &[usize]) -> HostTensor {
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|i: usize| (i as f32 * 0.7).sin() * 0.3)
        .collect();
    HostTensor::from_f32(shape, &values).unwrap().to_dtype(dtype)
}

fn layer(config: &MlaConfig) -> MlaLayer {
    let tensors = checkpoint_tensors(config).into_iter();
    let tensors: BTreeMap<String, HostTensor> = tensors
        .map(|spec| (spec.suffix.to_string(), wave(DType::BF16, &spec.shape)))
        .collect();
    let weights = LayerWeights::from_tensors(config, &tensors).unwrap();
    MlaLayer::new(&weights, config, LayerOptions::default()).unwrap()
}

fn config(text: &str) -> MlaConfig {
    MlaConfig::from_inline(text).unwrap()
}

fn with_threads<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .start_handler(|_| COUNTS.set(true))
        .exit_handler(|_| COUNTS.set(false))
        .build();
    pool.unwrap().install(work)
}

/// Allocations of each of so many decode steps of two sequences, after a prefill.
fn allocations(layer: &MlaLayer, hidden: &HostTensor, steps: usize) -> Vec<usize> {
    let d_model = layer.config().d_model;
    let mut cache = layer.new_cache(2, 300 + steps).unwrap();
    layer
        .step(&mut cache, &wave(DType::F32, &[2, 300, d_model]), &[300, 120])
        .unwrap();
    let mut out = HostTensor::zeros(DType::F32, &[2, 1, d_model]).unwrap();
    let mut counts = Vec::with_capacity(steps);
    for _ in 0..steps {
        let before = CALLS.load(Ordering::Relaxed);
        layer.step_into(&mut cache, hidden, &[1, 1], &mut out).unwrap();
        counts.push(CALLS.load(Ordering::Relaxed) - before);
    }
    assert!(out.to_f32_vec().iter().any(|&x| x != 0.0));
    counts
}

/// Steps go over the ends of pages, and give what steps into new memory give.
#[test]
fn a_decode_step_allocates_nothing_after_the_first() {
    let _alone = ALONE.lock().unwrap();
    let config = config("heads=5,d_model=72,d_latent=48,d_rope=8,d_nope=24,d_v=16,d_q_latent=40");
    for dtype in [DType::BF16, DType::F32] {
        let hidden = wave(dtype, &[2, 1, config.d_model]);
        let counts = with_threads(1, || allocations(&layer(&config), &hidden, 150));
        assert!(counts[0] > 0, "{dtype}");
        assert_eq!(counts[1..], [0; 149], "{dtype}");
    }
}

/// A second thread has scratch memory of its own, which grows when it first has a block of a kernel: that may be late.
#[test]
fn threads_are_kept_between_steps() {
    let _alone = ALONE.lock().unwrap();
    let config = config("heads=16,d_model=256,d_latent=128,d_rope=32,d_nope=64,d_v=64,d_q_latent=none");
    let hidden = wave(DType::F32, &[2, 1, config.d_model]);
    let counts = with_threads(2, || allocations(&layer(&config), &hidden, 200));
    let total: usize = counts[1..].iter().sum();
    assert!(counts[150..].iter().all(|&count| count == 0), "{counts:?}");
    assert!(total < 50, "{counts:?}");
}

/// What a decode step may take beside weights and cache: activations, partial results, rope tables, scratch of two threads.
const BESIDE: usize = 16 << 20;

#[test]
fn memory_is_weights_and_cache_and_little_else() {
    let _alone = ALONE.lock().unwrap();
    let config = config("heads=16,d_model=2048,d_latent=512,d_rope=64,d_nope=128,d_v=128,d_q_latent=none");
    let elements: usize = checkpoint_tensors(&config)
        .iter()
        .map(|spec| spec.shape.iter().product::<usize>())
        .sum();
    let (tokens, bytes) = (4096, DType::BF16.size_bytes());
    let cached = tokens * config.cache_row_stride(bytes) * bytes;
    let before = LIVE.load(Ordering::Relaxed);
    let used = with_threads(2, || {
        let layer = layer(&config);
        let mut cache = layer.new_cache(1, tokens).unwrap();
        PEAK.store(LIVE.load(Ordering::Relaxed), Ordering::Relaxed);
        let hidden = wave(DType::BF16, &[1, 1, config.d_model]);
        for _ in 0..70 {
            layer.step(&mut cache, &hidden, &[1]).unwrap();
        }
        let peak = PEAK.load(Ordering::Relaxed);
        let live = LIVE.load(Ordering::Relaxed);
        drop(cache);
        // What is kept for the next step holds on to no cache.
        assert!(live - LIVE.load(Ordering::Relaxed) >= cached);
        peak - before
    });
    let beside = used - elements * bytes - cached;
    assert!(beside < BESIDE, "{} KiB beside weights and cache", beside >> 10);
}
