//! Rewrites of a graph into one of the same meaning and lower modelled cost.
//!
//! Rules are general: they know ops and labels, not MLA. [`rewrite`] applies, while the cost falls, the change that
//! lowers it most, and says of every other place why it left it alone.

pub mod cost;
pub mod reassociate;

pub use cost::{Cost, CostError, Machine};

use crate::graph::Graph;
use crate::size::Dims;
use crate::verify::{VerifyError, verify};
use cost::graph_cost;
use reassociate::{describe, reassociate, sites};
use std::fmt::Write;

/// What became of one possible change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The graph has it.
    Applied,
    /// It is sound and would cost more.
    Rejected {
        /// Why, in words.
        reason: String,
    },
    /// It would change the meaning, or the rule cannot express it.
    Refused {
        /// Why, in words, with the names of the nodes in the way.
        reason: String,
    },
}

/// One possible change and what became of it. Costs are the whole graph's.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The rule's name.
    pub rule: &'static str,
    /// Names of the nodes it is about, the reader first.
    pub site: Vec<String>,
    /// The new form in words, such as `scores = (q_nope · w_uk) · c`; empty where the rule does not apply.
    pub change: String,
    /// Cost without the change.
    pub before: Cost,
    /// Cost with the change; the same as `before` where the rule does not apply.
    pub after: Cost,
    /// What became of it.
    pub outcome: Outcome,
}

/// A rewritten graph and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Rewritten {
    /// The graph after all applied steps.
    pub graph: Graph,
    /// Applied steps in order, then what was rejected or refused.
    pub steps: Vec<Step>,
}

/// Why a graph could not be rewritten.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// The graph is not sound.
    #[error("the graph is not sound: {0}")]
    Graph(#[from] VerifyError),
    /// The cost depends on a symbol without a value.
    #[error(transparent)]
    Cost(#[from] CostError),
}

/// A gain below this part of the cost is rounding.
const LEAST_GAIN: f64 = 1e-9;

/// A change that could be made.
struct Proposal {
    site: Vec<String>,
    change: String,
    graph: Graph,
    after: Cost,
}

/// Rewrites `graph` for launches of the sizes in `dims` on `machine`.
///
/// The meaning is the same for every size; which form is cheapest is not: B, T and S must have the values that the
/// launches will have.
pub fn rewrite(graph: &Graph, dims: &Dims, machine: &Machine) -> Result<Rewritten, RewriteError> {
    verify(graph)?;
    let mut graph = graph.clone();
    let mut steps = Vec::new();
    loop {
        let before = graph_cost(&graph, dims, machine)?;
        let mut proposals = proposals(&graph, dims, machine)?;
        let best = proposals
            .iter()
            .enumerate()
            .min_by(|(_, p), (_, q)| p.after.seconds.total_cmp(&q.after.seconds));
        match best.map(|(index, proposal)| (index, proposal.after)) {
            Some((index, after)) if after.seconds < before.seconds * (1.0 - LEAST_GAIN) => {
                let Proposal {
                    site,
                    change,
                    graph: next,
                    after,
                } = proposals.swap_remove(index);
                tracing::debug!(%before, %after, change, "reassociated");
                steps.push(Step {
                    rule: RULE,
                    site,
                    change,
                    before,
                    after,
                    outcome: Outcome::Applied,
                });
                graph = next;
            }
            _ => {
                steps.extend(proposals.into_iter().map(|p| rejected(p, before)));
                steps.extend(refused(&graph, before));
                return Ok(Rewritten { graph, steps });
            }
        }
    }
}

const RULE: &str = "reassociate";

/// The cheaper of the two associations at each site where the rule applies.
fn proposals(graph: &Graph, dims: &Dims, machine: &Machine) -> Result<Vec<Proposal>, RewriteError> {
    let mut proposals = Vec::new();
    for site in sites(graph).into_iter().flatten() {
        let mut best: Option<Proposal> = None;
        for first in [0, 1] {
            let Some(next) = reassociate(graph, site, first) else {
                continue;
            };
            let after = graph_cost(&next, dims, machine)?;
            if best.as_ref().is_none_or(|best| after.seconds < best.after.seconds) {
                let names = [site.outer, site.inner].map(|value| graph.node(value).name.clone());
                let change = describe(graph, site, first);
                best = Some(Proposal {
                    site: names.to_vec(),
                    change,
                    graph: next,
                    after,
                });
            }
        }
        proposals.extend(best);
    }
    Ok(proposals)
}

fn rejected(proposal: Proposal, before: Cost) -> Step {
    let Proposal {
        site, change, after, ..
    } = proposal;
    let times = after.seconds / before.seconds;
    let reason = match times {
        t if t > 1.0 + LEAST_GAIN => format!("it would take {t:.2} times as long"),
        _ => "it would gain nothing".to_string(),
    };
    Step {
        rule: RULE,
        site,
        change,
        before,
        after,
        outcome: Outcome::Rejected { reason },
    }
}

fn refused(graph: &Graph, cost: Cost) -> Vec<Step> {
    let blocked = sites(graph).into_iter().filter_map(Result::err);
    let step = |blocked: reassociate::Blocked| Step {
        rule: RULE,
        site: [blocked.outer, blocked.inner]
            .map(|value| graph.node(value).name.clone())
            .to_vec(),
        change: String::new(),
        before: cost,
        after: cost,
        outcome: Outcome::Refused { reason: blocked.reason },
    };
    blocked.map(step).collect()
}

impl Rewritten {
    /// The steps as comment lines and then the graph: a text that [`crate::text::parse()`] reads.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            // Writing to a String cannot fail.
            let _ = step.write_comment(&mut text);
        }
        text + &self.graph.to_string()
    }
}

impl Step {
    fn write_comment(&self, text: &mut String) -> std::fmt::Result {
        write!(text, "# {} {}: ", self.rule, self.site.join(", "))?;
        match &self.outcome {
            Outcome::Applied => {
                writeln!(text, "applied, {}", self.change)?;
                writeln!(text, "#   {}", self.before)?;
                writeln!(text, "#   -> {}", self.after)
            }
            Outcome::Rejected { reason } => {
                writeln!(text, "rejected, {}: {reason}", self.change)?;
                writeln!(text, "#   -> {}", self.after)
            }
            Outcome::Refused { reason } => writeln!(text, "refused, {reason}"),
        }
    }
}
