//! The short form of a shape on a command line: `heads=20,d_model=2560,d_latent=256`.

use super::error::{ConfigError, shortened};
use super::fields::softmax_scale;
use super::{LATENT_NORM_EPS, MAX_DIM, MAX_HEADS, MlaConfig, RopeConfig, RopePairing, RopeScaling, yarn_mscale};

const KEYS: [&str; 9] = [
    "heads",
    "d_model",
    "d_latent",
    "d_rope",
    "d_nope",
    "d_v",
    "d_q_latent",
    "rope",
    "yarn",
];
/// Longest context before stretching of DeepSeek-V3, which `yarn` stands for.
const YARN_ORIGINAL: usize = 4096;

/// The keys as found, each at most once.
struct Pairs<'a> {
    file: String,
    found: Vec<(&'a str, &'a str)>,
}

pub(super) fn from_inline(text: &str) -> Result<MlaConfig, ConfigError> {
    let pairs = Pairs::split(text)?;
    pairs.check_required(["heads", "d_model"])?;
    let n_heads = pairs.integer("heads", 0, 1, MAX_HEADS)?;
    let d_model = pairs.integer("d_model", 0, 1, MAX_DIM)?;
    let d_rope = pairs.integer("d_rope", 64, 0, MAX_DIM)?;
    if d_rope % 2 == 1 {
        return Err(pairs.refuse("d_rope", &d_rope.to_string(), "an even number: rope rotates pairs"));
    }
    let d_nope = pairs.integer("d_nope", 128, 1, MAX_DIM)?;
    let yarn = pairs.yarn()?;
    let mscale = yarn.map_or(1.0, |factor| yarn_mscale(factor, 1.0));
    Ok(MlaConfig {
        model_type: "deepseek_v3".to_owned(),
        d_model,
        n_heads,
        d_latent: pairs.integer("d_latent", 512, 1, MAX_DIM)?,
        d_rope,
        d_nope,
        d_v: pairs.integer("d_v", 128, 1, MAX_DIM)?,
        d_q_latent: pairs.query_latent()?,
        attention_bias: false,
        latent_norm_eps: LATENT_NORM_EPS,
        rope: RopeConfig {
            theta: 1e4,
            pairing: pairs.pairing()?,
            scaling: yarn.map_or(RopeScaling::None, scaling),
        },
        softmax_scale: softmax_scale(d_nope, d_rope, mscale),
        q_latent_scale: 1.0,
        latent_scale: 1.0,
        n_layers: 1,
        attentions_per_layer: 1,
        mla_layers: None,
        max_position: 1 << 20,
        layers_prefix: "model.layers".to_owned(),
        notes: vec![match yarn {
            None => "inline shape: plain rope with theta 10000, one layer".to_owned(),
            Some(factor) => format!("inline shape: DeepSeek-V3's YaRN with factor {factor}, one layer"),
        }],
    })
}

/// DeepSeek-V3's parameters with another factor.
fn scaling(factor: f64) -> RopeScaling {
    RopeScaling::Yarn {
        factor,
        original_max_position: YARN_ORIGINAL,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale: 1.0,
        mscale_all_dim: 1.0,
        attention_factor: None,
        truncate: true,
    }
}

impl<'a> Pairs<'a> {
    fn split(text: &'a str) -> Result<Self, ConfigError> {
        let mut pairs = Pairs {
            file: format!("model `{}`", shortened(text)),
            found: Vec::new(),
        };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((key, value)) = part.split_once('=') else {
                return Err(pairs.refuse(part, "without a value", "key=value"));
            };
            let (key, value) = (key.trim(), value.trim());
            if !KEYS.contains(&key) {
                let known = KEYS.join(", ");
                return Err(ConfigError::UnknownKey {
                    file: pairs.file,
                    key: shortened(key),
                    known,
                });
            }
            if pairs.get(key).is_some() {
                return Err(pairs.refuse(key, "given twice", "each key once"));
            }
            pairs.found.push((key, value));
        }
        Ok(pairs)
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.found
            .iter()
            .find(|(found, _)| *found == key)
            .map(|(_, value)| *value)
    }

    fn refuse(&self, key: &str, found: &str, allowed: &str) -> ConfigError {
        ConfigError::Field {
            file: self.file.clone(),
            field: shortened(key),
            found: shortened(found),
            allowed: allowed.to_owned(),
        }
    }

    fn check_required(&self, keys: [&str; 2]) -> Result<(), ConfigError> {
        let missing: Vec<String> = keys
            .iter()
            .filter(|key| self.get(key).is_none())
            .map(|key| format!("`{key}`"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Missing {
            file: self.file.clone(),
            missing: missing.join(", "),
        })
    }

    fn integer(&self, key: &str, default: usize, least: usize, most: usize) -> Result<usize, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(default);
        };
        match value.parse::<usize>() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(self.refuse(
                key,
                &format!("`{value}`"),
                &format!("an integer from {least} to {most}"),
            )),
        }
    }

    fn query_latent(&self) -> Result<Option<usize>, ConfigError> {
        if self.get("d_q_latent") == Some("none") {
            return Ok(None);
        }
        let d_q = self.integer("d_q_latent", 1536, 0, MAX_DIM)?;
        Ok((d_q != 0).then_some(d_q))
    }

    fn yarn(&self) -> Result<Option<f64>, ConfigError> {
        let Some(text) = self.get("yarn") else { return Ok(None) };
        match text.parse::<f64>() {
            Ok(factor) if (1.0..=1e4).contains(&factor) => Ok(Some(factor)),
            _ => Err(self.refuse("yarn", &format!("`{text}`"), "a factor from 1 to 10000")),
        }
    }

    fn pairing(&self) -> Result<RopePairing, ConfigError> {
        match self.get("rope") {
            None | Some("interleaved") => Ok(RopePairing::Interleaved),
            Some("half") => Ok(RopePairing::HalfSplit),
            Some("none") => Ok(RopePairing::Unrotated),
            Some(other) => Err(self.refuse("rope", &format!("`{other}`"), "interleaved, half or none")),
        }
    }
}
