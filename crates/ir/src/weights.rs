//! What a checkpoint stores for one attention layer, and how the paper's matrices come out of it.
//!
//! Plain data: a loader walks [`tensors`] to know what to read and [`parts`] to know what to copy where. The
//! checkpoint stores every projection as [rows out, columns in]; rows of a per-head projection lie head by head.

use std::ops::Range;

use serde::Serialize;

use crate::config::MlaConfig;

/// One tensor of an attention layer in the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `q_proj.weight`, where there is no query latent.
    Q,
    /// `q_a_proj.weight`, down to the query latent.
    QA,
    /// `q_a_proj.bias`.
    QABias,
    /// `q_a_layernorm.weight`.
    QANorm,
    /// `q_b_proj.weight`, up from the query latent.
    QB,
    /// `kv_a_proj_with_mqa.weight`, down to the latent and the rope key.
    KvA,
    /// `kv_a_proj_with_mqa.bias`.
    KvABias,
    /// `kv_a_layernorm.weight`.
    KvANorm,
    /// `kv_b_proj.weight`, up from the latent to keys and values.
    KvB,
    /// `o_proj.weight`.
    O,
    /// `o_proj.bias`.
    OBias,
}

/// A tensor the checkpoint must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WeightSpec {
    /// Which tensor.
    pub role: Role,
    /// Its name after the layer's prefix and a dot.
    pub suffix: &'static str,
    /// Its shape: [rows, columns], or one extent for a norm gain or a bias.
    pub shape: Vec<usize>,
}

/// One of the paper's matrices as a selection of rows of a checkpoint tensor: of each of `heads` groups of
/// `rows_per_head` rows, the rows in `rows`, in order. A vector counts as rows of one column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The paper's name: `W_DQ`, `W_UQ`, `W_QR`, `W_DKV`, `W_KR`, `W_UK`, `W_UV`, `W_O`; `g_q` and `g_kv` for the
    /// norm gains; `b_DQ`, `b_DKV`, `b_KR`, `b_O` for the biases.
    pub paper: &'static str,
    /// The tensor it lies in.
    pub from: Role,
    /// Groups of rows: H for a per-head projection, else 1.
    pub heads: usize,
    /// Rows in one group.
    pub rows_per_head: usize,
    /// Rows taken of each group.
    pub rows: Range<usize>,
    /// Elements in one row.
    pub cols: usize,
    /// Shape of what comes out; its element count is heads · rows taken · cols.
    pub shape: Vec<usize>,
}

/// The tensors of one attention layer, in the order a checkpoint lists them.
pub fn tensors(config: &MlaConfig) -> Vec<WeightSpec> {
    let MlaConfig {
        d_model,
        n_heads,
        d_latent,
        d_rope,
        d_nope,
        d_v,
        ..
    } = *config;
    let mut specs = Vec::new();
    let mut add = |role, suffix, shape: &[usize]| {
        specs.push(WeightSpec {
            role,
            suffix,
            shape: shape.to_vec(),
        })
    };
    match config.d_q_latent {
        None => add(Role::Q, "q_proj.weight", &[n_heads * config.d_qk(), d_model]),
        Some(d_q) => {
            add(Role::QA, "q_a_proj.weight", &[d_q, d_model]);
            if config.attention_bias {
                add(Role::QABias, "q_a_proj.bias", &[d_q]);
            }
            add(Role::QANorm, "q_a_layernorm.weight", &[d_q]);
            add(Role::QB, "q_b_proj.weight", &[n_heads * config.d_qk(), d_q]);
        }
    }
    add(Role::KvA, "kv_a_proj_with_mqa.weight", &[d_latent + d_rope, d_model]);
    if config.attention_bias {
        add(Role::KvABias, "kv_a_proj_with_mqa.bias", &[d_latent + d_rope]);
    }
    add(Role::KvANorm, "kv_a_layernorm.weight", &[d_latent]);
    add(Role::KvB, "kv_b_proj.weight", &[n_heads * (d_nope + d_v), d_latent]);
    add(Role::O, "o_proj.weight", &[d_model, n_heads * d_v]);
    if config.attention_bias {
        add(Role::OBias, "o_proj.bias", &[d_model]);
    }
    specs
}

/// The paper's matrices, norm gains and biases of one attention layer. With d_rope = 0 there is no W_QR, W_KR
/// or b_KR; without a query latent there is no W_DQ, and W_UQ [H, d_nope, D] and W_QR [H, d_rope, D] come of q_proj.
pub fn parts(config: &MlaConfig) -> Vec<Part> {
    let mut parts = query_parts(config);
    parts.extend(key_value_parts(config));
    parts.extend(output_parts(config));
    parts.retain(|part| !part.rows.is_empty());
    parts
}

