//! A case on the device against the f64 reference, and against what a plain implementation of the same type costs.

use super::case::Case;
use super::inputs;
use anyhow::{Result, bail};
use mlafuse::config::MlaConfig;
use mlafuse::{DType, DeviceSpec, HostTensor, LayerOptions, LayerWeights, MlaLayer, PlanKind, Splits};

/// Most relative L2 error in f32.
const F32: f64 = 1e-4;
/// How many times a plain implementation's error is allowed.
const TIMES_PLAIN: f64 = 2.0;
/// How much more is allowed where few heads of few tokens are compared, as two errors of the same spread then differ by
/// chance: of n independent ones, by a part that falls with the square root of n.
const CHANCE: f64 = 2.0;
/// What is allowed in any case, in units of the type's rounding error: a plain implementation's error may be small by luck.
const FLOOR: f64 = 4.0;
/// How many times a case's allowed error one token's may be.
const ROW: f64 = 8.0;

/// What runs the cases.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    pub device: DeviceSpec,
    pub plan: PlanKind,
    pub splits: Splits,
}

/// What came of a case.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Relative L2 error of all outputs against f64; infinite where there are none.
    pub rel_l2: f64,
    /// The most that is allowed.
    pub allowed: f64,
    /// A plain implementation's error, where it counts.
    pub plain: Option<f64>,
    /// Why the case failed; `None` where it passed.
    pub fault: Option<String>,
}

impl Verdict {
    /// A case that gave no output.
    fn broken(fault: String) -> Verdict {
        Verdict {
            rel_l2: f64::INFINITY,
            allowed: 0.0,
            plain: None,
            fault: Some(fault),
        }
    }

    /// The error in parts of what is allowed.
    pub fn strain(&self) -> f64 {
        match self.rel_l2 / self.allowed {
            strain if strain.is_nan() => f64::INFINITY,
            strain => strain,
        }
    }
}

/// Half the distance of a type's neighbours at 1.
pub fn rounding(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 2f64.powi(-9),
        DType::F16 => 2f64.powi(-12),
        _ => 2f64.powi(-25),
    }
}

/// Runs a case and judges it. What panics has failed.
pub fn judge(case: &Case, setup: &Setup) -> Verdict {
    let judged = std::panic::catch_unwind(|| try_judge(case, setup));
    match judged {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => Verdict::broken(crate::failure::message(&error)),
        Err(_) => Verdict::broken("it panicked".to_string()),
    }
}

fn try_judge(case: &Case, setup: &Setup) -> Result<Verdict> {
    let config = case.model.config()?;
    let weights = LayerWeights::from_tensors(&config, &inputs::weights(case, &config)?)?;
    let layer = |device| -> Result<MlaLayer> {
        let options = LayerOptions {
            device,
            plan: setup.plan,
            dtype: case.dtype,
            page_size: case.page,
            splits: setup.splits,
        };
        Ok(MlaLayer::new(&weights, &config, options)?)
    };
    // A layer at a time: each has its own copy of the weights.
    let truth = outputs(&layer(DeviceSpec::Reference { f64: true })?, case, &config)?;
    let plain = match case.dtype {
        DType::F32 => None,
        dtype => {
            let layer = MlaLayer::plain(&weights, &config, dtype, case.page)?;
            Some(Errors::of(&outputs(&layer, case, &config)?, &truth, case).total)
        }
    };
    let found = outputs(&layer(setup.device)?, case, &config)?;
    // One for each head: softmax of one score or another. They meet again in d_model numbers.
    let independent = config.n_heads.min(config.d_model);
    Ok(verdict(case, plain, independent, &found, &truth))
}

/// What the layer gives, step by step. Unused memory holds NaN and free pages are in random order, before each step anew.
pub fn outputs(layer: &MlaLayer, case: &Case, config: &MlaConfig) -> Result<Vec<HostTensor>> {
    let mut cache = layer.new_cache(case.sequences(), case.longest())?;
    let mut found = Vec::with_capacity(case.steps.len());
    let mut lens = vec![0; case.sequences()];
    for (step, new) in case.steps.iter().enumerate() {
        cache.scramble(case.seed.wrapping_add(step as u64))?;
        let hidden = inputs::hidden(case, config, step, f32::NAN)?;
        found.push(layer.step(&mut cache, &hidden, new)?.out);
        for (sequence, (len, new)) in lens.iter_mut().zip(new).enumerate() {
            *len += new;
            if cache.len(sequence) != Some(*len) {
                bail!(
                    "step {step}: sequence {sequence} has {:?} tokens, not {len}",
                    cache.len(sequence)
                );
            }
        }
    }
    Ok(found)
}

