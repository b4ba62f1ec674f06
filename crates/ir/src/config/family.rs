//! What transformers assumes for each model type where its `config.json` is silent.

use super::RopePairing;

/// How a model type decides which elements of the rope part form a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PairingRule {
    /// `rope_interleave` says; true where absent.
    Field,
    /// Fixed in the modelling code, whatever the config says.
    Fixed(RopePairing),
}

/// When a model type scales its latents by sqrt(d_model / rank).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LatentScaleRule {
    /// Never, whatever the config says.
    Never,
    /// Unless `mla_scale_q_lora` and `mla_scale_kv_lora` say false.
    UnlessDenied,
    /// Where those fields say true.
    WhereAsked,
}

/// Defaults of one model type, from its configuration class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family {
    /// False for the fallback that stands for every other model type.
    pub known: bool,
    pub d_q_latent: Option<usize>,
    pub n_layers: usize,
    pub max_position: usize,
    pub theta: f64,
    pub pairing: PairingRule,
    pub latent_scale: LatentScaleRule,
    /// Whether an absent `v_head_dim` means hidden_size / num_attention_heads.
    pub d_v_from_d_model: bool,
    pub attentions_per_layer: usize,
}

const DEEPSEEK_V3: Family = Family {
    known: true,
    d_q_latent: Some(1536),
    n_layers: 61,
    max_position: 4096,
    theta: 1e4,
    pairing: PairingRule::Field,
    latent_scale: LatentScaleRule::Never,
    d_v_from_d_model: false,
    attentions_per_layer: 1,
};

/// The model types this table knows, for messages.
pub(super) const KNOWN: &str =
    "deepseek_v2, deepseek_v3, kimi_k2, kimi_linear, minicpm3, glm4_moe_lite, longcat_flash, youtu";

/// The defaults of a model type; DeepSeek-V3's modelling without its sizes for one that isn't known.
pub(super) fn family(model_type: &str) -> Family {
    match model_type {
        "deepseek_v3" | "kimi_k2" => DEEPSEEK_V3,
        "deepseek_v2" => Family {
            n_layers: 32,
            max_position: 2048,
            pairing: PairingRule::Fixed(RopePairing::Interleaved),
            ..DEEPSEEK_V3
        },
        "minicpm3" => Family {
            d_q_latent: Some(768),
            n_layers: 62,
            max_position: 32768,
            pairing: PairingRule::Fixed(RopePairing::HalfSplit),
            d_v_from_d_model: true,
            ..DEEPSEEK_V3
        },
        "glm4_moe_lite" => Family {
            d_q_latent: Some(768),
            n_layers: 47,
            max_position: 202_752,
            ..DEEPSEEK_V3
        },
        "youtu" | "youtu_llm" => Family {
            n_layers: 32,
            max_position: 131_072,
            ..DEEPSEEK_V3
        },
        "longcat_flash" => Family {
            n_layers: 28,
            max_position: 131_072,
            theta: 1e7,
            pairing: PairingRule::Fixed(RopePairing::Interleaved),
            latent_scale: LatentScaleRule::UnlessDenied,
            attentions_per_layer: 2,
            ..DEEPSEEK_V3
        },
        "kimi_linear" => Family {
            d_q_latent: None,
            n_layers: 27,
            ..DEEPSEEK_V3
        },
        _ => Family {
            known: false,
            d_q_latent: None,
            n_layers: 1,
            latent_scale: LatentScaleRule::WhereAsked,
            ..DEEPSEEK_V3
        },
    }
}
