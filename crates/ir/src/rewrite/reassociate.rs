//! Re-association of contractions: x·(y·z) becomes (x·y)·z or (x·z)·y.
//!
//! A contraction of a contraction is one sum of products of three operands, so any two of the three may be contracted
//! first: that result keeps the labels that the third operand or the outer result still needs. Weight absorption in MLA
//! is this rule on q_nope·(c·W_UK) and on p·(c·W_UV).

use crate::build::unique_name;
use crate::graph::{EinsumSpec, Graph, Node, Op, Ty, ValueId};
use crate::size::Dim;
use std::collections::BTreeMap;

/// A contraction one of whose operands is itself a contraction that nothing else reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The outer contraction.
    pub outer: ValueId,
    /// Which of its operands the inner one is, 0 or 1.
    pub operand: usize,
    /// The inner contraction.
    pub inner: ValueId,
}

/// A contraction that feeds another, but not in a way this rule can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The outer contraction.
    pub outer: ValueId,
    /// The contraction it gets an operand from.
    pub inner: ValueId,
    /// Why the rule does not apply, in words.
    pub reason: String,
}

/// Every pair of contractions of which one feeds the other, in order of computation, with whether the rule applies.
pub fn sites(graph: &Graph) -> Vec<Result<Site, Blocked>> {
    let mut found = Vec::new();
    for outer in graph.values() {
        if !matches!(graph.node(outer).op, Op::Einsum(_)) {
            continue;
        }
        for operand in 0..graph.node(outer).args.len() {
            found.extend(site(graph, outer, operand));
        }
    }
    found
}

/// The contraction behind one operand of another, if there is one.
fn site(graph: &Graph, outer: ValueId, operand: usize) -> Option<Result<Site, Blocked>> {
    let mut value = *graph.node(outer).args.get(operand)?;
    let mut between: Option<ValueId> = None;
    loop {
        let node = graph.node(value);
        match node.op {
            Op::Einsum(_) => break,
            Op::Scale { .. } | Op::Cast => between = between.or(Some(value)),
            // Of several, the nearest that is more than a factor says most.
            Op::Rope { .. } | Op::RmsNorm { .. } | Op::Mask | Op::Softmax | Op::Add | Op::Mul | Op::ScaleRows => {
                between = between.filter(|&b| !is_factor(&graph.node(b).op)).or(Some(value));
            }
            _ => return None,
        }
        value = *node.args.first()?;
    }
    let inner = value;
    let reason = match between {
        Some(between) => Some(why_blocked(graph, outer, operand, between, inner)),
        None => other_readers(graph, outer, inner),
    };
    Some(match reason {
        Some(reason) => Err(Blocked { outer, inner, reason }),
        None => Ok(Site { outer, operand, inner }),
    })
}

fn is_factor(op: &Op) -> bool {
    matches!(op, Op::Scale { .. } | Op::Cast)
}

/// Who else needs the inner result, so that rewriting would compute it twice.
fn other_readers(graph: &Graph, outer: ValueId, inner: ValueId) -> Option<String> {
    let name = &graph.node(inner).name;
    if let Some((output, _)) = graph.outputs.iter().find(|&&(_, value)| value == inner) {
        return Some(format!("`{name}` is also the output \"{output}\""));
    }
    if let Some(other) = graph.users(inner).into_iter().find(|&user| user != outer) {
        return Some(format!("`{name}` is also read by `{}`", graph.node(other).name));
    }
    let both = graph.node(outer).args.iter().all(|&arg| arg == inner);
    both.then(|| format!("`{name}` is both operands of `{}`", graph.node(outer).name))
}

fn why_blocked(graph: &Graph, outer: ValueId, operand: usize, between: ValueId, inner: ValueId) -> String {
    let node = graph.node(between);
    let why = match &node.op {
        Op::Rope { .. } => why_rope_blocks(graph, outer, operand, inner),
        Op::RmsNorm { .. } => "it divides each row by that row's own norm, which is not linear".to_string(),
        Op::Mask => "it replaces entries by -inf, which is not linear".to_string(),
        Op::Softmax => "it is not linear".to_string(),
        Op::Mul => "it weighs each element on its own".to_string(),
        Op::ScaleRows => "it weighs each row on its own".to_string(),
        Op::Add => "it adds another value, and the rule does not distribute over sums".to_string(),
        _ => "the rule needs one contraction to read the other directly".to_string(),
    };
    let (outer, inner) = (&graph.node(outer).name, &graph.node(inner).name);
    format!(
        "`{}` ({}) stands between `{outer}` and `{inner}`: {why}",
        node.name,
        node.op.word()
    )
}

