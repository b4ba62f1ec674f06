//! Files end to end: what is written is read, and real checkpoints are read.

use std::path::{Path, PathBuf};

use mlafuse_tensor::{Checkpoint, DType, HostTensor, SafetensorsFile, UlpHistogram, compare, write_safetensors};
use proptest::prelude::*;

fn fixture(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/fixtures")
        .join(model)
}

#[test]
fn reads_a_real_checkpoint() {
    let checkpoint = Checkpoint::open(fixture("deepseek-v3-tiny")).unwrap();
    let prefix = "model.layers.0.self_attn";
    assert_eq!(checkpoint.names().count(), 7);
    // d_model 256, d_latent 64, d_rope 16.
    let down = checkpoint
        .tensor_shaped(&format!("{prefix}.kv_a_proj_with_mqa.weight"), &[64 + 16, 256])
        .unwrap();
    assert_eq!(down.dtype(), DType::BF16);
    assert!(format!("{down:?}").contains("mapped"));
    assert!(down.to_f32_vec().iter().all(|x| x.is_finite()));

    let message = checkpoint
        .tensor(&format!("{prefix}.q_proj.weight"))
        .unwrap_err()
        .to_string();
    assert!(
        message.contains(&format!(
            "near names: {prefix}.q_a_proj.weight, {prefix}.q_b_proj.weight"
        )),
        "{message}"
    );
}

#[test]
fn measures_transformers_own_bf16_result() {
    for model in ["deepseek-v3-tiny", "deepseek-v2-lite"] {
        let io = SafetensorsFile::open(fixture(model).join("io.safetensors")).unwrap();
        let truth = io.tensor("prefill_out").unwrap();
        let result = io.tensor_shaped("prefill_out_bf16", truth.shape()).unwrap();
        assert_eq!((truth.dtype(), result.dtype()), (DType::F64, DType::BF16));

        let error = compare(&result, &truth).unwrap();
        let rounding = compare(&truth.to_dtype(DType::BF16), &truth).unwrap();
        // A bf16 layer is worse than rounding its exact result once, and not by orders of magnitude.
        assert!(rounding.rel_l2 > 1e-4 && rounding.rel_l2 < 3e-3, "{rounding}");
        assert!(error.rel_l2 > rounding.rel_l2 && error.rel_l2 < 3e-2, "{error}");
        assert!(error.cosine_diff < error.rel_l2.powi(2), "{error}");

        let histogram = UlpHistogram::new(&result, &truth).unwrap();
        assert_eq!(histogram.counts().map(|(_, n)| n).sum::<usize>(), truth.numel());
    }
}

#[test]
fn copies_a_real_file_unchanged() {
    let io = SafetensorsFile::open(fixture("deepseek-v3-tiny").join("io.safetensors")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.safetensors");
    let tensors: Vec<_> = io.names().map(|name| (name, io.tensor(name).unwrap())).collect();
    write_safetensors(&path, &tensors).unwrap();
    let copy = SafetensorsFile::open(&path).unwrap();
    assert_eq!(copy.names().collect::<Vec<_>>(), io.names().collect::<Vec<_>>());
    for (name, tensor) in tensors {
        assert_eq!(copy.tensor(name).unwrap().bytes(), tensor.bytes(), "{name}");
    }
}

fn any_tensor() -> impl Strategy<Value = HostTensor> {
    let shape = proptest::collection::vec(0usize..5, 0..4);
    (prop::sample::select(DType::ALL.to_vec()), shape).prop_flat_map(|(dtype, shape)| {
        let len = shape.iter().product::<usize>() * dtype.size_bytes();
        proptest::collection::vec(any::<u8>(), len)
            .prop_map(move |bytes| HostTensor::from_bytes(dtype, &shape, bytes).unwrap())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read(tensors in proptest::collection::btree_map("[^\0]{0,12}", any_tensor(), 0..6)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.safetensors");
        let tensors: Vec<_> = tensors.iter().map(|(name, t)| (name.as_str(), t.clone())).collect();
        write_safetensors(&path, &tensors).unwrap();
        let file = SafetensorsFile::open(&path).unwrap();
        prop_assert_eq!(file.names().count(), tensors.len());
        for (name, tensor) in &tensors {
            let read = file.tensor_shaped(name, tensor.shape()).unwrap();
            prop_assert_eq!(read.dtype(), tensor.dtype());
            prop_assert_eq!(read.bytes(), tensor.bytes());
        }
        let first = std::fs::read(&path).unwrap();
        write_safetensors(&path, &tensors).unwrap();
        prop_assert_eq!(std::fs::read(&path).unwrap(), first);
    }
}
