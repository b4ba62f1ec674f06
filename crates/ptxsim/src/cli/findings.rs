//! Findings as text and as JSON.

use ptxsim::launch_file::LaunchFile;
use ptxsim::trial::Finding;
use serde_json::{Value, json};

/// Each finding with the instruction that it names.
pub fn text(findings: &[Finding], launch: &LaunchFile) -> String {
    findings.iter().map(|finding| one(finding, launch)).collect()
}

fn one(finding: &Finding, launch: &LaunchFile) -> String {
    let report = &finding.report;
    let address = report
        .address
        .map_or(String::new(), |address| format!(", address {address:#x}"));
    let allocation = match (&report.allocation, report.ptx_line) {
        (Some(name), 1..) => format!(" ({name})"),
        _ => String::new(),
    };
    let instruction = launch
        .ptx_line(report.ptx_line)
        .map_or(String::new(), |line| format!("\n    {} | {line}", report.ptx_line));
    format!("{report}{address}{allocation}{instruction}\n    {}\n", finding.trial)
}

pub fn json(findings: &[Finding]) -> Vec<Value> {
    findings
        .iter()
        .map(|finding| {
            let report = &finding.report;
            json!({
                "checker": report.checker,
                "message": finding.message(),
                "kernel": report.kernel,
                "ptx_line": report.ptx_line,
                "source": report.source,
                "block": report.block,
                "thread": report.thread,
                "address": report.address,
                "allocation": report.allocation,
                "schedule": finding.trial.schedule.to_string(),
                "async": finding.trial.asynchrony.to_string(),
            })
        })
        .collect()
}