/// A rotation depends on the token, which is dimension 1 of all it passes through; operands of the inner contraction
/// that do not have the token cannot take it with them.
fn why_rope_blocks(graph: &Graph, outer: ValueId, operand: usize, inner: ValueId) -> String {
    let (Op::Einsum(outer_spec), Op::Einsum(spec)) = (&graph.node(outer).op, &graph.node(inner).op) else {
        return String::new();
    };
    let seen = if operand == 0 { &outer_spec.a } else { &outer_spec.b };
    let token = seen.get(1).map_or("", String::as_str);
    let without: Vec<String> = [&spec.a, &spec.b]
        .into_iter()
        .zip(&graph.node(inner).args)
        .filter(|(labels, _)| spec.out.get(1).is_some_and(|l| !labels.contains(l)))
        .map(|(_, &arg)| format!("`{}`", graph.node(arg).name))
        .collect();
    let what = if without.is_empty() {
        "neither operand".to_string()
    } else {
        without.join(" and ")
    };
    let modal = if without.is_empty() { "can" } else { "cannot" };
    format!("it depends on the token {token}, so {what} {modal} move across it")
}

/// The three operands of a site with labels that mean the same everywhere.
struct Triple {
    /// The outer contraction's other operand, and the inner one's two.
    values: [ValueId; 3],
    labels: [Vec<String>; 3],
    out: Vec<String>,
}

/// Gives the inner contraction's labels the outer one's names, and its summed labels names that the outer lacks.
fn triple(graph: &Graph, site: Site) -> Option<Triple> {
    let (outer, inner) = (graph.node(site.outer), graph.node(site.inner));
    let (Op::Einsum(outer_spec), Op::Einsum(spec)) = (&outer.op, &inner.op) else {
        return None;
    };
    let (seen, other) = match site.operand {
        0 => (&outer_spec.a, &outer_spec.b),
        _ => (&outer_spec.b, &outer_spec.a),
    };
    let mut names: BTreeMap<&str, String> = BTreeMap::new();
    for (label, name) in spec.out.iter().zip(seen) {
        names.insert(label, name.clone());
    }
    let mut taken: Vec<String> = outer_spec.labels().cloned().collect();
    for label in spec.labels().filter(|l| !spec.out.contains(l)) {
        let numbered = (2..).map(|n| format!("{label}{n}"));
        let name = std::iter::once(label.clone())
            .chain(numbered)
            .find(|name| !taken.contains(name))?;
        taken.push(name.clone());
        names.insert(label, name);
    }
    let renamed = |list: &[String]| list.iter().filter_map(|l| names.get(l.as_str()).cloned()).collect();
    let &[y, z] = inner.args.as_slice() else { return None };
    Some(Triple {
        values: [*outer.args.get(1 - site.operand.min(1))?, y, z],
        labels: [other.clone(), renamed(&spec.a), renamed(&spec.b)],
        out: outer_spec.out.clone(),
    })
}

/// The labels of x·y that are still needed, in x's order; y's own stand where x's first dropped label stood, so that
/// `b t h n` times `h n c` gives `b t h c`.
fn kept_labels(x: &[String], y: &[String], needed: impl Fn(&String) -> bool) -> Vec<String> {
    let new: Vec<String> = y.iter().filter(|l| !x.contains(l) && needed(l)).cloned().collect();
    let place = x.iter().position(|l| !needed(l)).unwrap_or(x.len());
    let kept = |part: &[String]| part.iter().filter(|l| needed(l)).cloned().collect::<Vec<_>>();
    [kept(&x[..place]), new, kept(&x[place..])].concat()
}

/// The graph with the outer contraction's other operand contracted first with operand `first` (0 or 1) of the inner
/// one; `None` where `site` is not a site of `graph`.
///
/// The outer node keeps its name and storage type; the new inner one has the old one's storage type and is named after
/// its operands.
pub fn reassociate(graph: &Graph, site: Site, first: usize) -> Option<Graph> {
    let Triple {
        values,
        labels: [x, y, z],
        out,
    } = triple(graph, site)?;
    let ((y, y_value), (z, z_value)) = match first {
        0 => ((y, values[1]), (z, values[2])),
        _ => ((z, values[2]), (y, values[1])),
    };
    let joined = kept_labels(&x, &y, |label| z.contains(label) || out.contains(label));
    let shape = joined
        .iter()
        .map(|label| dim_of(graph, label, [(&x, values[0]), (&y, y_value)]));
    let shape: Vec<Dim> = shape.collect::<Option<_>>()?;
    // Each operand stays on the side of the outer contraction it was on.
    let (inner_spec, inner_args, outer_spec) = if site.operand == 1 {
        let spec = EinsumSpec {
            a: x,
            b: y,
            out: joined.clone(),
        };
        (spec, [values[0], y_value], EinsumSpec { a: joined, b: z, out })
    } else {
        let spec = EinsumSpec {
            a: y,
            b: x,
            out: joined.clone(),
        };
        (spec, [y_value, values[0]], EinsumSpec { a: z, b: joined, out })
    };
    let old = graph.node(site.inner);
    let name = inner_args.map(|arg| graph.node(arg).name.as_str()).join("_");
    let ty = Ty {
        dtype: old.ty.dtype,
        shape,
    };
    let joined = Node {
        name: unique_name(&graph.nodes, &name),
        op: Op::Einsum(inner_spec),
        args: inner_args.to_vec(),
        ty,
    };
    Some(replaced(graph, site, joined, outer_spec, z_value))
}

