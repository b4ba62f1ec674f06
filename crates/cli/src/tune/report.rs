//! What is told of a search.

use super::Args;
use crate::output::{Align, Report, table};
use anyhow::Result;
use mlafuse_runtime::Identity;
use mlafuse_tune::{Candidate, Judge, Outcome, Tuned};
use serde_json::{Value, json};
use std::path::Path;

pub fn report(args: &Args, judge: &dyn Judge, tuned: &[Tuned], file: &Path) -> Result<Report> {
    let modelled = judge.is_exact();
    let left: usize = tuned.iter().map(|tuned| tuned.left).sum();
    let undecided = tuned.iter().filter(|tuned| tuned.choice.is_none()).count();
    let mut text = heading(args, &judge.identity(), modelled) + &kernels(tuned, modelled);
    text += &summary(tuned, left, undecided);
    text += &format!("records: {}\n", file.display());
    let records = tuned.iter().map(|tuned| record(tuned, modelled));
    let json = json!({
        "records": records.collect::<Result<Vec<Value>, _>>()?,
        "file": file,
        "model": args.model,
        "budget_s": args.budget.as_secs_f64(),
        "judged": tuned.iter().map(|tuned| tuned.judged).sum::<usize>(),
        "not_judged": left,
        "undecided": undecided,
    });
    Ok(Report::new(text, json))
}

fn heading(args: &Args, identity: &Identity, modelled: bool) -> String {
    let Identity {
        part,
        instructions,
        threads,
        ..
    } = identity;
    let (model, phase, dtype) = (&args.model, args.phase.name(), args.dtype.dtype());
    if modelled {
        return format!(
            "{model} {phase} in {dtype} for {part} ({instructions}): modelled, not measured; \
             what the model makes of each schedule's registers and traffic\n"
        );
    }
    format!(
        "{model} {phase} in {dtype} on {part}, {instructions}, {threads} threads\n\
         us: medians of launches of one kernel alone, in turn with its own schedule\n"
    )
}

fn kernels(tuned: &[Tuned], modelled: bool) -> String {
    let heading = [
        ("kernel", Align::Left),
        ("launches", Align::Left),
        (if modelled { "own us modelled" } else { "own us" }, Align::Right),
        (if modelled { "tuned us modelled" } else { "tuned us" }, Align::Right),
        ("ratio", Align::Right),
        ("schedule", Align::Left),
        ("tried", Align::Right),
        ("failed", Align::Right),
        ("left", Align::Right),
    ];
    let rows: Vec<[String; 9]> = tuned.iter().map(row).collect();
    table(heading, &rows)
}

fn row(tuned: &Tuned) -> [String; 9] {
    let none = || "-".to_string();
    let [own_us, tuned_us, ratio, schedule] = match &tuned.choice {
        None => [none(), none(), none(), "not decided".to_string()],
        Some(choice) if !choice.is_gain() => {
            let us = micros(choice.default_us);
            [us.clone(), us, "1.00".to_string(), "its own".to_string()]
        }
        Some(choice) => [
            micros(choice.default_us),
            micros(choice.tuned_us),
            format!("{:.2}", choice.tuned_us / choice.default_us),
            choice.schedule.to_string(),
        ],
    };
    [
        tuned.key.kernel.clone(),
        tuned.key.bucket(),
        own_us,
        tuned_us,
        ratio,
        schedule,
        tuned.candidates.len().to_string(),
        failed(&tuned.candidates).to_string(),
        tuned.left.to_string(),
    ]
}

fn micros(us: f64) -> String {
    format!("{us:.1}")
}

fn failed(candidates: &[Candidate]) -> usize {
    let fails = |candidate: &&Candidate| matches!(candidate.outcome, Outcome::Fails { .. });
    candidates.iter().filter(fails).count()
}

fn summary(tuned: &[Tuned], left: usize, undecided: usize) -> String {
    let faster = tuned
        .iter()
        .filter_map(|tuned| tuned.choice)
        .filter(|choice| choice.is_gain());
    let judged: usize = tuned.iter().map(|tuned| tuned.judged).sum();
    let tried: usize = tuned.iter().map(|tuned| tuned.candidates.len()).sum();
    let mut text = format!(
        "{} of {} are faster than under their own schedule; {judged} schedules judged now, {} known from records\n",
        faster.count(),
        tuned.len(),
        tried - judged
    );
    if left > 0 || undecided > 0 {
        text += &format!(
            "out of time: {left} schedules not judged, {undecided} of {} not decided; the same command goes on there\n",
            tuned.len()
        );
    }
    text
}

fn record(tuned: &Tuned, modelled: bool) -> Result<Value, serde_json::Error> {
    let choice = tuned.choice.as_ref();
    let schedule = choice.map(|choice| json!({ "schedule": choice.schedule.to_string(), "own": !choice.is_gain() }));
    Ok(json!({
        "key": serde_json::to_value(&tuned.key)?,
        "chosen": schedule,
        "default_us": choice.map(|choice| choice.default_us),
        "tuned_us": choice.map(|choice| choice.tuned_us),
        "modelled": modelled,
        "candidates": serde_json::to_value(&tuned.candidates)?,
        "not_judged": tuned.left,
    }))
}
