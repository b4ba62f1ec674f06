//! Rope's tables of cosines and sines, computed as the checkpoints were trained: in f32, every step.
//!
//! Frequencies, position · frequency, and the cosine and sine are f32 in every mode, the f64 reference too: doing
//! them in f64 moves a 1,500-token YaRN case by 1e-5. Formulas follow transformers' `modeling_rope_utils.py`.

use thiserror::Error;

use crate::config::{MlaConfig, RopePairing, RopeScaling, yarn_mscale};

/// Most elements of one table, 4 GiB of cosines.
const MAX_TABLE_ELEMS: usize = 1 << 30;

/// A table that would be too large to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a rope table of {positions} positions by {d_half} frequencies is too large; at most {max} elements")]
pub struct RopeTableTooLarge {
    /// Positions asked for.
    pub positions: usize,
    /// Frequencies, d_rope / 2.
    pub d_half: usize,
    /// Most elements one table may have.
    pub max: usize,
}

/// Frequencies of the d_rope / 2 pairs, and the factor on every cosine and sine.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeFrequencies {
    /// Radians a position, [d_rope / 2]. All 0 for an unrotated rope part.
    pub inv_freq: Vec<f32>,
    /// YaRN's mscale(mscale) / mscale(mscale_all_dim), longrope's attention factor, else 1.
    pub attention_factor: f32,
}

/// Cosines and sines for positions 0..positions, both [positions, d_half], row by row, attention factor included.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// [positions, d_half].
    pub cos: Vec<f32>,
    /// [positions, d_half].
    pub sin: Vec<f32>,
    /// Frequencies, d_rope / 2.
    pub d_half: usize,
    /// Rows.
    pub positions: usize,
}

impl RopeTable {
    /// The table for `positions` positions from 0. `longest_context` is the longest length, in tokens, the layer
    /// will see: longrope picks its factors by it, for every position, as transformers does by the running length.
    /// An unrotated rope part gets cos 1 and sin 0.
    ///
    /// # Errors
    /// [`RopeTableTooLarge`] past 2^30 elements.
    pub fn new(config: &MlaConfig, positions: usize, longest_context: usize) -> Result<RopeTable, RopeTableTooLarge> {
        let RopeFrequencies {
            inv_freq,
            attention_factor,
        } = RopeFrequencies::new(config, longest_context);
        let d_half = inv_freq.len();
        let elems = positions
            .checked_mul(d_half)
            .filter(|elems| *elems <= MAX_TABLE_ELEMS)
            .ok_or(RopeTableTooLarge {
                positions,
                d_half,
                max: MAX_TABLE_ELEMS,
            })?;
        let (mut cos, mut sin) = (Vec::with_capacity(elems), Vec::with_capacity(elems));
        for position in 0..positions {
            for freq in &inv_freq {
                let angle = position as f32 * freq;
                // Through f64 so that the f32 result is the nearest one on every platform.
                let (s, c) = f64::from(angle).sin_cos();
                cos.push(c as f32 * attention_factor);
                sin.push(s as f32 * attention_factor);
            }
        }
        Ok(RopeTable {
            cos,
            sin,
            d_half,
            positions,
        })
    }

    /// One position's cosines and sines, d_half of each; `None` past the end.
    pub fn row(&self, position: usize) -> Option<(&[f32], &[f32])> {
        if position >= self.positions {
            return None;
        }
        let range = position * self.d_half..(position + 1) * self.d_half;
        Some((self.cos.get(range.clone())?, self.sin.get(range)?))
    }
}

impl RopeFrequencies {
    /// Whether contexts of up to so many tokens and of up to so many others have the same frequencies. Longrope has others for
    /// long contexts than for short ones; else nothing depends on the length.
    pub fn agree(config: &MlaConfig, longest: usize, other: usize) -> bool {
        match &config.rope.scaling {
            RopeScaling::LongRope {
                original_max_position, ..
            } => (longest > *original_max_position) == (other > *original_max_position),
            _ => true,
        }
    }