fn dim_of(graph: &Graph, label: &String, operands: [(&Vec<String>, ValueId); 2]) -> Option<Dim> {
    operands.into_iter().find_map(|(labels, value)| {
        let place = labels.iter().position(|l| l == label)?;
        graph.ty(value).shape.get(place).copied()
    })
}

/// The graph without the old inner node, with `joined` just before the outer node, which reads `joined` and `rest`.
fn replaced(graph: &Graph, site: Site, joined: Node, outer_spec: EinsumSpec, rest: ValueId) -> Graph {
    let mut result = Graph {
        name: graph.name.clone(),
        ..Graph::default()
    };
    let mut moved = vec![ValueId(0); graph.nodes.len()];
    for value in graph.values().filter(|&value| value != site.inner) {
        let mut node = graph.node(value).clone();
        if value == site.outer {
            let mut joined = joined.clone();
            joined.args.iter_mut().for_each(|arg| *arg = moved[arg.0]);
            result.nodes.push(joined);
            let joined = ValueId(result.nodes.len() - 1);
            node.op = Op::Einsum(outer_spec.clone());
            node.args = if site.operand == 1 {
                vec![joined, moved[rest.0]]
            } else {
                vec![moved[rest.0], joined]
            };
        } else {
            node.args.iter_mut().for_each(|arg| *arg = moved[arg.0]);
        }
        moved[value.0] = ValueId(result.nodes.len());
        result.nodes.push(node);
    }
    result.outputs = graph
        .outputs
        .iter()
        .map(|(name, value)| (name.clone(), moved[value.0]))
        .collect();
    result
}

/// The new association in words, such as `scores = (q_nope · w_uk) · c`.
pub fn describe(graph: &Graph, site: Site, first: usize) -> String {
    let name = |value: ValueId| graph.node(value).name.as_str();
    let (outer, inner) = (graph.node(site.outer), graph.node(site.inner));
    let (x, moved, rest) = (outer.args[1 - site.operand], inner.args[first], inner.args[1 - first]);
    match site.operand {
        1 => format!("{} = ({} · {}) · {}", outer.name, name(x), name(moved), name(rest)),
        _ => format!("{} = {} · ({} · {})", outer.name, name(rest), name(moved), name(x)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;
    use crate::verify::verify;

    fn absorbable() -> Graph {
        parse(
            "graph g { %q = input \"q\" : bf16[B, T, 4, 8] %c = input \"c\" : bf16[B, S, 6]
             %w = input \"w\" : bf16[4, 8, 6]
             %k = einsum \"b t n, h q n -> b t h q\" %c, %w : bf16[B, S, 4, 8]
             %s = einsum \"b t h n, b s h n -> b t h s\" %q, %k : f32[B, T, 4, S] output \"s\" %s }",
        )
        .unwrap()
    }

    #[test]
    fn labels_are_renamed_apart_and_keep_their_order() {
        let graph = absorbable();
        let found = sites(&graph);
        let Ok(site) = found[0] else { panic!("{found:?}") };
        assert_eq!(describe(&graph, site, 1), "s = (q · w) · c");
        let rewritten = reassociate(&graph, site, 1).unwrap();
        verify(&rewritten).unwrap();
        // `n` of the inner contraction means another thing than the outer's `n`.
        let text = rewritten.to_string();
        assert!(
            text.contains("%q_w = einsum \"b t h n, h n n2 -> b t h n2\" %q, %w : bf16[B, T, 4, 6]"),
            "{text}"
        );
        assert!(
            text.contains("%s = einsum \"b t h n2, b s n2 -> b t h s\" %q_w, %c : f32[B, T, 4, S]"),
            "{text}"
        );
    }

    #[test]
    fn what_others_read_stays() {
        let mut graph = absorbable();
        graph.outputs.push(("k".into(), ValueId(3)));
        let blocked = sites(&graph).remove(0).unwrap_err();
        assert_eq!(blocked.reason, "`k` is also the output \"k\"");
    }

    #[test]
    fn a_norm_between_is_named() {
        let graph = parse(
            "graph g { %x = input \"x\" : f32[T, 8] %v = input \"v\" : f32[6, 8] %w = input \"w\" : f32[5, 6]
             %g = input \"g\" : f32[6]
             %a = einsum \"t d, q d -> t q\" %x, %v : f32[T, 6]
             %n = rms_norm eps=1e-6 %a, %g : f32[T, 6]
             %m = scale factor=2.0 %n : f32[T, 6]
             %y = einsum \"t q, r q -> t r\" %m, %w : f32[T, 5] output \"y\" %y }",
        )
        .unwrap();
        let blocked = sites(&graph).remove(0).unwrap_err();
        assert!(
            blocked.reason.starts_with("`n` (rms_norm) stands between `y` and `a`"),
            "{}",
            blocked.reason
        );
    }
}
