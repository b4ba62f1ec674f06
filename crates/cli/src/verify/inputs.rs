//! The numbers of a case: weights that keep activations near 1, and hidden states of each kind.

use super::case::{Case, InputKind};
use crate::random::Random;
use anyhow::Result;
use mlafuse::config::MlaConfig;
use mlafuse::{HostTensor, checkpoint_tensors};
use mlafuse_ir::weights::{Role, WeightSpec};
use std::collections::BTreeMap;

/// By how much the rope parts outweigh the content in inputs of [`InputKind::Rope`], in queries and keys each.
const ROPE_GAIN: f32 = 3.0;
/// Factors of [`InputKind::Large`]: with a query latent only the rope key grows, without one the query does too.
const LARGE: [f32; 2] = [16.0, 4.0];
/// Different tokens of [`InputKind::NearTie`].
const TIES: usize = 3;
/// How far a token of [`InputKind::NearTie`] is from the one it nearly is.
const APART: f32 = 1e-2;

/// The tensors of the layer as a checkpoint stores them, by their names after the layer's prefix, rounded to the case's
/// type.
pub fn weights(case: &Case, config: &MlaConfig) -> Result<BTreeMap<String, HostTensor>> {
    let tensor = |spec: WeightSpec| {
        let values = weight(case, config, &spec);
        let tensor = HostTensor::from_f32(&spec.shape, &values)?.to_dtype(case.dtype);
        Ok((spec.suffix.to_string(), tensor))
    };
    checkpoint_tensors(config).into_iter().map(tensor).collect()
}

fn weight(case: &Case, config: &MlaConfig, spec: &WeightSpec) -> Vec<f32> {
    let mut random = Random::new(case.seed, spec.suffix);
    let mut even = |spread: f64| (spread * 12f64.sqrt() * (random.uniform() - 0.5)) as f32;
    let (rows, columns) = match spec.shape[..] {
        [rows, columns] => (rows, columns),
        // A norm's gain, or a bias.
        _ => {
            let about = if matches!(spec.role, Role::QANorm | Role::KvANorm) {
                1.0
            } else {
                0.0
            };
            return spec
                .shape
                .iter()
                .flat_map(|&n| (0..n).map(|_| about + even(0.2)).collect::<Vec<_>>())
                .collect();
        }
    };
    let scale = match spec.role {
        Role::Q | Role::QB => config.q_latent_scale,
        Role::KvB => config.latent_scale,
        _ => 1.0,
    };
    let spread = 1.0 / (columns as f64).sqrt() / scale;
    let mut values = Vec::with_capacity(rows * columns);
    for row in 0..rows {
        let gain = if case.input == InputKind::Rope && is_rope_row(config, spec.role, row) {
            ROPE_GAIN
        } else {
            1.0
        };
        values.extend((0..columns).map(|_| gain * even(spread)));
    }
    values
}

/// Whether a row of a checkpoint's tensor makes an element of a rope part.
fn is_rope_row(config: &MlaConfig, role: Role, row: usize) -> bool {
    match role {
        Role::Q | Role::QB => row % config.d_qk() >= config.d_nope,
        Role::KvA => row >= config.d_latent,
        _ => false,
    }
}

/// The hidden states of one step, \[B, T, d_model\] with T at least 1, rounded to the case's type; rows that are no token are
/// `padding`.
pub fn hidden(case: &Case, config: &MlaConfig, step: usize, padding: f32) -> Result<HostTensor> {
    let new = &case.steps[step];
    let tokens = new.iter().copied().max().unwrap_or(0).max(1);
    let mut values = Vec::with_capacity(new.len() * tokens * config.d_model);
    for (sequence, &new) in new.iter().enumerate() {
        let start: usize = case.steps[..step].iter().map(|step| step[sequence]).sum();
        for token in 0..tokens {
            match token < new {
                true => values.extend(row(case, config, sequence, start + token)),
                false => values.extend(vec![padding; config.d_model]),
            }
        }
    }
    let shape = [new.len(), tokens, config.d_model];
    Ok(HostTensor::from_f32(&shape, &values)?.to_dtype(case.dtype))
}

/// One token's hidden state; it depends on no step.
fn row(case: &Case, config: &MlaConfig, sequence: usize, position: usize) -> Vec<f32> {
    let normal =
        |name: &str, of: usize| Random::new(case.seed, &format!("{name} {sequence} {of}")).normal(config.d_model);
    match case.input {
        InputKind::Normal | InputKind::Rope => normal("token", position),
        InputKind::Large => {
            let factor = LARGE[usize::from(config.d_q_latent.is_none())];
            normal("token", position).into_iter().map(|x| factor * x).collect()
        }
        InputKind::Constant => normal("token", 0),
        InputKind::NearTie => {
            let near = normal("tie", position % TIES).into_iter();
            near.zip(normal("token", position))
                .map(|(x, y)| x + APART * y)
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::shape::Model;
    use super::*;

    fn case(input: &str) -> (Case, MlaConfig) {
        let model = Model::parse("heads=2,d_model=64,d_latent=16,d_rope=4,d_nope=8,d_v=8,d_q_latent=24").unwrap();
        let config = model.config().unwrap();
        let case = Case::parse(&format!("dtype=f32,steps=3:5/2:0,input={input},seed=1"), model).unwrap();
        (case, config)
    }

    #[test]
    fn padding_is_where_no_token_is() {
        let (case, config) = case("normal");
        let hidden = hidden(&case, &config, 0, f32::NAN).unwrap();
        assert_eq!(hidden.shape(), [2, 5, 64]);
        let nan: Vec<bool> = hidden.to_f32_vec().chunks(64).map(|row| row[0].is_nan()).collect();
        assert_eq!(
            nan,
            [false, false, false, true, true, false, false, false, false, false]
        );
    }

    #[test]
    fn tokens_differ_as_their_kind_says() {
        let rows = |input: &str, step| {
            let (case, config) = case(input);
            hidden(&case, &config, step, 0.0).unwrap().to_f32_vec()
        };
        let constant = rows("constant", 0);
        assert_eq!(constant[..64], constant[64..128]);
        assert_eq!(constant[..64], rows("constant", 1)[..64]);
        assert_ne!(constant[..64], constant[5 * 64..6 * 64]);
        let normal = rows("normal", 0);
        assert_ne!(normal[..64], normal[64..128]);
        let (tie, next) = (rows("near-tie", 0), rows("near-tie", 1));
        // Position 3 is near position 0.
        let apart = tie[..64].iter().zip(&next[..64]).map(|(x, y)| (x - y).abs());
        assert!(apart.clone().all(|d| d < 0.1) && apart.sum::<f32>() > 0.0);
    }

    #[test]
    fn weights_keep_activations_near_one_and_rope_rows_may_outweigh() {
        let rms = |values: &[f32]| (values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32).sqrt();
        let kv_a = |input: &str| {
            let (case, config) = case(input);
            weights(&case, &config).unwrap()["kv_a_proj_with_mqa.weight"].to_f32_vec()
        };
        let (plain, rope) = (kv_a("normal"), kv_a("rope"));
        assert!((rms(&plain) * 8.0 - 1.0).abs() < 0.1);
        assert_eq!(plain[..16 * 64], rope[..16 * 64]);
        assert!((rms(&rope[16 * 64..]) * 8.0 - 3.0).abs() < 0.6);
    }
}
