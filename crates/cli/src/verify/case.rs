//! One case of a property run, and its text: `dtype=bf16,page=7,steps=5:3/1:1,input=normal,seed=17`.

use super::shape::Model;
use anyhow::{Context, Result, bail};
use mlafuse::DType;
use mlafuse::config::MlaConfig;
use std::fmt;
use std::str::FromStr;

/// Most tokens a page may have.
const LARGEST_PAGE: usize = 1 << 16;
/// Most operations of a case that is asked for by its text; about an hour.
const MOST_FLOPS: f64 = 1e13;

/// Everything that a case's numbers follow from.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The layer's sizes.
    pub model: Model,
    /// Storage type: bf16, f16 or f32.
    pub dtype: DType,
    /// Tokens a page.
    pub page: usize,
    /// New tokens of each sequence, step by step.
    pub steps: Vec<Vec<usize>>,
    /// What the hidden states are like.
    pub input: InputKind,
    /// Of the weights, the hidden states and the order of pages.
    pub seed: u64,
}

/// What the hidden states are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// Normal numbers.
    Normal,
    /// Larger ones, so that softmax is nearly a choice.
    Large,
    /// The rope parts of queries and keys outweigh their content.
    Rope,
    /// Every token of a sequence is the same.
    Constant,
    /// Tokens are one of three, but for a hundredth.
    NearTie,
}

impl InputKind {
    /// All of them, the plainest first.
    pub const ALL: [InputKind; 5] = [
        InputKind::Normal,
        InputKind::Large,
        InputKind::Rope,
        InputKind::Constant,
        InputKind::NearTie,
    ];

    fn name(self) -> &'static str {
        match self {
            InputKind::Normal => "normal",
            InputKind::Large => "large",
            InputKind::Rope => "rope",
            InputKind::Constant => "constant",
            InputKind::NearTie => "near-tie",
        }
    }
}

impl fmt::Display for InputKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Case {
    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.steps.first().map_or(0, Vec::len)
    }

    /// Tokens of the longest sequence after the last step.
    pub fn longest(&self) -> usize {
        lengths(&self.steps).into_iter().max().unwrap_or(0)
    }

    /// The case with every step after the first of one token a sequence, as `mlafuse run` makes them.
    pub fn with_single_token_steps(mut self) -> Case {
        for step in self.steps.iter_mut().skip(1) {
            step.fill(1);
        }
        self
    }

    /// Reads the text of a case for a model.
    pub fn parse(text: &str, model: Model) -> Result<Case> {
        let mut case = Case {
            model,
            dtype: DType::BF16,
            page: 64,
            steps: Vec::new(),
            input: InputKind::Normal,
            seed: 0,
        };
        let mut seen = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (key, value) = pair
                .split_once('=')
                .with_context(|| format!("--case: `{pair}` has no value; allowed: key=value"))?;
            if seen.contains(&key) {
                bail!("--case: `{key}` is given twice");
            }
            seen.push(key);
            case.set(key, value)?;
        }
        if case.steps.is_empty() {
            bail!("--case `{text}`: `steps` is missing; as steps=5:3/1:1, tokens of each sequence, step by step");
        }
        case.check()?;
        Ok(case)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let refuse = |allowed: &str| format!("--case: `{key}` is `{value}`; allowed: {allowed}");
        match key {
            "dtype" => {
                let found = DType::from_str(value).ok();
                let storage = found.filter(|dtype| matches!(dtype, DType::BF16 | DType::F16 | DType::F32));
                self.dtype = storage.with_context(|| refuse("bf16, f16, f32"))?;
            }
            "page" => {
                let page = value.parse().ok().filter(|page| (1..=LARGEST_PAGE).contains(page));
                self.page = page.with_context(|| refuse("an integer from 1 to 65536"))?;
            }
            "steps" => self.steps = steps(value)?,
            "input" => {
                let kind = InputKind::ALL.into_iter().find(|kind| kind.name() == value);
                self.input = kind.with_context(|| refuse("normal, large, rope, constant, near-tie"))?;
            }
            "seed" => {
                self.seed = value
                    .parse()
                    .ok()
                    .with_context(|| refuse("an integer from 0 to 2^64 - 1"))?;
            }
            _ => bail!("--case: unknown key `{key}`; known: dtype, page, steps, input, seed"),
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let config = self.model.config()?;
        if self.longest() > config.max_position {
            bail!(
                "--case: a sequence grows to {} tokens; this model's longest context has {}",
                self.longest(),
                config.max_position
            );
        }
        let flops = flops(&config, &self.steps);
        if flops > MOST_FLOPS {
            bail!("--case: it would take {flops:.1e} operations; at most {MOST_FLOPS:.0e} are done");
        }
        Ok(())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let steps: Vec<String> = self.steps.iter().map(|step| join(step)).collect();
        let Case {
            dtype,
            page,
            input,
            seed,
            ..
        } = self;
        write!(
            f,
            "dtype={dtype},page={page},steps={},input={input},seed={seed}",
            steps.join("/")
        )
    }
}

