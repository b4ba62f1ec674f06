//! `mlafuse verify`: a property run. Random cases on a device against the f64 reference; what fails is made smaller.

mod case;
mod draw;
mod dump;
mod inputs;
mod judge;
mod report;
mod shape;
mod shrink;
mod work;

use crate::options::{self, CheckChoice, PlanChoice};
use crate::output::{self, Report};
use crate::progress::Progress;
use anyhow::{Context, Result, bail};
use case::{Case, flops};
use draw::{Limits, Source, draw};
use judge::{Setup, Verdict, judge};
use mlafuse::{DeviceSpec, Splits};
use report::{Failure, Judged, Summary, repeat};
use shape::Model;
use std::path::PathBuf;
use std::time::Instant;

/// Operations of a case where no budget is given: some tenths of a second.
const CPU_BUDGET: f64 = 2e9;
/// The same on the simulator, which takes thousands of times as long; compiling takes most of its time.
const SIM_BUDGET: f64 = 3e7;
/// A given model's budget is at least so many times what one token takes.
const CPU_TOKENS: f64 = 32.0;
const SIM_TOKENS: f64 = 8.0;
/// Failed cases that are made smaller, and tries to do so for each.
const SHRUNK: usize = 3;
const CPU_TRIES: usize = 300;
const SIM_TRIES: usize = 30;
/// Most elements of a layer's weights; in f64 they take 4 GiB.
const LARGEST_LAYER: usize = 1 << 29;
/// Elements of a layer's weights above which cases run one after the other, each using all threads: memory.
const LARGE_LAYER: usize = 1 << 24;

/// Which cases, on what.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// `random` for sizes of each case's own, or a model: a preset, a config.json, a folder that holds one, or
    /// heads=20,d_model=2560,d_latent=256,...
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// What computes: cpu; sim or sim:ARCH, which executes the kernels' PTX; cuda, cuda:N.
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceSpec,
    /// Whether the simulator looks for races, reads of what nothing wrote and misuse of barriers, which takes longer.
    /// [default: all]
    #[arg(long, value_enum)]
    check: Option<CheckChoice>,
    /// Fused kernels, or one for each node.
    #[arg(long, value_enum, default_value_t = PlanChoice::Fused)]
    plan: PlanChoice,
    /// How attention splits the cached tokens: balanced over the batch, or fixed:TOKENS, with which a sequence's result does not
    /// depend on the others of its batch.
    #[arg(long, value_name = "SPLITS", default_value_t = Splits::Balanced)]
    splits: Splits,
    /// Number of cases.
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 50, conflicts_with = "case",
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    cases: u32,
    /// What all cases follow from, with their numbers and the budget.
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        default_value_t = 0,
        conflicts_with = "case"
    )]
    seed: u64,
    /// Most operations of a case, as 2e9: those of the f64 reference and of the device together. [default: 2e9, on the
    /// simulator 3e7; of a given model at least 32 times what one token takes, on the simulator 8 times]
    #[arg(long, value_name = "FLOPS", allow_negative_numbers = true, conflicts_with = "case", value_parser = budget)]
    budget: Option<f64>,
    /// Run exactly this case, as a run prints it: dtype=bf16,page=64,steps=5:3/1:1,input=normal,seed=0. `steps` has the new
    /// tokens of each sequence (:), step by step (/).
    #[arg(long, value_name = "CASE")]
    case: Option<String>,
    /// Also write each case to DIR/case-N as a checkpoint folder: config.json, model.safetensors, io.safetensors with the
    /// inputs and the f64 outputs as `mlafuse run` takes them, and case.json. All steps after the first are then of one
    /// token a sequence.
    #[arg(long, value_name = "DIR")]
    dump: Option<PathBuf>,
    /// CPU threads; all where left out. The result does not depend on it.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = options::parts())]
    threads: Option<u32>,
}

