//! run: good inputs.

#[allow(dead_code)]
mod support;

use mlafuse_cpu::Level;
use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use mlafuse_tensor::{DType, HostTensor, SafetensorsFile, compare, write_safetensors};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Command;
use support::{Ran, example, good, mlafuse, ran};

fn run(checkpoint: &Path, input: &Path, output: &Path, more: &[&str]) -> Ran {
    ran(&mut command(checkpoint, input, output, more))
}

fn command(checkpoint: &Path, input: &Path, output: &Path, more: &[&str]) -> Command {
    let paths = [checkpoint, input, output].map(|path| path.to_str().unwrap());
    let args = [
        "run",
        "--checkpoint",
        paths[0],
        "--input",
        paths[1],
        "--output",
        paths[2],
        "--format",
        "json",
    ];
    mlafuse(&[&args[..], more].concat())
}

fn example_io() -> std::path::PathBuf {
    example().join("io.safetensors")
}

fn names(json: &Value) -> Vec<String> {
    let kernels = json["kernels"].as_array().unwrap();
    kernels
        .iter()
        .map(|kernel| kernel["name"].as_str().unwrap().to_string())
        .collect()
}

#[test]
fn every_device_type_and_plan_meets_the_expected_outputs() {
    let dir = tempfile::tempdir().unwrap();
    let (io, out) = (example_io(), dir.path().join("out.safetensors"));
    let cases: [&[&str]; 8] = [
        &[],
        &["--splits", "fixed:16", "--dtype", "f32"],
        &["--plan", "unfused"],
        &["--dtype", "f16", "--page-size", "5"],
        &["--dtype", "f32"],
        &["--dtype", "f32", "--plan", "unfused", "--threads", "1"],
        &["--device", "reference"],
        &["--device", "reference:f64"],
    ];
    for case in cases {
        let ran = run(
            &example(),
            &io,
            &out,
            &[case, &["--expect", io.to_str().unwrap()]].concat(),
        );
        assert_eq!(ran.status, 0, "{case:?}: {}{}", ran.stdout, ran.stderr);
        let json = ran.json();
        assert_eq!(json["within_tolerance"], true);
        for (phase, field) in ["prefill", "decode"]
            .iter()
            .flat_map(|p| ["max_abs", "rel_l2", "cosine_diff"].map(|f| (p, f)))
        {
            assert!(json[phase][field].is_number(), "{case:?} {phase} {field}");
        }
        assert_eq!(
            ran.stderr.contains("ignores --dtype and --plan"),
            case.contains(&"--device"),
            "{}",
            ran.stderr
        );
        let file = SafetensorsFile::open(&out).unwrap();
        assert_eq!(
            file.tensor_shaped("prefill_out", &[2, 37, 256]).unwrap().dtype(),
            DType::F32
        );
        assert_eq!(
            file.tensor_shaped("decode_out", &[5, 2, 256]).unwrap().dtype(),
            DType::F32
        );
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Every level of this processor, each within the tolerance: those that multiply bf16 as it is, and those that do not.
#[test]
fn every_level_of_the_processor_meets_the_expected_outputs() {
    let dir = tempfile::tempdir().unwrap();
    let (io, out) = (example_io(), dir.path().join("out.safetensors"));
    for level in Level::available() {
        for more in [&["--dtype", "bf16"][..], &["--dtype", "f32"], &["--plan", "unfused"]] {
            let expect = ["--expect", io.to_str().unwrap()];
            let mut command = command(&example(), &io, &out, &[&expect, more].concat());
            let ran = ran(command.env("MLAFUSE_CPU_LEVEL", level.name()));
            assert_eq!(ran.status, 0, "{level}, {more:?}: {}{}", ran.stdout, ran.stderr);
            let json = ran.json();
            assert_eq!(json["within_tolerance"], true, "{level}, {more:?}");
            assert_eq!(json["cpu_level"], level.name());
        }
    }
}

#[test]
fn the_simulator_counts_what_its_kernels_do() {
    if nvrtc_or_skip().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (io, out) = (example_io(), dir.path().join("out.safetensors"));
    for (device, more, name) in [
        ("sim", &["--check", "all"][..], "sim"),
        (
            "sim:sm_120",
            &["--plan", "unfused", "--check", "none", "--threads", "1"],
            "sim:sm_120,unchecked",
        ),
    ] {
        let flags = [&["--device", device, "--expect", io.to_str().unwrap()], more].concat();
        let ran = run(&example(), &io, &out, &flags);
        assert_eq!(ran.status, 0, "{}{}", ran.stdout, ran.stderr);
        let json = ran.json();
        assert_eq!(
            (json["device"].as_str(), json["within_tolerance"].as_bool()),
            (Some(name), Some(true))
        );
        for kernel in json["kernels"].as_array().unwrap() {
            let counters = &kernel["counters"];
            let [instructions, bytes] = ["instructions", "global_bytes"].map(|name| counters[name].as_u64().unwrap());
            let [wavefronts, ideal] =
                ["shared_wavefronts", "shared_wavefronts_ideal"].map(|name| counters[name].as_u64().unwrap());
            assert!(instructions > 0 && bytes > 0 && wavefronts >= ideal, "{kernel}");
            let product = kernel["name"].as_str().unwrap().starts_with("einsum");
            assert!(!product || counters["tensor_flops"].as_u64().unwrap() > 0, "{kernel}");
        }
    }
}

#[test]
fn kernels_are_those_of_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    let (example, out) = (example(), dir.path().join("out.safetensors"));
    let json = run(&example, &example_io(), &out, &[]).json();
    assert!(json["prefill"].is_null() && json["within_tolerance"].is_null());
    let model = example.to_str().unwrap();
    let plan = |phase, kv_len| {
        let args = ["emit", "--model", model, "--phase", phase, "--kv-len", kv_len];
        names(&good(&[&args[..], &["--stage", "plan", "--format", "json"]].concat()).json())
    };
    // A prefill, unabsorbed, and five steps.
    let (prefill, decode) = (plan("prefill", "37"), plan("decode", "42"));
    let of_decode = decode.iter().filter(|name| !prefill.contains(name));
    assert_eq!(
        names(&json),
        prefill.iter().chain(of_decode).cloned().collect::<Vec<_>>()
    );
    for kernel in json["kernels"].as_array().unwrap() {
        let name = kernel["name"].as_str().unwrap().to_string();
        let launches = u64::from(prefill.contains(&name)) + 5 * u64::from(decode.contains(&name));
        assert!(kernel["launches"] == launches && kernel["ms"].is_number(), "{kernel}");
    }
}

#[test]
fn a_mismatch_is_status_one_and_the_output_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let (io, out) = (example_io(), dir.path().join("out.safetensors"));
    let ran = run(
        &example(),
        &io,
        &out,
        &["--expect", io.to_str().unwrap(), "--tolerance", "1e-9"],
    );
    assert_eq!((ran.status, ran.json()["within_tolerance"].as_bool()), (1, Some(false)));
    assert!(out.exists());
}

