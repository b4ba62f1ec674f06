//! Prints what the simulator counts of one decode step of DeepSeek-V3's attention layer. `cargo xtask bench --counters` runs it.

use std::time::Instant;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use mlafuse::config::MlaConfig;
use mlafuse::{DType, PlanKind};
use mlafuse_benches::counters::{AtSplits, Counted, Step, Whole};
use mlafuse_ir::presets::preset;
use mlafuse_ir::target::{Arch, Target};
use serde::Serialize;

const MODEL: &str = "deepseek-v3";

/// Counts one decode step of deepseek-v3's attention layer on the simulator, in bf16. Nothing is timed, and no GPU takes part
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench --counters --")]
struct Args {
    /// Sequences, one new token each; a step for each number
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16], value_parser = count())]
    batch: Vec<u32>,
    /// Tokens of each sequence, the new one included
    #[arg(long, default_value_t = 4096, value_parser = count())]
    kv_len: u32,
    /// Into how many parts attention splits them; a row of the table for each number
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16, 32], value_parser = count())]
    splits: Vec<u32>,
    /// The model's width, cut so that the projections run in reasonable time
    #[arg(long, default_value_t = 512, value_parser = count())]
    d_model: u32,
    /// The query latent's width, likewise
    #[arg(long, default_value_t = 256, value_parser = count())]
    d_q_latent: u32,
    /// The simulated architecture
    #[arg(long, default_value = "sm_80")]
    arch: Arch,
    /// How the counts are printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Format {
    /// For people
    Text,
    /// One object
    Json,
}

fn count() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 24)
}

#[derive(Serialize)]
struct Report {
    model: &'static str,
    device: String,
    modelled: bool,
    d_model: usize,
    d_q_latent: Option<usize>,
    sm_count: usize,
    steps: Vec<Reported>,
}

/// One step as counted, and both plans at the model's full width.
#[derive(Serialize)]
struct Reported {
    #[serde(flatten)]
    counted: Counted,
    /// The least bytes that the kernels must move, from the plans.
    full_width: FullWidth,
}

#[derive(Serialize)]
struct FullWidth {
    fused_bytes: u64,
    unfused_bytes: u64,
    ratio: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let full = preset(MODEL)?;
    let cut = MlaConfig {
        d_model: args.d_model as usize,
        d_q_latent: Some(args.d_q_latent as usize),
        ..full.clone()
    };
    let mut steps = Vec::new();
    for &batch in &args.batch {
        let (start, step) = (Instant::now(), step(&args, &cut, batch));
        let splits: Vec<usize> = args.splits.iter().map(|&splits| splits as usize).collect();
        let counted = step.count(&splits)?;
        eprintln!("batch {batch}: simulated in {:.0} s", start.elapsed().as_secs_f64());
        let full_width = full_width(&self::step(&args, &full, batch), &counted)?;
        steps.push(Reported { counted, full_width });
    }
    let report = Report {
        model: MODEL,
        device: format!("sim:{}", args.arch),
        modelled: true,
        d_model: cut.d_model,
        d_q_latent: cut.d_q_latent,
        sm_count: Target::for_arch(args.arch).sm_count,
        steps,
    };
    match args.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Format::Text => print!("{}", text(&report, &cut, &full)),
    }
    Ok(())
}

fn step(args: &Args, config: &MlaConfig, batch: u32) -> Step {
    Step {
        config: config.clone(),
        dtype: DType::BF16,
        arch: args.arch,
        batch: batch as usize,
        cached: args.kv_len as usize,
    }
}

fn full_width(step: &Step, counted: &Counted) -> Result<FullWidth> {
    let fused_bytes = step.least_bytes(PlanKind::Fused, counted.fused.splits)?;
    let unfused_bytes = step.least_bytes(PlanKind::Unfused, counted.unfused.splits)?;
    Ok(FullWidth {
        fused_bytes,
        unfused_bytes,
        ratio: unfused_bytes as f64 / fused_bytes.max(1) as f64,
    })
}

fn text(report: &Report, cut: &MlaConfig, full: &MlaConfig) -> String {
    let mut text = format!(
        "One decode step of {}'s attention layer, simulated ({}, no GPU): {} heads, cached rows of {} + {}, bf16.\n\
         The model's width is cut: d_model {} of {}, d_q_latent {} of {}.\n\
         Bytes are 32-byte sectors, each counted once a launch; under `requested` as often as instructions asked for it.\n",
        report.model,
        report.device,
        cut.n_heads,
        cut.d_latent,
        cut.d_rope,
        cut.d_model,
        full.d_model,
        cut.d_q_latent.unwrap_or(0),
        full.d_q_latent.unwrap_or(0),
    );
    for step in &report.steps {
        text += &step_text(step, report.sm_count);
    }
    text
}

fn step_text(step: &Reported, sm_count: usize) -> String {
    let Reported { counted, full_width } = step;
    let heading = [
        "splits",
        "blocks",
        "cache read",
        "of its bytes",
        "q read",
        "partials",
        "output",
        "q+partials+output",
        "requested",
    ];
    let row = |at: &AtSplits| {
        [
            at.splits.to_string(),
            at.blocks.to_string(),
            grouped(at.cache_read),
            format!("{:.4}", at.cache_ratio),
            grouped(at.q_read),
            grouped(at.partials),
            grouped(at.output),
            grouped(at.around_the_cache),
            grouped(at.requested),
        ]
    };
    let rows: Vec<_> = counted.attention.iter().map(row).collect();
    let fills = counted.attention.iter().find(|at| at.blocks >= sm_count as u64);
    let fills = match fills {
        Some(at) => format!(
            "from splits = {} on each of the part's {sm_count} SMs has a block",
            at.splits
        ),
        None => format!("at none of these each of the part's {sm_count} SMs has a block"),
    };
    format!(
        "\nbatch {}, {} tokens a sequence; the cached rows have {} bytes. Attention and its combine by splits:\n{}\
         Least q+partials+output at splits = {}; {fills}.\n\
         The whole step at splits = {}: {}; {}; {:.2} times the bytes.\n\
         At full width, the least from the plans: fused {} bytes, unfused {}; {:.2} times.\n",
        counted.batch,
        counted.cached,
        grouped(counted.cache_bytes),
        table(heading, &rows),
        counted.least_splits,
        counted.fused.splits,
        whole("fused", &counted.fused),
        whole("unfused", &counted.unfused),
        counted.ratio,
        grouped(full_width.fused_bytes),
        grouped(full_width.unfused_bytes),
        full_width.ratio,
    )
}

fn whole(name: &str, whole: &Whole) -> String {
    format!("{name} {} launches, {} bytes", whole.launches, grouped(whole.bytes))
}

/// Columns of numbers under their headings.
fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].len())
            .fold(heading[column].len(), usize::max)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:>width$}"));
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    let rows = rows.iter().map(|row| line(row.each_ref().map(String::as_str)));
    line(heading) + &rows.collect::<String>()
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