const EXAMPLES: &str = "\
Each case draws a layer's sizes (or takes the model's), bf16, f16 or f32, a page size, 1 to 4 sequences of 0 to 2000 tokens, \
ragged steps after the prefill, and a kind of input: normal, large, rope (outweighs content), constant, near-tie. Free pages are \
in random order and unused memory holds NaN. The device's outputs are compared with the f64 reference on the same rounded weights \
and inputs.

A case passes if every output is finite where the reference's is, rows of no token are zero, and the relative L2 error is at \
most, and for any one token at most 8 times:
  f32         1e-4
  bf16, f16   twice the error of a plain implementation in that type (the interpreter, rounding each
              node's result), times 1 + 2/sqrt(n) for chance, n being tokens x heads (d_model where
              that is less), but no less than 4 roundings (7.8e-3 for bf16, 9.8e-4 for f16)
One that fails is made smaller as long as it fails, and printed with the command that repeats it.

Examples:
  mlafuse verify --model random
  mlafuse verify --model random --cases 40 --device sim:sm_80
  mlafuse verify --model deepseek-v2-lite --cases 10 --seed 7 --plan unfused
  mlafuse verify --model \"heads=20,d_model=640,d_latent=256,rope=half,yarn=40\" \\
      --case \"dtype=f16,page=7,steps=13:0:8/1:1:1,input=near-tie\"
  mlafuse verify --model random --cases 5 --dump cases --format json

Exit status: 0 all passed, 1 a case failed, 2 bad usage or bad input.";

fn budget(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (1e3..=1e13).contains(&value) => Ok(value),
        _ => Err("expected a number from 1e3 to 1e13, as 2e9".to_string()),
    }
}

pub fn run(args: &Args) -> Result<Report> {
    let started = Instant::now();
    let device = options::with_check(args.device, args.check)?;
    if matches!(args.device, DeviceSpec::Reference { .. }) {
        bail!(
            "--device {}: cases are compared with the reference; allowed: cpu, sim, sim:ARCH, cuda",
            args.device
        );
    }
    let setup = Setup {
        device,
        plan: args.plan.kind(),
        splits: args.splits,
    };
    let (cases, budget) = cases(args)?;
    // What is missing is told before anything is computed, and not as a failure of each case.
    mlafuse_runtime::open(setup.device)?;
    options::use_threads(args.threads)?;
    let dumped = dumped(args, &cases, &setup)?;
    let judged = judge_all(&cases, &setup)?;
    let failures = shrink_failures(&judged, &setup, args);
    let summary = Summary {
        model: args.model.clone(),
        setup,
        seed: args.case.is_none().then_some(args.seed),
        budget,
        judged,
        failures,
        dumped,
        took: started.elapsed(),
    };
    Ok(summary.report())
}

fn is_sim(args: &Args) -> bool {
    matches!(args.device, DeviceSpec::Sim { .. })
}

/// The cases to run, and the most operations of one.
fn cases(args: &Args) -> Result<(Vec<Case>, f64)> {
    let source = match args.model.as_str() {
        "random" => Source::Random,
        name => Source::Model(Model::parse(name)?),
    };
    if let Source::Model(model) = &source {
        check_size(model)?;
    }
    match (&args.case, source) {
        (Some(_), Source::Random) => {
            bail!("--case: `--model random` has no sizes; allowed: the model that was printed with the case")
        }
        (Some(text), Source::Model(model)) => {
            let case = Case::parse(text, model)?;
            let flops = flops(&case.model.config()?, &case.steps);
            Ok((vec![case], flops))
        }
        (None, source) => {
            let limits = Limits {
                budget: case_budget(args, &source)?,
                steps: if is_sim(args) { 2 } else { 4 },
                single_token_steps: args.dump.is_some(),
            };
            let drawn = (0..args.cases as usize).map(|number| draw(&source, args.seed, number, &limits));
            Ok((drawn.collect::<Result<_>>()?, limits.budget))
        }
    }
}

