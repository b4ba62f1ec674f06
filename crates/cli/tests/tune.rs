//! tune: what is found is recorded, gone on with, and taken by launches; what it refuses.

#[allow(dead_code)]
mod support;

use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use support::{Ran, bad, example, good, mlafuse, ran};
use tempfile::TempDir;

const TINY: &str = "heads=3,d_model=64,d_latent=32,d_rope=8,d_nope=16,d_v=16,d_q_latent=24";

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Place {
        Place {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn records(&self) -> PathBuf {
        self.dir.path().join("records.jsonl")
    }

    fn tune(&self, more: &[&str]) -> Ran {
        let records = self.records();
        let args = ["tune", "--records", records.to_str().unwrap()];
        good(&[&args[..], more].concat())
    }

    /// A tiny layer, one kernel of it in launches of two sizes.
    fn tiny(&self, more: &[&str]) -> Value {
        let args = [
            "--model",
            TINY,
            "--kernel",
            "attention",
            "--kv-len",
            "70,300",
            "--threads",
            "2",
            "--format",
            "json",
        ];
        self.tune(&[&args[..], more].concat()).json()
    }
}

fn lines(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap().lines().map(str::to_string).collect()
}

fn number(of: &Value, field: &str) -> f64 {
    of[field].as_f64().unwrap_or_else(|| panic!("{field}: {of}"))
}

#[test]
fn what_is_found_is_recorded_and_not_judged_again() {
    let place = Place::new();
    let json = place.tiny(&[]);
    let records = json["records"].as_array().unwrap();
    assert_eq!(records.len(), 2);
    for record in records {
        assert_eq!(
            (record["key"]["kernel"].as_str(), record["modelled"].as_bool()),
            (Some("attention"), Some(false))
        );
        assert!(
            record["chosen"]["schedule"].as_str().unwrap().starts_with("block "),
            "{record}"
        );
        assert!(number(record, "tuned_us") <= number(record, "default_us"));
        let candidates = record["candidates"].as_array().unwrap();
        assert!(candidates.len() > 2 && candidates.iter().all(|candidate| number(candidate, "us") > 0.0));
        assert_eq!(record["not_judged"], 0);
    }
    let told: usize = records
        .iter()
        .map(|record| record["candidates"].as_array().unwrap().len())
        .sum();
    assert_eq!(
        (json["judged"].as_u64(), lines(&place.records()).len()),
        (Some(told as u64), told + 2)
    );
    let again = place.tiny(&[]);
    assert_eq!(
        (&again["records"], &again["judged"]),
        (&json["records"], &Value::from(0))
    );
    assert_eq!(lines(&place.records()).len(), told + 2);
}

/// As after an interruption: the last line cut, and some not yet there.
#[test]
fn an_interrupted_run_is_gone_on_with_and_damage_is_told() {
    let place = Place::new();
    let whole = place.tiny(&[]);
    let all = lines(&place.records());
    let (kept, cut) = (all.len() / 2, &all[all.len() / 2][..60]);
    fs::write(place.records(), format!("{}\n{cut}", all[..kept].join("\n"))).unwrap();
    let file = place.records();
    let args = [
        "tune",
        "--records",
        file.to_str().unwrap(),
        "--model",
        TINY,
        "--kernel",
        "attention",
        "--kv-len",
        "70,300",
    ];
    let resumed = ran(&mut mlafuse(
        &[&args[..], &["--threads", "2", "--format", "json"]].concat(),
    ));
    assert_eq!(resumed.status, 0, "{}", resumed.stderr);
    for words in ["records.jsonl", &format!("line {}", kept + 1), "damaged", "ignored"] {
        assert!(resumed.stderr.contains(words), "{words}: {}", resumed.stderr);
    }
    let json = resumed.json();
    let judged = json["judged"].as_u64().unwrap();
    assert!(judged > 0 && judged < whole["judged"].as_u64().unwrap(), "{judged}");
    // Every figure of before is as it was.
    let candidates = |json: &Value, record: usize| json["records"][record]["candidates"].as_array().unwrap().clone();
    assert_eq!(candidates(&json, 0), candidates(&whole, 0));
    assert_eq!(candidates(&json, 1).len(), candidates(&whole, 1).len());
}

#[test]
fn time_that_is_too_short_is_said() {
    let place = Place::new();
    let text = place.tune(&["--model", TINY, "--budget", "1ms"]).stdout;
    for words in [
        "not decided",
        "out of time",
        "schedules not judged",
        "the same command goes on",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
}

#[test]
fn launches_take_the_nearest_record_and_say_which() {
    let place = Place::new();
    let dir = place.dir.path();
    let (checkpoint, input) = (example(), example().join("io.safetensors"));
    let layer = [
        "--model",
        checkpoint.to_str().unwrap(),
        "--kernel",
        "attention",
        "--kv-len",
        "64",
        "--threads",
        "2",
    ];
    place.tune(&layer);
    // Whatever won here: a schedule that no default is.
    let other = "block 5x7, warps 1x1, stages 1";
    let rewritten: Vec<String> = lines(&place.records())
        .into_iter()
        .filter(|line| line.contains("\"chosen\""))
        .map(|line| {
            let mut line: Value = serde_json::from_str(&line).unwrap();
            line["chosen"]["schedule"] = other.into();
            line["chosen"]["default_us"] = 9.0.into();
            line["chosen"]["tuned_us"] = 1.0.into();
            line["key"]["batch"] = 2.into();
            line.to_string()
        })
        .collect();
    let run = |records: &str| {
        fs::write(place.records(), records).unwrap();
        let out = dir.join("out.safetensors");
        let args = [
            "run",
            "--checkpoint",
            checkpoint.to_str().unwrap(),
            "--input",
            input.to_str().unwrap(),
        ];
        let more = [
            "--output",
            out.to_str().unwrap(),
            "--expect",
            input.to_str().unwrap(),
            "--threads",
            "2",
            "-v",
        ];
        let mut command = mlafuse(&[&args[..], &more].concat());
        let ran = ran(command.env("MLAFUSE_TUNING", place.records()));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.stderr
    };
    let told = run(&rewritten.join("\n"));
    assert!(
        told.contains(other) && told.contains("record=\"decode batch 2, kv-len 64\""),
        "{told}"
    );
    let version = format!("\"program\":\"{}\"", env!("CARGO_PKG_VERSION"));
    let outdated = run(&rewritten.join("\n").replace(&version, "\"program\":\"0.0.0\""));
    assert!(
        outdated.contains("another version of this program are not used: tune again") && !outdated.contains(other),
        "{outdated}"
    );
    // A schedule that nothing can run is told, and costs nothing else.
    let unusable = run(&rewritten.join("\n").replace("block 5x7", "block 900000x900000"));
    assert!(unusable.contains("the suggested schedule cannot be used"), "{unusable}");
    let damaged = run("{\"version\":1,\n");
    assert!(
        damaged.contains("line 1: a damaged tuning record is ignored"),
        "{damaged}"
    );
}

#[test]
fn a_part_that_is_not_here_is_modelled() {
    let Some(_) = nvrtc_or_skip() else { return };
    let place = Place::new();
    let more = [
        "--model",
        TINY,
        "--arch",
        "sm_90a",
        "--kernel",
        "attention",
        "--kv-len",
        "70",
    ];
    let json = place.tune(&[&more[..], &["--format", "json"]].concat()).json();
    let record = &json["records"][0];
    assert_eq!(
        (record["modelled"].as_bool(), record["key"]["device"].as_str()),
        (Some(true), Some("model"))
    );
    assert_eq!(record["key"]["instructions"], "sm_90a");
    assert!(number(record, "tuned_us") <= number(record, "default_us"));
    let text = place.tune(&more).stdout;
    assert!(
        text.contains("modelled, not measured") && text.contains("; 0 schedules judged now"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_tuned_is_refused() {
    let bad = |more: &[&str], words: &[&str]| bad(&[&["tune", "--model", TINY][..], more].concat(), words);
    bad(&["--device", "sim"], &["--device sim", "no clock", "--arch"]);
    bad(&["--device", "cuda"], &["device cuda"]);
    bad(&["--device", "cpu", "--arch", "sm_80"], &["--arch"]);
    bad(&["--arch", "sm_81"], &["sm_81", "sm_80"]);
    bad(&["--kernel", "attend"], &["--kernel attend", "attention"]);
    bad(&["--budget", "60"], &["--budget", "60s"]);
    bad(&["--batch", "1,0"], &["--batch", "0"]);
    bad(&["--kv-len", "4", "--q-len", "5"], &["--q-len 5", "--kv-len 4"]);
    bad(
        &["--records", "/nonexistent/records"],
        &["--records /nonexistent/records"],
    );
    bad(&["--kv-len", "16000000", "--batch", "65536"], &["MiB"]);
}
