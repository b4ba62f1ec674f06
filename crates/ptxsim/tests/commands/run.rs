//! `ptxsim run`.

use std::fs;

use safetensors::Dtype;
use serde_json::json;

use crate::case::{Case, THREADS};

fn want() -> Vec<f32> {
    (0..THREADS).rev().map(|i| i as f32 - 7.5).collect()
}

#[test]
fn outputs_are_saved_and_agree_with_the_reference() {
    let case = Case::new("reverse");
    case.set("reference", json!({"file": "want.safetensors", "rel_l2": 0}));
    let out = case.path("out.safetensors");
    let (status, found) = case.json("run", &["--out", out.to_str().expect("UTF-8")]);
    assert_eq!((status, &found["ok"], &found["reports"]), (0, &json!(true), &json!([])));
    let output = &found["outputs"][0];
    assert_eq!((&output["name"], &output["rel_l2"]), (&json!("y"), &json!(0.0)));
    assert_eq!(case.saved_floats("out.safetensors", "y"), want());
    let text = String::from_utf8(case.run("run", &[]).stdout).expect("UTF-8");
    assert!(text.contains("reverse: grid [1, 1, 1], block [64, 1, 1]"), "{text}");
    assert!(
        text.contains("output y: f32 [64], rel-L2 0.00e0 (allowed 0e0)"),
        "{text}"
    );
}

