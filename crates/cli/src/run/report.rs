//! What is told of a run.

use super::expect::{Judged, Verdict};
use super::kernels::{Summed, kernel_table, summed};
use super::{Args, Outcome, is_reference};
use crate::output::Report;
use anyhow::Result;
use mlafuse::{DeviceSpec, HostTensor};
use mlafuse_runtime::cpu_level;
use serde_json::{Value, json};

pub fn report(args: &Args, outcome: Outcome, verdict: Option<Verdict>) -> Result<Report> {
    let kernels = summed(&outcome.kernels);
    let device = args.device()?;
    let level = match device {
        DeviceSpec::Cpu => Some(cpu_level()?.name()),
        _ => None,
    };
    let mut text = format!("device {device}");
    if let Some(level) = level {
        text += &format!(" ({level})");
    }
    if !is_reference(args) {
        text += &format!(
            ", plan {}, {}, page size {}",
            args.plan.kind(),
            args.dtype.dtype(),
            args.page_size
        );
    }
    text.push('\n');
    let judged = |of: fn(&Verdict) -> &Option<Judged>| verdict.as_ref().and_then(|verdict| of(verdict).as_ref());
    let (prefill, decode) = (judged(|v| &v.prefill), judged(|v| &v.decode));
    text += &phase_line("prefill_out", &outcome.prefill, prefill);
    text += &outcome
        .decode
        .as_ref()
        .map_or_else(String::new, |out| phase_line("decode_out ", out, decode));
    if !kernels.is_empty() {
        text += &format!("\n{}", kernel_table(&kernels));
    }
    text += &format!("\nwrote {}\n", args.output.display());
    let within = verdict.as_ref().map(Verdict::is_within);
    let json = json!({
        "device": device.to_string(),
        "cpu_level": level,
        "plan": if is_reference(args) { Value::Null } else { args.plan.kind().to_string().into() },
        "dtype": if is_reference(args) { Value::Null } else { args.dtype.dtype().to_string().into() },
        "page_size": args.page_size,
        "output": args.output,
        "prefill": prefill.map(object),
        "decode": decode.map(object),
        "kernels": kernels.iter().map(Summed::object).collect::<Vec<_>>(),
        "within_tolerance": within,
        "notes": outcome.notes,
    });
    Ok(Report {
        text,
        json,
        mismatch: within == Some(false),
    })
}

fn phase_line(name: &str, out: &HostTensor, judged: Option<&Judged>) -> String {
    let Some(judged) = judged else {
        return format!("{name} {:?}\n", out.shape());
    };
    let comparison = &judged.comparison;
    let verdict = if judged.is_within() { "within" } else { "MORE THAN" };
    format!(
        "{name} {:?}: max-abs {:.2e}, rel-L2 {:.2e}, cosine {:.2e}; {verdict} {:.2e} ({})\n",
        out.shape(),
        comparison.max_abs,
        comparison.rel_l2,
        comparison.cosine_diff,
        judged.tolerance,
        judged.because
    )
}

fn object(judged: &Judged) -> Value {
    let comparison = &judged.comparison;
    json!({
        "max_abs": comparison.max_abs,
        "rel_l2": comparison.rel_l2,
        "cosine_diff": comparison.cosine_diff,
        "tolerance": judged.tolerance,
        "tolerance_from": judged.because,
    })
}
