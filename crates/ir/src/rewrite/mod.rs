//! Rewrites of a graph into one of the same meaning and lower modelled cost.
//!
//! Rules are general: they know ops and labels, not MLA. [`rewrite_with`] applies, while the cost falls, the change that
//! lowers it most; where none does it looks a few changes ahead. It says of every other place why it left it alone.

mod cast;
pub mod cost;
mod edit;
mod factor;
mod fold;
mod kernels;
mod merge;
mod norm;
mod reassociate;
mod report;
mod rope;
mod rule;
mod search;
mod split;

pub use cost::{Cost, CostError, Machine};
pub use rule::{Change, Finding, Rule};

use crate::graph::Graph;
use crate::size::{Dims, Symbol};
use crate::verify::{VerifyError, verify};
use edit::Edit;
use search::Search;

/// What became of one possible change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The graph has it.
    Applied,
    /// It is sound and would gain nothing.
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
    /// Cost with the change; the same as `before` where the rule does not apply. An applied step that makes way for the
    /// next may cost more.
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

/// Rewrites `graph` by [`Rule::LOAD`], once for launches of any size, so that all read the same weights.
///
/// What these rules save, kernels and traffic between them, they save in every launch. They are judged by a small one, in which
/// it shows.
///
/// # Errors
/// As [`rewrite_with`], for symbols other than B, T and S.
pub fn rewrite_weights(graph: &Graph, machine: &Machine) -> Result<Rewritten, RewriteError> {
    let small = [(Symbol::B, 1), (Symbol::T, 1), (Symbol::S, 4096)];
    rewrite_with(graph, &Dims::from_iter(small), machine, &Rule::LOAD)
}

/// Rewrites `graph` by [`Rule::LAUNCH`]: for launches of the sizes in `dims` on `machine`, with the weights as they are.
///
/// # Errors
/// As [`rewrite_with`].
pub fn rewrite(graph: &Graph, dims: &Dims, machine: &Machine) -> Result<Rewritten, RewriteError> {
    rewrite_with(graph, dims, machine, &Rule::LAUNCH)
}

/// Rewrites `graph` by `rules` for launches of the sizes in `dims` on `machine`.
///
/// The meaning is the same for every size; which form is cheapest is not: B, T and S must have the values that the
/// launches will have. Rules that come earlier win where changes cost the same. Nodes that no output or cache needs go.
///
/// # Errors
/// Where the graph is not sound, or a symbol that the cost depends on has no value.
pub fn rewrite_with(graph: &Graph, dims: &Dims, machine: &Machine, rules: &[Rule]) -> Result<Rewritten, RewriteError> {
    verify(graph)?;
    let search = Search { dims, machine, rules };
    let mut form = search.start(Edit::new(graph).finish())?;
    while let Some(better) = search.improved(&form)? {
        for step in &better.steps[form.steps.len()..] {
            tracing::debug!(before = %step.before, after = %step.after, change = step.change, "{}", step.rule);
        }
        form = better;
    }
    let rejected = search.rejected(&form)?;
    let refused = search.refused(&form);
    Ok(Rewritten {
        graph: form.graph,
        steps: [form.steps, rejected, refused].concat(),
    })
}
