//! The sizes of a case's layer: drawn ones, which may shrink, or a model's own.

use crate::model;
use anyhow::Result;
use mlafuse::config::MlaConfig;
use std::fmt;

/// Drawn sizes; the text is what `--model` takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    pub heads: usize,
    pub d_model: usize,
    pub d_latent: usize,
    /// Even, or 0.
    pub d_rope: usize,
    pub d_nope: usize,
    pub d_v: usize,
    pub d_q_latent: Option<usize>,
    pub rope: Pairing,
    /// YaRN's factor.
    pub yarn: Option<usize>,
}

/// How rope pairs elements, in the words of `--model`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    Interleaved,
    Half,
    None,
}

/// A dimension of a shape.
pub struct Dimension<'a> {
    pub size: &'a mut usize,
    /// The smallest that is drawn.
    pub least: usize,
    /// What it is a multiple of.
    pub multiple: usize,
}

impl Dimension<'_> {
    /// Half of it, or the smallest size; none where it is not larger than that.
    pub fn half(&self) -> Option<usize> {
        let half = *self.size / 2 / self.multiple * self.multiple;
        (*self.size > self.least).then(|| half.max(self.least))
    }
}

impl Shape {
    /// Every dimension, in the order of the text.
    pub fn dimensions(&mut self) -> Vec<Dimension<'_>> {
        let of = |size, least, multiple| Dimension { size, least, multiple };
        let mut all = vec![
            of(&mut self.heads, 1, 1),
            of(&mut self.d_model, 4, 1),
            of(&mut self.d_latent, 16, 1),
            of(&mut self.d_rope, 2, 2),
            of(&mut self.d_nope, 4, 1),
            of(&mut self.d_v, 4, 1),
        ];
        all.extend(self.d_q_latent.as_mut().map(|d_q| of(d_q, 8, 1)));
        all
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape {
            heads,
            d_model,
            d_latent,
            d_rope,
            d_nope,
            d_v,
            ..
        } = self;
        write!(
            f,
            "heads={heads},d_model={d_model},d_latent={d_latent},d_rope={d_rope},d_nope={d_nope},d_v={d_v}"
        )?;
        match self.d_q_latent {
            Some(d_q) => write!(f, ",d_q_latent={d_q}")?,
            None => write!(f, ",d_q_latent=none")?,
        }
        match self.rope {
            Pairing::Interleaved => {}
            Pairing::Half => write!(f, ",rope=half")?,
            Pairing::None => write!(f, ",rope=none")?,
        }
        self.yarn.map_or(Ok(()), |factor| write!(f, ",yarn={factor}"))
    }
}

/// A layer's sizes.
#[derive(Clone, Debug, PartialEq)]
pub enum Model {
    /// Drawn.
    Drawn(Shape),
    /// As `--model` says.
    Given {
        /// What `--model` says.
        name: String,
        /// What it stands for; one layer of it.
        config: Box<MlaConfig>,
    },
}

impl Model {
    /// What `--model` names, other than `random`.
    pub fn parse(name: &str) -> Result<Model> {
        let config = Box::new(MlaConfig {
            n_layers: 1,
            mla_layers: None,
            ..model::resolve(name)?
        });
        Ok(Model::Given {
            name: name.to_string(),
            config,
        })
    }

    /// The layer's config.
    pub fn config(&self) -> Result<MlaConfig> {
        match self {
            Model::Drawn(shape) => Ok(MlaConfig::from_inline(&shape.to_string())?),
            Model::Given { config, .. } => Ok(MlaConfig::clone(config)),
        }
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Model::Drawn(shape) => shape.fmt(f),
            Model::Given { name, .. } => f.write_str(name),
        }
    }
}
