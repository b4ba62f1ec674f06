//! verify: property runs, single cases, and the folders that they leave.

#[allow(dead_code)]
mod support;

use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use serde_json::Value;
use std::path::Path;
use support::{bad, good, mlafuse, ran};

const SMALL: &str = "heads=3,d_model=24,d_latent=20,d_rope=6,d_nope=5,d_v=7,d_q_latent=12,yarn=4";

/// The words of a printed command, after the program's name; only double quotes are used.
fn words(command: &str) -> Vec<String> {
    let parts = command.split('"').enumerate();
    let words = parts.flat_map(|(index, part)| match index % 2 {
        0 => part.split_whitespace().map(str::to_string).collect(),
        _ => vec![part.to_string()],
    });
    words.skip(1).collect()
}

/// A run without what depends on the clock.
fn timeless(args: &[&str]) -> Value {
    let mut json = good(&[args, &["--format", "json"]].concat()).json();
    assert!(json["seconds"].take().is_number());
    json
}

#[test]
fn random_cases_pass_and_the_run_says_how_to_repeat_them() {
    let ran = good(&["verify", "--model", "random", "--cases", "6", "--seed", "5"]);
    for words in [
        "seed 5, at most 2.0e9 operations a case",
        "6 cases, 0 failed",
        "worst case: rel-L2 ",
        "mlafuse verify --model \"heads=",
    ] {
        assert!(ran.stdout.contains(words), "`{words}` is not in: {}", ran.stdout);
    }
    assert!(!ran.stdout.contains("FAILED"), "{}", ran.stdout);
}

#[test]
fn the_same_seed_gives_the_same_run_on_any_number_of_threads() {
    let run = |seed: &str, threads: &str| {
        timeless(&[
            "verify",
            "--model",
            "random",
            "--cases",
            "5",
            "--budget",
            "1e7",
            "--seed",
            seed,
            "--threads",
            threads,
        ])
    };
    let first = run("1", "1");
    assert_eq!(first, run("1", "3"));
    assert_ne!(first["worst"], run("2", "1")["worst"]);
}

