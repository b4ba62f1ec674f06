//! Reads the rope part of a `config.json`: `rope_theta` with `rope_scaling`, or the newer `rope_parameters`.

use serde_json::{Map, Value};

use super::error::{ConfigError, shortened};
use super::family::Family;
use super::json::Section;
use super::{MAX_POSITION, RopeScaling, yarn_mscale};

/// The rope types read here, for messages.
const SUPPORTED: &str = "default, linear, yarn, longrope";

/// What the rope fields say.
pub(super) struct RopeReading {
    pub theta: f64,
    pub scaling: RopeScaling,
    /// YaRN's factor on the softmax scale, applied twice.
    pub mscale: f64,
}

pub(super) fn read_rope(
    section: &Section,
    family: &Family,
    d_rope: usize,
    max_position: usize,
    notes: &mut Vec<String>,
) -> Result<RopeReading, ConfigError> {
    let theta = read_theta(section, family, notes)?;
    let empty = Map::new();
    let name = parameters_field(section)?;
    let map = section.object(name)?.unwrap_or(&empty);
    let path = format!("{}{name}.", section.path);
    let rope = Section {
        file: section.file,
        path: &path,
        map,
    };
    refuse_partial(section)?;
    refuse_partial(&rope)?;
    if let Some((layer_kind, _)) = map.iter().find(|(_, value)| value.is_object()) {
        let what = format!(
            "rope parameters for each kind of layer (`{path}{}`)",
            shortened(layer_kind)
        );
        return Err(section.unsupported(what, "one set of rope parameters"));
    }

    let kind = match rope.string("rope_type")? {
        Some(kind) => kind,
        None => rope.string("type")?.unwrap_or("default"),
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear {
            factor: required_factor(&rope)?,
        },
        "yarn" => read_yarn(section, &rope, max_position, notes)?,
        "longrope" => read_longrope(section, &rope, d_rope, max_position, notes)?,
        other => {
            return Err(section.unsupported(format!("rope type `{}`", shortened(other)), SUPPORTED));
        }
    };
    let mscale = match &scaling {
        RopeScaling::Yarn {
            factor, mscale_all_dim, ..
        } => yarn_mscale(*factor, *mscale_all_dim),
        _ => 1.0,
    };
    Ok(RopeReading { theta, scaling, mscale })
}

/// The field with the parameters: transformers prefers `rope_scaling` where it isn't empty.
fn parameters_field(section: &Section) -> Result<&'static str, ConfigError> {
    let old = section.object("rope_scaling")?.is_some_and(|map| !map.is_empty());
    Ok(if old { "rope_scaling" } else { "rope_parameters" })
}

fn read_theta(section: &Section, family: &Family, notes: &mut Vec<String>) -> Result<f64, ConfigError> {
    const FIELD: &str = "rope_theta";
    let theta_of = |section: &Section| {
        // Frequencies are f32, and YaRN divides by ln(theta).
        section.number(FIELD, "a number above 1, at most 1e30", |theta| {
            theta > 1.0 && theta <= 1e30
        })
    };
    for field in ["rope_scaling", "rope_parameters"] {
        if let Some(map) = section.object(field)? {
            let path = format!("{}{field}.", section.path);
            if let Some(theta) = theta_of(&Section {
                file: section.file,
                path: &path,
                map,
            })? {
                return Ok(theta);
            }
        }
    }
    if let Some(theta) = theta_of(section)? {
        return Ok(theta);
    }
    notes.push(format!("`{FIELD}` is absent: {}", family.theta));
    Ok(family.theta)
}

/// A part of the rope width rotated and a part not: no MLA checkpoint has that.
fn refuse_partial(section: &Section) -> Result<(), ConfigError> {
    match section.number("partial_rotary_factor", "1", |_| true)? {
        Some(factor) if factor != 1.0 => {
            Err(section.unsupported(format!("`{}partial_rotary_factor` = {factor}", section.path), "1"))
        }
        _ => Ok(()),
    }
}

fn factor(rope: &Section) -> Result<Option<f64>, ConfigError> {
    rope.number("factor", "a number above 0, at most 1e9", |factor| {
        factor > 0.0 && factor <= 1e9
    })
}

fn required_factor(rope: &Section) -> Result<f64, ConfigError> {
    factor(rope)?.ok_or_else(|| ConfigError::Missing {
        file: rope.file.to_owned(),
        missing: format!("`{}factor`", rope.path),
    })
}

