//! `ptxsim check`.

use super::progress::Progress;
use super::{Answer, findings, flags};
use anyhow::Result;
use ptxsim::check::{CheckOptions, CheckResult, check};
use ptxsim::launch_file::LaunchFile;
use serde_json::json;

#[derive(clap::Args)]
#[command(after_help = "\
Runs the kernel with warps in order, with each of up to 8 warps starved, and in random orders; each with asynchronous \
copies landing late and at once, and every checker. Then once with exact tensor cores and once with perturbed approximate \
functions. Outputs must be the same bit for bit in all but the last two runs, and agree with the reference in all.

Exit status 1 at the first run with a fault.")]
pub struct Args {
    #[command(flatten)]
    launch: flags::Launch,
    /// Random schedules.
    #[arg(long, value_name = "N", default_value_t = CheckOptions::default().seeds, value_parser = clap::value_parser!(u64).range(..=100_000))]
    seeds: u64,
    /// Starve each warp of the block in turn, not only 8 of them.
    #[arg(long)]
    all_warps: bool,
}

pub fn run(args: &Args) -> Result<Answer> {
    let launch = LaunchFile::read(&args.launch.path)?;
    let options = CheckOptions {
        seeds: args.seeds,
        all_warps: args.all_warps,
        limits: args.launch.limits(),
    };
    let progress = Progress::counter("runs");
    let result = check(&launch, launch.kernel(), &options, &|done, total| {
        progress.update(done, total)
    })?;
    drop(progress);
    Ok(Answer {
        text: text(&result, &launch),
        json: json!({
            "ok": result.findings.is_empty(),
            "reports": findings::json(&result.findings),
            "kernel": launch.kernel().name,
            "runs": result.runs,
            "planned": result.planned,
        }),
        fault: !result.findings.is_empty(),
    })
}

fn text(result: &CheckResult, launch: &LaunchFile) -> String {
    let CheckResult { runs, planned, .. } = result;
    let name = &launch.kernel().name;
    if result.findings.is_empty() {
        let reference = if launch.has_reference() {
            "as the reference"
        } else {
            "with no reference to compare with"
        };
        return format!("{name}: ok in {runs} runs, {reference}\n");
    }
    let findings = findings::text(&result.findings, launch);
    format!("{findings}{name}: a fault in run {runs} of {planned}\n")
}
