//! Heads and new tokens share the rows of tensor cores, and the cache is read once for all of them: by simulator counters.

use super::case::Case;
use mlafuse::{AttentionShape, DType, DecodeAttention, DeviceSpec, KernelTime};
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;

/// Cached tokens, in whole tiles of any schedule.
const CACHED: usize = 512;
const WIDTH: usize = 128 + 32;
/// Bytes of a DRAM sector.
const SECTOR: u64 = 32;

/// Tensor instructions of the attention kernel, and sectors of the cache that it reads, each counted once.
fn counted(n_heads: usize, tokens: usize) -> [u64; 2] {
    let shape = AttentionShape {
        n_heads,
        d_latent: 128,
        d_rope: 32,
        dtype: DType::BF16,
        page_size: 64,
        softmax_scale: 0.2,
    };
    let case = Case {
        shape,
        tokens,
        lens: vec![(CACHED, tokens)],
        room: 0,
        padding: 0,
        seed: 3,
    };
    let device = DeviceSpec::Sim {
        arch: None,
        checked: false,
    };
    let launch = case.launch();
    let core = DecodeAttention::new(shape, device).unwrap();
    let output = core.run(&launch.inputs(&shape)).unwrap();
    let attention = |kernel: &&KernelTime| kernel.name == "attention";
    let kernel = output.kernels.iter().find(attention).expect("the attention kernel");
    let statistics = kernel.statistics.as_ref().expect("what the simulator counted");
    let cache = statistics
        .traffic
        .iter()
        .filter(|traffic| traffic.allocation == "cache");
    let sectors = cache.map(|traffic| traffic.sectors_read).sum();
    [statistics.total.tensor_instructions, sectors]
}

#[test]
fn few_heads_and_new_tokens_share_a_tile() {
    if nvrtc_or_skip().is_none() {
        return;
    }
    let [one, sectors] = counted(8, 1);
    assert!(one > 0);
    // Every byte of the cached rows, and no sector besides.
    assert_eq!(sectors, (CACHED * WIDTH * 2) as u64 / SECTOR);
    // 16 rows are a tile, which 8 fill half.
    assert_eq!(counted(8, 2), [one, sectors]);
    let [one, sectors_of_16] = counted(16, 1);
    let [four, sectors_of_64] = counted(16, 4);
    assert!(four <= 4 * one, "{four} tensor instructions for 4 tokens, {one} for 1");
    // However many row blocks there are, they read the same rows.
    assert_eq!([sectors_of_16, sectors_of_64], [sectors; 2]);
}
