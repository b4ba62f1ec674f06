//! Plots the attention core's time against length and against batch, with the bound of the same run's limits.
//! `cargo xtask bench --plot` runs it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use mlafuse::DType;
use mlafuse_benches::plot::{Labels, Line, draw};
use mlafuse_benches::{Core, Limits, Subject, Work, machine, repeat, shape};
use mlafuse_profile::median;
use mlafuse_tensor::write_file_atomic;
use serde_json::json;

/// Plots time against length (1k to 128k tokens) and against batch (1 to 64), in bf16, as length.svg and batch.svg; the numbers
/// are in plot.json
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench --plot --")]
struct Args {
    /// Query heads; a line for each number
    #[arg(long, value_delimiter = ',', default_values_t = [128, 16], value_parser = clap::value_parser!(u32).range(1..=1024))]
    heads: Vec<u32>,
    /// Milliseconds that each size is timed
    #[arg(long, default_value_t = 500)]
    ms: u64,
    /// The folder for the files
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

/// Tokens a sequence where the batch grows.
const CACHED: usize = 4096;

/// A size, what it must do, and the median in milliseconds.
type Timed = (usize, Work, f64);

fn main() -> Result<()> {
    let args = Args::parse();
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make the folder {}", args.out.display()))?;
    let lengths: Vec<usize> = (10..=17).map(|power| 1 << power).collect();
    let batches: Vec<usize> = (0..=6).map(|power| 1 << power).collect();
    let before = Limits::measure()?;
    let of_length = sweep(&args, &lengths, |tokens| (1, tokens))?;
    let of_batch = sweep(&args, &batches, |sequences| (sequences, CACHED))?;
    let limits = before.or_better(Limits::measure()?);
    let machine = machine(rayon::current_num_threads())?;
    let plot = |file: &str, what: String, size: &str, write_size, timed: &[(u32, Vec<Timed>)]| {
        let labels = Labels {
            title: [what, machine.clone()],
            size: size.into(),
            write_size,
        };
        let lines: Vec<Line> = timed
            .iter()
            .map(|(heads, timed)| line(*heads, timed, &limits))
            .collect();
        draw(&args.out.join(file), &labels, &lines)?;
        Ok::<_, anyhow::Error>(json!(
            lines.iter().map(|line| (&line.name, &line.points)).collect::<Vec<_>>()
        ))
    };
    let tokens = |size: f64| format!("{}k", size / 1024.0);
    let length = plot(
        "length.svg",
        "Attention core, bf16, one sequence".into(),
        "cached tokens",
        tokens,
        &of_length,
    )?;
    let batch = plot(
        "batch.svg",
        format!("Attention core, bf16, {CACHED} cached tokens a sequence"),
        "sequences",
        |size| format!("{size}"),
        &of_batch,
    )?;
    let numbers = json!({ "machine": machine, "limits": limits, "length": length, "batch": batch });
    write_file_atomic(args.out.join("plot.json"), format!("{numbers:#}\n").as_bytes())?;
    println!("length.svg, batch.svg and plot.json are in {}", args.out.display());
    Ok(())
}

fn sweep(args: &Args, sizes: &[usize], shape_of: fn(usize) -> (usize, usize)) -> Result<Vec<(u32, Vec<Timed>)>> {
    let of_heads = |&heads: &u32| {
        let timed = sizes.iter().map(|&size| {
            let (sequences, cached) = shape_of(size);
            let mut core = Core::new(shape(heads as usize, DType::BF16), sequences, cached)?;
            core.run()?;
            let ms = median(repeat(&mut core, Duration::from_millis(args.ms))?);
            eprintln!("{heads} heads, {sequences} x {cached} tokens: {ms:.3} ms");
            Ok((size, core.work()?, ms))
        });
        Ok((heads, timed.collect::<Result<_>>()?))
    };
    args.heads.iter().map(of_heads).collect()
}

fn line(heads: u32, timed: &[Timed], limits: &Limits) -> Line {
    let point = |&(size, work, ms): &Timed| (size as f64, ms, limits.bound(work).1);
    Line {
        name: format!("{heads} heads"),
        points: timed.iter().map(point).collect(),
    }
}
