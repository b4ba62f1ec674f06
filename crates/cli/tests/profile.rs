//! profile: both plans on the processor and on the simulator, in both forms, and what it refuses.

#[allow(dead_code)]
mod support;

use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use serde_json::Value;
use std::fs;
use support::{bad, good};

const TINY: [&str; 5] = [
    "profile",
    "--model",
    "heads=3,d_model=64,d_latent=32,d_rope=8,d_nope=16,d_v=16,d_q_latent=24",
    "--kv-len",
    "70",
];

fn tiny<'a>(more: &[&'a str]) -> Vec<&'a str> {
    TINY.iter().chain(more).copied().collect()
}

fn kernels(plan: &Value) -> &[Value] {
    plan["kernels"].as_array().unwrap()
}

fn number(of: &Value, field: &str) -> f64 {
    of[field].as_f64().unwrap_or_else(|| panic!("{field}: {of}"))
}

/// Every field that is a sum is the sum of the kernels'.
fn check_sums(plan: &Value, fields: &[&str]) {
    for field in fields {
        let sum: f64 = kernels(plan).iter().map(|kernel| number(kernel, field)).sum();
        let told = number(plan, field);
        assert!((sum - told).abs() <= 1e-9 * sum, "{field}: {sum} {told}");
    }
}

fn check_kernels(plan: &Value) {
    for kernel in kernels(plan) {
        let bound = kernel["bound"].as_str().unwrap();
        assert!(
            kernel["name"].is_string() && ["memory", "compute"].contains(&bound),
            "{kernel}"
        );
        assert!(
            number(kernel, "bytes") > 0.0 && number(kernel, "percent_of_bound") > 0.0,
            "{kernel}"
        );
    }
}

#[test]
fn the_processor_is_timed() {
    let json = good(&tiny(&["--repeat", "3", "--format", "json"])).json();
    assert_eq!(
        (json["modelled"].as_bool(), json["runs"].as_u64()),
        (Some(false), Some(3))
    );
    assert!(json["device"].as_str().unwrap().starts_with("cpu"));
    assert!(number(&json["limits"], "bytes_per_s") > 0.0 && number(&json["limits"], "flops_per_s") > 0.0);
    let [fused, unfused] = ["fused", "unfused"].map(|plan| &json["plans"][plan]);
    for plan in [fused, unfused] {
        check_sums(plan, &["launches", "us", "bytes", "flops"]);
        check_kernels(plan);
        assert!(kernels(plan).iter().all(|kernel| number(kernel, "us") > 0.0));
    }
    assert!(number(fused, "launches") < number(unfused, "launches"));
    assert!(number(fused, "bytes") < number(unfused, "bytes"));
    // One graph, in the same form.
    assert_eq!(fused["flops"], unfused["flops"]);
    let reasons = json["not_fused"].as_array().unwrap();
    assert!(
        reasons
            .iter()
            .any(|reason| reason.as_str().unwrap().contains("einsum_out"))
    );
}

#[test]
fn a_prefill_of_several_sequences_is_told_for_people() {
    let more = [
        "--phase",
        "prefill",
        "--batch",
        "2",
        "--dtype",
        "f32",
        "--repeat",
        "1",
        "--threads",
        "1",
    ];
    let text = good(&tiny(&more)).stdout;
    for words in [
        "70 new of 70 cached tokens",
        "fused plan\nkernel",
        "unfused plan\nkernel",
        "share %",
        "% of bound",
        "counted from the plan",
        "limits:",
        "ratio",
        "note: not fused, one node a kernel",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let totals = text.lines().filter(|line| line.starts_with("total"));
    assert_eq!(totals.count(), 2, "{text}");
}

#[test]
fn the_simulator_counts() {
    let Some(_) = nvrtc_or_skip() else { return };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trace.json");
    let more = [
        "--device",
        "sim:sm_80",
        "--check",
        "all",
        "--format",
        "json",
        "--trace",
        file.to_str().unwrap(),
    ];
    let json = good(&tiny(&more)).json();
    assert_eq!(json["modelled"], true);
    for plan in ["fused", "unfused"].map(|plan| &json["plans"][plan]) {
        check_kernels(plan);
        check_sums(
            plan,
            &[
                "launches",
                "bytes",
                "minimal_bytes",
                "flops",
                "modelled_us",
                "executed_flops",
                "instructions",
                "shared_wavefronts",
                "shared_wavefronts_ideal",
                "global_sectors",
                "barriers",
            ],
        );
        assert!(plan["us"].is_null() && kernels(plan).iter().all(|kernel| kernel["us"].is_null()));
        // Sectors hold what must be moved, and whole tiles what must be computed.
        for kernel in kernels(plan) {
            assert!(number(kernel, "bytes") >= number(kernel, "minimal_bytes"), "{kernel}");
            assert!(number(kernel, "executed_flops") >= number(kernel, "flops"), "{kernel}");
        }
    }
    let trace: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let shown = events.iter().filter(|event| event["ph"] == "X");
    let launches = ["fused", "unfused"].map(|plan| number(&json["plans"][plan], "launches"));
    assert_eq!(shown.count() as f64, launches[0] + launches[1]);
    assert!(
        trace["otherData"]["durations"]
            .as_str()
            .unwrap()
            .contains("instruction")
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn bad_flags_are_named() {
    bad(&tiny(&["--q-len", "71"]), &["--q-len 71", "--kv-len 70"]);
    bad(&tiny(&["--device", "gpu"]), &["gpu", "sim:ARCH"]);
    bad(&tiny(&["--device", "cuda"]), &["cuda", "cpu, sim"]);
    bad(&tiny(&["--device", "reference"]), &["reference", "interpreter"]);
    bad(&tiny(&["--check", "all"]), &["--check", "sim:ARCH"]);
    bad(
        &tiny(&["--device", "sim", "--repeat", "3"]),
        &["--repeat", "--device cpu"],
    );
    bad(&tiny(&["--repeat", "0"]), &["--repeat", "1..=10000"]);
    bad(&tiny(&["--trace", "/dev/null/x"]), &["--trace", "/dev/null"]);
    bad(&["profile"], &["--model"]);
    bad(&["profile", "--model", "gpt-7"], &["gpt-7", "deepseek-v3"]);
    let huge = [
        "profile",
        "--model",
        "deepseek-v3",
        "--batch",
        "4096",
        "--kv-len",
        "16777216",
    ];
    bad(&huge, &["MiB", "fewer or shorter"]);
}
