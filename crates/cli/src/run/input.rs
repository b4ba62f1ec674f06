//! The input file, checked.

use anyhow::{Context, Result, bail};
use mlafuse_tensor::{DType, HostTensor, SafetensorsFile};
use std::path::Path;

/// What the layer is given.
pub struct Inputs {
    /// \[B, T, d_model\].
    pub hidden: HostTensor,
    /// B, T and d_model; none is 0.
    pub shape: [usize; 3],
    /// Tokens of each sequence, 0 to T.
    pub lengths: Vec<usize>,
    /// \[N, B, d_model\].
    pub decode: Option<HostTensor>,
}

impl Inputs {
    pub fn read(path: &Path, d_model: usize) -> Result<Inputs> {
        let file = SafetensorsFile::open(path)?;
        let hidden = file.tensor("hidden_states")?;
        let &[batch, tokens, width] = hidden.shape() else {
            bail!(
                "{}: `hidden_states` has shape {:?}; allowed: [B, T, {d_model}]",
                path.display(),
                hidden.shape()
            );
        };
        if width != d_model || batch == 0 || tokens == 0 {
            bail!(
                "{}: `hidden_states` has shape {:?}; allowed: [B, T, {d_model}], B and T at least 1, the config's hidden_size \
                 last",
                path.display(),
                hidden.shape()
            );
        }
        check_float(path, "hidden_states", &hidden)?;
        let lengths = lengths(&file, batch, tokens)?;
        let decode = file
            .contains("decode_hidden")
            .then(|| decode(&file, batch, d_model))
            .transpose()?;
        Ok(Inputs {
            hidden,
            shape: [batch, tokens, width],
            lengths,
            decode,
        })
    }

    /// Single-token steps after the prefill.
    pub fn steps(&self) -> usize {
        self.decode
            .as_ref()
            .and_then(|decode| decode.shape().first().copied())
            .unwrap_or(0)
    }

    /// The new tokens of one step, \[B, 1, d_model\].
    pub fn decode_step(&self, index: usize) -> Result<HostTensor> {
        let [batch, _, width] = self.shape;
        let decode = self.decode.as_ref().context("there is nothing to decode")?;
        Ok(decode.slice_outer(index..index + 1)?.reshape(&[batch, 1, width])?)
    }
}

fn check_float(path: &Path, name: &str, tensor: &HostTensor) -> Result<()> {
    if !tensor.dtype().is_float() {
        bail!(
            "{}: `{name}` is of {}; allowed: f64, f32, f16, bf16",
            path.display(),
            tensor.dtype()
        );
    }
    Ok(())
}

fn lengths(file: &SafetensorsFile, batch: usize, tokens: usize) -> Result<Vec<usize>> {
    if !file.contains("lengths") {
        return Ok(vec![tokens; batch]);
    }
    let tensor = file.tensor_shaped("lengths", &[batch])?;
    let path = file.path().display();
    if tensor.dtype() != DType::I32 {
        bail!("{path}: `lengths` is of {}; allowed: i32", tensor.dtype());
    }
    let found = tensor.to_i32_vec()?.into_iter().enumerate();
    let checked = found.map(|(sequence, found)| match usize::try_from(found) {
        Ok(length) if length <= tokens => Ok(length),
        _ => bail!("{path}: `lengths`[{sequence}] is {found}; allowed: 0 to {tokens}, the tokens of `hidden_states`"),
    });
    checked.collect()
}

fn decode(file: &SafetensorsFile, batch: usize, d_model: usize) -> Result<HostTensor> {
    let tensor = file.tensor("decode_hidden")?;
    let fits = matches!(tensor.shape(), &[_, b, d] if (b, d) == (batch, d_model));
    if !fits {
        bail!(
            "{}: `decode_hidden` has shape {:?}; allowed: [N, {batch}, {d_model}], batch and width of `hidden_states`",
            file.path().display(),
            tensor.shape()
        );
    }
    check_float(file.path(), "decode_hidden", &tensor)?;
    Ok(tensor)
}
