//! What is told of a profile.

use super::Args;
use crate::output::{Align, Report, table};
use anyhow::Result;
use mlafuse_profile::{KernelProfile, PlanProfile, Profile, Simulated};
use serde_json::json;

pub fn report(args: &Args, new_tokens: u32, profile: &Profile, unfusable: &[String]) -> Result<Report> {
    let mut text = heading(args, new_tokens, profile);
    for (name, plan) in profile.plans.named() {
        text += &format!("\n{name} plan\n{}", kernels(plan));
    }
    text += &format!("\n{}", summary(profile, unfusable));
    if let Some(file) = &args.trace {
        text += &format!("wrote {}\n", file.display());
    }
    let mut json = serde_json::to_value(profile)?;
    let more = json!({
        "model": args.model,
        "phase": args.phase.name(),
        "batch": args.sizes.batch,
        "q_len": new_tokens,
        "kv_len": args.sizes.kv_len,
        "dtype": args.sizes.dtype.dtype().to_string(),
        "page_size": args.sizes.page_size,
        "not_fused": unfusable,
        "trace": args.trace,
    });
    if let (Some(json), Some(more)) = (json.as_object_mut(), more.as_object()) {
        json.extend(more.clone());
    }
    Ok(Report::new(text, json))
}

fn heading(args: &Args, new_tokens: u32, profile: &Profile) -> String {
    let limits = &profile.limits;
    let how = if profile.modelled {
        "us modelled: there is no clock; what the limits allow for the bytes moved and the operations executed, and no more\n\
         bytes: measured, DRAM sectors that the kernel read or wrote, each once"
            .to_string()
    } else {
        format!(
            "us: median of {} runs of each plan, in turn\nbytes: counted from the plan, each input and output once",
            profile.runs
        )
    };
    format!(
        "{} {} on {}: batch {}, {new_tokens} new of {} cached tokens, {}, page size {}\n\
         limits: {}/s, {}/s; {}\n{how}\n",
        args.model,
        args.phase.name(),
        profile.device,
        args.sizes.batch,
        args.sizes.kv_len,
        args.sizes.dtype.dtype(),
        args.sizes.page_size,
        bytes(limits.bytes_per_s),
        flops(limits.flops_per_s),
        limits.source
    )
}

/// The kernels and their sum; with counts where there are some.
fn kernels(plan: &PlanProfile) -> String {
    let total = plan.time().unwrap_or(0.0);
    let timed = plan.kernels.iter().map(|kernel| timed(kernel, total));
    let rows: Vec<[String; 8]> = timed.chain([sum(plan)]).collect();
    let heading = [
        ("kernel", Align::Left),
        ("launches", Align::Right),
        (if plan.us.is_some() { "us" } else { "us modelled" }, Align::Right),
        ("share %", Align::Right),
        ("bytes", Align::Right),
        ("FLOPs", Align::Right),
        ("bound", Align::Left),
        ("% of bound", Align::Right),
    ];
    let Some(sums) = &plan.simulated else {
        return table(heading, &rows);
    };
    let counts = plan.kernels.iter().map(|kernel| {
        let counts = kernel.simulated.unwrap_or_default();
        counted(kernel.minimal_bytes, &counts)
    });
    let counts = counts.chain([counted(plan.minimal_bytes, sums)]);
    let rows: Vec<[String; 13]> = rows
        .into_iter()
        .zip(counts)
        .map(|(row, more)| join(row, more))
        .collect();
    let more = [
        ("least bytes", Align::Right),
        ("executed FLOPs", Align::Right),
        ("warp instr", Align::Right),
        ("smem passes/ideal", Align::Right),
        ("barriers", Align::Right),
    ];
    table(join(heading, more), &rows)
}

fn join<T>([a, b, c, d, e, f, g, h]: [T; 8], [i, j, k, l, m]: [T; 5]) -> [T; 13] {
    [a, b, c, d, e, f, g, h, i, j, k, l, m]
}

