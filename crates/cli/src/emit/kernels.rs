//! The stages that need no NVRTC: tile program, thread program, CUDA C++.

use super::Args;
use super::layer::{Layer, chosen};
use super::stage::{Stage, published};
use crate::files::OutFiles;
use crate::output::Report;
use anyhow::Result;
use mlafuse_runtime::region_source;
use serde_json::{Value, json};

/// A kernel's text at some stage.
pub struct KernelText {
    pub name: String,
    pub schedule: String,
    pub text: String,
}

pub fn run(args: &Args, layer: &Layer) -> Result<Report> {
    let plan = layer.plan()?;
    let mut kernels = Vec::new();
    for region in chosen(&plan, args.kernel.as_deref())? {
        let kernel = region_source(&plan, region, &layer.target, &layer.dims)?;
        let text = match args.stage {
            Stage::Tile => kernel.tile.to_string(),
            Stage::Thread => kernel.thread.to_string(),
            _ => kernel.source,
        };
        kernels.push(KernelText {
            name: region.name.clone(),
            schedule: kernel.schedule.to_string(),
            text,
        });
    }
    match args.stage {
        Stage::Tile => shown(args, "tile", "#", &kernels),
        Stage::Thread => shown(args, "thread", "#", &kernels),
        _ => shown(args, "cu", "//", &kernels),
    }
}

/// The texts on stdout, several with a comment line before each, or as files of --out.
pub fn shown(args: &Args, ending: &str, comment: &str, kernels: &[KernelText]) -> Result<Report> {
    if let Some(out) = &args.out {
        let mut files = OutFiles::new(out)?;
        for kernel in kernels {
            files.write(format!("{}.{ending}", kernel.name), &kernel.text)?;
        }
        return published(files);
    }
    let mut text = String::new();
    for kernel in kernels {
        if kernels.len() > 1 {
            text += &format!("{comment} kernel {}\n", kernel.name);
        }
        text += &kernel.text;
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    let object = |kernel: &KernelText| -> Value {
        json!({ "name": kernel.name, "schedule": kernel.schedule, "text": kernel.text })
    };
    let json: Vec<Value> = kernels.iter().map(object).collect();
    Ok(Report::new(text, json!({ "kernels": json })))
}
