//! doctor, presets, cache, and what all commands share.

#[allow(dead_code)]
mod support;

use std::io::Read;
use std::process::Stdio;
use support::{bad, good, mlafuse, ran};

#[test]
fn doctor_succeeds_whatever_is_missing() {
    let missing = ran(mlafuse(&["doctor", "--format", "json"]).env("MLAFUSE_NVRTC", "/nonexistent"));
    assert_eq!(missing.status, 0, "{}", missing.stderr);
    let json = missing.json();
    assert!(json["nvrtc"]["path"].is_null());
    let mends = json["missing"].as_array().unwrap();
    let nvrtc = mends.iter().find(|mend| mend["what"] == "nvrtc").unwrap();
    assert!(nvrtc["mend"].as_str().unwrap().contains("cargo xtask setup"));
    assert!(json["cpu"]["level"].is_string() && json["cache"]["path"].is_string());
    assert!(json["driver"]["present"].is_boolean());
    assert_eq!(json["sim"]["available"], false);
    let forced = ran(mlafuse(&["doctor", "--format", "json"]).env("MLAFUSE_CPU_LEVEL", "portable")).json();
    assert_eq!(
        (&forced["cpu"]["level"], &forced["cpu"]["forced"]),
        (&"portable".into(), &true.into())
    );
    let lacking = ran(mlafuse(&["doctor", "--format", "json"]).env("MLAFUSE_CPU_LEVEL", "avx9"));
    assert_eq!(lacking.status, 0, "{}", lacking.stderr);
    assert!(
        lacking.json()["missing"]
            .as_array()
            .unwrap()
            .iter()
            .any(|mend| mend["what"] == "cpu")
    );
    let text = good(&["doctor"]).stdout;
    assert!(
        ["nvrtc", "driver", "cpu", "sim", "cache"]
            .iter()
            .all(|name| text.contains(name)),
        "{text}"
    );
}

#[test]
fn presets_tell_cache_bytes() {
    let json = good(&["presets", "--format", "json"]).json();
    let presets = json["presets"].as_array().unwrap();
    let v3 = presets.iter().find(|preset| preset["name"] == "deepseek-v3").unwrap();
    assert_eq!(
        (v3["cache_bytes_per_token_layer"].as_u64(), v3["n_heads"].as_u64()),
        (Some(1152), Some(128))
    );
    assert!(good(&["presets"]).stdout.contains("longcat-flash"));
}

#[test]
fn cache_is_listed_and_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("kernels");
    let run = |args: &[&str]| {
        let ran = ran(mlafuse(args).env("MLAFUSE_CACHE", &folder));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran
    };
    assert_eq!(run(&["cache", "path"]).stdout.trim(), folder.to_str().unwrap());
    assert_eq!(
        run(&["cache", "list", "--format", "json"]).json()["entries"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    std::fs::create_dir(&folder).unwrap();
    let mine = folder.join("notes.txt");
    std::fs::write(&mine, "not a kernel").unwrap();
    std::fs::write(folder.join(format!("{}.mlk", "0".repeat(64))), "damaged").unwrap();
    assert_eq!(run(&["cache", "list", "--format", "json"]).json()["bytes"], 7);
    assert_eq!(run(&["cache", "clear", "--format", "json"]).json()["files"], 1);
    assert!(mine.exists());
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let args = ["emit", "--model", "deepseek-v3", "--phase", "decode", "--stage", "cuda"];
    let mut child = mlafuse(&args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}

#[test]
fn help_has_examples() {
    for command in [
        &["--help"][..],
        &["emit", "--help"],
        &["run", "--help"],
        &["verify", "--help"],
        &["tune", "--help"],
        &["cache", "--help"],
        &["doctor", "--help"],
    ] {
        let help = good(command).stdout;
        assert!(help.contains("mlafuse "), "{command:?}: {help}");
    }
}

#[test]
fn unknown_commands_and_values_are_usage_errors() {
    bad(&["frobnicate"], &["frobnicate"]);
    bad(&["presets", "--format", "yaml"], &["yaml", "text", "json"]);
}