fn timed(kernel: &KernelProfile, total: f64) -> [String; 8] {
    let us = kernel.time().unwrap_or(0.0);
    let share = if total > 0.0 { 100.0 * us / total } else { 0.0 };
    let percent = kernel.percent_of_bound;
    [
        kernel.name.clone(),
        kernel.launches.to_string(),
        micros(us),
        format!("{share:.1}"),
        bytes(kernel.bytes as f64),
        flops(kernel.flops as f64),
        kernel.bound.name().to_string(),
        percent.map_or("-".to_string(), |percent| format!("{percent:.0}")),
    ]
}

fn sum(plan: &PlanProfile) -> [String; 8] {
    [
        "total".to_string(),
        plan.launches.to_string(),
        micros(plan.time().unwrap_or(0.0)),
        "100.0".to_string(),
        bytes(plan.bytes as f64),
        flops(plan.flops as f64),
        "-".to_string(),
        "-".to_string(),
    ]
}

fn counted(minimal_bytes: u64, counts: &Simulated) -> [String; 5] {
    let ideal = counts.shared_wavefronts_ideal;
    let passes = match ideal {
        0 => "-".to_string(),
        _ => format!("{:.2}", counts.shared_wavefronts as f64 / ideal as f64),
    };
    [
        bytes(minimal_bytes as f64),
        flops(counts.executed_flops as f64),
        counts.instructions.to_string(),
        passes,
        counts.barriers.to_string(),
    ]
}

fn summary(profile: &Profile, unfusable: &[String]) -> String {
    let (fused, unfused) = (&profile.plans.fused, &profile.plans.unfused);
    let [of_fused, of_unfused] = [fused, unfused].map(|plan| plan.time().unwrap_or(0.0));
    let times = format!("{} us against {} us", micros(of_fused), micros(of_unfused));
    let moved = [fused, unfused].map(|plan| plan.bytes as f64);
    let rows = [
        [
            "launches".to_string(),
            format!("{} against {}", fused.launches, unfused.launches),
            ratio(fused.launches as f64, unfused.launches as f64),
        ],
        [
            if profile.modelled { "modelled time" } else { "time" }.to_string(),
            times,
            ratio(of_fused, of_unfused),
        ],
        [
            "bytes".to_string(),
            format!("{} against {}", bytes(moved[0]), bytes(moved[1])),
            ratio(moved[0], moved[1]),
        ],
    ];
    let heading = [
        ("", Align::Left),
        ("fused against unfused", Align::Left),
        ("ratio", Align::Right),
    ];
    let notes: String = unfusable.iter().map(|reason| format!("note: {reason}\n")).collect();
    table(heading, &rows) + &notes
}

fn ratio(fused: f64, unfused: f64) -> String {
    if unfused > 0.0 {
        format!("{:.2}", fused / unfused)
    } else {
        "-".to_string()
    }
}

/// A model's times can be short: to two digits at least.
fn micros(us: f64) -> String {
    let digits = match us {
        us if us >= 9.95 || us == 0.0 => 1,
        us if us >= 0.995 => 2,
        us if us >= 0.0995 => 3,
        _ => 4,
    };
    format!("{us:.digits$}")
}

fn bytes(value: f64) -> String {
    scaled(value, ["B", "kB", "MB", "GB", "TB"])
}

fn flops(value: f64) -> String {
    scaled(value, ["FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"])
}

/// In the largest unit that leaves at least 1, to three digits; each is 1000 of the one before.
fn scaled(value: f64, units: [&str; 5]) -> String {
    let (mut value, mut unit) = (value, 0);
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let digits = match value {
        value if value >= 99.95 || unit == 0 => 0,
        value if value >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.digits$} {}", units[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [0.0, 999.0, 1234.0, 56_789.0, 1e15].map(bytes),
            ["0 B", "999 B", "1.23 kB", "56.8 kB", "1000 TB"]
        );
        assert_eq!([0.0016, 1.5, 1234.56].map(micros), ["0.0016", "1.50", "1234.6"]);
        assert_eq!(flops(2.5e9), "2.50 GFLOP");
        assert_eq!(
            (ratio(1.0, 4.0), ratio(1.0, 0.0)),
            ("0.25".to_string(), "-".to_string())
        );
    }
}