/// Elements of a layer's weights.
fn elements(model: &Model) -> Result<usize> {
    let specs = mlafuse::checkpoint_tensors(&model.config()?);
    Ok(specs.iter().map(|spec| spec.shape.iter().product::<usize>()).sum())
}

fn check_size(model: &Model) -> Result<()> {
    let elements = elements(model)?;
    if elements > LARGEST_LAYER {
        bail!("--model {model}: its layer has {elements} weights; at most {LARGEST_LAYER} can be verified");
    }
    Ok(())
}

fn case_budget(args: &Args, source: &Source) -> Result<f64> {
    let (usual, tokens) = match is_sim(args) {
        true => (SIM_BUDGET, SIM_TOKENS),
        false => (CPU_BUDGET, CPU_TOKENS),
    };
    let Source::Model(model) = source else {
        return Ok(args.budget.unwrap_or(usual));
    };
    let token = flops(&model.config()?, &[vec![1]]);
    match args.budget {
        Some(budget) if budget < token => {
            bail!(
                "--budget {budget:.1e}: one token of this model takes {token:.1e} operations; at least that is needed"
            )
        }
        Some(budget) => Ok(budget),
        None => Ok(usual.max(tokens * token)),
    }
}

fn dumped(args: &Args, cases: &[Case], setup: &Setup) -> Result<Vec<PathBuf>> {
    let Some(dir) = &args.dump else { return Ok(Vec::new()) };
    let progress = Progress::start("folders", cases.len());
    let dump = |(number, case): (usize, &Case)| {
        let folder = dump::dump(case, number, &repeat(case, setup), dir);
        progress.step();
        folder.with_context(|| format!("--dump {}, case {number}", dir.display()))
    };
    cases.iter().enumerate().map(dump).collect()
}

fn judge_all(cases: &[Case], setup: &Setup) -> Result<Vec<Judged>> {
    let what = match setup.device {
        DeviceSpec::Sim { .. } => "cases, each compiled by NVRTC first, some 5 s",
        _ => "cases",
    };
    let progress = Progress::start(what, cases.len());
    let verdicts = work::map(cases, threads(cases)?, |case| {
        let verdict = judge(case, setup);
        tracing::info!(
            "{} {case}: rel-L2 {:.2e}, allowed {:.2e}, plain {:.2e}, fault {:?}",
            case.model,
            verdict.rel_l2,
            verdict.allowed,
            verdict.plain.unwrap_or(f64::NAN),
            verdict.fault
        );
        progress.step();
        verdict
    });
    let judged = |(case, verdict): (&Case, Verdict)| Judged {
        case: case.clone(),
        verdict,
    };
    Ok(cases.iter().zip(verdicts).map(judged).collect())
}

/// How many cases run at once.
fn threads(cases: &[Case]) -> Result<usize> {
    for case in cases {
        if elements(&case.model)? > LARGE_LAYER {
            return Ok(1);
        }
    }
    Ok(rayon::current_num_threads().min(8))
}

/// What failed; the first few made smaller.
fn shrink_failures(judged: &[Judged], setup: &Setup, args: &Args) -> Vec<Failure> {
    let tries = if is_sim(args) { SIM_TRIES } else { CPU_TRIES };
    let smallest = |number: usize, judged: &Judged| {
        output::note(&format!(
            "note: case {number} failed; looking for a smaller one that fails"
        ));
        let progress = Progress::start("tries", tries);
        let fails = |case: &Case| {
            let verdict = judge(case, setup);
            progress.step();
            verdict.fault.is_some().then_some(verdict)
        };
        let (case, verdict) = shrink::shrink(judged.case.clone(), judged.verdict.clone(), tries, fails);
        Judged { case, verdict }
    };
    let failed = judged
        .iter()
        .enumerate()
        .filter(|(_, judged)| judged.verdict.fault.is_some());
    let failures = failed.enumerate().map(|(place, (number, judged))| Failure {
        number,
        smallest: (place < SHRUNK).then(|| smallest(number, judged)),
    });
    failures.collect()
}
