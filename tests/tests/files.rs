//! File tests: each of `files/*.txt` names a model and a stage above a line of `---`, and holds the text of that stage below
//! it. `BLESS=1` rewrites the text.
//!
//! Keys (all but `model`, `phase` and `stage` may be left out): `model` (a preset or an inline shape), `phase` (decode: one
//! new token on 4096; prefill: 4096 new ones), `stage` (graph, rewritten, plan, tile, thread, cuda), `dtype`, `page`,
//! `coupled_rope` (yes), `plan` (fused, unfused), `projection` (apart: not part of the combine), `kernel` (its name), `schedule`
//! (block_m block_n block_k warps_m warps_n stages), `warps_k` (transposed blocks whose depth so many warps share out), `arch`,
//! `about` (words).

use mlafuse::{PlanKind, PreparedLayer, launch_dims, machine};
use mlafuse_codegen::schedule::Schedule;
use mlafuse_codegen::{build, cuda, lower};
use mlafuse_ir::config::MlaConfig;
use mlafuse_ir::layer::{LayerOptions, build_layer};
use mlafuse_ir::presets::preset;
use mlafuse_ir::size::Symbol;
use mlafuse_ir::target::{Arch, Target};
use mlafuse_runtime::Splits;
use mlafuse_tests::case::unprojected;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const KEYS: [&str; 13] = [
    "model",
    "phase",
    "stage",
    "dtype",
    "page",
    "coupled_rope",
    "plan",
    "projection",
    "kernel",
    "schedule",
    "warps_k",
    "arch",
    "about",
];

/// Lines around a difference that are shown.
const AROUND: usize = 3;

struct File {
    path: PathBuf,
    /// As it stands in the file, with its last line `---`.
    head: String,
    keys: BTreeMap<String, String>,
    expected: String,
}

