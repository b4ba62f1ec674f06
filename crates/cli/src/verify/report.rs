//! What is told of a property run.

use super::case::Case;
use super::judge::{Setup, Verdict};
use crate::output::{Align, Report, table};
use mlafuse::{DType, PlanKind, Splits};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// Failed cases that the text tells of.
const TOLD: usize = 8;

/// A case with its verdict.
pub struct Judged {
    pub case: Case,
    pub verdict: Verdict,
}

/// A case that failed.
pub struct Failure {
    /// Its number in the run.
    pub number: usize,
    /// The smallest failing one that was found from it, where that was looked for.
    pub smallest: Option<Judged>,
}

/// Everything that came of a run.
pub struct Summary {
    pub model: String,
    pub setup: Setup,
    /// `None` where one case was asked for by its text.
    pub seed: Option<u64>,
    pub budget: f64,
    pub judged: Vec<Judged>,
    /// All that failed.
    pub failures: Vec<Failure>,
    pub dumped: Vec<PathBuf>,
    pub took: Duration,
}

/// The command that runs a case again.
pub fn repeat(case: &Case, setup: &Setup) -> String {
    let plan = match setup.plan {
        PlanKind::Fused => String::new(),
        plan => format!(" --plan {plan}"),
    };
    let splits = match setup.splits {
        Splits::Balanced => String::new(),
        splits => format!(" --splits {splits}"),
    };
    format!(
        "mlafuse verify --model {} --case \"{case}\" --device {}{plan}{splits}",
        quoted(&case.model.to_string()),
        setup.device
    )
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    let mut word = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            word.push('\\');
        }
        word.push(c);
    }
    word + "\""
}

/// The case that came nearest to what is allowed, or furthest beyond it.
fn worst<'a>(judged: impl IntoIterator<Item = &'a Judged>) -> Option<&'a Judged> {
    let strain = |judged: &&Judged| (judged.verdict.fault.is_some(), judged.verdict.strain());
    judged.into_iter().max_by(|a, b| {
        let (a, b) = (strain(a), strain(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    })
}

fn nan_or_max(a: f64, b: f64) -> f64 {
    if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }
}

/// Cases, failed cases and the worst case of one type.
struct OfType<'a> {
    dtype: DType,
    cases: usize,
    failed: usize,
    /// The largest relative L2 error.
    largest: f64,
    worst: &'a Judged,
}

impl Summary {
    fn failed(&self) -> usize {
        self.judged
            .iter()
            .filter(|judged| judged.verdict.fault.is_some())
            .count()
    }

