//! Re-association of contractions: x·(y·z) becomes (x·y)·z or (x·z)·y.
//!
//! A contraction of a contraction is one sum of products of three operands, so any two of the three may be contracted
//! first: that result keeps the labels that the third operand or the outer result still needs. Weight absorption in MLA
//! is this rule on q_nope·(c·W_UK) and on p·(c·W_UV).

use super::edit::{Edit, other_need};
use super::rule::{Change, Finding};
use crate::graph::{EinsumSpec, Graph, Op, ValueId};
use std::collections::BTreeMap;

/// A contraction one of whose operands is itself a contraction that nothing else reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Site {
    outer: ValueId,
    /// Which operand of the outer contraction the inner one is, 0 or 1.
    operand: usize,
    inner: ValueId,
}

/// Every pair of contractions of which one feeds the other, in order of computation.
pub(super) fn find(graph: &Graph) -> Vec<Finding> {
    let constants = graph.constants();
    let mut found = Vec::new();
    for outer in graph.values() {
        if !matches!(graph.node(outer).op, Op::Einsum(_)) || constants[outer.0] {
            continue;
        }
        for operand in 0..graph.node(outer).args.len() {
            let Some((inner, site)) = site(graph, outer, operand) else {
                continue;
            };
            let names = [outer, inner];
            match site {
                Ok(site) => found.extend(
                    [0, 1]
                        .into_iter()
                        .filter_map(|first| Some(Finding::new(graph, &names, change(graph, &constants, site, first)?))),
                ),
                Err(reason) => found.push(Finding::new(graph, &names, Err(reason))),
            }
        }
    }
    found
}

/// The change that contracts operand `first` of the inner contraction with the outer one's other operand first.
fn change(graph: &Graph, constants: &[bool], site: Site, first: usize) -> Option<Result<Change, String>> {
    let other = *graph.node(site.outer).args.get(1 - site.operand)?;
    let moved = *graph.node(site.inner).args.get(first)?;
    if constants[other.0] && constants[moved.0] {
        let names = [moved, other].map(|value| graph.node(value).name.as_str());
        return Some(Err(format!(
            "`{}` and `{}` are weights, and their product would be another one in memory",
            names[0], names[1]
        )));
    }
    let next = reassociate(graph, site, first)?;
    Some(Ok(Change {
        words: describe(graph, site, first),
        graph: next,
    }))
}

