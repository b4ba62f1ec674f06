//! The binary's exit status and output.

use std::path::Path;
use std::process::{Command, Output};

fn ptxsim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ptxsim"))
        .args(args)
        .output()
        .expect("the binary runs")
}

fn recorded() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tensor_core.safetensors");
    path.to_str().expect("a path in UTF-8").to_string()
}

#[test]
fn recorded_outputs_match() {
    let output = ptxsim(&["mma", &recorded(), "--format", "json"]);
    assert_eq!(output.status.code(), Some(0));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    let sets = found["sets"].as_array().expect("sets");
    assert_eq!(sets.len(), 8);
    for set in sets {
        assert_eq!((&set["matched"], &set["total"]), (&200.into(), &200.into()), "{set}");
    }
    let text = ptxsim(&["mma", &recorded()]).stdout;
    assert_eq!(String::from_utf8(text).expect("UTF-8").lines().count(), 8);
}

#[test]
fn a_changed_output_is_a_mismatch() {
    let mut bytes = std::fs::read(recorded()).expect("the recordings");
    // The last tensor in the file is the d of a set.
    let last = bytes.len() - 1;
    bytes[last] ^= 0x40;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("changed.safetensors");
    std::fs::write(&path, bytes).expect("a file");
    let output = ptxsim(&["mma", path.to_str().expect("UTF-8")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("199 of"));
}

#[test]
fn bad_input_is_status_2_with_one_message() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("short.safetensors");
    std::fs::write(&path, [0xff; 5]).expect("a file");
    for args in [
        vec!["mma", "/nowhere/x.safetensors"],
        vec!["mma", path.to_str().expect("UTF-8")],
        vec!["nonsense"],
    ] {
        let output = ptxsim(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty());
        assert!(
            String::from_utf8_lossy(&output.stderr).starts_with("error: "),
            "{args:?}"
        );
    }
}
