//! run and emit on files that are wrong: status 2, one message that names file and field, and nothing left behind.

#[allow(dead_code)]
mod support;

use mlafuse_tensor::{DType, HostTensor, SafetensorsFile, write_safetensors};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use support::{bad, example, mlafuse, refused};
use tempfile::TempDir;

/// A copy of the example that a test may spoil.
struct Case {
    dir: TempDir,
}

impl Case {
    fn new() -> Case {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("model")).unwrap();
        for file in ["config.json", "model.safetensors"] {
            fs::copy(example().join(file), dir.path().join("model").join(file)).unwrap();
        }
        fs::copy(example().join("io.safetensors"), dir.path().join("io.safetensors")).unwrap();
        Case { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    /// The tensors of a file, changed, written back.
    fn tensors(&self, name: &str, change: impl Fn(&str, HostTensor) -> Option<HostTensor>) {
        let path = self.path(name);
        let file = SafetensorsFile::open(&path).unwrap();
        let names: Vec<String> = file.names().map(str::to_string).collect();
        let kept = names
            .iter()
            .filter_map(|name| Some((name.as_str(), change(name, file.tensor(name).unwrap())?)));
        write_safetensors(&path, &kept.collect::<Vec<_>>()).unwrap();
    }

    fn config(&self, field: &str, value: Value) {
        let path = self.path("model/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config[field] = value;
        fs::write(path, config.to_string()).unwrap();
    }

    /// `run` refuses it, and the folder holds what it did before.
    fn refused(&self, more: &[&str], words: &[&str]) {
        self.refused_with(&[], more, words);
    }

    /// As `refused`, with variables of the environment.
    fn refused_with(&self, variables: &[(&str, &str)], more: &[&str], words: &[&str]) {
        let before = listing(self.dir.path());
        let [model, io, out] = ["model", "io.safetensors", "out.safetensors"].map(|name| self.path(name));
        let paths = [model, io, out].map(|path| path.to_str().unwrap().to_string());
        let args = [
            "run",
            "--checkpoint",
            &paths[0],
            "--input",
            &paths[1],
            "--output",
            &paths[2],
        ];
        let mut command = mlafuse(&[&args[..], more].concat());
        refused(command.envs(variables.iter().copied()), words);
        assert_eq!(listing(self.dir.path()), before);
    }
}

fn listing(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn safetensors_that_are_cut_or_lie() {
    for name in ["io.safetensors", "model/model.safetensors"] {
        let case = Case::new();
        let whole = fs::read(case.path(name)).unwrap();
        case.write(name, &whole[..whole.len() - 1000]);
        case.refused(&[], &[name, "bytes of tensor data"]);
        case.write(name, &whole[..5]);
        case.refused(&[], &[name, "truncated"]);
        case.write(name, [&u64::MAX.to_le_bytes()[..], &whole[8..]].concat());
        case.refused(&[], &[name, "header length"]);
        case.write(name, [&8u64.to_le_bytes()[..], b"not json"].concat());
        case.refused(&[], &[name, "header"]);
        fs::remove_file(case.path(name)).unwrap();
        case.refused(&[], &[name.split('/').next_back().unwrap()]);
    }
}

#[test]
fn weights_that_are_missing_or_misshapen() {
    let case = Case::new();
    let weight = "model.layers.0.self_attn.kv_b_proj.weight";
    case.tensors("model/model.safetensors", |name, tensor| {
        (name != weight).then_some(tensor)
    });
    case.refused(&[], &["model", weight]);
    let case = Case::new();
    let shorter = |name: &str, tensor: HostTensor| match name == weight {
        true => tensor.slice_outer(0..100).ok(),
        false => Some(tensor),
    };
    case.tensors("model/model.safetensors", shorter);
    case.refused(&[], &["model", weight, "[100, 64]", "[512, 64]"]);
    let case = Case::new();
    case.refused(
        &["--prefix", "model.layers.7.attn"],
        &["model.layers.7.attn", "near names"],
    );
    case.refused(&["--layer", "9"], &["--layer 9", "1 layers"]);
}

#[test]
fn inputs_of_the_wrong_shape_or_type() {
    let changed = |target: &'static str, change: fn(HostTensor) -> HostTensor, words: &[&str]| {
        let case = Case::new();
        case.tensors("io.safetensors", |name, t| {
            Some(if name == target { change(t) } else { t })
        });
        case.refused(&[], &[&["io.safetensors", target], words].concat());
    };
    changed(
        "hidden_states",
        |t| t.slice_axis(2, 0..255).unwrap(),
        &["[2, 37, 255]", "256"],
    );
    changed(
        "hidden_states",
        |t| t.reshape(&[74, 256]).unwrap(),
        &["[74, 256]", "[B, T, 256]"],
    );
    changed(
        "hidden_states",
        |t| t.slice_axis(1, 0..0).unwrap(),
        &["[2, 0, 256]", "at least 1"],
    );
    changed("hidden_states", |t| t.to_dtype(DType::I32), &["i32", "f32"]);
    changed(
        "decode_hidden",
        |t| t.slice_axis(1, 0..1).unwrap(),
        &["[5, 1, 256]", "[N, 2, 256]"],
    );
    changed("decode_hidden", |t| t.reshape(&[10, 256]).unwrap(), &["[10, 256]"]);
    let case = Case::new();
    case.tensors("io.safetensors", |name, t| (name != "hidden_states").then_some(t));
    case.refused(&[], &["io.safetensors", "hidden_states"]);
}

#[test]
fn lengths_out_of_range() {
    for (lengths, words) in [
        (
            HostTensor::from_i32(&[2], &[37, 38]).unwrap(),
            ["`lengths`[1] is 38", "0 to 37"],
        ),
        (
            HostTensor::from_i32(&[2], &[-1, 3]).unwrap(),
            ["`lengths`[0] is -1", "0 to 37"],
        ),
        (HostTensor::from_i32(&[3], &[1, 2, 3]).unwrap(), ["lengths", "[2]"]),
        (HostTensor::from_f32(&[2], &[1.0, 2.0]).unwrap(), ["lengths", "i32"]),
    ] {
        let case = Case::new();
        let hidden = SafetensorsFile::open(case.path("io.safetensors"))
            .unwrap()
            .tensor("hidden_states")
            .unwrap();
        write_safetensors(
            case.path("io.safetensors"),
            &[("hidden_states", hidden), ("lengths", lengths)],
        )
        .unwrap();
        case.refused(&[], &words);
    }
}

#[test]
fn configs_that_cannot_be() {
    let fields: [(&str, Value, &str); 10] = [
        ("hidden_size", json!(-256), "-256"),
        ("kv_lora_rank", json!(0), "0"),
        ("num_attention_heads", json!(u64::MAX), "18446744073709551615"),
        ("qk_rope_head_dim", json!(15), "even"),
        ("v_head_dim", json!("many"), "many"),
        ("qk_nope_head_dim", json!(1.5), "1.5"),
        ("rope_theta", json!("NaN"), "NaN"),
        ("rope_theta", json!(-1.0), "-1"),
        ("num_attention_heads", json!(null), "null"),
        ("attention_bias", json!("yes"), "yes"),
    ];
    for (field, value, found) in fields {
        let case = Case::new();
        case.config(field, value);
        case.refused(&[], &["config.json", field, found]);
        let model = case.path("model");
        bad(
            &[
                "emit",
                "--model",
                model.to_str().unwrap(),
                "--phase",
                "decode",
                "--stage",
                "graph",
            ],
            &["config.json", field],
        );
    }
    let case = Case::new();
    case.config("rope_scaling", json!({ "type": "ntk-by-parts" }));
    case.refused(&[], &["config.json", "ntk-by-parts"]);
    for (text, word) in [
        ("{\"rope_theta\": NaN}", "rope_theta"),
        ("", "JSON"),
        ("[]", "object"),
        ("{\"model_type\": \"llama\"}", "llama"),
    ] {
        case.write("model/config.json", text);
        case.refused(&[], &["config.json", word]);
    }
    case.write("model/config.json", [0xff, 0xfe]);
    case.refused(&[], &["config.json", "UTF-8"]);
    fs::remove_file(case.path("model/config.json")).unwrap();
    case.refused(&[], &["config.json"]);
}

#[test]
fn a_config_that_does_not_fit_its_weights() {
    let case = Case::new();
    case.config("num_attention_heads", json!(7));
    case.refused(&[], &["model", "q_b_proj.weight"]);
}

#[test]
fn flags_that_cannot_be() {
    let case = Case::new();
    case.refused(&["--page-size", "0"], &["--page-size"]);
    case.refused(&["--splits", "fixed:0"], &["fixed:0", "balanced", "fixed:TOKENS"]);
    case.refused(&["--device", "tpu"], &["tpu", "reference:f64"]);
    case.refused(&["--device", "sim:sm_70"], &["sm_70", "sm_80"]);
    case.refused(&["--device", "sim,checked"], &["sim,checked", "sim:ARCH"]);
    case.refused(&["--check", "none"], &["--check", "cpu", "sim"]);
    case.refused(&["--device", "sim", "--check", "some"], &["some", "none", "all"]);
    let no_nvrtc = [("MLAFUSE_NVRTC", "/nonexistent")];
    let words = ["device sim:sm_80", "/nonexistent", "cargo xtask setup"];
    case.refused_with(&no_nvrtc, &["--device", "sim"], &words);
    for level in ["avx9", "Amx"] {
        let words = ["MLAFUSE_CPU_LEVEL", level, "allowed on this processor: portable"];
        case.refused_with(&[("MLAFUSE_CPU_LEVEL", level)], &[], &words);
    }
    case.refused(&["--device", "cuda:1"], &["cuda:1", "cpu"]);
    case.refused(&["--dtype", "int4"], &["int4", "bf16"]);
    case.refused(&["--tolerance", "NaN", "--expect", "x"], &["NaN"]);
    case.refused(&["--tolerance", "0.1"], &["--expect"]);
    case.refused(&["--threads", "0"], &["--threads"]);
    case.refused(&["--layer", "0", "--prefix", "x"], &["--layer", "--prefix"]);
}

#[test]
fn expectations_that_do_not_fit() {
    let case = Case::new();
    let expect = |tensor: &str, shape: &[usize], words: &[&str]| {
        let path = case.path("expect.safetensors");
        write_safetensors(&path, &[(tensor, HostTensor::zeros(DType::F32, shape).unwrap())]).unwrap();
        case.refused(&["--expect", path.to_str().unwrap()], words);
    };
    expect(
        "prefill_out",
        &[2, 36, 256],
        &["expect.safetensors", "prefill_out", "[2, 37, 256]", "[2, 36, 256]"],
    );
    expect("other", &[1], &["expect.safetensors", "prefill_out", "decode_out"]);
    case.refused(&["--expect", "/nonexistent"], &["/nonexistent"]);
}

#[test]
fn outputs_that_cannot_be_written() {
    let case = Case::new();
    let [model, io] = ["model", "io.safetensors"].map(|name| case.path(name).to_str().unwrap().to_string());
    let folder = case.path("model");
    for output in [
        "/nonexistent/folder/out.safetensors",
        "/dev/null/out",
        folder.to_str().unwrap(),
    ] {
        bad(
            &["run", "--checkpoint", &model, "--input", &io, "--output", output],
            &["--output", output],
        );
    }
    assert_eq!(listing(case.dir.path()), ["io.safetensors", "model"]);
}
