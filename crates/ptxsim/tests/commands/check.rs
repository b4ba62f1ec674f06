//! `ptxsim check`.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::case::Case;

#[test]
fn a_right_kernel_passes() {
    let case = Case::new("reverse");
    case.set("reference", json!({"file": "want.safetensors", "rel_l2": 0}));
    let (status, found) = case.json("check", &["--seeds", "2", "--all-warps"]);
    // fixed, two starved and two random, each lazy and eager; exact and perturbed.
    assert_eq!(
        (status, &found["ok"], &found["runs"]),
        (0, &json!(true), &json!(12)),
        "{found}"
    );
    let text = String::from_utf8(case.run("check", &[]).stdout).expect("UTF-8");
    assert_eq!(text, "reverse: ok in 16 runs, as the reference\n");
}

#[test]
fn the_first_fault_ends_it() {
    let (status, found) = Case::new("race").json("check", &[]);
    let report = &found["reports"][0];
    assert_eq!(
        (status, &found["ok"], &report["checker"]),
        (1, &json!(false), &json!("racecheck")),
        "{found}"
    );
    assert_eq!(
        (&report["schedule"], &report["async"]),
        (&json!("fixed"), &json!("lazy"))
    );
    let message = report["message"].as_str().expect("a message");
    assert!(
        message.contains("PTX line") && message.contains("thread ["),
        "{message}"
    );
    let text = String::from_utf8(Case::new("wild").run("check", &[]).stdout).expect("UTF-8");
    for part in [
        "memcheck: ",
        "| st.global.b32 [%rd3], %r1;",
        "schedule fixed, async lazy",
        "a fault in run 1 of 16",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn outputs_that_depend_on_the_schedule_are_a_report() {
    let case = Case::new("order");
    // The last warp to arrive leaves its number; atomics do not race.
    std::fs::write(case.path("k.ptx"), ORDER).expect("a file");
    case.set("args", json!([{"null": 0}, {"inout": "in.safetensors#x"}]));
    let (status, found) = case.json("check", &[]);
    let report = &found["reports"][0];
    assert_eq!((status, &report["checker"]), (1, &json!("compare")), "{found}");
    let message = report["message"].as_str().expect("a message");
    assert!(
        message.contains("output `x` is not the same in every run: at [0] it is"),
        "{message}"
    );
    assert!(message.contains("schedule fixed, async lazy"), "{message}");
}

const ORDER: &str = "
.version 8.8
.target sm_80
.address_size 64
.visible .entry order(.param .u64 x, .param .u64 y) {
    .reg .b32 %r<4>;
    .reg .b64 %rd<4>;
    .reg .pred %p1;
    ld.param.u64 %rd1, [y];
    mov.u32 %r1, %tid.x;
    and.b32 %r2, %r1, 31;
    setp.ne.s32 %p1, %r2, 0;
    @%p1 bra done;
    atom.global.exch.b32 %r3, [%rd1], %r1;
done:
    ret;
}
";

/// Launch files of Triton's kernels.
#[test]
fn triton_kernels_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/launch");
    let cases = std::fs::read_dir(&folder)
        .expect("test data")
        .map(|entry| entry.expect("an entry").path());
    let cases: Vec<_> = cases.filter(|path| path.is_dir()).collect();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let mut program = Command::new(env!("CARGO_BIN_EXE_ptxsim"));
        program
            .arg("check")
            .arg(case.join("LAUNCH.json"))
            .args(["--format", "json"]);
        let output = program.output().expect("the binary runs");
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(
            (output.status.code(), &found["ok"]),
            (Some(0), &json!(true)),
            "{}: {found}",
            case.display()
        );
    }
}