#[test]
fn every_flag_is_taken() {
    let case = Case::new("reverse");
    for flags in [
        &[
            "--schedule",
            "fixed",
            "--async",
            "lazy",
            "--check",
            "none",
            "--mma",
            "fast",
            "--approx",
            "rounded",
        ][..],
        &[
            "--schedule",
            "random:7",
            "--async",
            "eager",
            "--check",
            "all",
            "--mma",
            "exact",
            "--approx",
            "perturb:3",
        ],
        &[
            "--schedule",
            "starve:1",
            "--threads",
            "1",
            "--step-limit",
            "1000",
            "--stats",
            "--lines",
        ],
    ] {
        assert_eq!(case.run("run", flags).status.code(), Some(0), "{flags:?}");
    }
    for (flags, text) in [
        (["--schedule", "starve:2"], "a block has 2 warps; allowed: 0 to 1"),
        (["--schedule", "later"], "expected fixed, random:SEED or starve:WARP"),
        (["--async", "never"], "lazy, eager"),
        (["--check", "some"], "none, all"),
        (["--mma", "slow"], "fast, exact"),
        (["--approx", "perturb:x"], "expected rounded or perturb:SEED"),
        (["--threads", "0"], "from 1 to 1024"),
        (["--step-limit", "0"], "0 is not in 1.."),
        (
            ["--out", "/nowhere/out.safetensors"],
            "cannot write /nowhere/out.safetensors",
        ),
        (
            ["--out", "/dev/null"],
            "cannot write /dev/null: it is not a regular file",
        ),
    ] {
        let output = case.run("run", &flags);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {message}");
        assert!(
            message.starts_with("error: ") && message.contains(text),
            "{flags:?}: {message}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn counters_have_the_names_that_tools_read() {
    let (status, found) = Case::new("reverse").json("run", &["--stats", "--lines"]);
    assert_eq!(status, 0);
    assert_eq!((&found["barriers"], &found["tensor_flops"]), (&json!(2), &json!(0)));
    assert_eq!(
        (&found["global_bytes"], &found["global_sectors"]),
        (&json!(512), &json!(16))
    );
    assert_eq!(found["shared_wavefronts"], found["shared_wavefronts_ideal"]);
    assert!(
        found["seconds"].is_number() && found["instructions"].as_u64() > Some(30),
        "{found}"
    );
    assert_eq!(found["by_class"]["barrier"], 2);
    let lines = found["lines"].as_array().expect("lines");
    let sum: u64 = lines.iter().filter_map(|line| line["instructions"].as_u64()).sum();
    assert_eq!(Some(sum), found["instructions"].as_u64());
}

#[test]
fn inout_is_copied_in_and_saved() {
    let case = Case::new("double");
    case.set("args", json!([{"inout": "in.safetensors#x"}]));
    let before = fs::read(case.path("in.safetensors")).expect("a file");
    let out = case.path("out.safetensors");
    let (status, _) = case.json("run", &["--out", out.to_str().expect("UTF-8")]);
    assert_eq!(status, 0);
    let doubled: Vec<f32> = want().iter().rev().map(|x| 2.0 * x).collect();
    assert_eq!(case.saved_floats("out.safetensors", "x"), doubled);
    assert_eq!(fs::read(case.path("in.safetensors")).expect("a file"), before);
}

#[test]
fn a_store_to_a_tensor_is_a_report() {
    let case = Case::new("double");
    case.set("args", json!([{"tensor": "in.safetensors#x"}]));
    let (status, found) = case.json("run", &[]);
    assert_eq!(
        (status, &found["reports"][0]["checker"]),
        (1, &json!("memcheck")),
        "{found}"
    );
}

#[test]
fn every_scalar_has_its_bits() {
    let cases = [
        (
            json!([{"i8": -2}, {"i16": -3}, {"i32": -4}, {"i64": -5}]),
            (-2_i8 as u8, -3_i16 as u16, -4_i32 as u32, -5_i64 as u64),
        ),
        (
            json!([{"u8": 255}, {"u16": 65535}, {"u32": 4294967295_u32}, {"u64": u64::MAX}]),
            (255, 65535, u32::MAX, u64::MAX),
        ),
        (
            json!([{"i8": 1}, {"f16": 1.5}, {"f32": 0.1}, {"f64": 0.1}]),
            (1, 0x3e00, 0.1_f32.to_bits(), 0.1_f64.to_bits()),
        ),
        (
            json!([{"i8": 1}, {"bf16": -1}, {"f32": "-inf"}, {"null": 7}]),
            (1, 0xbf80, 0xff80_0000, 0),
        ),
    ];
    for (scalars, (a, b, c, d)) in cases {
        let mut args = vec![json!({"output": "y", "dtype": "u8", "shape": [16]})];
        args.extend(scalars.as_array().expect("an array").iter().cloned());
        let case = Case::new("scalars");
        case.set("args", json!(args));
        case.set("block", json!([1, 1, 1]));
        let out = case.path("out.safetensors");
        let (status, found) = case.json("run", &["--out", out.to_str().expect("UTF-8")]);
        assert_eq!(status, 0, "{found}");
        let (dtype, bytes) = case.saved("out.safetensors", "y");
        let mut want = vec![a, 0];
        want.extend(b.to_le_bytes());
        want.extend(c.to_le_bytes());
        want.extend(d.to_le_bytes());
        assert_eq!((dtype, bytes), (Dtype::U8, want), "{scalars}");
        assert_eq!(found["outputs"][0]["never_written"], 1);
    }
}

#[test]
fn elements_never_written_are_nan_or_zero() {
    for (dtype, float) in [("f32", true), ("i32", false)] {
        let case = Case::new("reverse");
        let output = json!({"output": "y", "dtype": dtype, "shape": [2, THREADS]});
        case.set("args", json!([{"tensor": "in.safetensors#x"}, output]));
        let out = case.path("out.safetensors");
        let (status, found) = case.json("run", &["--out", out.to_str().expect("UTF-8")]);
        assert_eq!((status, &found["outputs"][0]["never_written"]), (0, &json!(THREADS)));
        let (_, bytes) = case.saved("out.safetensors", "y");
        let last = f32::from_le_bytes([bytes[508], bytes[509], bytes[510], bytes[511]]);
        assert_eq!((last.is_nan(), last == 0.0), (float, !float));
    }
}

#[test]
fn what_does_not_end_is_a_report_and_saves_nothing() {
    let case = Case::new("forever");
    let out = case.path("out.safetensors");
    fs::write(&out, "as before").expect("a file");
    let flags = ["--step-limit", "1000", "--out", out.to_str().expect("UTF-8")];
    let (status, found) = case.json("run", &flags);
    assert_eq!(
        (status, &found["ok"], &found["completed"]),
        (1, &json!(false), &json!(false))
    );
    assert_eq!(found["reports"][0]["checker"], "steplimit");
    assert_eq!(fs::read(&out).expect("a file"), b"as before");
    let left = fs::read_dir(case.path("")).expect("a folder").count();
    assert_eq!(left, 5, "only the case's files and the output");
}

#[test]
fn a_fault_names_line_thread_and_address() {
    let (status, found) = Case::new("wild").json("run", &[]);
    let report = &found["reports"][0];
    assert_eq!((status, &report["checker"]), (1, &json!("memcheck")), "{found}");
    let line = report["ptx_line"].as_u64().expect("a line") as usize;
    assert!(
        crate::case::PTX
            .lines()
            .nth(line - 1)
            .expect("the line")
            .contains("st.global.b32")
    );
    assert_eq!(
        (&report["block"], &report["thread"]),
        (&json!([0, 0, 0]), &json!([32, 0, 0]))
    );
    let message = report["message"].as_str().expect("a message");
    for part in [&format!("PTX line {line}"), "thread [32, 0, 0]", "address 0x"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_reference_that_differs_is_a_report() {
    let case = Case::new("reverse");
    case.set("reference", json!({"file": "want.safetensors", "rel_l2": 1e-3}));
    let edits: [(&str, f32, &str); 4] = [
        (
            "one element off",
            100.0,
            "the largest difference is at [3]: 52.5, reference 100",
        ),
        (
            "infinite",
            f32::NEG_INFINITY,
            "the first that is not finite alike is at [3]: 52.5, reference -inf",
        ),
        ("not a number", f32::NAN, "reference NaN"),
        ("within", want()[3] + 1e-4, ""),
    ];
    for (what, value, message) in edits {
        let mut values = want();
        values[3] = value;
        case.tensors("want.safetensors", "y", &values);
        let (status, found) = case.json("run", &[]);
        if message.is_empty() {
            assert_eq!(status, 0, "{what}: {found}");
            continue;
        }
        let report = &found["reports"][0];
        assert_eq!((status, &report["checker"]), (1, &json!("compare")), "{what}: {found}");
        assert!(
            report["message"].as_str().is_some_and(|text| text.contains(message)),
            "{what}: {report}"
        );
    }
}
