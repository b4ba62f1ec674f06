//! `ptxsim mma`.

use super::Answer;
use anyhow::Result;
use ptxsim::vectors::{SetResult, check_vectors};
use serde_json::json;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "Exit status 1 where an output differs.")]
pub struct Args {
    /// Sets of `NAME.{bf16,fp16}.{a,b,c,d}` with d = a·b + c; k = 8 selects Ampere's and Ada's model, k = 16 Hopper's and
    /// Blackwell's.
    #[arg(value_name = "VECTORS.safetensors")]
    vectors: PathBuf,
}

pub fn run(args: &Args) -> Result<Answer> {
    let sets = check_vectors(&args.vectors)?;
    Ok(Answer {
        text: text(&sets),
        fault: sets.iter().any(|set| set.matched < set.total),
        json: json!({ "sets": sets }),
    })
}

fn text(sets: &[SetResult]) -> String {
    let width = sets.iter().map(|set| set.name.len()).max().unwrap_or(0);
    let line = |set: &SetResult| format!("{:width$}  {:>6} of {:>6}\n", set.name, set.matched, set.total);
    sets.iter().map(line).collect()
}