fn join(step: &[usize]) -> String {
    step.iter().map(usize::to_string).collect::<Vec<_>>().join(":")
}

/// `5:3/1:1`: two sequences, of 5 and 3 tokens, then one more each.
fn steps(text: &str) -> Result<Vec<Vec<usize>>> {
    const ALLOWED: &str = "1 to 64 sequences of up to 1048576 tokens, 1 to 1024 steps, as 5:3/1:1";
    let refuse = || format!("--case: `steps` is `{text}`; allowed: {ALLOWED}");
    let count = |text: &str| text.parse().ok().filter(|&count: &usize| count <= 1 << 20);
    let step = |text: &str| text.split(':').map(count).collect::<Option<Vec<usize>>>();
    let steps: Vec<Vec<usize>> = text.split('/').map(step).collect::<Option<_>>().with_context(refuse)?;
    let sequences = steps.first().map_or(0, Vec::len);
    if !(1..=64).contains(&sequences) || steps.len() > 1024 {
        bail!(refuse());
    }
    if let Some(step) = steps.iter().find(|step| step.len() != sequences) {
        bail!(
            "--case: `steps` is `{text}`: {} and {} sequences; every step has the same",
            sequences,
            step.len()
        );
    }
    Ok(steps)
}

/// Tokens of each sequence after these steps.
fn lengths(steps: &[Vec<usize>]) -> Vec<usize> {
    let mut lens = vec![0; steps.first().map_or(0, Vec::len)];
    for step in steps {
        lens.iter_mut().zip(step).for_each(|(len, new)| *len += new);
    }
    lens
}

/// Operations of a case: those of the layer as the paper writes it, which is what the reference computes, and attention in
/// absorbed form, the most that a device computes; of padded batches in both.
pub fn flops(config: &MlaConfig, steps: &[Vec<usize>]) -> f64 {
    let MlaConfig {
        d_model,
        n_heads,
        d_latent,
        d_rope,
        d_nope,
        d_v,
        ..
    } = *config;
    let [d_model, heads, latent, rope, nope, value] =
        [d_model, n_heads, d_latent, d_rope, d_nope, d_v].map(|n| n as f64);
    let query = match config.d_q_latent {
        Some(d_q) => d_q as f64 * (d_model + heads * (nope + rope)),
        None => d_model * heads * (nope + rope),
    };
    let projections = query + d_model * (latent + rope) + d_model * heads * value;
    let decompress = heads * (nope + value) * latent;
    let mut total = 0.0;
    for done in 1..=steps.len() {
        let tokens = steps[done - 1].iter().copied().max().unwrap_or(0) as f64;
        let cached = lengths(&steps[..done]).into_iter().max().unwrap_or(0) as f64;
        let sequences = steps[done - 1].len() as f64;
        let (rows, pairs) = (sequences * tokens, sequences * tokens * cached * heads);
        let reference = rows * projections + sequences * cached * decompress + pairs * (nope + rope + value);
        let device = rows * (projections + decompress) + pairs * (2.0 * latent + rope);
        total += if tokens > 0.0 { 2.0 * (reference + device) } else { 0.0 };
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> Model {
        Model::parse("heads=2,d_model=8,d_latent=16,d_rope=4,d_nope=8,d_v=8,d_q_latent=none").unwrap()
    }

    #[test]
    fn texts_round_trip() {
        for text in [
            "dtype=bf16,page=7,steps=5:3/1:1,input=normal,seed=17",
            "dtype=f32,page=1,steps=0/0/9,input=near-tie,seed=18446744073709551615",
        ] {
            assert_eq!(Case::parse(text, model()).unwrap().to_string(), text);
        }
        let short = Case::parse("steps=3", model()).unwrap();
        assert_eq!(short.to_string(), "dtype=bf16,page=64,steps=3,input=normal,seed=0");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, words) in [
            ("dtype=bf16", "`steps` is missing"),
            ("steps=3,steps=4", "`steps` is given twice"),
            ("steps=3:4/1", "2 and 1 sequences"),
            ("steps=3:", "`steps` is `3:`"),
            ("steps=3,page=0", "`page` is `0`; allowed: an integer from 1"),
            ("steps=3,dtype=f64", "allowed: bf16, f16, f32"),
            ("steps=3,input=odd", "allowed: normal, large, rope, constant, near-tie"),
            ("steps=3,pages=4", "unknown key `pages`"),
            ("steps", "`steps` has no value"),
            ("steps=1048576/1048576", "longest context has 1048576"),
            ("steps=1000000", "operations; at most 1e13"),
        ] {
            let error = format!("{:#}", Case::parse(text, model()).unwrap_err());
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn steps_without_tokens_cost_nothing() {
        let config = model().config().unwrap();
        let one = flops(&config, &[vec![5, 3]]);
        assert_eq!(flops(&config, &[vec![5, 3], vec![0, 0]]), one);
        assert!(flops(&config, &[vec![5, 3], vec![1, 0]]) > one);
    }
}