fn query_parts(config: &MlaConfig) -> Vec<Part> {
    let MlaConfig {
        d_model,
        n_heads,
        d_rope,
        d_nope,
        ..
    } = *config;
    let (from, d_in) = match config.d_q_latent {
        None => (Role::Q, d_model),
        Some(d_q) => (Role::QB, d_q),
    };
    let per_head = |paper, rows: Range<usize>| Part {
        paper,
        from,
        heads: n_heads,
        rows_per_head: d_nope + d_rope,
        cols: d_in,
        shape: vec![n_heads, rows.len(), d_in],
        rows,
    };
    let mut parts = Vec::new();
    if let Some(d_q) = config.d_q_latent {
        parts.push(matrix("W_DQ", Role::QA, d_q, 0..d_q, d_model));
        parts.push(vector("g_q", Role::QANorm, d_q, 0..d_q));
        if config.attention_bias {
            parts.push(vector("b_DQ", Role::QABias, d_q, 0..d_q));
        }
    }
    parts.push(per_head("W_UQ", 0..d_nope));
    parts.push(per_head("W_QR", d_nope..d_nope + d_rope));
    parts
}

fn key_value_parts(config: &MlaConfig) -> Vec<Part> {
    let MlaConfig {
        d_model,
        n_heads,
        d_latent,
        d_rope,
        d_nope,
        d_v,
        ..
    } = *config;
    let down = d_latent + d_rope;
    let mut parts = vec![
        matrix("W_DKV", Role::KvA, down, 0..d_latent, d_model),
        matrix("W_KR", Role::KvA, down, d_latent..down, d_model),
    ];
    if config.attention_bias {
        parts.push(vector("b_DKV", Role::KvABias, down, 0..d_latent));
        parts.push(vector("b_KR", Role::KvABias, down, d_latent..down));
    }
    parts.push(vector("g_kv", Role::KvANorm, d_latent, 0..d_latent));
    for (paper, rows) in [("W_UK", 0..d_nope), ("W_UV", d_nope..d_nope + d_v)] {
        parts.push(Part {
            paper,
            from: Role::KvB,
            heads: n_heads,
            rows_per_head: d_nope + d_v,
            cols: d_latent,
            shape: vec![n_heads, rows.len(), d_latent],
            rows,
        });
    }
    parts
}

fn output_parts(config: &MlaConfig) -> Vec<Part> {
    let MlaConfig {
        d_model, n_heads, d_v, ..
    } = *config;
    let mut w_o = matrix("W_O", Role::O, d_model, 0..d_model, n_heads * d_v);
    w_o.shape = vec![d_model, n_heads, d_v];
    let mut parts = vec![w_o];
    if config.attention_bias {
        parts.push(vector("b_O", Role::OBias, d_model, 0..d_model));
    }
    parts
}

/// Some rows of a tensor that isn't per head.
fn matrix(paper: &'static str, from: Role, tensor_rows: usize, rows: Range<usize>, cols: usize) -> Part {
    Part {
        paper,
        from,
        heads: 1,
        rows_per_head: tensor_rows,
        cols,
        shape: vec![rows.len(), cols],
        rows,
    }
}

/// Some elements of a norm gain or a bias.
fn vector(paper: &'static str, from: Role, tensor_rows: usize, rows: Range<usize>) -> Part {
    Part {
        paper,
        from,
        heads: 1,
        rows_per_head: tensor_rows,
        cols: 1,
        shape: vec![rows.len()],
        rows,
    }
}

