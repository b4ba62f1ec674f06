//! emit: every stage, and what it refuses.

#[allow(dead_code)]
mod support;

use mlafuse_runtime::nvrtc::testing::nvrtc_or_skip;
use mlafuse_tensor::SafetensorsFile;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use support::{bad, example, good, mlafuse, ran};

const DECODE: [&str; 5] = ["emit", "--model", "deepseek-v3", "--phase", "decode"];

fn decode(more: &[&'static str]) -> Vec<&'static str> {
    DECODE.iter().chain(more).copied().collect()
}

/// The steps that were applied at load, or for the launch.
fn applied<'a>(json: &'a Value, when: &'a str) -> impl Iterator<Item = &'a Value> {
    let steps = json["steps"].as_array().unwrap().iter();
    steps.filter(move |step| step["outcome"] == "applied" && step["when"] == when)
}

#[test]
fn graphs_parse_and_absorption_depends_on_the_phase() {
    let graph = good(&decode(&["--stage", "graph"])).stdout;
    assert!(graph.contains("W_UK") && mlafuse_ir::text::parse(&graph).is_ok());
    let rewritten = good(&decode(&["--stage", "rewritten"])).stdout;
    assert!(rewritten.contains("(q_nope · w_uk") && mlafuse_ir::text::parse(&rewritten).is_ok());
    let absorbed = |json: &Value| {
        applied(json, "launch")
            .filter(|step| step["rule"] == "reassociate")
            .count()
    };
    let json = good(&decode(&["--stage", "rewritten", "--format", "json"])).json();
    assert_eq!(absorbed(&json), 2);
    let at_load = |json: &Value| applied(json, "load").cloned().collect::<Vec<_>>();
    assert!(at_load(&json).iter().any(|step| step["rule"] == "merge"));
    let long = [
        "emit",
        "--model",
        "deepseek-v3",
        "--phase",
        "prefill",
        "--stage",
        "rewritten",
        "--format",
        "json",
    ];
    let prefill = good(&long).json();
    assert_eq!(absorbed(&prefill), 0);
    assert_eq!(at_load(&prefill), at_load(&json));
}

#[test]
fn coupled_rope_refuses_absorption_and_says_why() {
    let json = good(&decode(&["--stage", "rewritten", "--coupled-rope", "--format", "json"])).json();
    let refused = json["steps"]
        .as_array()
        .unwrap()
        .iter()
        .find(|step| step["outcome"] == "refused" && step["site"].as_array().unwrap().contains(&"k_nope".into()));
    let reason = refused.unwrap()["reason"].as_str().unwrap();
    assert!(reason.contains("rope") && reason.contains("w_uk"), "{reason}");
    bad(
        &decode(&["--stage", "cuda", "--coupled-rope"]),
        &["--coupled-rope", "rewritten"],
    );
}

#[test]
fn plans_name_kernels_buffers_and_schedules() {
    let json = good(&decode(&["--stage", "plan", "--format", "json"])).json();
    let kernels = json["kernels"].as_array().unwrap();
    let attention = kernels.iter().find(|kernel| kernel["name"] == "attention").unwrap();
    assert!(attention["schedule"].as_str().unwrap().contains("block"));
    assert!(attention["inputs"].as_array().unwrap().contains(&"cache".into()));
    let unfused = good(&decode(&["--stage", "plan", "--plan", "unfused", "--format", "json"])).json();
    assert!(unfused["kernels"].as_array().unwrap().len() > kernels.len());
}

#[test]
fn plans_tell_how_buffers_share_memory() {
    let memory = &good(&decode(&["--stage", "plan", "--format", "json"])).json()["memory"];
    let [bytes, separate] = ["bytes", "bytes_without_reuse"].map(|field| memory[field].as_u64().unwrap());
    assert!(0 < bytes && bytes < separate, "{memory}");
    let buffers = memory["buffers"].as_array().unwrap();
    let partial = buffers
        .iter()
        .find(|buffer| buffer["name"] == "attention_partial")
        .unwrap();
    assert_eq!(
        (&partial["first"], &partial["last"]),
        (&"attention".into(), &"combine".into())
    );
    let end = |buffer: &Value| buffer["offset"].as_u64().unwrap() + buffer["bytes"].as_u64().unwrap();
    assert!(buffers.iter().all(|buffer| end(buffer) <= bytes));
    let text = good(&decode(&["--stage", "plan"])).stdout;
    let line = format!("\nmemory between kernels: {bytes} bytes, {separate} without reuse\n");
    assert!(
        text.contains(&line) && text.contains("temp, attention to combine\n"),
        "{text}"
    );
    assert!(text.contains("\nwith B = 1, ") && text.contains(", Z = "), "{text}");
}

#[test]
fn a_plan_is_drawn_as_a_graph() {
    let dot = good(&decode(&["--stage", "plan", "--graphviz"])).stdout;
    assert!(dot.starts_with("digraph") && dot.ends_with("}\n"), "{dot}");
    let json = good(&decode(&["--stage", "plan", "--graphviz", "--format", "json"])).json();
    assert_eq!(json["graphviz"].as_str(), Some(dot.as_str()));
    // Each kernel is a box, with its schedule.
    for kernel in json["kernels"].as_array().unwrap() {
        let [name, schedule] = ["name", "schedule"].map(|field| kernel[field].as_str().unwrap());
        let label = format!("[shape=box, label=\"{name}\\n{schedule}\"]");
        assert!(dot.contains(&label), "{label} {dot}");
    }
    let declared = |name: &str| dot.contains(&format!("\n  {name} [shape="));
    let edges: Vec<_> = dot.lines().filter_map(|line| line.trim().split_once(" -> ")).collect();
    assert!(edges.len() > 20);
    for (from, to) in edges {
        let to = to.split(' ').next().unwrap();
        assert!(declared(from) && declared(to), "{from} {to}");
    }
    bad(&decode(&["--stage", "tile", "--graphviz"]), &["--graphviz", "plan"]);
}

#[test]
fn kernels_are_separated_by_comment_lines_or_files() {
    for (stage, comment) in [
        ("tile", "# kernel combine"),
        ("thread", "# kernel combine"),
        ("cuda", "// kernel combine"),
    ] {
        let text = good(&decode(&["--stage", stage])).stdout;
        assert!(text.lines().any(|line| line == comment), "{stage}");
    }
    let one = good(&decode(&["--stage", "cuda", "--kernel", "combine"])).stdout;
    assert!(!one.contains("// kernel") && one.contains("__global__"));
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("kernels");
    good(
        &[
            &decode(&["--stage", "cuda", "--gpu", "rtx4090", "--out"])[..],
            &[out.to_str().unwrap()],
        ]
        .concat(),
    );
    assert!(
        fs::read_to_string(out.join("attention.cu"))
            .unwrap()
            .contains("__global__")
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn the_same_command_prints_the_same_bytes() {
    let cuda = || good(&decode(&["--stage", "cuda", "--batch", "3", "--dtype", "f16"])).stdout;
    assert_eq!(cuda(), cuda());
}

#[test]
fn nvrtc_stages_and_the_cache() {
    let Some(_) = nvrtc_or_skip() else { return };
    let dir = tempfile::tempdir().unwrap();
    let example = example();
    let run = |more: &[&str]| {
        let args = [
            "emit",
            "--model",
            example.to_str().unwrap(),
            "--phase",
            "decode",
            "--format",
            "json",
            "--kernel",
            "attention",
        ];
        let args: Vec<&str> = args.iter().chain(more).copied().collect();
        let ran = ran(mlafuse(&args).env("MLAFUSE_CACHE", dir.path().join("cache")));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.json()
    };
    for from_cache in [false, true] {
        let json = run(&["--stage", "resources", "--arch", "sm_86"]);
        let kernel = &json["kernels"][0];
        assert_eq!(
            (kernel["from_cache"].as_bool(), kernel["spill_bytes"].as_u64()),
            (Some(from_cache), Some(0))
        );
        assert!(kernel["registers"].as_u64().unwrap() > 0 && kernel["occupancy"].as_f64().unwrap() > 0.0);
        assert_eq!(kernel["arch"], "sm_86");
        let numbers = ["static_shared_bytes", "dynamic_shared_bytes", "threads", "compile_ms"];
        assert!(numbers.iter().all(|field| kernel[field].is_number()), "{kernel}");
    }
    let ptx = run(&["--stage", "ptx"])["kernels"][0]["text"]
        .as_str()
        .unwrap()
        .to_string();
    assert!(ptx.contains(".entry attention"));
    let out = dir.path().join("out");
    run(&["--stage", "cubin", "--out", out.to_str().unwrap()]);
    assert_eq!(&fs::read(out.join("attention.cubin")).unwrap()[..4], b"\x7fELF");
}

#[test]
fn a_launch_folder_is_complete() {
    let Some(_) = nvrtc_or_skip() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (example, out) = (example(), dir.path().join("repro"));
    let args = [
        "emit",
        "--model",
        example.to_str().unwrap(),
        "--phase",
        "decode",
        "--kv-len",
        "600",
        "--batch",
        "2",
    ];
    good(&[&args[..], &["--stage", "launch", "--out", out.to_str().unwrap()]].concat());
    for kernel in fs::read_dir(&out).unwrap() {
        let folder = kernel.unwrap().path();
        let launch: Value = serde_json::from_slice(&fs::read(folder.join("LAUNCH.json")).unwrap()).unwrap();
        let ptx = fs::read_to_string(folder.join(launch["ptx"].as_str().unwrap())).unwrap();
        assert!(ptx.contains(&format!(".entry {}", launch["entry"].as_str().unwrap())));
        let params = ptx.matches(".param .").count();
        let args = launch["args"].as_array().unwrap();
        assert_eq!(args.len(), params, "{}", folder.display());
        let inputs = SafetensorsFile::open(folder.join("inputs.safetensors")).unwrap();
        let reference = SafetensorsFile::open(folder.join(launch["reference"]["file"].as_str().unwrap())).unwrap();
        let mut outputs = BTreeSet::new();
        for arg in args {
            if let Some(place) = arg["tensor"].as_str().or(arg["inout"].as_str()) {
                let (file, name) = place.split_once('#').unwrap();
                assert!(file == "inputs.safetensors" && inputs.contains(name), "{place}");
                outputs.extend(arg["inout"].as_str().map(|_| name.to_string()));
            }
            outputs.extend(arg["output"].as_str().map(str::to_string));
        }
        let told: BTreeSet<String> = reference.names().map(str::to_string).collect();
        // Rows of the cache past a sequence's length have no keys and values: nothing is said of a kernel that leaves some out.
        let leaves_out = folder.ends_with("einsum_k_nope_v") && told.is_empty();
        assert!(told == outputs || leaves_out, "{}: {told:?}", folder.display());
        for name in &told {
            assert!(
                reference
                    .tensor(name)
                    .unwrap()
                    .to_f64_vec()
                    .iter()
                    .all(|value| !value.is_nan()),
                "{name}"
            );
        }
        assert!(launch["grid"].as_array().unwrap().iter().all(|n| n.as_u64() > Some(0)));
    }
}

#[test]
fn an_only_split_is_the_result_and_a_combine_has_two() {
    let Some(_) = nvrtc_or_skip() else { return };
    let dir = tempfile::tempdir().unwrap();
    // Values so wide that their projection is a kernel of its own.
    let model = "heads=4,d_model=64,d_latent=128,d_rope=64,d_nope=16,d_v=2048";
    let launch = "--batch 16 --q-len 8 --kv-len 600 --stage launch --splits 1 --out";
    for (kernel, expected) in [("attention", &["attention_lse", "p_c"][..]), ("combine", &["p_c"])] {
        let args = [
            "emit", "--model", model, "--phase", "decode", "--arch", "sm_80", "--kernel", kernel,
        ];
        let launch = launch.split(' ').chain([dir.path().to_str().unwrap()]);
        good(&args.into_iter().chain(launch).collect::<Vec<_>>());
        let reference = SafetensorsFile::open(dir.path().join(kernel).join("reference.safetensors")).unwrap();
        assert_eq!(reference.names().collect::<Vec<_>>(), expected, "{kernel}");
    }
}

#[test]
fn bad_arguments_are_named() {
    let flag = |more: &[&'static str], words: &[&str]| bad(&decode(more), words);
    flag(&["--stage", "plan", "--arch", "sm_70"], &["sm_70", "sm_80", "sm_120"]);
    flag(&["--stage", "plan", "--gpu", "v100"], &["v100", "rtx4090"]);
    flag(&["--stage", "plan", "--page-size", "0"], &["--page-size", "1..=65536"]);
    flag(&["--stage", "plan", "--kv-len", "-4"], &["--kv-len"]);
    flag(&["--stage", "plan", "--batch", "99999999999"], &["--batch"]);
    flag(
        &["--stage", "plan", "--q-len", "5000"],
        &["--q-len 5000", "--kv-len 4096"],
    );
    flag(&["--stage", "plan", "--dtype", "fp8"], &["fp8", "bf16"]);
    flag(&["--stage", "cubin"], &["--out"]);
    flag(&["--stage", "launch"], &["--out"]);
    flag(&["--stage", "cuda", "--kernel", "k7"], &["k7", "attention"]);
    flag(&["--stage", "plan", "--splits", "2"], &["--splits", "launch"]);
    flag(&["--stage", "cuda", "--out", "/dev/null/x"], &["/dev/null"]);
    bad(
        &["emit", "--phase", "decode", "--stage", "plan", "--model", "gpt-7"],
        &["gpt-7", "deepseek-v3", "heads=N"],
    );
    bad(
        &["emit", "--phase", "decode", "--stage", "plan", "--model", "heads=4"],
        &["heads=4", "d_model"],
    );
    let odd = "heads=4,d_model=64,d_rope=7";
    bad(
        &["emit", "--phase", "decode", "--stage", "plan", "--model", odd],
        &["d_rope", "7", "even"],
    );
}

#[test]
fn a_launch_that_is_too_large_is_refused_early() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("repro");
    let args = [
        "emit",
        "--model",
        "deepseek-v3",
        "--phase",
        "prefill",
        "--plan",
        "unfused",
        "--stage",
        "launch",
        "--out",
    ];
    bad(
        &[&args[..], &[out.to_str().unwrap()]].concat(),
        &["at most", "--kv-len"],
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