#[test]
fn the_printed_command_repeats_the_worst_case() {
    let json = timeless(&["verify", "--model", "random", "--cases", "8", "--budget", "1e8"]);
    assert_eq!((json["cases"].as_u64(), json["failed"].as_u64()), (Some(8), Some(0)));
    assert_eq!(
        (json["seed"].as_u64(), json["budget_flops"].as_f64()),
        (Some(0), Some(1e8))
    );
    let repeat = json["worst"]["repeat"].as_str().unwrap();
    let args = words(repeat);
    let again = timeless(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(again["worst"], json["worst"]);
    assert_eq!((again["cases"].as_u64(), again["seed"].as_u64()), (Some(1), None));
    let counted = json["dtypes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|of| of["cases"].as_u64().unwrap());
    assert_eq!(counted.sum::<u64>(), 8);
}

#[test]
fn a_model_is_verified_in_its_own_sizes_under_both_plans() {
    for (plan, splits) in [("fused", "balanced"), ("unfused", "balanced"), ("fused", "fixed:24")] {
        let flags = ["--cases", "6", "--plan", plan, "--splits", splits];
        let json = timeless(&[&["verify", "--model", SMALL][..], &flags].concat());
        assert_eq!(json["plan"].as_str(), Some(plan));
        let repeat = json["worst"]["repeat"].as_str().unwrap();
        assert!(
            repeat.contains(&format!("--model \"{SMALL}\" --case \"dtype=")),
            "{repeat}"
        );
        assert_eq!(repeat.contains("--plan unfused"), plan == "unfused");
        assert_eq!(repeat.contains("--splits fixed:24"), splits == "fixed:24");
    }
}

#[test]
fn wrong_flags_are_refused_by_name() {
    let cases: [(&[&str], &[&str]); 14] = [
        (&[], &["--model"]),
        (&["--model", "nobody"], &["--model `nobody`", "deepseek-v3"]),
        (
            &["--model", "heads=65536,d_model=1048576"],
            &["--model", "weights; at most 536870912"],
        ),
        (&["--model", "random", "--cases", "0"], &["--cases", "1..=1000000"]),
        (&["--model", "random", "--seed", "-1"], &["--seed"]),
        (&["--model", "random", "--budget", "7"], &["--budget", "1e3 to 1e13"]),
        (
            &["--model", SMALL, "--budget", "1e3"],
            &["--budget", "one token of this model"],
        ),
        (&["--model", "random", "--device", "gpu"], &["--device", "expected cpu"]),
        (
            &["--model", "random", "--device", "reference"],
            &["--device reference", "allowed: cpu, sim"],
        ),
        (
            &["--model", "random", "--device", "cuda:3"],
            &["cuda:3", "devices here: cpu, sim"],
        ),
        (
            &["--model", "random", "--check", "none"],
            &["--check", "only the simulator"],
        ),
        (&["--model", "random", "--case", "steps=1"], &["--case", "has no sizes"]),
        (
            &["--model", SMALL, "--case", "steps=1:2/3"],
            &["--case", "2 and 1 sequences"],
        ),
        (
            &["--model", SMALL, "--case", "steps=1", "--seed", "3"],
            &["--case", "--seed"],
        ),
    ];
    for (flags, words) in cases {
        bad(&[&["verify"], flags].concat(), words);
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    let dir = file.path().to_str().unwrap();
    bad(
        &["verify", "--model", SMALL, "--case", "steps=1", "--dump", dir],
        &["is not a folder"],
    );
    bad(
        &["verify", "--model", SMALL, "--case", "steps=5/2", "--dump", "x"],
        &["--dump", "one token a sequence"],
    );
}

/// `mlafuse run` on a folder of a dump, held to the folder's own expectations.
fn check_folder(folder: &Path) {
    let about: Value = serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
    let out = tempfile::tempdir().unwrap();
    let [model, io, out] = [
        folder,
        &folder.join("io.safetensors"),
        &out.path().join("out.safetensors"),
    ]
    .map(|path| path.to_str().unwrap().to_string());
    let page = about["page_size"].to_string();
    let dtype = about["dtype"].as_str().unwrap();
    let flags = [
        "run",
        "--checkpoint",
        &model,
        "--input",
        &io,
        "--output",
        &out,
        "--expect",
        &io,
    ];
    let ran = ran(&mut mlafuse(
        &[
            &flags[..],
            &["--dtype", dtype, "--page-size", &page, "--format", "json"],
        ]
        .concat(),
    ));
    assert_eq!(ran.status, 0, "{about}: {}{}", ran.stdout, ran.stderr);
    let json = ran.json();
    assert_eq!(json["within_tolerance"], true, "{about}");
    assert!(json["prefill"]["rel_l2"].is_number());
}

#[test]
fn dumped_cases_are_what_run_reads() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("cases");
    let dump = folder.to_str().unwrap();
    let json = timeless(&[
        "verify", "--model", "random", "--cases", "8", "--seed", "2", "--budget", "3e7", "--dump", dump,
    ]);
    let dumped = json["dumped"].as_array().unwrap();
    assert_eq!(dumped.len(), 8);
    dumped
        .iter()
        .for_each(|path| check_folder(Path::new(path.as_str().unwrap())));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 8);
    // A sequence without a prefill, decoded from nothing.
    let flags = [
        "verify",
        "--model",
        SMALL,
        "--case",
        "dtype=f32,page=3,steps=0:4/1:1/1:1",
        "--dump",
        dump,
    ];
    good(&flags);
    check_folder(&folder.join("case-0000"));
}

#[test]
fn cases_run_on_the_simulator() {
    if nvrtc_or_skip().is_none() {
        return;
    }
    let small = "heads=3,d_model=24,d_latent=20,d_rope=6,d_nope=5,d_v=7,d_q_latent=none";
    let case = "dtype=bf16,page=7,steps=5:0/1:2,input=near-tie,seed=3";
    let json = timeless(&["verify", "--model", small, "--case", case, "--device", "sim:sm_80"]);
    assert_eq!(
        (json["device"].as_str(), json["failed"].as_u64()),
        (Some("sim:sm_80"), Some(0))
    );
    let args = [
        "verify", "--model", "random", "--cases", "1", "--device", "sim", "--check", "none",
    ];
    let json = timeless(&[&args[..], &["--budget", "1e6"]].concat());
    assert!(
        json["worst"]["repeat"]
            .as_str()
            .unwrap()
            .ends_with("--device sim,unchecked")
    );
}
