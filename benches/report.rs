//! What a comparison with peers shows: a table for people, and JSON.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde::Serialize;

use crate::{Limits, Work};

/// A case, timed.
#[derive(Clone, Debug)]
pub struct Compared {
    /// The case's name.
    pub name: &'static str,
    /// What one repetition must do.
    pub work: Work,
    /// Our median.
    pub ours_ms: f64,
    /// The peers' medians.
    pub peers_ms: BTreeMap<&'static str, f64>,
    /// How far their results are from ours.
    pub rel_l2: BTreeMap<&'static str, f64>,
    /// What they are.
    pub versions: BTreeMap<&'static str, String>,
    /// Why others could not be timed.
    pub unavailable: BTreeMap<&'static str, String>,
}

/// All cases of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    machine: String,
    limits: Limits,
    cases: Vec<Figures>,
}

/// A case as it is told.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    name: &'static str,
    ours_ms: f64,
    /// `None` of a peer that could not be timed.
    peers_ms: BTreeMap<&'static str, Option<f64>>,
    /// Their time / ours.
    ratios: BTreeMap<&'static str, f64>,
    gflops: f64,
    gbs: f64,
    percent_of_limit: f64,
    /// Which one: amx, amx / 6 (of f32), fma or read.
    limit: &'static str,
    percent_of_compute: f64,
    percent_of_read: f64,
    rel_l2: BTreeMap<&'static str, f64>,
    versions: BTreeMap<&'static str, String>,
    unavailable: BTreeMap<&'static str, String>,
}

impl Figures {
    fn new(compared: Compared, limits: &Limits) -> Figures {
        let Compared {
            name,
            work,
            ours_ms,
            peers_ms,
            rel_l2,
            versions,
            unavailable,
        } = compared;
        let (limit, bound_ms) = limits.bound(work);
        let nobody = unavailable.keys().map(|name| (*name, None));
        Figures {
            name,
            ours_ms,
            ratios: peers_ms.iter().map(|(name, ms)| (*name, ms / ours_ms)).collect(),
            peers_ms: peers_ms
                .into_iter()
                .map(|(name, ms)| (name, Some(ms)))
                .chain(nobody)
                .collect(),
            gflops: work.flops as f64 / ours_ms / 1e6,
            gbs: work.bytes as f64 / ours_ms / 1e6,
            percent_of_limit: 100.0 * bound_ms / ours_ms,
            limit,
            percent_of_compute: 100.0 * limits.compute(work).1 / ours_ms,
            percent_of_read: 100.0 * limits.read(work) / ours_ms,
            rel_l2,
            versions,
            unavailable,
        }
    }

    /// Columns of the table; `peers` are those of all cases.
    fn cells(&self, peers: &[&str]) -> Vec<String> {
        let ours = [
            self.name.to_string(),
            format!("{:.2}", self.ours_ms),
            format!("{:.0}", self.gflops),
            format!("{:.1}", self.gbs),
            format!("{:.0} %", self.percent_of_compute),
            format!("{:.0} %", self.percent_of_read),
        ];
        let theirs = peers
            .iter()
            .map(|peer| match (self.peers_ms.get(peer), self.ratios.get(peer)) {
                (Some(Some(ms)), Some(ratio)) => format!("{ms:.2} ({ratio:.2} x)"),
                (Some(_), _) => "unavailable".to_string(),
                (None, _) => "-".to_string(),
            });
        let furthest = self.rel_l2.values().copied().fold(0.0, f64::max);
        ours.into_iter()
            .chain(theirs)
            .chain([format!("{furthest:.1e}")])
            .collect()
    }
}

impl Report {
    /// Holds the cases to the limits of their run.
    pub fn new(machine: String, limits: Limits, compared: Vec<Compared>) -> Report {
        Report {
            cases: compared
                .into_iter()
                .map(|compared| Figures::new(compared, &limits))
                .collect(),
            machine,
            limits,
        }
    }

    /// In Markdown.
    pub fn table(&self) -> String {
        let peers = self.peers();
        let heads = ["case", "ours, ms", "GFLOP/s", "GB/s", "of its unit", "of read"];
        let theirs = peers.iter().map(|peer| format!("{peer}, ms"));
        let heads: Vec<String> = heads
            .map(String::from)
            .into_iter()
            .chain(theirs)
            .chain(["rel-L2".into()])
            .collect();
        let rule = (0..heads.len())
            .map(|column| if column == 0 { "---".into() } else { "---:".into() })
            .collect();
        let cells = self.cases.iter().map(|case| case.cells(&peers));
        let lines: Vec<String> = [heads, rule]
            .into_iter()
            .chain(cells)
            .map(|cells| line(&cells))
            .collect();
        let amx = self
            .limits
            .amx_gflops
            .map_or("no AMX".to_string(), |amx| format!("AMX {amx:.0} GFLOP/s"));
        let Limits {
            fma_gflops, read_gbs, ..
        } = self.limits;
        format!(
            "{}. Limits of this run: {amx}, f32 multiply-adds {fma_gflops:.0} GFLOP/s, memory read {read_gbs:.1} GB/s.\n\
             Medians of alternating runs; in brackets the peer's time / ours. The unit is AMX where there is one\n\
             (for f32 six of its products for one), else f32 multiply-adds. rel-L2: of the peer furthest from our result.\n\n\
             {}{}",
            self.machine,
            lines.concat(),
            self.notes(),
        )
    }

