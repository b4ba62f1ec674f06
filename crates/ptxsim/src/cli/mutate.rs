//! `ptxsim mutate`.

use super::progress::Progress;
use super::{Answer, findings, flags};
use anyhow::Result;
use ptxsim::launch_file::LaunchFile;
use ptxsim::machine::Checker;
use ptxsim::mutate::{Fate, Mutant, MutateOptions, MutateResult, mutate};
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(clap::Args)]
#[command(after_help = "\
Each mutant is the kernel with one barrier, wait or fence removed or weakened. It is run under a few schedules and both \
extremes of asynchrony with every checker; the first that notices ends it. What survives is either not needed, or needed \
only where these runs do not reach.

Exit status 1 where a mutant survives, or the kernel itself has a fault.")]
pub struct Args {
    #[command(flatten)]
    launch: flags::Launch,
    /// Put what survives to all runs of `ptxsim check`.
    #[arg(long)]
    thorough: bool,
}

pub fn run(args: &Args) -> Result<Answer> {
    let launch = LaunchFile::read(&args.launch.path)?;
    let options = MutateOptions {
        thorough: args.thorough,
        limits: args.launch.limits(),
    };
    let progress = Progress::counter("mutants");
    let result = mutate(&launch, &options, &|done, total| progress.update(done, total))?;
    drop(progress);
    let survivors = survivors(&result);
    Ok(Answer {
        text: text(&result, &survivors, &launch),
        fault: !result.findings.is_empty() || !survivors.is_empty(),
        json: json!({
            "ok": result.findings.is_empty() && survivors.is_empty(),
            "reports": findings::json(&result.findings),
            "kernel": launch.kernel().name,
            "mutants": result.mutants.len(),
            "killed": result.mutants.len() - survivors.len(),
            "killed_by": killed_by(&result),
            "survivors": survivors.iter().map(|survivor| survivor.json(&launch)).collect::<Vec<_>>(),
        }),
    })
}

struct Survivor<'a> {
    mutant: &'a Mutant,
    reached: bool,
}

fn survivors(result: &MutateResult) -> Vec<Survivor<'_>> {
    let mut survivors = Vec::new();
    for (mutant, fate) in &result.mutants {
        if let Fate::Survived { reached } = *fate {
            survivors.push(Survivor { mutant, reached });
        }
    }
    survivors
}

impl Survivor<'_> {
    fn json(&self, launch: &LaunchFile) -> Value {
        json!({
            "ptx_line": self.mutant.ptx_line,
            "change": self.mutant.change,
            "instruction": launch.ptx_line(self.mutant.ptx_line),
            "source": self.mutant.source,
            "reached": self.reached,
        })
    }

    fn text(&self, launch: &LaunchFile) -> String {
        let Mutant { ptx_line, change, .. } = self.mutant;
        let instruction = launch.ptx_line(*ptx_line).unwrap_or_default();
        let source = self.mutant.source.as_ref();
        let source = source.map_or(String::new(), |source| format!("  ({source})"));
        let reached = if self.reached { "" } else { "; never executed" };
        format!("survived: PTX line {ptx_line}{source}\n    {instruction}\n    {change}{reached}\n")
    }
}

fn killed_by(result: &MutateResult) -> BTreeMap<Checker, usize> {
    let mut killed = BTreeMap::new();
    for (_, fate) in &result.mutants {
        if let Fate::Killed(finding) = fate {
            *killed.entry(finding.report.checker).or_default() += 1;
        }
    }
    killed
}

fn text(result: &MutateResult, survivors: &[Survivor<'_>], launch: &LaunchFile) -> String {
    let name = &launch.kernel().name;
    if !result.findings.is_empty() {
        let findings = findings::text(&result.findings, launch);
        return format!("{findings}{name}: the kernel itself has a fault, so no mutant was tried\n");
    }
    let listed: String = survivors.iter().map(|survivor| survivor.text(launch)).collect();
    let by = killed_by(result).into_iter();
    let by: Vec<String> = by.map(|(checker, count)| format!("{checker} {count}")).collect();
    let by = match by.as_slice() {
        [] => String::new(),
        by => format!(" ({})", by.join(", ")),
    };
    let (mutants, survived) = (result.mutants.len(), survivors.len());
    format!(
        "{listed}{name}: {mutants} mutants, {} killed{by}, {survived} survived\n",
        mutants - survived
    )
}