impl File {
    fn read(path: &Path) -> Result<File, String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let (head, expected) = match text.split_once("---\n") {
            Some((head, expected)) => (head, expected),
            None => (text.as_str(), ""),
        };
        let mut keys = BTreeMap::new();
        for line in head.lines().filter(|line| !line.trim().is_empty()) {
            let (key, value) = line
                .split_once(':')
                .ok_or_else(|| format!("`{line}` is not `key: value`"))?;
            if !KEYS.contains(&key) {
                return Err(format!("key `{key}`; known are {}", KEYS.join(", ")));
            }
            if keys.insert(key.to_string(), value.trim().to_string()).is_some() {
                return Err(format!("key `{key}` is given twice"));
            }
        }
        Ok(File {
            path: path.into(),
            head: format!("{head}---\n"),
            keys,
            expected: expected.into(),
        })
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str)
    }

    fn need(&self, key: &str) -> Result<&str, String> {
        self.get(key).ok_or_else(|| format!("key `{key}` is missing"))
    }

    fn parsed<T: std::str::FromStr<Err: ToString>>(&self, key: &str, default: &str) -> Result<T, String> {
        let value = self.get(key).unwrap_or(default);
        value
            .parse()
            .map_err(|error: T::Err| format!("{key}: {}", error.to_string()))
    }

    /// The text of the stage.
    fn text(&self) -> Result<String, String> {
        let model = self.need("model")?;
        let config = match preset(model) {
            Ok(config) => config,
            Err(_) => MlaConfig::from_inline(model).map_err(|error| error.to_string())?,
        };
        let page_size = self.parsed("page", "64")?;
        let dtype = self.parsed("dtype", "bf16")?;
        let coupled_rope = self.get("coupled_rope") == Some("yes");
        let graph = build_layer(
            &config,
            &LayerOptions {
                dtype,
                page_size,
                coupled_rope,
            },
        );
        let graph = graph.map_err(|error| error.to_string())?;
        let new_tokens = match self.need("phase")? {
            "decode" => 1,
            "prefill" => 4096,
            other => return Err(format!("phase `{other}` is neither decode nor prefill")),
        };
        let dims = launch_dims(1, new_tokens, 4096, page_size);
        let target = Target::for_arch(self.parsed::<Arch>("arch", "sm_80")?);
        let machine = machine(&target, dtype);
        let stage = self.need("stage")?;
        if stage == "graph" {
            return Ok(graph.to_string());
        }
        let layer = PreparedLayer::new(&graph, &machine, Some(&target)).map_err(|error| error.to_string())?;
        if stage == "rewritten" {
            let launch = layer.rewritten(&dims).map_err(|error| error.to_string())?;
            return Ok(layer.to_text(&launch));
        }
        let kind: PlanKind = self.parsed("plan", "fused")?;
        let plan = layer.plan(kind, &dims).map_err(|error| error.to_string())?.plan;
        let plan = match self.get("projection") {
            Some("apart") => unprojected(&plan),
            _ => plan,
        };
        if stage == "plan" {
            let splits = Splits::Balanced.most(&dims, dims.get(Symbol::S).unwrap_or(0));
            let arena = plan.arena(&dims.clone().with(Symbol::Z, splits));
            return Ok(format!(
                "{plan}{}",
                plan.arena_text(&arena.map_err(|error| error.to_string())?)
            ));
        }
        let name = self.need("kernel")?;
        let names = || {
            plan.kernels
                .iter()
                .map(|kernel| kernel.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let region = plan
            .kernel(name)
            .ok_or_else(|| format!("no kernel `{name}`; there are {}", names()))?;
        let schedule = self.schedule()?;
        let tile = build::build(&plan, region, &schedule).map_err(|error| error.to_string())?;
        if stage == "tile" {
            return Ok(tile.to_string());
        }
        let thread = lower::lower(&tile, &schedule, &target).map_err(|error| error.to_string())?;
        match stage {
            "thread" => Ok(thread.to_string()),
            "cuda" => Ok(cuda::print(&thread)),
            other => Err(format!(
                "stage `{other}` is none of graph, rewritten, plan, tile, thread, cuda"
            )),
        }
    }

    fn schedule(&self) -> Result<Schedule, String> {
        let text = self.need("schedule")?;
        let numbers: Result<Vec<usize>, _> = text.split_whitespace().map(str::parse).collect();
        match numbers.as_deref() {
            Ok(&[block_m, block_n, block_k, warps_m, warps_n, stages]) => Ok(Schedule {
                block_m,
                block_n,
                block_k,
                warps_m,
                warps_n,
                warps_k: self.parsed("warps_k", "1")?,
                transposed: self.get("warps_k").is_some(),
                stages,
            }),
            _ => Err(format!(
                "schedule `{text}` is not block_m block_n block_k warps_m warps_n stages"
            )),
        }
    }

    /// What is wrong with this file, in words.
    fn check(&self, bless: bool) -> Result<(), String> {
        let found = self.text()?;
        if self.text()? != found {
            return Err("the text differs from one time to the next".into());
        }
        if found == self.expected {
            return Ok(());
        }
        match bless {
            true => fs::write(&self.path, format!("{}{found}", self.head)).map_err(|error| error.to_string()),
            false => Err(difference(&self.expected, &found)),
        }
    }
}

/// The lines that differ, with some around them, in the manner of diff -u.
fn difference(expected: &str, found: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), found.lines().collect());
    let same_head = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    let tail = a[same_head..].iter().rev().zip(b[same_head..].iter().rev());
    let same_tail = tail.take_while(|(a, b)| a == b).count();
    let mut out = format!(
        "differs from line {} of the text on (- expected, + found)\n",
        same_head + 1
    );
    let mut line = |sign: char, line: &str| writeln!(out, "    {sign} {line}").unwrap_or(());
    let (end_a, end_b) = (a.len() - same_tail, b.len() - same_tail);
    a[same_head.saturating_sub(AROUND)..same_head]
        .iter()
        .for_each(|l| line(' ', l));
    a[same_head..end_a].iter().for_each(|l| line('-', l));
    b[same_head..end_b].iter().for_each(|l| line('+', l));
    a[end_a..(end_a + AROUND).min(a.len())]
        .iter()
        .for_each(|l| line(' ', l));
    out
}

#[test]
fn every_file_holds_what_is_generated() {
    let bless = std::env::var("BLESS").is_ok_and(|value| value == "1");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files");
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("the folder of the files")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    paths.sort();
    let mut faults = String::new();
    for path in &paths {
        if let Err(what) = File::read(path).and_then(|file| file.check(bless)) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let _ = writeln!(faults, "{name}: {what}");
        }
    }
    assert!(!paths.is_empty(), "no file in {}", folder.display());
    assert!(
        faults.is_empty(),
        "\n{faults}\nBLESS=1 rewrites the texts: read them before you keep them"
    );
}

#[test]
fn differences_are_shown_with_what_is_around_them() {
    let shown = difference("a\nb\nc\nd\ne\n", "a\nb\nC\nd\ne\n");
    assert_eq!(
        shown,
        "differs from line 3 of the text on (- expected, + found)\n      a\n      b\n    - c\n    + C\n      d\n      e\n"
    );
}
