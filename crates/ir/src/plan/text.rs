//! How a plan is shown.

use super::{Arena, Buffer, BufferId, BufferRole, Placement, Plan, Region};
use serde::Serialize;
use std::fmt;
use std::ops::RangeInclusive;

/// A plan for other tools to read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlanSummary {
    /// In order of launch.
    pub kernels: Vec<KernelSummary>,
}

/// One kernel of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KernelSummary {
    /// Its name.
    pub name: String,
    /// Names of the buffers it reads.
    pub inputs: Vec<String>,
    /// Names of the buffers it writes.
    pub outputs: Vec<String>,
}

impl Plan {
    /// Names only, for JSON.
    pub fn summary(&self) -> PlanSummary {
        let names = |ids: &[BufferId]| ids.iter().map(|&id| self.buffer(id).name.clone()).collect();
        let kernels = self.kernels.iter().map(|kernel| KernelSummary {
            name: kernel.name.clone(),
            inputs: names(&kernel.reads),
            outputs: names(&kernel.writes),
        });
        PlanSummary {
            kernels: kernels.collect(),
        }
    }

    /// A lifetime by the kernels' names.
    fn span(&self, lifetime: &RangeInclusive<usize>) -> String {
        let name = |index: usize| self.kernels.get(index).map_or("", |kernel| kernel.name.as_str());
        format!("{} to {}", name(*lifetime.start()), name(*lifetime.end()))
    }

    /// What `arena`, of this plan, takes and what reuse saves, and where in it each buffer lies.
    pub fn arena_text(&self, arena: &Arena) -> String {
        let Arena {
            bytes,
            separate_bytes,
            placements,
        } = arena;
        let name = |placement: &Placement| self.buffer(placement.buffer).name.as_str();
        let width = placements.iter().map(|placement| name(placement).len()).max();
        let mut text = format!("memory between kernels: {bytes} bytes, {separate_bytes} without reuse\n");
        for placement in placements {
            let Placement {
                offset,
                bytes,
                lifetime,
                ..
            } = placement;
            let (name, width, span) = (name(placement), width.unwrap_or(0), self.span(lifetime));
            text += &format!("  {name:width$}  {bytes} bytes at {offset}, {span}\n");
        }
        text
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "plan {}: {} kernels, {} buffers",
            self.graph.name,
            self.kernels.len(),
            self.buffers.len()
        )?;
        let width = self.buffers.iter().map(|buffer| buffer.name.len()).max().unwrap_or(0);
        for (index, buffer) in self.buffers.iter().enumerate() {
            write_buffer(f, self, BufferId(index), buffer, width)?;
        }
        for kernel in &self.kernels {
            write_kernel(f, self, kernel)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "  note: {note}"))
    }
}

fn write_buffer(f: &mut fmt::Formatter<'_>, plan: &Plan, id: BufferId, buffer: &Buffer, width: usize) -> fmt::Result {
    let dims: Vec<String> = buffer.shape.iter().map(ToString::to_string).collect();
    let role = match &buffer.role {
        BufferRole::Input(_) => "input".to_string(),
        BufferRole::Output(names) => format!("output {}", names.join(", ")),
        BufferRole::Temp => match plan.lifetime(id) {
            Some(lifetime) => format!("temp, {}", plan.span(&lifetime)),
            None => "temp, unused".to_string(),
        },
    };
    let (name, dtype, dims, size) = (&buffer.name, buffer.dtype, dims.join(", "), &buffer.size);
    writeln!(f, "  {name:width$}  {dtype} [{dims}], {size} elements, {role}")
}

fn write_kernel(f: &mut fmt::Formatter<'_>, plan: &Plan, kernel: &Region) -> fmt::Result {
    let names = |ids: &[BufferId]| -> String {
        ids.iter()
            .map(|&id| plan.buffer(id).name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    write!(
        f,
        "  {}({}) -> {}",
        kernel.name,
        names(&kernel.reads),
        names(&kernel.writes)
    )?;
    if kernel.nodes.len() > 1 {
        let nodes: Vec<&str> = kernel
            .nodes
            .iter()
            .map(|&node| plan.graph.node(node).name.as_str())
            .collect();
        write!(f, "  // {}", nodes.join(", "))?;
    }
    writeln!(f)
}