    fn by_type(&self) -> Vec<OfType<'_>> {
        let of_type = |dtype| {
            let cases: Vec<&Judged> = self.judged.iter().filter(|judged| judged.case.dtype == dtype).collect();
            Some(OfType {
                dtype,
                cases: cases.len(),
                failed: cases.iter().filter(|judged| judged.verdict.fault.is_some()).count(),
                largest: cases.iter().map(|judged| judged.verdict.rel_l2).fold(0.0, nan_or_max),
                worst: worst(cases)?,
            })
        };
        [DType::BF16, DType::F16, DType::F32]
            .into_iter()
            .filter_map(of_type)
            .collect()
    }

    /// In both forms.
    pub fn report(&self) -> Report {
        let failed = self.failed();
        Report {
            text: self.text(failed),
            json: self.json(failed),
            mismatch: failed > 0,
        }
    }

    fn text(&self, failed: usize) -> String {
        let seed = self.seed.map_or_else(String::new, |seed| format!(", seed {seed}"));
        let mut text = format!(
            "model {}, device {}, plan {}{seed}, at most {:.1e} operations a case\n{} cases, {failed} failed, {:.1} s\n\n",
            self.model,
            self.setup.device,
            self.setup.plan,
            self.budget,
            self.judged.len(),
            self.took.as_secs_f64(),
        );
        text += &self.types();
        if let Some(worst) = worst(&self.judged) {
            let Verdict { rel_l2, allowed, .. } = worst.verdict;
            text += &format!("\nworst case: rel-L2 {rel_l2:.2e}, allowed {allowed:.2e}\n");
            text += &format!("    {}\n", repeat(&worst.case, &self.setup));
        }
        let told = self.failures.iter().take(TOLD);
        told.for_each(|failure| text += &self.failure(failure));
        if self.failures.len() > TOLD {
            text += &format!(
                "\n{} more failed; --format json lists them\n",
                self.failures.len() - TOLD
            );
        }
        if let Some(folder) = self.dumped.first().and_then(|path| path.parent()) {
            text += &format!("\nwrote {} folders to {}\n", self.dumped.len(), folder.display());
        }
        text
    }

    fn types(&self) -> String {
        let heading = [
            ("dtype", Align::Left),
            ("cases", Align::Right),
            ("failed", Align::Right),
            ("largest rel-L2", Align::Right),
            ("nearest its limit", Align::Right),
            ("allowed", Align::Right),
        ];
        let row = |of: OfType<'_>| {
            [
                of.dtype.to_string(),
                of.cases.to_string(),
                of.failed.to_string(),
                format!("{:.2e}", of.largest),
                format!("{:.2e}", of.worst.verdict.rel_l2),
                format!("{:.2e}", of.worst.verdict.allowed),
            ]
        };
        table(heading, &self.by_type().into_iter().map(row).collect::<Vec<_>>())
    }

    fn failure(&self, failure: &Failure) -> String {
        let told = |judged: &Judged| {
            let fault = judged.verdict.fault.as_deref().unwrap_or("passed");
            format!("{fault}\n    {}\n", repeat(&judged.case, &self.setup))
        };
        let original = self.judged.get(failure.number).map(told).unwrap_or_default();
        let smallest = failure.smallest.as_ref().map(told);
        let smallest = smallest.map_or_else(String::new, |told| {
            format!("the smallest case that fails so far: {told}")
        });
        format!("\nFAILED, case {}: {original}{smallest}", failure.number)
    }

    fn json(&self, failed: usize) -> Value {
        let by_type = |of: OfType<'_>| {
            json!({
                "dtype": of.dtype.to_string(),
                "cases": of.cases,
                "failed": of.failed,
                "largest_rel_l2": of.largest,
                "worst": self.object(of.worst),
            })
        };
        let failure = |failure: &Failure| {
            json!({
                "case": failure.number,
                "found": self.judged.get(failure.number).map(|judged| self.object(judged)),
                "smallest": failure.smallest.as_ref().map(|judged| self.object(judged)),
            })
        };
        json!({
            "model": self.model,
            "device": self.setup.device.to_string(),
            "plan": self.setup.plan.to_string(),
            "seed": self.seed,
            "budget_flops": self.budget,
            "cases": self.judged.len(),
            "failed": failed,
            "worst": worst(&self.judged).map(|judged| self.object(judged)),
            "dtypes": self.by_type().into_iter().map(by_type).collect::<Vec<_>>(),
            "failures": self.failures.iter().map(failure).collect::<Vec<_>>(),
            "dumped": self.dumped,
            "seconds": self.took.as_secs_f64(),
        })
    }

    /// An error that is no number is null.
    fn object(&self, judged: &Judged) -> Value {
        json!({
            "rel_l2": judged.verdict.rel_l2,
            "allowed": judged.verdict.allowed,
            "plain": judged.verdict.plain,
            "fault": judged.verdict.fault,
            "repeat": repeat(&judged.case, &self.setup),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::shape::Model;
    use super::*;
    use mlafuse::DeviceSpec;

    fn judged(text: &str, rel_l2: f64, fault: Option<&str>) -> Judged {
        let model = Model::parse("heads=2,d_model=8").unwrap();
        Judged {
            case: Case::parse(text, model).unwrap(),
            verdict: Verdict {
                rel_l2,
                allowed: 1e-4,
                plain: None,
                fault: fault.map(str::to_string),
            },
        }
    }

    #[test]
    fn failures_are_told_with_the_commands_that_repeat_them() {
        let setup = Setup {
            device: DeviceSpec::Cpu,
            plan: PlanKind::Unfused,
            splits: "fixed:32".parse().unwrap(),
        };
        let summary = Summary {
            model: "heads=2,d_model=8".to_string(),
            setup,
            seed: Some(4),
            budget: 1e6,
            judged: vec![
                judged("dtype=f32,steps=1", 9e-5, None),
                judged("dtype=f32,steps=9:4", f64::NAN, Some("not finite")),
                judged("dtype=bf16,steps=2", 2e-5, Some("a wrong token")),
            ],
            failures: vec![
                Failure {
                    number: 1,
                    smallest: Some(judged("dtype=f32,steps=2", 0.5, Some("rel-L2 5e-1"))),
                },
                Failure {
                    number: 2,
                    smallest: None,
                },
            ],
            dumped: Vec::new(),
            took: Duration::ZERO,
        };
        let Report { text, json, mismatch } = summary.report();
        assert!(mismatch);
        for words in [
            "3 cases, 2 failed",
            "FAILED, case 1: not finite",
            "fails so far: rel-L2 5e-1",
            "--case \"dtype=f32,page=64,steps=2,input=normal,seed=0\" --device cpu --plan unfused --splits fixed:32",
            "FAILED, case 2: a wrong token",
        ] {
            assert!(text.contains(words), "`{words}` is not in: {text}");
        }
        assert_eq!((json["cases"].as_u64(), json["failed"].as_u64()), (Some(3), Some(2)));
        // The worst case is one that failed, and NaN is worse than any number.
        assert_eq!(json["worst"]["fault"], "not finite");
        assert!(json["worst"]["rel_l2"].is_null());
        assert_eq!(json["failures"][0]["smallest"]["rel_l2"], 0.5);
        assert!(json["failures"][1]["smallest"].is_null());
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("heads=1,d_model=4"), "\"heads=1,d_model=4\"");
        assert_eq!(quoted("a $b \"c\""), "\"a \\$b \\\"c\\\"\"");
    }
}