/// The context before stretching. A field beside the rope object wins, then the one inside, then the longest context.
fn original_max_position(
    section: &Section,
    rope: &Section,
    max_position: usize,
    notes: &mut Vec<String>,
) -> Result<usize, ConfigError> {
    const FIELD: &str = "original_max_position_embeddings";
    for place in [section, rope] {
        if let Some(original) = place.integer_or_null(FIELD, 1, MAX_POSITION)? {
            return Ok(original);
        }
    }
    notes.push(format!(
        "`{}{FIELD}` is absent: max_position_embeddings = {max_position}",
        rope.path
    ));
    Ok(max_position)
}

fn read_yarn(
    section: &Section,
    rope: &Section,
    max_position: usize,
    notes: &mut Vec<String>,
) -> Result<RopeScaling, ConfigError> {
    let original_max_position = original_max_position(section, rope, max_position, notes)?;
    let factor = match factor(rope)? {
        Some(factor) => factor,
        None => {
            let factor = max_position as f64 / original_max_position as f64;
            notes.push(format!(
                "`{}factor` is absent: longest over original context = {factor}",
                rope.path
            ));
            factor
        }
    };
    // 0 counts as absent in transformers.
    let rotations = |field: &str, default: f64| -> Result<f64, ConfigError> {
        let found = rope.number(field, "a number from 0 to 1e9", |beta| (0.0..=1e9).contains(&beta))?;
        Ok(found.filter(|beta| *beta != 0.0).unwrap_or(default))
    };
    let (beta_fast, beta_slow) = (rotations("beta_fast", 32.0)?, rotations("beta_slow", 1.0)?);
    if beta_fast < beta_slow {
        return Err(rope.refuse(
            "beta_fast",
            &Value::from(beta_fast),
            format!("at least beta_slow ({beta_slow})"),
        ));
    }
    let coefficient = |field: &str| -> Result<f64, ConfigError> {
        let found = rope.number(field, "a number from 0 to 1000", |mscale| (0.0..=1e3).contains(&mscale))?;
        Ok(found.unwrap_or(0.0))
    };
    Ok(RopeScaling::Yarn {
        factor,
        original_max_position,
        beta_fast,
        beta_slow,
        mscale: coefficient("mscale")?,
        mscale_all_dim: coefficient("mscale_all_dim")?,
        attention_factor: attention_factor(rope)?,
        truncate: rope.boolean("truncate")?.unwrap_or(true),
    })
}

fn attention_factor(rope: &Section) -> Result<Option<f64>, ConfigError> {
    rope.number("attention_factor", "a number above 0, at most 1e6", |factor| {
        factor > 0.0 && factor <= 1e6
    })
}

fn read_longrope(
    section: &Section,
    rope: &Section,
    d_rope: usize,
    max_position: usize,
    notes: &mut Vec<String>,
) -> Result<RopeScaling, ConfigError> {
    let original_max_position = original_max_position(section, rope, max_position, notes)?;
    let factor = factor(rope)?.unwrap_or(max_position as f64 / original_max_position as f64);
    let attention_factor = match attention_factor(rope)? {
        Some(given) => given,
        None if factor <= 1.0 => 1.0,
        None if original_max_position < 2 => {
            let found = Value::from(original_max_position);
            return Err(rope.refuse("original_max_position_embeddings", &found, "at least 2 for longrope"));
        }
        None => (1.0 + factor.ln() / (original_max_position as f64).ln()).sqrt(),
    };
    Ok(RopeScaling::LongRope {
        short_factor: factors(rope, "short_factor", d_rope / 2)?,
        long_factor: factors(rope, "long_factor", d_rope / 2)?,
        original_max_position,
        attention_factor,
    })
}

/// A list of `count` divisors.
fn factors(rope: &Section, field: &str, count: usize) -> Result<Vec<f64>, ConfigError> {
    let Some(value) = rope.get(field) else {
        return Err(ConfigError::Missing {
            file: rope.file.to_owned(),
            missing: format!("`{}{field}`", rope.path),
        });
    };
    let allowed = format!("a list of {count} numbers from 1e-9 to 1e9 (qk_rope_head_dim / 2)");
    let Some(list) = value.as_array() else {
        return Err(rope.refuse(field, value, allowed));
    };
    if list.len() != count {
        let found = Value::from(format!("a list of {}", list.len()));
        return Err(rope.refuse(field, &found, allowed));
    }
    let mut factors = Vec::with_capacity(count);
    for (index, entry) in list.iter().enumerate() {
        match entry.as_f64() {
            Some(factor) if (1e-9..=1e9).contains(&factor) => factors.push(factor),
            _ => {
                return Err(rope.refuse(&format!("{field}[{index}]"), entry, "a number from 1e-9 to 1e9"));
            }
        }
    }
    Ok(factors)
}