    /// The frequencies of a config for contexts up to `longest_context` tokens.
    pub fn new(config: &MlaConfig, longest_context: usize) -> RopeFrequencies {
        let (d_rope, theta) = (config.d_rope, config.rope.theta);
        if config.rope.pairing == RopePairing::Unrotated {
            return RopeFrequencies {
                inv_freq: vec![0.0; d_rope / 2],
                attention_factor: 1.0,
            };
        }
        let powers = theta_powers(theta, d_rope);
        match &config.rope.scaling {
            RopeScaling::None => RopeFrequencies {
                inv_freq: powers.map(|power| 1.0 / power).collect(),
                attention_factor: 1.0,
            },
            RopeScaling::Linear { factor } => {
                let factor = *factor as f32;
                let inv_freq = powers.map(|power| 1.0 / power / factor).collect();
                RopeFrequencies {
                    inv_freq,
                    attention_factor: 1.0,
                }
            }
            RopeScaling::Yarn {
                factor,
                attention_factor,
                mscale,
                mscale_all_dim,
                ..
            } => {
                let ramp = YarnRamp::new(&config.rope.scaling, theta, d_rope);
                let inv_freq = powers
                    .enumerate()
                    .map(|(index, power)| ramp.blend(index, power, *factor as f32))
                    .collect();
                let on_tables =
                    attention_factor.unwrap_or_else(|| yarn_attention_factor(*factor, *mscale, *mscale_all_dim));
                RopeFrequencies {
                    inv_freq,
                    attention_factor: on_tables as f32,
                }
            }
            RopeScaling::LongRope {
                short_factor,
                long_factor,
                original_max_position,
                attention_factor,
            } => {
                let factors = if longest_context > *original_max_position {
                    long_factor
                } else {
                    short_factor
                };
                let inv_freq = powers
                    .zip(factors)
                    .map(|(power, factor)| 1.0 / (*factor as f32 * power))
                    .collect();
                RopeFrequencies {
                    inv_freq,
                    attention_factor: *attention_factor as f32,
                }
            }
        }
    }
}

/// theta ^ (2i / d_rope) for each pair, in f32.
fn theta_powers(theta: f64, d_rope: usize) -> impl Iterator<Item = f32> {
    let base = f64::from(theta as f32);
    (0..d_rope / 2).map(move |pair| {
        let exponent = (2 * pair) as f32 / d_rope as f32;
        base.powf(f64::from(exponent)) as f32
    })
}

/// The factor on cosines and sines where the config doesn't give one; a coefficient of 0 counts as absent.
fn yarn_attention_factor(factor: f64, mscale: f64, mscale_all_dim: f64) -> f64 {
    if mscale != 0.0 && mscale_all_dim != 0.0 {
        yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim)
    } else {
        yarn_mscale(factor, 1.0)
    }
}

/// YaRN's ramp over the pairs: below `low` a frequency is kept, above `low + width` it is divided by the factor.
struct YarnRamp {
    low: f32,
    width: f32,
}

impl YarnRamp {
    fn new(scaling: &RopeScaling, theta: f64, d_rope: usize) -> YarnRamp {
        let RopeScaling::Yarn {
            original_max_position,
            beta_fast,
            beta_slow,
            truncate,
            ..
        } = scaling
        else {
            return YarnRamp { low: 0.0, width: 1.0 };
        };
        // The dimension whose frequency turns `rotations` times over the original context.
        let dimension = |rotations: f64| {
            let turns = *original_max_position as f64 / (rotations * std::f64::consts::TAU);
            d_rope as f64 * turns.ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (dimension(*beta_fast), dimension(*beta_slow));
        if *truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        low = low.max(0.0);
        high = high.min(d_rope as f64 - 1.0);
        if low == high {
            high += 0.001; // as transformers, so that the division stays finite
        }
        YarnRamp {
            low: low as f32,
            width: (high - low) as f32,
        }
    }

    fn blend(&self, pair: usize, power: f32, factor: f32) -> f32 {
        let ramp = ((pair as f32 - self.low) / self.width).clamp(0.0, 1.0);
        let kept = 1.0 - ramp;
        1.0 / (factor * power) * (1.0 - kept) + 1.0 / power * kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(rope: &str, d_rope: usize) -> MlaConfig {
        let text = format!(
            r#"{{"model_type": "deepseek_v3", "hidden_size": 64, "num_attention_heads": 2, "kv_lora_rank": 32,
                "q_lora_rank": null, "qk_nope_head_dim": 8, "qk_rope_head_dim": {d_rope}, "v_head_dim": 8,
                "max_position_embeddings": 163840, {rope}}}"#
        );
        MlaConfig::from_json(&text, "config.json").unwrap()
    }