/// `independent` errors are there of each token.
fn verdict(case: &Case, plain: Option<f64>, independent: usize, found: &[HostTensor], truth: &[HostTensor]) -> Verdict {
    let errors = Errors::of(found, truth, case);
    let allowed = allowed(case.dtype, plain, errors.tokens * independent);
    Verdict {
        rel_l2: errors.total,
        allowed,
        plain,
        fault: fault(&errors, allowed),
    }
}

/// The most relative L2 error of a case with `errors` independent errors.
fn allowed(dtype: DType, plain: Option<f64>, errors: usize) -> f64 {
    let floor = FLOOR * rounding(dtype);
    match plain {
        None => F32,
        Some(plain) if plain.is_finite() => {
            let chance = 1.0 + CHANCE / (errors.max(1) as f64).sqrt();
            (TIMES_PLAIN * chance * plain).max(floor)
        }
        // What overflows in a plain implementation is judged by the floor alone.
        Some(_) => floor,
    }
}

fn fault(errors: &Errors, allowed: f64) -> Option<String> {
    if let Some(place) = &errors.not_finite {
        return Some(format!(
            "{place}: not finite where the reference is, or finite where it is not"
        ));
    }
    if let Some(place) = &errors.padding {
        return Some(format!("{place}: no token is there and its output is not zero"));
    }
    if !within(errors.total, allowed) {
        return Some(format!("rel-L2 {:.2e}, allowed {allowed:.2e}", errors.total));
    }
    let (worst, place) = &errors.worst_row;
    (!within(*worst, ROW * allowed))
        .then(|| format!("{place}: rel-L2 {worst:.2e}, allowed {:.2e} of a token", ROW * allowed))
}

/// NaN never is.
fn within(error: f64, allowed: f64) -> bool {
    error <= allowed
}

/// How far outputs are from the truth.
struct Errors {
    /// ‖found - truth‖ / ‖truth‖ over all tokens of all steps; 0 where both are 0.
    total: f64,
    /// Tokens compared.
    tokens: usize,
    /// The worst token: the error over its norm, or over the mean one where that is larger.
    worst_row: (f64, String),
    /// The first token that is not finite in one of both only.
    not_finite: Option<String>,
    /// The first row of no token that is not zero.
    padding: Option<String>,
}

impl Errors {
    fn of(found: &[HostTensor], truth: &[HostTensor], case: &Case) -> Errors {
        let (mut rows, mut not_finite, mut padding) = (Vec::new(), None, None);
        for (step, (found, truth)) in found.iter().zip(truth).enumerate() {
            let &[_, tokens, width] = truth.shape() else { continue };
            let (found, truth) = (found.to_f64_vec(), truth.to_f64_vec());
            for (index, (found, truth)) in found.chunks(width).zip(truth.chunks(width)).enumerate() {
                let (sequence, token) = (index / tokens, index % tokens);
                let place = || format!("step {step}, sequence {sequence}, token {token}");
                if token >= case.steps[step][sequence] {
                    if padding.is_none() && found.iter().any(|&x| x != 0.0) {
                        padding = Some(place());
                    }
                    continue;
                }
                let same = |(x, y): (&f64, &f64)| x.is_finite() == y.is_finite();
                if not_finite.is_none() && !found.iter().zip(truth).all(same) {
                    not_finite = Some(place());
                }
                let apart = found.iter().zip(truth).map(|(x, y)| (x - y).powi(2)).sum::<f64>();
                rows.push((apart, truth.iter().map(|x| x.powi(2)).sum::<f64>(), place()));
            }
        }
        let sum = |of: fn(&(f64, f64, String)) -> f64| rows.iter().map(of).sum::<f64>();
        let (apart, norm) = (sum(|row| row.0), sum(|row| row.1));
        let tokens = rows.len();
        let mean = norm / rows.len().max(1) as f64;
        let worst_row = rows
            .into_iter()
            .map(|(apart, norm, place)| (ratio(apart, norm.max(mean)), place))
            .max_by(|x, y| x.0.total_cmp(&y.0));
        Errors {
            total: ratio(apart, norm),
            tokens,
            worst_row: worst_row.unwrap_or_default(),
            not_finite,
            padding,
        }
    }
}