    fn peers(&self) -> Vec<&'static str> {
        let mut peers = Vec::new();
        for peer in self.cases.iter().flat_map(|case| case.peers_ms.keys()) {
            if !peers.contains(peer) {
                peers.push(*peer);
            }
        }
        peers
    }

    /// The peers' versions, and why some are missing. They may differ from case to case.
    fn notes(&self) -> String {
        let versions = self.cases.iter().flat_map(|case| &case.versions);
        let versions: BTreeSet<_> = versions.collect();
        let missing = self.cases.iter().flat_map(|case| &case.unavailable);
        let missing: BTreeSet<_> = missing.collect();
        let versions = versions.iter().map(|(peer, version)| format!("{peer}: {version}\n"));
        let missing = missing
            .iter()
            .map(|(peer, why)| format!("{peer} is unavailable: {why}\n"));
        format!("\n{}{}", versions.collect::<String>(), missing.collect::<String>())
    }

    /// That everybody did the same work.
    ///
    /// # Errors
    /// Names the cases and peers whose results are further than `tolerance` from ours.
    pub fn check(&self, tolerance: f64) -> Result<()> {
        // NaN is not near.
        let near = |rel_l2: f64| rel_l2 <= tolerance;
        let far = |case: &Figures| {
            let far = case.rel_l2.iter().filter(|(_, rel_l2)| !near(**rel_l2));
            let far = far.map(|(peer, rel_l2)| format!("{}: {peer} is {rel_l2:.2e} from ours", case.name));
            far.collect::<Vec<_>>()
        };
        let far: Vec<String> = self.cases.iter().flat_map(far).collect();
        match far.as_slice() {
            [] => Ok(()),
            far => bail!("results differ by more than {tolerance}: {}", far.join("; ")),
        }
    }
}

fn line(cells: &[String]) -> String {
    format!("| {} |\n", cells.join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse::DType;

    const LIMITS: Limits = Limits {
        amx_gflops: Some(4000.0),
        fma_gflops: 200.0,
        read_gbs: 20.0,
    };

    fn compared(name: &'static str, version: &str) -> Compared {
        Compared {
            name,
            work: Work {
                flops: 8_000_000_000,
                bytes: 1_000_000,
                dtype: DType::BF16,
            },
            ours_ms: 4.0,
            peers_ms: BTreeMap::from([("pytorch", 10.0)]),
            rel_l2: BTreeMap::from([("pytorch", 0.01)]),
            versions: BTreeMap::from([("pytorch", version.to_string())]),
            unavailable: BTreeMap::from([("vllm", "not installed".to_string())]),
        }
    }

    fn report() -> Report {
        let cases = [compared("a case", "torch 2 (mm)"), compared("another", "torch 2 (bmm)")];
        Report::new("a machine".into(), LIMITS, cases.into())
    }

    #[test]
    fn a_table_says_who_is_faster_and_who_is_missing() {
        let table = report().table();
        let row = "| a case | 4.00 | 2000 | 0.2 | 50 % | 1 % | 10.00 (2.50 x) | unavailable | 1.0e-2 |";
        assert!(table.contains(row), "{table}");
        let notes = "\npytorch: torch 2 (bmm)\npytorch: torch 2 (mm)\nvllm is unavailable: not installed\n";
        assert!(table.ends_with(notes), "{table}");
    }

    #[test]
    fn json_has_the_names_of_the_contract() {
        let json = serde_json::to_value(report()).unwrap();
        let case = &json["cases"][0];
        assert_eq!(json["limits"]["amx_gflops"], 4000.0);
        assert_eq!(
            (case["ours_ms"].as_f64(), case["gflops"].as_f64()),
            (Some(4.0), Some(2000.0))
        );
        assert_eq!(
            (&case["peers_ms"]["pytorch"], &case["percent_of_limit"]),
            (&10.0.into(), &50.0.into())
        );
        assert!(case["peers_ms"]["vllm"].is_null() && case["peers_ms"].get("vllm").is_some());
        assert_eq!(case["gbs"], 0.25);
    }

    #[test]
    fn different_work_is_refused() {
        assert!(report().check(0.01).is_ok());
        let error = report().check(0.009).unwrap_err().to_string();
        assert!(error.contains("a case: pytorch is 1.00e-2 from ours"), "{error}");
    }
}
