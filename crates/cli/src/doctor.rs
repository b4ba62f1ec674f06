//! `mlafuse doctor`: what this machine has, what is missing, and the command that mends it.

use crate::failure;
use crate::output::Report;
use anyhow::Result;
use mlafuse_ir::target::Arch;
use mlafuse_runtime::cache::KernelCache;
use mlafuse_runtime::driver::{self, Driver, Gpu};
use mlafuse_runtime::folders::cache_folder;
use mlafuse_runtime::nvrtc::Nvrtc;
use mlafuse_runtime::{CPU_LEVEL, cpu_level};
use serde_json::{Value, json};
use std::path::PathBuf;

/// No options but the global ones.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  mlafuse doctor\n  MLAFUSE_NVRTC=/opt/cuda/lib64 mlafuse doctor --format json")]
pub struct Args {}

/// What one look gave: a line or more for people, an object for tools, and what to do where something is missing.
struct Finding {
    name: &'static str,
    lines: Vec<String>,
    json: Value,
    mend: Option<&'static str>,
}

/// Exit status 0 whatever is missing: nothing here is needed for everything.
pub fn run(_: &Args) -> Result<Report> {
    let findings = [nvrtc(), gpu_driver(), cpu(), simulator(), cache()];
    let mut text = String::new();
    let mut json = json!({});
    let mut missing = Vec::new();
    for Finding {
        name,
        lines,
        json: object,
        mend,
    } in findings
    {
        for (index, line) in lines.iter().enumerate() {
            text += &format!("{:8}  {line}\n", if index == 0 { name } else { "" });
        }
        if let Some(mend) = mend {
            text += &format!("{:8}  -> {mend}\n", "");
            missing.push(json!({ "what": name, "mend": mend }));
        }
        json[name] = object;
    }
    json["missing"] = missing.into();
    Ok(Report::new(text, json))
}

const GET_NVRTC: &str = "compiling needs it: run `cargo xtask setup`, or `pip install nvidia-cuda-nvrtc-cu12`, or name a library \
    or its folder in MLAFUSE_NVRTC";
const GET_DRIVER: &str =
    "only needed to run on a GPU: install NVIDIA's driver (libcuda.so.1); everything else works without";

fn nvrtc() -> Finding {
    let name = "nvrtc";
    let found = Nvrtc::locate(None).and_then(|nvrtc| {
        let (version, archs) = (nvrtc.version()?, nvrtc.supported_archs()?);
        Ok((nvrtc, version, archs))
    });
    match found {
        Ok((nvrtc, (major, minor), archs)) => {
            let location = nvrtc.location();
            let (path, found_by) = (location.path.display(), location.source.to_string());
            let names: Vec<String> = archs.iter().map(|arch| format!("sm_{arch}")).collect();
            let lines = vec![
                format!("{major}.{minor}, {path} (found by: {found_by})"),
                format!("for {}", names.join(", ")),
            ];
            let version = format!("{major}.{minor}");
            let json = json!({ "path": location.path, "found_by": found_by, "version": version, "archs": names });
            Finding {
                name,
                lines,
                json,
                mend: None,
            }
        }
        Err(error) => {
            let reason = failure::message(&error.into());
            let lines = reason.lines().map(str::to_string).collect();
            let json = json!({ "path": null, "version": null, "reason": reason });
            Finding {
                name,
                lines,
                json,
                mend: Some(GET_NVRTC),
            }
        }
    }
}

fn gpu_driver() -> Finding {
    let name = "driver";
    match driver::probe() {
        Driver::Missing { reason } => {
            let json = json!({ "present": false, "reason": reason, "gpus": [] });
            Finding {
                name,
                lines: vec![format!("none: {reason}")],
                json,
                mend: Some(GET_DRIVER),
            }
        }
        Driver::Present {
            version: (major, minor),
            gpus,
        } => {
            let mut lines = vec![format!("{}, CUDA up to {major}.{minor}", driver::LIBRARY)];
            let reason = gpus.as_ref().err().cloned();
            let gpus = gpus.unwrap_or_default();
            lines.extend(gpus.iter().enumerate().map(|(ordinal, gpu)| gpu_line(ordinal, gpu)));
            lines.extend(reason.as_ref().map(|reason| format!("no GPU: {reason}")));
            let version = format!("{major}.{minor}");
            let gpus: Vec<Value> = gpus.iter().map(gpu_object).collect();
            let json = json!({ "present": true, "cuda": version, "gpus": gpus, "reason": reason });
            Finding {
                name,
                lines,
                json,
                mend: None,
            }
        }
    }
}

