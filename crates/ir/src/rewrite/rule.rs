//! The rules, and what they find.

use super::{cast, factor, fold, merge, norm, reassociate, rope, split};
use crate::graph::{Graph, ValueId};

/// One kind of change. Rules know ops and labels, and nothing of costs: each names every place where it could change a
/// graph, and every place that looks like one where it cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// x·(y·z) becomes (x·y)·z or (x·z)·y.
    Reassociate,
    /// Contractions that share an operand become one.
    Merge,
    /// A contraction read in slices becomes one for each slice, and back.
    Split,
    /// A norm before contractions becomes a factor of their rows after them.
    NormRows,
    /// A factor, of all or of each row, moves past its neighbours.
    MoveFactor,
    /// A rope and a slice or concatenation of heads change places.
    MoveRope,
    /// A constant factor goes into a weight.
    FoldFactor,
    /// Casts that say nothing go.
    DropCast,
}

impl Rule {
    /// What makes new weights of those there are, at load, once for every launch of whatever size.
    pub const LOAD: [Rule; 3] = [Rule::FoldFactor, Rule::NormRows, Rule::Merge];
    /// What leaves the weights in memory as they are: the form may differ from one size of launch to another.
    pub const LAUNCH: [Rule; 5] = [
        Rule::Reassociate,
        Rule::Split,
        Rule::MoveFactor,
        Rule::MoveRope,
        Rule::DropCast,
    ];

    /// The word for it in messages.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Reassociate => "reassociate",
            Rule::Merge => "merge",
            Rule::Split => "split",
            Rule::NormRows => "norm_rows",
            Rule::MoveFactor => "move_factor",
            Rule::MoveRope => "move_rope",
            Rule::FoldFactor => "fold_factor",
            Rule::DropCast => "drop_cast",
        }
    }

    /// Every place in `graph` (sound, as [`crate::verify::verify`] says) that the rule is about.
    pub fn find(self, graph: &Graph) -> Vec<Finding> {
        match self {
            Rule::Reassociate => reassociate::find(graph),
            Rule::Merge => merge::find(graph),
            Rule::Split => split::find(graph),
            Rule::NormRows => norm::find(graph),
            Rule::MoveFactor => factor::find(graph),
            Rule::MoveRope => rope::find(graph),
            Rule::FoldFactor => fold::find(graph),
            Rule::DropCast => cast::find(graph),
        }
    }
}

/// A place that a rule is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Names of the nodes it is about.
    pub site: Vec<String>,
    /// What the rule can do there, or why it cannot, in words with the names of the nodes in the way.
    pub change: Result<Change, String>,
}

/// A change that keeps the meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The new form in words, such as `scores = (q_nope · w_uk) · c`.
    pub words: String,
    /// The graph with it.
    pub graph: Graph,
}

impl Finding {
    /// What a rule found at the nodes `site`.
    pub(super) fn new(graph: &Graph, site: &[ValueId], change: Result<Change, String>) -> Finding {
        Finding {
            site: site.iter().map(|&value| graph.node(value).name.clone()).collect(),
            change,
        }
    }
}
