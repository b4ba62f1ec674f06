//! Loading a layer: what it tells on the way, and how much memory it takes. One test: the allocator counts the whole process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use mlafuse::config::MlaConfig;
use mlafuse::{
    Checkpoint, DType, HostTensor, LayerOptions, LayerWeights, LoadProgress, MlaLayer, PreparedLayer,
    checkpoint_tensors, default_prefix, layer_graph, machine_of,
};
use mlafuse_ir::graph::{Node, Op};
use mlafuse_ir::prepare::Part;
use mlafuse_ir::size::{Dims, Size};
use mlafuse_runtime::open;
use mlafuse_tensor::write_safetensors;

/// The system's allocator, counting bytes.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller keeps to the conditions of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps to the conditions of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that are held when `work` is done beyond those before, and the most on the way; with what `work` gives.
fn held<T>(work: impl FnOnce() -> T) -> (usize, usize, T) {
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let done = work();
    let after = LIVE.load(Ordering::Relaxed);
    (
        after.saturating_sub(before),
        PEAK.load(Ordering::Relaxed) - before,
        done,
    )
}

/// Most bytes that making a part takes: of the weights it is made of one as stored in a file of f32, and all as they are to be
/// stored, with what is computed from them.
fn scratch(part: &Part) -> usize {
    let bytes = |node: &Node, dtype: DType| {
        let elements = Size::product(&node.ty.shape).value(&Dims::new()).unwrap();
        elements * dtype.size_bytes()
    };
    let nodes = &part.graph.nodes;
    let weights = nodes.iter().filter(|node| matches!(node.op, Op::Input { .. }));
    let largest = weights.map(|node| bytes(node, DType::F32)).max().unwrap();
    match nodes.len() {
        1 => largest,
        _ => largest + nodes.iter().map(|node| bytes(node, node.ty.dtype)).sum::<usize>(),
    }
}

/// A checkpoint of one layer in f32 in a folder; with its tensors at odd places, where they cannot be read without a copy.
fn write_checkpoint(config: &MlaConfig, folder: &Path, odd: bool) {
    let prefix = default_prefix(config, 0);
    let tensor = |shape: &[usize]| {
        let values = (0..shape.iter().product()).map(|i: usize| (i % 251) as f32 * 1e-3);
        HostTensor::from_f32(shape, &values.collect::<Vec<_>>()).unwrap()
    };
    let tensors: Vec<(String, HostTensor)> = checkpoint_tensors(config)
        .iter()
        .map(|spec| (format!("{prefix}.{}", spec.suffix), tensor(&spec.shape)))
        .collect();
    let named: Vec<(&str, HostTensor)> = tensors.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
    let path = folder.join("model.safetensors");
    write_safetensors(&path, &named).unwrap();
    if odd {
        let file = std::fs::read(&path).unwrap();
        let (length, rest) = file.split_first_chunk::<8>().unwrap();
        let length = u64::from_le_bytes(*length);
        let (header, data) = rest.split_at(length as usize);
        let longer = [&(length + 1).to_le_bytes()[..], header, b" ", data].concat();
        std::fs::write(&path, longer).unwrap();
    }
}

/// Room for graphs, plans, kernels and what is on its way.
const SMALL: usize = 1 << 20;

#[test]
fn a_layer_is_loaded_a_part_at_a_time() {
    let text = "heads=16,d_model=2048,d_latent=256,d_rope=32,d_nope=64,d_v=64,d_q_latent=512";
    let config = MlaConfig::from_inline(text).unwrap();
    let prefix = default_prefix(&config, 0);
    let options = LayerOptions::default();
    let graph = layer_graph(&config, options.dtype, options.page_size).unwrap();
    let machine = machine_of(open(options.device).unwrap().as_ref(), options.dtype);
    let weights = PreparedLayer::new(&graph, &machine, None).unwrap().prepared.weights;
    let total: usize = weights.iter().map(|weight| weight.bytes).sum();
    let parts = weights
        .iter()
        .flat_map(|weight| weight.parts.iter().map(move |part| (weight, part)));
    let scratch = parts.clone().map(|(_, part)| scratch(part)).max().unwrap();
    for odd in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        write_checkpoint(&config, folder.path(), odd);
        let checkpoint = Checkpoint::open(folder.path()).unwrap();
        let mut told: Vec<(String, usize, usize)> = Vec::with_capacity(100);
        let mut report = |at: LoadProgress<'_>| told.push((at.weight.to_string(), at.done, at.total));
        let (after, most, _layer) = held(|| {
            let source = LayerWeights::load(&checkpoint, &prefix, &config).unwrap();
            MlaLayer::with_progress(&source, &config, options, &mut report).unwrap()
        });
        println!("{total} bytes of weights, held {after}, at most {most}; a part takes {scratch}");
        assert!(after <= total + SMALL, "{after}, weights {total}");
        assert!(
            most <= total + scratch + SMALL,
            "{most}, weights {total}, a part {scratch}"
        );
        assert!(most < 2 * total, "{most}, weights {total}");

        let told_of = told.iter().map(|(name, ..)| name.as_str());
        assert!(
            told_of.eq(parts.clone().map(|(weight, _)| weight.name.as_str())),
            "{told:?}"
        );
        assert!(
            told.is_sorted_by(|a, b| a.1 < b.1) && told.iter().all(|at| at.2 == total),
            "{told:?}"
        );
        assert_eq!(told.last().unwrap().1, total);
    }
}