    fn within_ulps(found: f32, expected: f32, ulps: u32) -> bool {
        found == expected || found.to_bits().abs_diff(expected.to_bits()) <= ulps
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!(
                within_ulps(*found, *expected, 2),
                "{index}: {found:e} against {expected:e}"
            );
        }
    }

    const YARN: &str = r#""rope_theta": 10000, "rope_scaling": {"type": "yarn", "factor": 40,
        "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1, "mscale": 1, "mscale_all_dim": 1}"#;

    // The expected numbers of these tests come from an independent f32 computation of transformers' formulas.

    #[test]
    fn plain_and_linear_frequencies() {
        let plain = RopeFrequencies::new(&config(r#""rope_theta": 10000"#, 16), 1);
        let expected = [
            1.0,
            3.162_277_6e-1,
            0.1,
            3.162_278e-2,
            0.01,
            3.162_277_9e-3,
            1e-3,
            3.162_278e-4,
        ];
        assert_close(&plain.inv_freq, &expected);
        let linear = config(
            r#""rope_parameters": {"rope_theta": 10000, "rope_type": "linear", "factor": 4.0}"#,
            16,
        );
        let quarter: Vec<f32> = expected.iter().map(|freq| freq / 4.0).collect();
        assert_close(&RopeFrequencies::new(&linear, 1).inv_freq, &quarter);
    }

    #[test]
    fn yarn_keeps_the_fast_and_divides_the_slow_frequencies() {
        let yarn = RopeFrequencies::new(&config(YARN, 16), 1);
        let expected = [
            1.0,
            3.162_277_6e-1,
            0.1,
            2.391_472_5e-2,
            5.124_999_7e-3,
            8.498_622e-4,
            2.5e-5,
            7.905_694_5e-6,
        ];
        assert_close(&yarn.inv_freq, &expected);
        assert_eq!(yarn.attention_factor, 1.0);
    }

    #[test]
    fn yarn_without_truncation_has_a_ramp_between_dimensions() {
        let rope = YARN.replace("\"factor\"", "\"truncate\": false, \"factor\"");
        let yarn = RopeFrequencies::new(&config(&rope, 16), 1);
        let expected = [
            1.0,
            3.162_277_6e-1,
            0.1,
            2.771_085_9e-2,
            5.524_062_6e-3,
            7.226_381_6e-4,
            2.5e-5,
            7.905_694_5e-6,
        ];
        assert_close(&yarn.inv_freq, &expected);
    }

    #[test]
    fn a_yarn_ramp_one_dimension_wide_steps() {
        // Kimi-K2: beta_fast = beta_slow = 1.
        let rope = r#""rope_theta": 50000, "rope_scaling": {"type": "yarn", "factor": 32,
            "original_max_position_embeddings": 4096, "beta_fast": 1, "beta_slow": 1}"#;
        let found = RopeFrequencies::new(&config(rope, 64), 1).inv_freq;
        assert_close(
            &found[18..22],
            &[2.274_203_6e-3, 1.621_76e-3, 3.614_046_7e-5, 2.577_216_8e-5],
        );
    }

    #[test]
    fn yarn_attention_factor_is_a_quotient_of_magnitudes() {
        let with = |fields: &str| {
            let rope = format!(
                r#""rope_scaling": {{"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096{fields}}}"#
            );
            RopeFrequencies::new(&config(&rope, 16), 1).attention_factor
        };
        assert_eq!(with(r#", "mscale": 1, "mscale_all_dim": 0.5"#), 1.155_722);
        assert_eq!(with(""), 1.368_887_9);
        assert_eq!(with(r#", "mscale": 1, "mscale_all_dim": 0"#), 1.368_887_9);
        assert_eq!(with(r#", "attention_factor": 1.25"#), 1.25);
    }

    #[test]
    fn longrope_picks_its_factors_by_the_longest_context() {
        let rope = r#""rope_theta": 10000, "max_position_embeddings": 4096, "rope_scaling": {"type": "longrope",
            "short_factor": [1, 1, 1, 1], "long_factor": [1.0591234137867171, 1.5, 3, 16],
            "original_max_position_embeddings": 1024}"#;
        let config = config(rope, 8);
        let short = RopeFrequencies::new(&config, 1024);
        assert_close(&short.inv_freq, &[1.0, 0.1, 0.01, 0.001]);
        let long = RopeFrequencies::new(&config, 1025);
        assert_close(&long.inv_freq, &[9.441_770_3e-1, 6.666_667e-2, 3.333_333_4e-3, 6.25e-5]);
        assert_eq!(long.attention_factor, 1.095_445_1);
        assert_eq!(short.attention_factor, long.attention_factor);
    }

    #[test]
    fn tables_hold_position_times_frequency() {
        let table = RopeTable::new(&config(YARN, 16), 1501, 1501).unwrap();
        assert_eq!((table.positions, table.d_half, table.cos.len()), (1501, 8, 1501 * 8));
        assert_eq!(table.row(0), Some(([1.0; 8].as_slice(), [0.0; 8].as_slice())));
        assert_eq!(table.row(1501), None);
        let (cos, sin) = table.row(1500).unwrap();
        let expected_cos = [
            -1.102_674e-1,
            -9.992_456e-1,
            6.992_508e-1,
            -2.534_354e-1,
            1.657_141_3e-1,
            2.916_994_4e-1,
            9.992_969_6e-1,
            9.999_296_7e-1,
        ];
        let expected_sin = [
            -9.939_02e-1,
            3.883_663_6e-2,
            -7.148_764e-1,
            -9.673_523_3e-1,
            9.861_738e-1,
            9.565_1e-1,
            3.749_121e-2,
            1.185_826_4e-2,
        ];
        // One ulp of a frequency moves the angle by 1500 ulps.
        let close = |found: &[f32], expected: &[f32]| found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(
            close(cos, &expected_cos) && close(sin, &expected_sin),
            "{cos:?} {sin:?}"
        );
    }

    #[test]
    fn angles_are_rounded_to_f32() {
        let config = config(r#""rope_theta": 10000"#, 16);
        let table = RopeTable::new(&config, 100_001, 1).unwrap();
        let freq = RopeFrequencies::new(&config, 1).inv_freq[1];
        let (cos, _) = table.row(100_000).unwrap();
        let rounded = f64::from(100_000f32 * freq).cos() as f32;
        let unrounded = (100_000.0 * f64::from(freq)).cos() as f32;
        assert_eq!(cos[1], rounded);
        assert_ne!(cos[1], unrounded);
    }

    #[test]
    fn an_unrotated_part_gets_the_identity() {
        let table = RopeTable::new(&config(r#""mla_use_nope": true"#, 16), 3, 3).unwrap();
        assert_eq!((table.cos, table.sin), (vec![1.0; 24], vec![0.0; 24]));
    }

    #[test]
    fn an_absent_rope_part_gets_an_empty_table() {
        let table = RopeTable::new(&config(r#""rope_theta": 10000"#, 0), 3, 3).unwrap();
        assert_eq!((table.d_half, table.cos.len()), (0, 0));
    }

    #[test]
    fn a_table_too_large_is_refused() {
        let error = RopeTable::new(&config(YARN, 16), usize::MAX, 1).unwrap_err();
        assert_eq!(error.d_half, 8);
    }
}