/// The contraction behind one operand of another, if there is one, and whether the rule applies or why not.
fn site(graph: &Graph, outer: ValueId, operand: usize) -> Option<(ValueId, Result<Site, String>)> {
    let mut value = *graph.node(outer).args.get(operand)?;
    let mut between: Option<ValueId> = None;
    loop {
        let node = graph.node(value);
        match node.op {
            Op::Einsum(_) => break,
            Op::Scale { .. } | Op::Cast | Op::Slice { .. } | Op::ScaleRows => between = between.or(Some(value)),
            // Of several, the nearest that no other rule can move says most.
            Op::Rope { .. } | Op::RmsNorm { .. } | Op::Mask | Op::Softmax | Op::Add | Op::Mul => {
                between = between.filter(|&b| !moves(&graph.node(b).op)).or(Some(value));
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
    let site = Site { outer, operand, inner };
    Some((inner, reason.map_or(Ok(site), Err)))
}

/// Whether another rule may move the op out of the way.
fn moves(op: &Op) -> bool {
    matches!(op, Op::Scale { .. } | Op::Cast | Op::Slice { .. } | Op::ScaleRows)
}

/// Who else needs the inner result, so that rewriting would compute it twice.
fn other_readers(graph: &Graph, outer: ValueId, inner: ValueId) -> Option<String> {
    let name = &graph.node(inner).name;
    let both = graph.node(outer).args.iter().all(|&arg| arg == inner);
    other_need(graph, inner, outer)
        .or_else(|| both.then(|| format!("`{name}` is both operands of `{}`", graph.node(outer).name)))
}

fn why_blocked(graph: &Graph, outer: ValueId, operand: usize, between: ValueId, inner: ValueId) -> String {
    let node = graph.node(between);
    let why = match &node.op {
        Op::Rope { .. } => why_rope_blocks(graph, outer, operand, inner),
        Op::RmsNorm { .. } => "it divides each row by that row's own norm, which is not linear".to_string(),
        Op::Mask => "it replaces entries by -inf, which is not linear".to_string(),
        Op::Softmax => "it is not linear".to_string(),
        Op::Mul => "it weighs each element on its own".to_string(),
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

/// The graph with the outer contraction's other operand contracted first with operand `first` (0 or 1) of the inner one.
///
/// The outer node keeps its name and storage type; the new inner one has the old one's storage type and is named after
/// its operands. Each operand stays on the side of the outer contraction it was on.
fn reassociate(graph: &Graph, site: Site, first: usize) -> Option<Graph> {
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
    let (x_first, inner_args) = match site.operand {
        1 => (true, [values[0], y_value]),
        _ => (false, [y_value, values[0]]),
    };
    let (a, b) = if x_first { (x, y) } else { (y, x) };
    let inner_spec = EinsumSpec {
        a,
        b,
        out: joined.clone(),
    };
    let (a, b) = if x_first { (joined, z) } else { (z, joined) };
    let outer_spec = EinsumSpec { a, b, out };
    let mut edit = Edit::new(graph);
    let name = edit.joined_name(inner_args[0], inner_args[1]);
    let dtype = graph.ty(site.inner).dtype;
    let joined = edit.push(&name, Op::Einsum(inner_spec), &inner_args, dtype)?;
    let outer_args = if x_first { [joined, z_value] } else { [z_value, joined] };
    edit.set(site.outer, Op::Einsum(outer_spec), &outer_args)?;
    Some(edit.finish())
}

/// The new association in words, such as `scores = (q_nope · w_uk) · c`.
fn describe(graph: &Graph, site: Site, first: usize) -> String {
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

    fn refusals(graph: &Graph) -> Vec<String> {
        find(graph).into_iter().filter_map(|found| found.change.err()).collect()
    }

    #[test]
    fn labels_are_renamed_apart_and_keep_their_order() {
        let graph = absorbable();
        let changes: Vec<Change> = find(&graph).into_iter().filter_map(|found| found.change.ok()).collect();
        let words: Vec<&str> = changes.iter().map(|change| change.words.as_str()).collect();
        assert_eq!(words, ["s = (q · c) · w", "s = (q · w) · c"]);
        verify(&changes[1].graph).unwrap();
        // `n` of the inner contraction means another thing than the outer's `n`.
        let text = changes[1].graph.to_string();
        for line in [
            "%q_w = einsum \"b t h n, h n n2 -> b t h n2\" %q, %w : bf16[B, T, 4, 6]",
            "%s = einsum \"b t h n2, b s n2 -> b t h s\" %q_w, %c : f32[B, T, 4, S]",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn what_others_read_stays() {
        let mut graph = absorbable();
        graph.outputs.push(("k".into(), ValueId(3)));
        assert_eq!(refusals(&graph), ["`k` is also the output \"k\""]);
    }

    #[test]
    fn one_contraction_as_both_operands_stays() {
        let graph = parse(
            "graph g { %x = input \"x\" : f32[T, 8] %w = input \"w\" : f32[6, 8]
             %a = einsum \"t d, q d -> t q\" %x, %w : f32[T, 6]
             %y = einsum \"t q, t q -> t\" %a, %a : f32[T] output \"y\" %y }",
        )
        .unwrap();
        assert_eq!(
            refusals(&graph),
            ["`a` is both operands of `y`", "`a` is both operands of `y`"]
        );
    }

    #[test]
    fn weights_are_not_multiplied_with_each_other() {
        let graph = parse(
            "graph g { %x = input \"x\" : f32[T, 8] %v = weight \"v\" : f32[6, 8] %w = weight \"w\" : f32[5, 6]
             %a = einsum \"t d, q d -> t q\" %x, %v : f32[T, 6]
             %y = einsum \"t q, r q -> t r\" %a, %w : f32[T, 5] output \"y\" %y }",
        )
        .unwrap();
        let reason = "`v` and `w` are weights, and their product would be another one in memory";
        assert_eq!(refusals(&graph), [reason]);
    }

    #[test]
    fn what_stands_between_is_named() {
        let body = |between: &str| {
            let text = format!(
                "graph g {{ %x = input \"x\" : f32[B, T, 8] %v = input \"v\" : f32[6, 8] %w = input \"w\" : f32[5, 6]
                 %g = input \"g\" : f32[6] %r = input \"r\" : f32[B, T] %len = input \"len\" : i32[B]
                 %cos = input \"cos\" : f32[L, 3]
                 %a = einsum \"b t d, q d -> b t q\" %x, %v : f32[B, T, 6]
                 %n = {between} : f32[B, T, 6]
                 %m = scale factor=2.0 %n : f32[B, T, 6]
                 %y = einsum \"b t q, r q -> b t r\" %m, %w : f32[B, T, 5] output \"y\" %y }}"
            );
            refusals(&parse(&text).unwrap()).concat()
        };
        for (between, reason) in [
            (
                "rms_norm eps=1e-6 %a, %g",
                "`n` (rms_norm) stands between `y` and `a`: it divides each row by",
            ),
            (
                "mask %a, %len, %len",
                "`n` (mask) stands between `y` and `a`: it replaces entries by -inf",
            ),
            (
                "softmax %a",
                "`n` (softmax) stands between `y` and `a`: it is not linear",
            ),
            (
                "add %a, %g",
                "`n` (add) stands between `y` and `a`: it adds another value",
            ),
            (
                "mul %a, %g",
                "`n` (mul) stands between `y` and `a`: it weighs each element on its own",
            ),
            (
                "rope pairing=halves %a, %cos, %cos, %len, %len",
                "`n` (rope) stands between `y` and `a`: it depends on the token t, so `v` cannot move across it",
            ),
            (
                "scale_rows %a, %r",
                "`m` (scale) stands between `y` and `a`: the rule needs one contraction to read",
            ),
        ] {
            let found = body(between);
            assert!(found.starts_with(reason), "{found}");
        }
    }
}
