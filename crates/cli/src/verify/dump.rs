//! A case as a checkpoint folder, so that others can judge it.

use super::case::Case;
use super::inputs;
use super::judge::outputs;
use crate::files::OutFiles;
use anyhow::{Context, Result, bail};
use mlafuse::{DType, DeviceSpec, HostTensor, LayerOptions, LayerWeights, MlaLayer, PlanKind, Splits, default_prefix};
use mlafuse_tensor::write_safetensors;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Whether `mlafuse run` can be given the case's steps: a prefill, then single tokens.
pub fn is_expressible(case: &Case) -> bool {
    case.steps.iter().skip(1).flatten().all(|&new| new == 1)
}

/// Writes case `number` to a folder of its own in `dir`: `config.json`, `model.safetensors`, `io.safetensors` with the f64
/// outputs and a plain bf16 implementation's, and `case.json`. The files appear together.
pub fn dump(case: &Case, number: usize, repeat: &str, dir: &Path) -> Result<PathBuf> {
    if !is_expressible(case) {
        bail!("--dump: every step after the first must be of one token a sequence, as `mlafuse run` makes them");
    }
    let config = case.model.config()?;
    let tensors = inputs::weights(case, &config)?;
    let folder = dir.join(format!("case-{number:04}"));
    let mut files = OutFiles::new(&folder).context("--dump")?;
    files.write("config.json", format!("{:#}\n", config.to_checkpoint_json()))?;
    let about = json!({
        "model": case.model.to_string(),
        "case": case.to_string(),
        "dtype": case.dtype.to_string(),
        "page_size": case.page,
        "repeat": repeat,
    });
    files.write("case.json", format!("{about:#}\n"))?;
    let prefix = default_prefix(&config, 0);
    let named: Vec<(String, HostTensor)> = tensors
        .iter()
        .map(|(suffix, tensor)| (format!("{prefix}.{suffix}"), tensor.clone()))
        .collect();
    let named: Vec<(&str, HostTensor)> = named
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor.clone()))
        .collect();
    write_safetensors(files.path("model.safetensors")?, &named)?;

    let weights = LayerWeights::from_tensors(&config, &tensors)?;
    let options = LayerOptions {
        device: DeviceSpec::Reference { f64: true },
        plan: PlanKind::Unfused,
        dtype: case.dtype,
        page_size: case.page,
        splits: Splits::Balanced,
    };
    let truth = outputs(&MlaLayer::new(&weights, &config, options)?, case, &config)?;
    let plain = outputs(&plain(&tensors, case)?, case, &config)?;
    let hidden = (0..case.steps.len()).map(|step| inputs::hidden(case, &config, step, 0.0));
    let mut io = Vec::new();
    add(
        &mut io,
        ["hidden_states", "decode_hidden"],
        &hidden.collect::<Result<Vec<_>>>()?,
        DType::F32,
    )?;
    add(&mut io, ["prefill_out", "decode_out"], &truth, DType::F64)?;
    add(&mut io, ["prefill_out_bf16", "decode_out_bf16"], &plain, DType::F32)?;
    let lengths: Vec<i32> = case.steps[0]
        .iter()
        .map(|&new| i32::try_from(new))
        .collect::<Result<_, _>>()?;
    io.push(("lengths", HostTensor::from_i32(&[lengths.len()], &lengths)?));
    write_safetensors(files.path("io.safetensors")?, &io)?;
    files.publish()?;
    Ok(folder)
}

/// A plain bf16 implementation, whatever the case's type: it is what `mlafuse run` measures 16-bit types by.
fn plain(tensors: &std::collections::BTreeMap<String, HostTensor>, case: &Case) -> Result<MlaLayer> {
    let config = case.model.config()?;
    let rounded = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.to_dtype(DType::BF16)));
    let weights = LayerWeights::from_tensors(&config, &rounded.collect())?;
    Ok(MlaLayer::plain(&weights, &config, DType::BF16, case.page)?)
}

/// The first step's tensor under the first name; those of the steps after it as one, \[N, B, d_model\], under the second.
fn add(
    io: &mut Vec<(&'static str, HostTensor)>,
    [first, rest]: [&'static str; 2],
    steps: &[HostTensor],
    dtype: DType,
) -> Result<()> {
    let Some((prefill, decode)) = steps.split_first() else {
        return Ok(());
    };
    io.push((first, prefill.to_dtype(dtype)));
    let Some(&[sequences, _, width]) = decode.first().map(HostTensor::shape) else {
        return Ok(());
    };
    let values: Vec<f64> = decode.iter().flat_map(HostTensor::to_f64_vec).collect();
    let decode = HostTensor::from_f64(&[decode.len(), sequences, width], &values)?;
    io.push((rest, decode.to_dtype(dtype)));
    Ok(())
}