/// The root of a ratio of squares; 0 of 0 is 0.
fn ratio(apart: f64, norm: f64) -> f64 {
    if apart == 0.0 { 0.0 } else { (apart / norm).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::super::shape::Model;
    use super::*;

    /// Two sequences, of three tokens and one, and the verdict on them; the last two rows are padding.
    fn judged(dtype: &str, plain: Option<f64>, change: impl Fn(&mut [f64])) -> Verdict {
        let model = Model::parse("heads=1,d_model=2").unwrap();
        let case = Case::parse(&format!("steps=3:1,dtype={dtype}"), model).unwrap();
        let truth = [1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 5.0, 6.0, 0.0, 0.0, 0.0, 0.0];
        let mut found = truth;
        change(&mut found);
        let tensor = |values: &[f64]| [HostTensor::from_f64(&[2, 3, 2], values).unwrap()];
        verdict(&case, plain, 1, &tensor(&found), &tensor(&truth))
    }

    #[test]
    fn what_is_right_passes() {
        let verdict = judged("f32", None, |_| {});
        assert_eq!((verdict.rel_l2, verdict.fault), (0.0, None));
        assert_eq!(judged("f32", None, |x| x[0] += 1e-4).fault, None);
    }

    #[test]
    fn each_fault_is_named() {
        for (index, value, words) in [
            (0, f64::NAN, "step 0, sequence 0, token 0: not finite"),
            (7, f64::INFINITY, "step 0, sequence 1, token 0: not finite"),
            (10, 1e-30, "step 0, sequence 1, token 2: no token is there"),
            (11, f64::NAN, "step 0, sequence 1, token 2: no token is there"),
            (4, 1.01, "rel-L2 1.02e-3, allowed 1.00e-4"),
        ] {
            let fault = judged("f32", None, |x| x[index] = value).fault.unwrap();
            assert!(fault.starts_with(words), "{fault}");
        }
    }

    #[test]
    fn sixteen_bits_may_cost_twice_what_a_plain_implementation_pays() {
        let off = |by: f64| move |x: &mut [f64]| x.iter_mut().for_each(|x| *x *= 1.0 + by);
        // Twice 0.02, and as much again for four tokens only.
        assert_eq!(judged("bf16", Some(0.02), off(0.079)).fault, None);
        assert!(judged("bf16", Some(0.02), off(0.081)).fault.is_some());
        assert!((allowed(DType::BF16, Some(0.02), 1_000_000) - 0.04).abs() < 1e-4);
        // Where that is next to nothing, some roundings.
        assert_eq!(judged("bf16", Some(0.0), off(0.0078)).fault, None);
        assert!(judged("bf16", Some(0.0), off(0.0079)).fault.is_some());
        assert!(judged("f16", Some(f64::NAN), off(0.001)).fault.is_some());
    }

    #[test]
    fn one_wrong_token_among_many_is_found() {
        let model = Model::parse("heads=1,d_model=1").unwrap();
        let case = Case::parse("steps=2000,dtype=bf16", model).unwrap();
        let tensor = |values: &[f64]| [HostTensor::from_f64(&[1, 2000, 1], values).unwrap()];
        let mut found = vec![1.0; 2000];
        found[1234] = 0.7;
        let verdict = verdict(&case, Some(1e-2), 1, &tensor(&found), &tensor(&[1.0; 2000]));
        assert!(verdict.rel_l2 < verdict.allowed);
        assert!(
            verdict
                .fault
                .unwrap()
                .starts_with("step 0, sequence 0, token 1234: rel-L2 3.00e-1")
        );
    }
}