fn gpu_line(
    ordinal: usize,
    Gpu {
        name,
        capability: (major, minor),
        sm_count,
    }: &Gpu,
) -> String {
    format!("GPU {ordinal}: {name}, sm_{major}{minor}, {sm_count} SMs")
}

fn gpu_object(
    Gpu {
        name,
        capability: (major, minor),
        sm_count,
    }: &Gpu,
) -> Value {
    json!({ "name": name, "arch": format!("sm_{major}{minor}"), "sm_count": sm_count })
}

const UNSET_LEVEL: &str =
    "the cpu device does not run at this level: name one that is allowed in MLAFUSE_CPU_LEVEL, or unset it";

fn cpu() -> Finding {
    let (level, mend) = match cpu_level() {
        Ok(level) => (level.to_string(), None),
        Err(error) => (format!("none: {error}"), Some(UNSET_LEVEL)),
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let features = features();
    let shown = if features.is_empty() {
        "none of those known".to_string()
    } else {
        features.join(", ")
    };
    let lines = vec![
        format!("{cores} threads, executor level {level}"),
        format!("features: {shown}"),
    ];
    let forced = std::env::var_os(CPU_LEVEL).is_some_and(|name| !name.is_empty());
    let json = json!({ "threads": cores, "level": level, "forced": forced, "features": features });
    Finding {
        name: "cpu",
        lines,
        json,
        mend,
    }
}

/// Those that matter for matrix arithmetic.
#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let all = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
        ("avx512fp16", is_x86_feature_detected!("avx512fp16")),
    ];
    all.into_iter()
        .filter(|(_, there)| *there)
        .map(|(name, _)| name)
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

/// It needs nothing but NVRTC, of which [`nvrtc`] says how to get it.
fn simulator() -> Finding {
    let known = Nvrtc::locate(None).and_then(|nvrtc| nvrtc.supported_archs());
    let archs: Vec<String> = known.as_ref().map_or_else(
        |_| Vec::new(),
        |known| {
            let known = |arch: &Arch| known.contains(&arch.number());
            Arch::ALL
                .into_iter()
                .filter(known)
                .map(|arch| arch.to_string())
                .collect()
        },
    );
    let lines = match archs.as_slice() {
        [] => vec!["needs NVRTC".to_string()],
        _ => vec![
            "executes and checks the PTX that NVRTC makes (--device sim, sim:ARCH)".to_string(),
            format!("for {}", archs.join(", ")),
        ],
    };
    Finding {
        name: "sim",
        lines,
        json: json!({ "available": !archs.is_empty(), "archs": archs }),
        mend: None,
    }
}

fn cache() -> Finding {
    let name = "cache";
    let looked = cache_folder().map_err(anyhow::Error::from).and_then(|folder| {
        let entries = KernelCache::open(&folder).list()?;
        Ok((folder, entries))
    });
    match looked {
        Ok((folder, entries)) => {
            let bytes: u64 = entries.iter().map(|entry| entry.bytes).sum();
            let lines = vec![format!(
                "{} entries, {bytes} bytes in {}",
                entries.len(),
                folder.display()
            )];
            let json = json!({ "path": folder, "entries": entries.len(), "bytes": bytes });
            Finding {
                name,
                lines,
                json,
                mend: None,
            }
        }
        Err(error) => {
            let reason = failure::message(&error);
            let json = json!({ "path": None::<PathBuf>, "entries": 0, "bytes": 0, "reason": reason });
            let mend = "kernels are compiled anew each time: name a folder of yours in MLAFUSE_CACHE";
            Finding {
                name,
                lines: vec![reason],
                json,
                mend: Some(mend),
            }
        }
    }
}