#[test]
fn without_a_bf16_result_the_tolerance_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (expect, out) = (
        dir.path().join("expect.safetensors"),
        dir.path().join("out.safetensors"),
    );
    let decode = SafetensorsFile::open(example_io())
        .unwrap()
        .tensor("decode_out")
        .unwrap();
    write_safetensors(&expect, &[("decode_out", decode)]).unwrap();
    let json = run(&example(), &example_io(), &out, &["--expect", expect.to_str().unwrap()]).json();
    assert_eq!(
        (json["decode"]["tolerance"].as_f64(), json["within_tolerance"].as_bool()),
        (Some(2e-2), Some(true))
    );
    assert!(json["prefill"].is_null());
}

/// A sequence that is padded has the results of the same sequence by itself.
#[test]
fn ragged_lengths_are_each_sequence_alone() {
    let dir = tempfile::tempdir().unwrap();
    let io = SafetensorsFile::open(example_io()).unwrap();
    let hidden = io.tensor("hidden_states").unwrap();
    let decode = io.tensor("decode_hidden").unwrap();
    let ragged = dir.path().join("ragged.safetensors");
    let lengths = HostTensor::from_i32(&[2], &[37, 11]).unwrap();
    let tensors = [
        ("hidden_states", hidden.clone()),
        ("decode_hidden", decode.clone()),
        ("lengths", lengths),
    ];
    write_safetensors(&ragged, &tensors).unwrap();
    let alone = dir.path().join("alone.safetensors");
    let second = hidden.slice_axis(0, 1..2).unwrap().slice_axis(1, 0..11).unwrap();
    let tensors = [
        ("hidden_states", second),
        ("decode_hidden", decode.slice_axis(1, 1..2).unwrap()),
    ];
    write_safetensors(&alone, &tensors).unwrap();
    let out = |input: &Path, name: &str| {
        let output = dir.path().join(name);
        let ran = run(&example(), input, &output, &["--dtype", "f32"]);
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        SafetensorsFile::open(output).unwrap()
    };
    let (both, one) = (out(&ragged, "both"), out(&alone, "one"));
    let got = both.tensor("decode_out").unwrap().slice_axis(1, 1..2).unwrap();
    assert!(compare(&got, &one.tensor("decode_out").unwrap()).unwrap().rel_l2 < 1e-5);
    let prefill = both.tensor("prefill_out").unwrap().slice_axis(0, 1..2).unwrap();
    let there = prefill.slice_axis(1, 0..11).unwrap();
    assert!(compare(&there, &one.tensor("prefill_out").unwrap()).unwrap().rel_l2 < 1e-5);
    assert!(
        prefill
            .slice_axis(1, 11..37)
            .unwrap()
            .to_f32_vec()
            .iter()
            .all(|&value| value == 0.0)
    );
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = |threads: &str| {
        let out = dir.path().join(threads);
        assert_eq!(run(&example(), &example_io(), &out, &["--threads", threads]).status, 0);
        fs::read(out).unwrap()
    };
    assert_eq!(bytes("1"), bytes("2"));
}
