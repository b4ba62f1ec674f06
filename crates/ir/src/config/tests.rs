mod mutations;

use serde_json::{Value, json};

use super::*;
use crate::presets;

/// A tiny DeepSeek-V3 config with the given changes; a `null` change removes the field.
fn config(changes: Value) -> Value {
    let mut base = json!({
        "model_type": "deepseek_v3", "hidden_size": 256, "num_attention_heads": 8, "num_hidden_layers": 1,
        "q_lora_rank": 96, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 163840, "attention_bias": false, "rope_theta": 10000.0,
    });
    for (field, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => base.as_object_mut().unwrap().remove(field),
            value => base.as_object_mut().unwrap().insert(field.clone(), value.clone()),
        };
    }
    base
}

fn read(changes: Value) -> Result<MlaConfig, ConfigError> {
    MlaConfig::from_json(&config(changes).to_string(), "config.json")
}

fn message(changes: Value) -> String {
    read(changes).unwrap_err().to_string()
}

fn yarn() -> Value {
    json!({"type": "yarn", "factor": 40.0, "original_max_position_embeddings": 4096, "beta_fast": 32,
        "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0})
}

#[test]
fn the_fields_of_a_deepseek_config() {
    let config = read(json!({"rope_scaling": yarn()})).unwrap();
    assert_eq!(
        (config.d_model, config.n_heads, config.d_latent, config.d_rope),
        (256, 8, 64, 16)
    );
    assert_eq!((config.d_nope, config.d_v, config.d_q_latent), (32, 32, Some(96)));
    assert_eq!(config.rope.pairing, RopePairing::Interleaved);
    let mscale = 0.1 * 40f64.ln() + 1.0;
    assert_eq!(config.softmax_scale, 48f64.powf(-0.5) * mscale * mscale);
    assert_eq!((config.q_latent_scale, config.latent_scale), (1.0, 1.0));
}

#[test]
fn published_softmax_scales() {
    let scale = |name: &str| presets::preset(name).unwrap().softmax_scale;
    assert!((scale("deepseek-v3") - 0.135_233_778_860_880_1).abs() < 1e-15);
    assert!((scale("deepseek-v2") - 0.114_721_386_792_926_11).abs() < 1e-15);
    assert_eq!(scale("kimi-linear"), 192f64.powf(-0.5));
}

#[test]
fn rope_scaling_and_rope_parameters_say_the_same() {
    let old = read(json!({"rope_theta": 5e4, "rope_scaling": yarn()})).unwrap();
    let mut parameters = yarn();
    parameters["rope_type"] = parameters["type"].take();
    parameters["type"] = Value::Null;
    parameters["rope_theta"] = json!(5e4);
    let new = read(json!({"rope_theta": null, "rope_parameters": parameters})).unwrap();
    assert_eq!(old, new);
}

#[test]
fn the_original_context_falls_back_as_in_transformers() {
    let original = |changes: Value| match read(changes).unwrap().rope.scaling {
        RopeScaling::Yarn {
            original_max_position,
            factor,
            ..
        } => (original_max_position, factor),
        other => panic!("{other:?}"),
    };
    let without = json!({"type": "yarn", "factor": 4});
    assert_eq!(original(json!({"rope_scaling": without})), (163_840, 4.0));
    assert_eq!(
        original(json!({"rope_scaling": yarn(), "original_max_position_embeddings": 2048})),
        (2048, 40.0)
    );
    let derived = json!({"type": "yarn", "original_max_position_embeddings": 4096});
    assert_eq!(original(json!({"rope_scaling": derived})), (4096, 40.0));
}

#[test]
fn rope_pairs_follow_the_model_type() {
    let pairing = |changes: Value| read(changes).unwrap().rope.pairing;
    assert_eq!(pairing(json!({"rope_interleave": false})), RopePairing::HalfSplit);
    assert_eq!(
        pairing(json!({"model_type": "deepseek_v2", "rope_interleave": false})),
        RopePairing::Interleaved
    );
    assert_eq!(pairing(json!({"model_type": "minicpm3"})), RopePairing::HalfSplit);
    assert_eq!(
        pairing(json!({"model_type": "kimi_linear", "mla_use_nope": true})),
        RopePairing::Unrotated
    );
    assert_eq!(
        pairing(json!({"model_type": "kimi_linear", "mla_use_nope": false})),
        RopePairing::Interleaved
    );
}

#[test]
fn longcat_scales_its_latents_by_model_type() {
    let scales = |changes: Value| {
        let config = read(changes).unwrap();
        (config.q_latent_scale, config.latent_scale)
    };
    let both = ((256f64 / 96.0).sqrt(), 2.0);
    assert_eq!(scales(json!({"model_type": "longcat_flash"})), both);
    assert_eq!(
        scales(json!({"model_type": "longcat_flash", "mla_scale_q_lora": false})),
        (1.0, 2.0)
    );
    assert_eq!(
        scales(json!({"mla_scale_q_lora": true, "mla_scale_kv_lora": true})),
        (1.0, 1.0)
    );
    let unknown = json!({"model_type": "longcat_next", "mla_scale_q_lora": true, "mla_scale_kv_lora": true});
    assert_eq!(scales(unknown), both);
}

#[test]
fn a_query_latent_is_absent_only_where_the_config_says_so() {
    let mut value = config(json!({}));
    value["q_lora_rank"] = Value::Null;
    assert_eq!(MlaConfig::from_json(&value.to_string(), "c").unwrap().d_q_latent, None);
    let defaulted = read(json!({"q_lora_rank": null})).unwrap();
    assert_eq!(defaulted.d_q_latent, Some(1536));
    assert!(defaulted.notes.iter().any(|note| note.contains("q_lora_rank")));
}

#[test]
fn an_unknown_model_type_works_and_says_what_was_assumed() {
    let config =
        read(json!({"model_type": "brand_new", "q_lora_rank": null, "max_position_embeddings": null})).unwrap();
    for expected in [
        "`brand_new`",
        "rope_interleave",
        "q_lora_rank",
        "max_position_embeddings",
    ] {
        assert!(
            config.notes.iter().any(|note| note.contains(expected)),
            "{expected}: {:?}",
            config.notes
        );
    }
    assert_eq!(read(json!({"model_type": null})).unwrap().model_type, "unknown");
}

#[test]
fn the_latent_norms_ignore_rms_norm_eps_and_say_so() {
    let config = read(json!({"rms_norm_eps": 1e-5})).unwrap();
    assert_eq!(config.latent_norm_eps, 1e-6);
    assert!(
        config
            .notes
            .iter()
            .any(|note| note.contains("1e-6") && note.contains("1e-5")),
        "{:?}",
        config.notes
    );
}

#[test]
fn a_multimodal_config_is_read_through() {
    let nested = json!({"model_type": "kimi_k25", "text_config": config(json!({"model_type": "kimi_k2"}))});
    let config = MlaConfig::from_json(&nested.to_string(), "config.json").unwrap();
    assert_eq!((config.model_type.as_str(), config.d_latent), ("kimi_k2", 64));
    assert_eq!(
        crate::weights::default_prefix(&config, 2),
        "language_model.model.layers.2.self_attn"
    );
    let bad = nested.to_string().replace("\"v_head_dim\":32", "\"v_head_dim\":-1");
    let message = MlaConfig::from_json(&bad, "config.json").unwrap_err().to_string();
    assert!(message.contains("`text_config.v_head_dim` is -1"), "{message}");
}

#[test]
fn minicpm3_derives_its_value_width() {
    assert_eq!(
        read(json!({"model_type": "minicpm3", "v_head_dim": null})).unwrap().d_v,
        32
    );
    let message = message(json!({"model_type": "minicpm3", "v_head_dim": null, "num_attention_heads": 512}));
    assert!(message.contains("num_attention_heads"), "{message}");
}

#[test]
fn no_rope_part_is_allowed() {
    let config = read(json!({"qk_rope_head_dim": 0})).unwrap();
    assert_eq!((config.d_rope, config.cache_row_elems(), config.d_qk()), (0, 64, 32));
}

#[test]
fn a_model_without_a_latent_is_not_mla() {
    let llama = r#"{"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32}"#;
    let message = MlaConfig::from_json(llama, "llama/config.json")
        .unwrap_err()
        .to_string();
    for expected in [
        "llama/config.json",
        "`llama`",
        "isn't an MLA model",
        "`kv_lora_rank`",
        "`v_head_dim`",
    ] {
        assert!(message.contains(expected), "{expected}: {message}");
    }
    assert!(!message.contains("hidden_size"), "{message}");
}

#[test]
fn every_refusal_names_file_field_found_and_allowed() {
    let cases = [
        (json!({"kv_lora_rank": 0}), "`kv_lora_rank` is 0", "from 1 to"),
        (json!({"hidden_size": -5}), "`hidden_size` is -5", "from 1 to"),
        (json!({"hidden_size": 7168.5}), "`hidden_size` is 7168.5", "an integer"),
        (
            json!({"hidden_size": "7168"}),
            "`hidden_size` is \"7168\"",
            "an integer",
        ),
        (
            json!({"hidden_size": u64::MAX}),
            "`hidden_size` is 18446744073709551615",
            "from 1 to",
        ),
        (
            json!({"num_attention_heads": 65537}),
            "`num_attention_heads` is 65537",
            "65536",
        ),
        (json!({"qk_rope_head_dim": 15}), "`qk_rope_head_dim` is 15", "even"),
        (json!({"q_lora_rank": 0}), "`q_lora_rank` is 0", "null"),
        (json!({"attention_bias": 1}), "`attention_bias` is 1", "true or false"),
        (json!({"rope_theta": 0}), "`rope_theta` is 0", "above 1"),
        (json!({"rope_theta": "big"}), "`rope_theta` is \"big\"", "above 1"),
        (json!({"rope_scaling": 4}), "`rope_scaling` is 4", "an object"),
        (json!({"model_type": 7}), "`model_type` is 7", "a string"),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 0}}),
            "`rope_scaling.factor` is 0",
            "above 0",
        ),
        (
            json!({"rope_scaling": {"type": "linear"}}),
            "missing `rope_scaling.factor`",
            "",
        ),
        (
            json!({"rope_scaling": {"type": "yarn", "factor": -1}}),
            "`rope_scaling.factor` is -1",
            "above 0",
        ),
        (
            json!({"rope_scaling": {"type": "dynamic"}}),
            "rope type `dynamic` isn't supported",
            "longrope",
        ),
        (
            json!({"rope_parameters": {"rope_type": "llama3"}}),
            "rope type `llama3` isn't supported",
            "yarn",
        ),
        (
            json!({"partial_rotary_factor": 0.5}),
            "`partial_rotary_factor` = 0.5",
            "1",
        ),
        (json!({"index_topk": 2048}), "index_topk", "isn't supported"),
        (
            json!({"mla_use_output_gate": true}),
            "mla_use_output_gate",
            "isn't supported",
        ),
        (json!({"v_head_dim": null}), "missing `v_head_dim`", ""),
        (
            json!({"linear_attn_config": {"full_attn_layers": [2]}}),
            "full_attn_layers` is [2]",
            "1 to 1",
        ),
    ];
    for (changes, found, allowed) in cases {
        let message = message(changes);
        assert!(message.contains("config.json"), "{message}");
        assert!(message.contains(found), "{found}: {message}");
        assert!(message.contains(allowed), "{allowed}: {message}");
    }
}

