//! The outputs against those of a file.

use super::input::Inputs;
use super::{Args, Outcome};
use anyhow::{Result, bail};
use mlafuse::DeviceSpec;
use mlafuse_tensor::{Comparison, DType, HostTensor, SafetensorsFile, compare};
use std::path::Path;

/// What the file says should come out.
pub struct Expectation {
    prefill: Option<Wanted>,
    decode: Option<Wanted>,
}

/// One phase's output, and a plain bf16 implementation's where the file has it.
struct Wanted {
    out: HostTensor,
    bf16: Option<HostTensor>,
}

/// One phase's verdict.
pub struct Judged {
    pub comparison: Comparison,
    pub tolerance: f64,
    /// Where the tolerance comes from.
    pub because: &'static str,
}

impl Judged {
    /// NaN is never within.
    pub fn is_within(&self) -> bool {
        self.comparison.rel_l2 <= self.tolerance
    }
}

/// The verdicts, each where the file has the phase.
pub struct Verdict {
    pub prefill: Option<Judged>,
    pub decode: Option<Judged>,
}

impl Verdict {
    /// Whether every phase that was compared is within its tolerance.
    pub fn is_within(&self) -> bool {
        [&self.prefill, &self.decode]
            .into_iter()
            .flatten()
            .all(Judged::is_within)
    }
}

impl Expectation {
    /// Checks names and shapes before anything is computed.
    pub fn read(path: &Path, inputs: &Inputs) -> Result<Expectation> {
        let file = SafetensorsFile::open(path)?;
        let [batch, tokens, width] = inputs.shape;
        let prefill = wanted(&file, "prefill_out", "prefill_out_bf16", &[batch, tokens, width])?;
        let decode = match inputs.decode {
            Some(_) => wanted(&file, "decode_out", "decode_out_bf16", &[inputs.steps(), batch, width])?,
            None => None,
        };
        if prefill.is_none() && decode.is_none() {
            bail!(
                "--expect {}: it has neither `prefill_out` nor `decode_out`",
                path.display()
            );
        }
        Ok(Expectation { prefill, decode })
    }

    /// Compares; `precision` is `None` for the reference. Of a ragged prefill only the tokens that are there count.
    pub fn judge(self, args: &Args, precision: Option<DType>, inputs: &Inputs, outcome: &Outcome) -> Result<Verdict> {
        let prefill = self.prefill.map(|wanted| {
            let rows = |tensor: &HostTensor| tokens_there(tensor, inputs);
            let wanted = Wanted {
                out: rows(&wanted.out)?,
                bf16: wanted.bf16.as_ref().map(rows).transpose()?,
            };
            judge(args, precision, &wanted, &rows(&outcome.prefill)?)
        });
        let decode = self.decode.zip(outcome.decode.as_ref());
        let decode = decode.map(|(wanted, got)| judge(args, precision, &wanted, got));
        Ok(Verdict {
            prefill: prefill.transpose()?,
            decode: decode.transpose()?,
        })
    }
}

fn wanted(file: &SafetensorsFile, name: &str, bf16: &str, shape: &[usize]) -> Result<Option<Wanted>> {
    if !file.contains(name) {
        return Ok(None);
    }
    let out = file.tensor_shaped(name, shape)?;
    let bf16 = file
        .contains(bf16)
        .then(|| file.tensor_shaped(bf16, shape))
        .transpose()?;
    Ok(Some(Wanted { out, bf16 }))
}

/// \[B, T, d_model\] to \[tokens, d_model\] without padding rows, in f64.
fn tokens_there(tensor: &HostTensor, inputs: &Inputs) -> Result<HostTensor> {
    let [_, tokens, width] = inputs.shape;
    let values = tensor.to_f64_vec();
    let sequences = values.chunks(tokens * width).zip(&inputs.lengths);
    let kept: Vec<f64> = sequences
        .flat_map(|(rows, &length)| rows.iter().take(length * width))
        .copied()
        .collect();
    Ok(HostTensor::from_f64(&[kept.len() / width, width], &kept)?)
}

fn judge(args: &Args, precision: Option<DType>, wanted: &Wanted, got: &HostTensor) -> Result<Judged> {
    let comparison = compare(got, &wanted.out)?;
    let (tolerance, because) = match (args.tolerance, precision, &wanted.bf16) {
        (Some(tolerance), ..) => (tolerance, "--tolerance"),
        (None, Some(DType::BF16 | DType::F16), Some(bf16)) => (
            2.0 * compare(bf16, &wanted.out)?.rel_l2,
            "twice the error of the file's bf16 result",
        ),
        (None, Some(DType::BF16 | DType::F16), None) => (2e-2, "the file has no bf16 result to measure by"),
        (None, None, _) if args.device == (DeviceSpec::Reference { f64: true }) => (5e-5, "f64"),
        (None, ..) => (1e-4, "f32"),
    };
    Ok(Judged {
        comparison,
        tolerance,
        because,
    })
}
