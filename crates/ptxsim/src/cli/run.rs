//! `ptxsim run`.

use super::flags::{self, AsyncFlag, CheckFlag, MmaFlag};
use super::progress::Progress;
use super::table::{duration, grouped, rate};
use super::{Answer, findings, stats};
use anyhow::{Result, ensure};
use ptxsim::launch_file::{Error, LaunchFile, Output, Run, Target};
use ptxsim::machine::{Options, Schedule};
use ptxsim::numeric::approx::Approx;
use ptxsim::trial::{Finding, Trial};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "\
A launch file, with paths relative to it:
  { \"ptx\": \"mm.ptx\", \"entry\": \"mm\", \"grid\": [2,2,1], \"block\": [128,1,1], \"dynamic_shared\": 73728,
    \"args\": [ {\"tensor\": \"in.safetensors#a\"}, {\"inout\": \"in.safetensors#x\"},
              {\"output\": \"c\", \"dtype\": \"f32\", \"shape\": [128,256]}, {\"i32\": 128}, {\"f32\": 0.1}, {\"null\": 0} ],
    \"reference\": {\"file\": \"want.safetensors\", \"rel_l2\": 3e-3} }
Arguments are in the order of the kernel's parameters. A tensor may not be stored to, an inout is copied in and saved, an output \
starts unwritten. Scalars are i8 to u64, f16, bf16, f32 and f64, of their parameter's size; null is a pointer of zero. The outputs \
that the reference names are compared.

Exit status 1 where a checker reports, the kernel does not end, or an output differs from the reference. OUT.safetensors \
is written whenever the kernel ends.")]
pub struct Args {
    #[command(flatten)]
    launch: flags::Launch,
    /// Save the outputs and the changed inputs; never-written elements are NaN, or 0 for integers.
    #[arg(long, value_name = "OUT.safetensors")]
    out: Option<PathBuf>,
    /// In which order warps run: fixed, random:SEED or starve:WARP.
    #[arg(long, value_name = "SCHEDULE", default_value_t)]
    schedule: Schedule,
    /// When asynchronous copies land.
    #[arg(long = "async", value_enum, default_value_t = AsyncFlag::Lazy, value_name = "WHEN")]
    asynchrony: AsyncFlag,
    /// What is looked for.
    #[arg(long, value_enum, default_value_t = CheckFlag::All, value_name = "CHECKERS")]
    check: CheckFlag,
    /// How tensor cores add.
    #[arg(long, value_enum, default_value_t = MmaFlag::Fast, value_name = "HOW")]
    mma: MmaFlag,
    /// Approximate functions: rounded, or perturb:SEED to move each result by up to 2 units in the last place.
    #[arg(long, value_parser = flags::approx, default_value = "rounded", value_name = "HOW")]
    approx: Approx,
    /// Print what was counted.
    #[arg(long)]
    stats: bool,
    /// Print what was counted by CUDA line, or by PTX line where the PTX does not name its source.
    #[arg(long)]
    lines: bool,
}

impl Args {
    fn trial(&self) -> Trial {
        Trial {
            schedule: self.schedule,
            asynchrony: self.asynchrony.into(),
            mma: self.mma.into(),
            approx: self.approx,
        }
    }

    fn options(&self) -> Options {
        let trial = self.trial();
        Options {
            schedule: trial.schedule,
            asynchrony: trial.asynchrony,
            checks: self.check.into(),
            mma: trial.mma,
            approx: trial.approx,
            step_limit: self.launch.step_limit,
            threads: self.launch.threads,
            line_counters: self.lines,
            ..Options::default()
        }
    }
}

/// What a run gave, judged.
struct Judged {
    launch: LaunchFile,
    run: Run,
    errors: Vec<Error>,
    findings: Vec<Finding>,
}

pub fn run(args: &Args) -> Result<Answer> {
    let launch = LaunchFile::read(&args.launch.path)?;
    if let Schedule::Starve(warp) = args.schedule {
        let warps = launch.warps();
        ensure!(
            warp < warps,
            "--schedule starve:{warp}: a block has {warps} warps; allowed: 0 to {}",
            warps - 1
        );
    }
    let target = args.out.as_deref().map(Target::new).transpose()?;
    let judged = execute(launch, args)?;
    let completed = judged.run.outcome.completed;
    match &target {
        Some(target) if completed => target.save(&judged.run.outputs)?,
        Some(_) => tracing::warn!("the kernel did not end: no outputs are saved"),
        None => (),
    }
    Ok(Answer {
        text: text(&judged, args),
        json: Value::Object(json(&judged, args)),
        fault: !judged.findings.is_empty() || !completed,
    })
}

fn execute(launch: LaunchFile, args: &Args) -> Result<Judged> {
    let progress = Progress::spinner(&format!("running {}", launch.kernel().name));
    let run = launch.run(launch.kernel(), &args.options())?;
    drop(progress);
    let mut reports = run.outcome.reports.clone();
    let (errors, differences) = match run.outcome.completed {
        true => launch.compare(&run.outputs),
        false => Default::default(),
    };
    reports.extend(differences);
    let trial = args.trial();
    Ok(Judged {
        findings: reports.into_iter().map(|report| Finding { report, trial }).collect(),
        launch,
        run,
        errors,
    })
}

fn text(judged: &Judged, args: &Args) -> String {
    let Judged { launch, run, .. } = judged;
    let outcome = &run.outcome;
    let mut text = findings::text(&judged.findings, launch);
    let total = outcome.statistics.total.instructions;
    text += &format!(
        "{}: grid {:?}, block {:?}, {} warp instructions in {} ({})\n",
        launch.kernel().name,
        launch.config().grid,
        launch.config().block,
        grouped(total),
        duration(outcome.seconds),
        rate(total, outcome.seconds),
    );
    if outcome.completed {
        text.extend(run.outputs.iter().map(|output| output_text(output, &judged.errors)));
    } else {
        text += "the kernel did not end\n";
    }
    if args.stats {
        text += &format!("\n{}", stats::text(outcome));
    }
    if args.lines {
        text += &format!("\n{}", stats::lines_text(outcome, launch));
    }
    text
}

fn output_text(output: &Output, errors: &[Error]) -> String {
    let error = match errors.iter().find(|error| error.output == output.name) {
        Some(error) => format!(", rel-L2 {:.2e} (allowed {:e})", error.rel_l2, error.allowed),
        None => String::new(),
    };
    let unwritten = match output.unwritten {
        0 => String::new(),
        count => format!(", {} elements never written", grouped(count)),
    };
    let (name, element, shape) = (&output.name, output.element.name(), &output.shape);
    format!("output {name}: {element} {shape:?}{error}{unwritten}\n")
}

fn json(judged: &Judged, args: &Args) -> Map<String, Value> {
    let Judged { launch, run, .. } = judged;
    let mut fields = Map::new();
    let mut add = |name: &str, value: Value| {
        fields.insert(name.to_owned(), value);
    };
    add("ok", json!(judged.findings.is_empty() && run.outcome.completed));
    add("reports", json!(findings::json(&judged.findings)));
    add("kernel", json!(launch.kernel().name));
    add("completed", json!(run.outcome.completed));
    add("seconds", json!(run.outcome.seconds));
    let output = |output: &Output| output_json(output, &judged.errors);
    add("outputs", run.outputs.iter().map(output).collect());
    if args.lines {
        add("lines", stats::lines_json(&run.outcome, launch));
    }
    if args.stats {
        fields.extend(stats::json(&run.outcome));
    }
    fields
}

fn output_json(output: &Output, errors: &[Error]) -> Value {
    let error = errors.iter().find(|error| error.output == output.name);
    json!({
        "name": output.name,
        "dtype": output.element.name(),
        "shape": output.shape,
        "never_written": output.unwritten,
        "rel_l2": error.map(|error| error.rel_l2),
        "rel_l2_allowed": error.map(|error| error.allowed),
    })
}
