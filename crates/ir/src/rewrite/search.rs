//! The search for the cheapest form: the change that saves most, as long as one does, with a short look ahead.

use super::cost::graph_cost;
use super::{Cost, LEAST_GAIN, Machine, Outcome, RewriteError, Rule, Step};
use crate::graph::Graph;
use crate::size::Dims;

/// Changes that may come before one that saves, without saving anything themselves.
const LOOK_AHEAD: usize = 2;
/// Forms that are followed at each step of looking ahead, the cheapest.
const BREADTH: usize = 8;

/// What forms are compared by.
pub(super) struct Search<'a> {
    pub dims: &'a Dims,
    pub machine: &'a Machine,
    pub rules: &'a [Rule],
}

/// A form of the graph and the changes that led to it.
#[derive(Clone)]
pub(super) struct Form {
    pub graph: Graph,
    pub cost: Cost,
    pub steps: Vec<Step>,
}

impl Search<'_> {
    /// `graph` as it is.
    pub fn start(&self, graph: Graph) -> Result<Form, RewriteError> {
        let cost = graph_cost(&graph, self.dims, self.machine)?;
        Ok(Form {
            graph,
            cost,
            steps: Vec::new(),
        })
    }

    /// The form that costs least of those which the fewest changes make cheaper than `form`, if any do.
    pub fn improved(&self, form: &Form) -> Result<Option<Form>, RewriteError> {
        let mut level = vec![form.clone()];
        for _ in 0..=LOOK_AHEAD {
            let mut next = Vec::new();
            for form in &level {
                next.extend(self.changed(form)?);
            }
            // A stable sort: of forms that cost the same, the first found stays first. In f32, where a sum's rounding, which
            // differs from one machine to another, is no difference.
            next.sort_by(|a, b| (a.cost.seconds as f32).total_cmp(&(b.cost.seconds as f32)));
            match next.first() {
                Some(best) if best.cost.seconds < form.cost.seconds * (1.0 - LEAST_GAIN) => {
                    return Ok(Some(best.clone()));
                }
                Some(_) => {}
                None => return Ok(None),
            }
            level = Vec::new();
            for form in next {
                if level.len() < BREADTH && level.iter().all(|other: &Form| other.graph != form.graph) {
                    level.push(form);
                }
            }
        }
        Ok(None)
    }

    /// Every form that is one change away, in the rules' order.
    fn changed(&self, form: &Form) -> Result<Vec<Form>, RewriteError> {
        let mut forms = Vec::new();
        for &rule in self.rules {
            for finding in rule.find(&form.graph) {
                let Ok(change) = finding.change else { continue };
                let cost = graph_cost(&change.graph, self.dims, self.machine)?;
                let mut steps = form.steps.clone();
                steps.push(Step {
                    rule: rule.name(),
                    site: finding.site,
                    change: change.words,
                    before: form.cost,
                    after: cost,
                    outcome: Outcome::Applied,
                });
                forms.push(Form {
                    graph: change.graph,
                    cost,
                    steps,
                });
            }
        }
        Ok(forms)
    }

    /// What is not worth it in `form`: of the changes that a rule has for a place, the cheapest.
    pub fn rejected(&self, form: &Form) -> Result<Vec<Step>, RewriteError> {
        let start = Form {
            steps: Vec::new(),
            ..form.clone()
        };
        let mut steps: Vec<Step> = Vec::new();
        for step in self.changed(&start)?.into_iter().flat_map(|form| form.steps) {
            let same = steps.iter_mut().find(|s| (s.rule, &s.site) == (step.rule, &step.site));
            match same {
                Some(other) if step.after.seconds < other.after.seconds => *other = step,
                Some(_) => {}
                None => steps.push(step),
            }
        }
        for step in &mut steps {
            let times = step.after.seconds / step.before.seconds;
            let reason = match times {
                t if t >= 1.005 => format!("it would take {t:.2} times as long"),
                t if t > 1.0 + LEAST_GAIN => "it would take slightly longer".to_string(),
                _ => "it would gain nothing".to_string(),
            };
            step.outcome = Outcome::Rejected { reason };
        }
        Ok(steps)
    }

    /// What the rules cannot do in `form`, and why.
    pub fn refused(&self, form: &Form) -> Vec<Step> {
        let mut steps = Vec::new();
        for &rule in self.rules {
            for finding in rule.find(&form.graph) {
                let Err(reason) = finding.change else { continue };
                steps.push(Step {
                    rule: rule.name(),
                    site: finding.site,
                    change: String::new(),
                    before: form.cost,
                    after: form.cost,
                    outcome: Outcome::Refused { reason },
                });
            }
        }
        steps
    }
}