#[test]
fn null_is_refused_where_it_means_nothing() {
    for field in [
        "hidden_size",
        "qk_rope_head_dim",
        "v_head_dim",
        "attention_bias",
        "num_hidden_layers",
    ] {
        let mut value = config(json!({}));
        value[field] = Value::Null;
        let message = MlaConfig::from_json(&value.to_string(), "config.json")
            .unwrap_err()
            .to_string();
        assert!(message.contains(&format!("`{field}` is null")), "{message}");
    }
}

#[test]
fn longrope_lists_are_checked() {
    let longrope = |short: Value| {
        json!({"rope_scaling": {"type": "longrope", "short_factor": short,
        "long_factor": [1, 1, 1, 1, 1, 1, 1, 1], "original_max_position_embeddings": 4096}})
    };
    assert!(read(longrope(json!([1, 1, 1, 1, 1, 1, 1, 1]))).is_ok());
    let cases = [
        (
            json!([1, 1, 1]),
            "`rope_scaling.short_factor` is \"a list of 3\"; allowed: a list of 8",
        ),
        (json!([1, 1, 0, 1, 1, 1, 1, 1]), "`rope_scaling.short_factor[2]` is 0"),
        (json!("long"), "`rope_scaling.short_factor` is \"long\""),
        (Value::Null, "missing `rope_scaling.short_factor`"),
    ];
    for (short, expected) in cases {
        let message = message(longrope(short));
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn text_that_is_not_json_names_the_place() {
    let text = config(json!({}))
        .to_string()
        .replace("\"v_head_dim\":32", "\"v_head_dim\":NaN");
    let message = MlaConfig::from_json(&text, "config.json").unwrap_err().to_string();
    assert!(
        message.contains("config.json") && message.contains("v_head_dim"),
        "{message}"
    );
    for text in ["", "{", "[1]", "null", "\u{feff}{}", "{\"a\": 1e999}"] {
        assert!(MlaConfig::from_json(text, "config.json").is_err(), "{text}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(MlaConfig::from_json(&deep, "config.json").is_err());
}

#[test]
fn the_last_of_two_equal_fields_counts_as_in_python() {
    let text = config(json!({})).to_string().replacen('{', "{\"v_head_dim\": -1, ", 1);
    assert_eq!(MlaConfig::from_json(&text, "config.json").unwrap().d_v, 32);
}

#[test]
fn long_values_are_cut_short_in_messages() {
    let message = message(json!({"hidden_size": "x".repeat(10_000)}));
    assert!(message.len() < 300, "{}", message.len());
}

#[test]
fn the_recorded_fixtures_read() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/fixtures");
    for (name, d_q_latent) in [("deepseek-v3-tiny", Some(96)), ("deepseek-v2-lite", None)] {
        let path = format!("{root}/{name}/config.json");
        let config = MlaConfig::from_json(&std::fs::read_to_string(&path).unwrap(), &path).unwrap();
        assert_eq!(config.d_q_latent, d_q_latent);
        assert!(matches!(config.rope.scaling, RopeScaling::Yarn { truncate: true, .. }));
    }
}

#[test]
fn inline_shapes() {
    let text = "heads=20,d_latent=256,d_rope=32,d_nope=64,d_v=64,d_q_latent=768,d_model=2560";
    let config = MlaConfig::from_inline(text).unwrap();
    assert_eq!(
        (config.n_heads, config.d_model, config.d_latent, config.d_rope),
        (20, 2560, 256, 32)
    );
    assert_eq!((config.d_nope, config.d_v, config.d_q_latent), (64, 64, Some(768)));
    assert_eq!(config.softmax_scale, 96f64.powf(-0.5));

    let short = MlaConfig::from_inline("heads=8, d_model=1024").unwrap();
    assert_eq!(
        (short.d_latent, short.d_rope, short.d_nope, short.d_v),
        (512, 64, 128, 128)
    );
    assert_eq!(short.d_q_latent, Some(1536));
    for none in ["d_q_latent=0", "d_q_latent=none"] {
        let config = MlaConfig::from_inline(&format!("heads=8,d_model=64,{none},rope=half")).unwrap();
        assert_eq!((config.d_q_latent, config.rope.pairing), (None, RopePairing::HalfSplit));
    }
}

#[test]
fn inline_yarn_is_deepseek_v3s() {
    let deepseek = presets::preset("deepseek-v3").unwrap();
    let inline = MlaConfig::from_inline("heads=128,d_model=7168,yarn=40").unwrap();
    assert_eq!(inline.rope, deepseek.rope);
    assert_eq!(inline.softmax_scale, deepseek.softmax_scale);
    let back = MlaConfig::from_json(&inline.to_checkpoint_json().to_string(), "back").unwrap();
    assert_eq!((back.rope, back.softmax_scale), (inline.rope, inline.softmax_scale));
}

#[test]
fn inline_mistakes_are_named() {
    let cases = [
        ("", "missing `heads`, `d_model`"),
        ("d_model=64", "missing `heads`"),
        ("heads=8,d_model=64,lora=2", "unknown key `lora`; known: heads, d_model"),
        ("heads=8,d_model", "`d_model` is without a value"),
        ("heads=8,heads=9,d_model=64", "`heads` is given twice"),
        (
            "heads=0,d_model=64",
            "`heads` is `0`; allowed: an integer from 1 to 65536",
        ),
        ("heads=8,d_model=-64", "`d_model` is `-64`"),
        (
            "heads=8,d_model=99999999999999999999",
            "`d_model` is `99999999999999999999`",
        ),
        ("heads=8,d_model=64,d_rope=3", "`d_rope` is 3; allowed: an even number"),
        (
            "heads=8,d_model=64,rope=spiral",
            "`rope` is `spiral`; allowed: interleaved, half or none",
        ),
        (
            "heads=8,d_model=64,yarn=nan",
            "`yarn` is `nan`; allowed: a factor from 1 to 10000",
        ),
    ];
    for (text, expected) in cases {
        let message = MlaConfig::from_inline(text).unwrap_err().to_string();
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[test]
fn cache_rows_are_padded_to_16_bytes() {
    let config = MlaConfig::from_inline("heads=1,d_model=1,d_latent=33,d_rope=6").unwrap();
    assert_eq!(config.cache_row_elems(), 39);
    assert_eq!(
        [1, 2, 4, 8].map(|bytes| config.cache_row_stride(bytes)),
        [48, 40, 40, 40]
    );
}

#[test]
fn presets_survive_the_way_through_json() {
    for preset in presets::all().unwrap() {
        let text = preset.config.to_checkpoint_json().to_string();
        let back = MlaConfig::from_json(&text, "back").unwrap();
        assert_eq!(
            MlaConfig { notes: vec![], ..back },
            MlaConfig {
                notes: vec![],
                ..preset.config
            }
        );
    }
}