/// Where a checkpoint keeps a layer's attention: `model.layers.{layer}.self_attn`, LongCat's first of two with
/// `.0` after it.
pub fn default_prefix(config: &MlaConfig, layer: usize) -> String {
    let attention = format!("{}.{layer}.self_attn", config.layers_prefix);
    if config.attentions_per_layer > 1 {
        format!("{attention}.0")
    } else {
        attention
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::presets;

    fn shapes() -> impl Strategy<Value = MlaConfig> {
        let dims = (1usize..6, 1usize..9, 1usize..9, 0usize..5, 1usize..9, 1usize..9);
        (dims, proptest::option::of(1usize..9), any::<bool>()).prop_map(
            |((n_heads, d_model, d_latent, d_half, d_nope, d_v), d_q_latent, attention_bias)| MlaConfig {
                n_heads,
                d_model,
                d_latent,
                d_rope: 2 * d_half,
                d_nope,
                d_v,
                d_q_latent,
                attention_bias,
                ..MlaConfig::from_inline("heads=1,d_model=1").unwrap()
            },
        )
    }

    proptest! {
        #[test]
        fn the_parts_take_every_row_of_every_tensor_once(config in shapes()) {
            let parts = parts(&config);
            for spec in tensors(&config) {
                let of_tensor: Vec<&Part> = parts.iter().filter(|part| part.from == spec.role).collect();
                prop_assert!(!of_tensor.is_empty(), "{:?} is not used", spec.role);
                let mut taken = vec![0; spec.shape[0]];
                for part in of_tensor {
                    prop_assert_eq!(part.heads * part.rows_per_head, spec.shape[0]);
                    prop_assert_eq!(part.cols, spec.shape.get(1).copied().unwrap_or(1));
                    prop_assert_eq!(part.shape.iter().product::<usize>(), part.heads * part.rows.len() * part.cols);
                    for head in 0..part.heads {
                        for row in part.rows.clone() {
                            taken[head * part.rows_per_head + row] += 1;
                        }
                    }
                }
                prop_assert!(taken.iter().all(|count| *count == 1), "{:?}: {taken:?}", spec.role);
            }
        }

        #[test]
        fn every_part_lies_in_a_listed_tensor(config in shapes()) {
            let specs = tensors(&config);
            for part in parts(&config) {
                prop_assert!(specs.iter().any(|spec| spec.role == part.from), "{}", part.paper);
            }
        }
    }

    fn shape_of<'a>(specs: &'a [WeightSpec], suffix: &str) -> Option<&'a [usize]> {
        specs
            .iter()
            .find(|spec| spec.suffix == suffix)
            .map(|spec| spec.shape.as_slice())
    }

    #[test]
    fn deepseek_v2_lite_has_its_checkpoints_names_and_shapes() {
        let config = presets::preset("deepseek-v2-lite").unwrap();
        let specs = tensors(&config);
        assert_eq!(shape_of(&specs, "q_proj.weight"), Some([3072, 2048].as_slice()));
        assert_eq!(
            shape_of(&specs, "kv_a_proj_with_mqa.weight"),
            Some([576, 2048].as_slice())
        );
        assert_eq!(shape_of(&specs, "kv_a_layernorm.weight"), Some([512].as_slice()));
        assert_eq!(shape_of(&specs, "kv_b_proj.weight"), Some([4096, 512].as_slice()));
        assert_eq!(shape_of(&specs, "o_proj.weight"), Some([2048, 2048].as_slice()));
        assert_eq!(specs.len(), 5);
    }

    #[test]
    fn a_query_latent_replaces_q_proj() {
        let specs = tensors(&presets::preset("deepseek-v3").unwrap());
        assert_eq!(shape_of(&specs, "q_proj.weight"), None);
        assert_eq!(shape_of(&specs, "q_a_proj.weight"), Some([1536, 7168].as_slice()));
        assert_eq!(shape_of(&specs, "q_b_proj.weight"), Some([24576, 1536].as_slice()));
    }

    #[test]
    fn only_three_projections_have_a_bias() {
        let mut config = presets::preset("deepseek-v3").unwrap();
        config.attention_bias = true;
        let biases: Vec<&str> = tensors(&config)
            .iter()
            .map(|spec| spec.suffix)
            .filter(|name| name.ends_with(".bias"))
            .collect();
        assert_eq!(biases, ["q_a_proj.bias", "kv_a_proj_with_mqa.bias", "o_proj.bias"]);
    }

    #[test]
    fn keys_and_values_alternate_head_by_head() {
        let config = presets::preset("minicpm3").unwrap();
        let parts = parts(&config);
        let w_uv = parts.iter().find(|part| part.paper == "W_UV").unwrap();
        assert_eq!((w_uv.heads, w_uv.rows_per_head, w_uv.rows.clone()), (40, 128, 64..128));
        assert_eq!(w_uv.shape, [40, 64, 256]);
    }

    #[test]
    fn longcat_has_two_attentions_in_a_layer() {
        let longcat = presets::preset("longcat-flash").unwrap();
        assert_eq!(default_prefix(&longcat, 3), "model.layers.3.self_attn.0");
        let deepseek = presets::preset("deepseek-v3").unwrap();
        assert_eq!(default_prefix(&deepseek, 3), "model.layers.3.self_attn");
    }
}
