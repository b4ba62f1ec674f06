//! Finds what the combine of an attention can compute on its way: each head's columns contracted with a weight of that
//! head.
//!
//! It is always worth it. The parts of the splits are read once either way, and the attention's result is neither written
//! nor read again. The kernel needs no more of a part than the attention before it: a block of rows of the result, in steps
//! of the contraction.

use super::attention::{Found, with_first};
use crate::graph::{EinsumSpec, Graph, Op, ValueId};
use crate::plan::Projection;
use std::collections::BTreeMap;

/// A contraction that joins the combine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::plan) struct Projected {
    /// The attention's result, which it contracts.
    pub of: ValueId,
    pub projection: Projection,
}

/// Every contraction that can join the combine of one of `attentions`, by the value it makes, and a note for each
/// contraction of an attention's result that cannot.
pub(in crate::plan) fn projections(
    graph: &Graph,
    attentions: &BTreeMap<ValueId, Found>,
) -> (BTreeMap<ValueId, Projected>, Vec<String>) {
    let (mut found, mut notes) = (BTreeMap::new(), Vec::new());
    for &of in attentions.keys() {
        let is_contraction = |user: &ValueId| matches!(graph.node(*user).op, Op::Einsum(_));
        for user in graph.users(of).into_iter().filter(is_contraction) {
            match projection(graph, of, user) {
                Ok(projection) => {
                    found.insert(user, Projected { of, projection });
                }
                Err(reason) => {
                    let [user, of] = [user, of].map(|value| &graph.node(value).name);
                    notes.push(format!("`{user}` not fused with the combine of `{of}`: {reason}"));
                }
            }
        }
    }
    (found, notes)
}

fn projection(graph: &Graph, of: ValueId, user: ValueId) -> Result<Projection, String> {
    let name = |value: ValueId| &graph.node(value).name;
    if graph.sole_user(of).is_none() {
        return Err(format!("`{}` is needed elsewhere too", name(of)));
    }
    let Op::Einsum(spec) = &graph.node(user).op else {
        return Err("it is no contraction".to_string());
    };
    let Some((weight, labels)) = with_first(graph, user, spec, of) else {
        return Err(format!("both of its operands are `{}`", name(of)));
    };
    let Some(axes) = weight_axes(&labels) else {
        return Err(format!("it is {labels}, not b t h c, h v c -> b t h v"));
    };
    let types = [of, weight].map(|value| graph.ty(value).dtype);
    if types[0] != types[1] {
        return Err(format!(
            "`{}` is {}, `{}` is {}",
            name(of),
            types[0],
            name(weight),
            types[1]
        ));
    }
    Ok(Projection { weight, axes })
}

/// Which dimensions of the second operand are h, v and c in b t h c, h v c -> b t h v; `None` where the labels are others.
fn weight_axes(labels: &EinsumSpec) -> Option<[usize; 3]> {
    let EinsumSpec { a, b: weight, out } = labels;
    let ([b, t, h, c], [b_out, t_out, h_out, v]) = (a.as_slice(), out.as_slice()) else {
        return None;
    };
    let fits = [b, t, h] == [b_out, t_out, h_out] && weight.len() == 3 && v != c;
    let at = |label: &String| weight.iter().position(|other| other == label);
    fits.then_some([at(h)?, at(v)?, at(c)?])
}

#[cfg(test)]
mod tests;
