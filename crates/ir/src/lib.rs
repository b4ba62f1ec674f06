//! The MLA layer as a graph: configuration, text form, reference interpreter, rewrites, fusion plan.

pub mod build;
pub mod config;
pub mod einsum;
pub mod graph;
pub mod infer;
pub mod interp;
pub mod layer;
pub mod plan;
pub mod prepare;
pub mod presets;
pub mod rewrite;
pub mod rope;
pub mod size;
pub mod target;
pub mod text;
pub mod verify;
pub mod weights;
