//! Configs and inline shapes that were damaged, and any at all: read or refused, never a panic.

use super::*;
use proptest::prelude::*;

/// Xorshift64: the same mutations in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound.max(1) as u64) as usize
    }
}

/// Replaces, removes, doubles or inserts something at a random place.
fn mutate(text: &str, dice: &mut Dice) -> String {
    const TOKENS: [&str; 20] = [
        "0",
        "-1",
        "1e308",
        "1e999",
        "NaN",
        "null",
        "true",
        "\"x\"",
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        "\"",
        "1e-320",
        "18446744073709551616",
        "é",
        "\\u0000",
        "\"rope_type\"",
    ];
    let mut chars: Vec<char> = text.chars().collect();
    for _ in 0..=dice.below(3) {
        let at = dice.below(chars.len() + 1);
        let until = (at + dice.below(12)).min(chars.len());
        let token: Vec<char> = TOKENS[dice.below(TOKENS.len())].chars().collect();
        match dice.below(4) {
            0 => drop(chars.splice(at..until, token)),
            1 => drop(chars.drain(at..until)),
            2 => {
                let copy = chars[at..until].to_vec();
                chars.splice(at..at, copy);
            }
            _ => drop(chars.splice(at..at, token)),
        }
    }
    chars.into_iter().collect()
}

/// Replaces the value of one field, at any depth, with something odd.
fn mutate_value(value: &mut Value, dice: &mut Dice) {
    let odd = [
        Value::Null,
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(u64::MAX),
        json!(1e308),
        json!(-1e308),
        json!(1e-320),
        json!("text"),
        json!(true),
        json!([]),
        json!({}),
        json!([null]),
        json!(1 << 20),
        json!(1 << 30),
        json!(2.5),
    ];
    if let Value::Object(map) = value {
        let key = map.keys().nth(dice.below(map.len())).cloned();
        if let Some(inner) = key.and_then(|key| map.get_mut(&key)) {
            if inner.is_object() && dice.below(4) != 0 {
                return mutate_value(inner, dice);
            }
            *inner = odd[dice.below(odd.len())].clone();
        }
    }
}

/// Whatever a config says, what is derived from it must hold up.
fn check_derived(config: &MlaConfig) {
    assert!(
        config.softmax_scale.is_finite() && config.softmax_scale > 0.0,
        "{config:?}"
    );
    assert!(config.q_latent_scale.is_finite() && config.latent_scale.is_finite());
    assert!(config.kv_cache_bytes_per_token(8).model > 0);
    assert!(config.cache_row_stride(2) >= config.cache_row_elems());
    for spec in crate::weights::tensors(config) {
        let elems = spec.shape.iter().try_fold(8usize, |bytes, dim| bytes.checked_mul(*dim));
        assert!(elems.is_some(), "{spec:?}");
    }
    if config.d_rope <= 4096 {
        let table = crate::rope::RopeTable::new(config, 3, 1 << 20).unwrap();
        assert!(
            table.cos.iter().chain(&table.sin).all(|value| value.is_finite()),
            "{config:?}"
        );
    }
}

#[test]
fn mutated_configs_never_panic() {
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let (mut read, mut refused) = (0, 0);
    for preset in presets::all().unwrap() {
        let text = preset.config.to_checkpoint_json().to_string();
        for round in 0..600 {
            let mutated = if round % 2 == 0 {
                mutate(&text, &mut dice)
            } else {
                let mut value = preset.config.to_checkpoint_json();
                for _ in 0..=dice.below(3) {
                    mutate_value(&mut value, &mut dice);
                }
                value.to_string()
            };
            match MlaConfig::from_json(&mutated, "config.json") {
                Ok(config) => {
                    check_derived(&config);
                    read += 1;
                }
                Err(error) => {
                    assert!(error.to_string().contains("config.json"));
                    refused += 1;
                }
            }
        }
    }
    assert!(read > 100 && refused > 100, "{read} read, {refused} refused");
}

#[test]
fn mutated_inline_shapes_never_panic() {
    let text = "heads=20,d_latent=256,d_rope=32,d_nope=64,d_v=64,d_q_latent=768,d_model=2560,rope=half";
    let mut dice = Dice(7);
    for _ in 0..3000 {
        if let Ok(config) = MlaConfig::from_inline(&mutate(text, &mut dice)) {
            check_derived(&config);
        }
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,200}") {
        let _ = MlaConfig::from_json(&text, "any");
        let _ = MlaConfig::from_inline(&text);
    }

    #[test]
    fn any_shape_survives_the_way_through_json(
        (n_heads, d_model, d_latent, d_half) in (1..=MAX_HEADS, 1..=MAX_DIM, 1..=MAX_DIM, 0..=MAX_DIM / 2),
        (d_nope, d_v, d_q) in (1..=MAX_DIM, 1..=MAX_DIM, 0..=MAX_DIM),
        rope in prop::sample::select(vec!["interleaved", "half", "none"]),
    ) {
        let text = format!(
            "heads={n_heads},d_model={d_model},d_latent={d_latent},d_rope={},d_nope={d_nope},d_v={d_v},d_q_latent={d_q},rope={rope}",
            2 * d_half
        );
        let config = MlaConfig { notes: vec![], ..MlaConfig::from_inline(&text).unwrap() };
        let back = MlaConfig::from_json(&config.to_checkpoint_json().to_string(), "back").unwrap();
        prop_assert_eq!(MlaConfig { notes: vec![], ..back }, config);
    }
}
