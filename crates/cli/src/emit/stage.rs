//! The stages, and those before there are kernels.

use super::Args;
use super::layer::Layer;
use crate::failure;
use crate::files::OutFiles;
use crate::output::Report;
use anyhow::Result;
use clap::ValueEnum;
use mlafuse_ir::plan::{Arena, Placement, Plan};
use mlafuse_ir::rewrite::{Cost, Outcome, Step};
use mlafuse_ir::size::Symbol;
use mlafuse_runtime::{Splits, region_source};
use serde_json::{Value, json};

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// The layer as the paper writes it, unabsorbed.
    Graph,
    /// The rewrites, each with its cost, and the graph they lead to.
    Rewritten,
    /// Kernels, buffers and schedules.
    Plan,
    /// Each kernel in tiles.
    Tile,
    /// Each kernel as its threads run it.
    Thread,
    /// CUDA C++.
    Cuda,
    /// What NVRTC makes of it.
    Ptx,
    /// Machine code; needs --out.
    Cubin,
    /// Registers, spills, shared memory and occupancy of each kernel.
    Resources,
    /// PTX, random inputs and the f64 reference of each kernel, to run it alone; needs --out.
    Launch,
}

impl Stage {
    /// As on the command line.
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_string())
    }
}

pub fn graph(args: &Args, layer: &Layer) -> Result<Report> {
    let text = layer.graph()?.to_string();
    let json = json!({ "graph": text });
    written(args, "graph.txt", text, json)
}

pub fn rewritten(args: &Args, layer: &Layer) -> Result<Report> {
    let prepared = layer.prepared()?;
    let launch = prepared.rewritten(&layer.dims)?;
    let at_load = prepared.rewritten.steps.iter().map(|s| step(s, "load"));
    let steps: Vec<Value> = at_load.chain(launch.steps.iter().map(|s| step(s, "launch"))).collect();
    let json = json!({ "graph": launch.graph.to_string(), "steps": steps });
    written(args, "rewritten.txt", prepared.to_text(&launch), json)
}

fn step(step: &Step, when: &str) -> Value {
    let (outcome, reason) = match &step.outcome {
        Outcome::Applied => ("applied", None),
        Outcome::Rejected { reason } => ("rejected", Some(reason)),
        Outcome::Refused { reason } => ("refused", Some(reason)),
    };
    let cost = |cost: &Cost| {
        json!({
            "flops": cost.flops,
            "bytes": cost.bytes,
            "kernels": cost.kernels,
            "seconds": cost.seconds,
        })
    };
    json!({
        "when": when,
        "rule": step.rule,
        "site": step.site,
        "change": step.change,
        "outcome": outcome,
        "reason": reason,
        "before": cost(&step.before),
        "after": cost(&step.after),
    })
}

/// The schedule shown is the one that the model ranks first; NVRTC's word on spills comes with the later stages.
pub fn plan(args: &Args, layer: &Layer) -> Result<Report> {
    let plan = layer.plan()?;
    let mut text = format!("{plan}\nschedules for {} ({})\n", layer.target.name, layer.target.arch);
    let width = plan.kernels.iter().map(|kernel| kernel.name.len()).max().unwrap_or(0);
    let mut kernels = Vec::with_capacity(plan.kernels.len());
    let mut schedules = Vec::with_capacity(plan.kernels.len());
    for (region, summary) in plan.kernels.iter().zip(plan.summary().kernels) {
        let (schedule, problem) = match region_source(&plan, region, &layer.target, &layer.dims) {
            Ok(kernel) => (Some(kernel.schedule.to_string()), None),
            Err(error) => (None, Some(failure::message(&error.into()))),
        };
        let shown = schedule.as_ref().or(problem.as_ref()).map_or("", String::as_str);
        text += &format!("  {:width$}  {shown}\n", region.name);
        schedules.push(shown.to_string());
        kernels.push(json!({
            "name": summary.name,
            "inputs": summary.inputs,
            "outputs": summary.outputs,
            "schedule": schedule,
            "problem": problem,
        }));
    }
    let (arena, sizes) = arena(layer, &plan)?;
    text += &format!("\n{}with {sizes}\n", plan.arena_text(&arena));
    let mut json = json!({
        "arch": layer.target.arch.to_string(),
        "kernels": kernels,
        "notes": plan.notes,
        "memory": memory(&plan, &arena),
    });
    if args.graphviz {
        let dot = plan.to_dot(&schedules);
        json["graphviz"] = dot.clone().into();
        return written(args, "plan.dot", dot, json);
    }
    written(args, "plan.txt", text, json)
}

/// Where the buffers between kernels lie in these launches, and the sizes it depends on.
fn arena(layer: &Layer, plan: &Plan) -> Result<(Arena, String)> {
    let cached = layer.dims.get(Symbol::S).unwrap_or(0);
    let dims = layer.dims.clone();
    let splits = Splits::Balanced.most(&dims, cached);
    let dims = dims.with(Symbol::Z, splits);
    let sizes: Vec<String> = dims
        .iter()
        .map(|(symbol, value)| format!("{symbol} = {value}"))
        .collect();
    Ok((plan.arena(&dims)?, sizes.join(", ")))
}

fn memory(plan: &Plan, arena: &Arena) -> Value {
    let kernel = |index: &usize| plan.kernels.get(*index).map(|kernel| kernel.name.as_str());
    let buffer = |placement: &Placement| {
        json!({
            "name": plan.buffer(placement.buffer).name,
            "bytes": placement.bytes,
            "offset": placement.offset,
            "first": kernel(placement.lifetime.start()),
            "last": kernel(placement.lifetime.end()),
        })
    };
    let buffers: Vec<Value> = arena.placements.iter().map(buffer).collect();
    json!({ "bytes": arena.bytes, "bytes_without_reuse": arena.separate_bytes, "buffers": buffers })
}

/// The text on stdout, or in a file of --out.
fn written(args: &Args, name: &str, text: String, json: Value) -> Result<Report> {
    let Some(out) = &args.out else {
        return Ok(Report::new(text, json));
    };
    let mut files = OutFiles::new(out)?;
    files.write(name, text)?;
    published(files)
}

/// Moves the files into place and lists them.
pub fn published(files: OutFiles) -> Result<Report> {
    let files = files.publish()?;
    let text = files
        .iter()
        .map(|file| format!("{}\n", file.display()))
        .collect::<String>();
    Ok(Report::new(text, json!({ "files": files })))
}
