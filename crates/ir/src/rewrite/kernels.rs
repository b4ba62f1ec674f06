//! Which nodes share a kernel, as the cost model sees it: what fusion is expected to join, told from the graph alone.

use crate::graph::{EinsumSpec, Graph, Op, ValueId};
use std::collections::BTreeSet;

/// For each value, the node that names the kernel which makes it; `None` for what no kernel makes.
///
/// No kernel makes inputs, views and what follows from weights alone: that is made once, at load. One kernel makes
/// - attention: a softmax, the scores before it, the contraction that sums over its last dimension, and what projects the
///   result of each head after that where the heads share their values;
/// - a cache's new rows with the norm or rope of each part of them;
/// - a contraction with what follows it element by element or multiplies each head with a weight of its own, and the row
///   norms of its operands that this needs.
pub(super) fn kernels(graph: &Graph) -> Vec<Option<ValueId>> {
    let constants = graph.constants();
    let mut kernels: Vec<Option<ValueId>> = graph
        .values()
        .map(|value| (!constants[value.0] && !is_view(&graph.node(value).op)).then_some(value))
        .collect();
    let mut taken = BTreeSet::new();
    for softmax in graph.values().filter(|&value| graph.node(value).op == Op::Softmax) {
        let Some((nodes, sum)) = attention(graph, softmax) else {
            continue;
        };
        taken.extend(nodes.iter().chain([&sum]).copied());
        nodes.iter().for_each(|node| kernels[node.0] = Some(sum));
        let projection = graph.users(sum).first().copied();
        if let Some(projection) = projection.filter(|&reader| {
            let private = graph.sole_user(sum).is_some() && !taken.contains(&reader);
            private && shares_values(graph, sum) && is_of_each_head(graph, &constants, reader)
        }) {
            taken.insert(projection);
            kernels[projection.0] = Some(sum);
        }
    }
    for write in graph.values().filter(|&value| graph.node(value).op == Op::CacheWrite) {
        for node in on_the_way(graph, write) {
            taken.insert(node);
            kernels[node.0] = Some(write);
        }
    }
    for value in graph.values().filter(|value| !taken.contains(value)) {
        if let Some(kernel) = followed(graph, &kernels, &taken, &constants, value) {
            kernels[value.0] = Some(kernel);
        }
    }
    for value in graph.values() {
        if let Some(kernel) = norm_reader(graph, &kernels, value) {
            kernels[value.0] = Some(kernel);
        }
    }
    kernels
}

/// Whether the op only says where its argument's elements are: cached rows are read where they lie.
pub(super) fn is_view(op: &Op) -> bool {
    matches!(op, Op::Input { .. } | Op::Slice { .. } | Op::Reshape | Op::CacheRead)
}

/// The nodes of an attention before its last one, and that: a softmax whose weights one contraction sums over, with what
/// makes the scores.
fn attention(graph: &Graph, softmax: ValueId) -> Option<(Vec<ValueId>, ValueId)> {
    let mut nodes = vec![softmax];
    let mut weights = softmax;
    let sum = loop {
        let reader = graph.sole_user(weights)?;
        match &graph.node(reader).op {
            Op::Cast => nodes.push(reader),
            Op::Einsum(spec) if sums_last(spec, graph, reader, weights) => break reader,
            _ => return None,
        }
        weights = reader;
    };
    let mut open = vec![*graph.node(softmax).args.first()?];
    while let Some(value) = open.pop() {
        let node = graph.node(value);
        graph.sole_user(value)?;
        match (&node.op, node.args.as_slice()) {
            (Op::Einsum(spec), _) if has_queries(spec) => {}
            (Op::Mask | Op::Scale { .. } | Op::Cast, [x, ..]) => open.push(*x),
            (Op::Add, [a, b]) if graph.ty(*a).shape == graph.ty(*b).shape => open.extend([a, b]),
            _ => return None,
        }
        nodes.push(value);
    }
    Some((nodes, sum))
}

/// Whether one operand has a row for each row of the scores: the planner joins no others.
fn has_queries(spec: &EinsumSpec) -> bool {
    let rows = spec.out.len().saturating_sub(1);
    let queries = |labels: &[String]| labels.len() == rows + 1 && labels.starts_with(&spec.out[..rows]);
    queries(&spec.a) || queries(&spec.b)
}

/// Whether the attention whose last node is `sum` has fewer values than rows of weights, so that it is split over them and
/// combined by a kernel of its own.
pub(super) fn shares_values(graph: &Graph, sum: ValueId) -> bool {
    match &graph.node(sum).op {
        Op::Einsum(spec) => spec.a.len().min(spec.b.len()) < spec.out.len(),
        _ => false,
    }
}

/// Whether `value` multiplies the rows of its first argument with a weight that differs from head to head.
fn is_of_each_head(graph: &Graph, constants: &[bool], value: ValueId) -> bool {
    let (Op::Einsum(spec), &[_, weight]) = (&graph.node(value).op, graph.node(value).args.as_slice()) else {
        return false;
    };
    let rows = spec.a.len().saturating_sub(1);
    let keeps_rows = spec.out.len() == rows + 1 && spec.out.starts_with(&spec.a[..rows]);
    let heads = spec.a[..rows].iter().any(|label| spec.b.contains(label));
    constants[weight.0] && keeps_rows && heads
}

/// Whether a contraction sums over the last dimension of `weights`, one of its operands, and keeps the others.
fn sums_last(spec: &EinsumSpec, graph: &Graph, einsum: ValueId, weights: ValueId) -> bool {
    let (of, other) = match graph.node(einsum).args.as_slice() {
        [a, b] if *a == weights && *b != weights => (&spec.a, &spec.b),
        [a, b] if *b == weights && *a != weights => (&spec.b, &spec.a),
        _ => return false,
    };
    of.split_last().is_some_and(|(last, rows)| {
        let keeps_rows = spec.out.len() == of.len() && spec.out.starts_with(rows);
        other.contains(last) && !spec.out.contains(last) && keeps_rows
    })
}

/// What a cache write computes of its new rows itself.
fn on_the_way(graph: &Graph, write: ValueId) -> Vec<ValueId> {
    let args = &graph.node(write).args;
    let parts = args.get(1..args.len().saturating_sub(3)).unwrap_or_default();
    let joins = |value: &ValueId| matches!(graph.node(*value).op, Op::RmsNorm { .. } | Op::Rope { .. });
    let joined = parts
        .iter()
        .filter(|value| joins(value) && graph.sole_user(**value).is_some());
    joined.copied().collect()
}

/// The contraction's kernel that `value` can be computed in, where it works row by row on what that makes and nothing else
/// reads it before.
fn followed(
    graph: &Graph,
    kernels: &[Option<ValueId>],
    taken: &BTreeSet<ValueId>,
    constants: &[bool],
    value: ValueId,
) -> Option<ValueId> {
    let node = graph.node(value);
    let base = alone_shown(graph, *node.args.first()?)?;
    let fits = match (&node.op, node.args.get(1)) {
        (Op::Scale { .. } | Op::Cast | Op::Rope { .. }, _) => true,
        (Op::Add | Op::Mul, Some(other)) => constants[other.0],
        (Op::ScaleRows, Some(&rows)) => !graph.depends_on(rows, base),
        (Op::Einsum(_), _) => is_of_each_head(graph, constants, value),
        _ => false,
    };
    let kernel = kernels[base.0]?;
    let contracts = matches!(graph.node(kernel).op, Op::Einsum(_)) && !taken.contains(&kernel);
    (fits && contracts).then_some(kernel)
}

/// The value that `value` is or shows elements of, where one node alone reads `value`.
fn alone_shown(graph: &Graph, mut value: ValueId) -> Option<ValueId> {
    let mut views = 0;
    while let (Op::Slice { .. } | Op::Reshape, [from]) = (&graph.node(value).op, graph.node(value).args.as_slice()) {
        graph.sole_user(value)?;
        views += 1;
        value = *from;
    }
    // The other parts of what a view is cut from may go elsewhere.
    (views > 0 || graph.sole_user(value).is_some()).then_some(value)
}

/// The contraction's kernel that reads the rows of an inverse norm anyway and alone needs it.
fn norm_reader(graph: &Graph, kernels: &[Option<ValueId>], value: ValueId) -> Option<ValueId> {
    let (Op::InvRms { .. }, [rows]) = (&graph.node(value).op, graph.node(value).args.as_slice()) else {
        return None;
    };
    let users = graph.users(value);
    let kernel = kernels[users.first()?.0]?;
    let alone = !graph.is_output(value) && users.iter().all(|user| kernels[user.0] == Some(kernel));
    let node = graph.node(kernel);
    let contracts = matches!(node.op, Op::Einsum(_)) && node.args.contains(rows);
    (alone && contracts).then_some(kernel)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;

    /// Each node that a kernel makes, with the node that names the kernel.
    fn made(body: &str) -> Vec<(String, String)> {
        let graph = parse(&format!("graph g {{ {body} }}")).unwrap();
        let name = |value: ValueId| graph.node(value).name.clone();
        let made = graph.values().zip(kernels(&graph));
        made.filter_map(|(value, kernel)| Some((name(value), name(kernel?))))
            .collect()
    }

    fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
        of.iter().map(|&(a, b)| (a.to_string(), b.to_string())).collect()
    }

    #[test]
    fn what_follows_a_contraction_joins_it() {
        let body = "%x = input \"x\" : f32[B, T, 8] %w = weight \"w\" : f32[6, 8] %g = weight \"g\" : f32[8]
            %cos = input \"cos\" : f32[L, 2] %len = input \"len\" : i32[B]
            %wg = mul %w, %g : f32[6, 8] %r = inv_rms eps=1e-6 %x : f32[B, T]
            %y = einsum \"b t d, q d -> b t q\" %x, %wg : f32[B, T, 6] %s = scale_rows %y, %r : f32[B, T, 6]
            %a = slice axis=2 start=0 len=2 %s : f32[B, T, 2] %b = slice axis=2 start=2 len=4 %s : f32[B, T, 4]
            %pe = rope pairing=halves %b, %cos, %cos, %len, %len : f32[B, T, 4]
            output \"a\" %a output \"pe\" %pe";
        assert_eq!(made(body), pairs(&[("r", "y"), ("y", "y"), ("s", "y"), ("pe", "y")]));
        // What others need before keeps the two apart.
        let body = format!("{body} output \"b\" %b output \"r\" %r");
        assert_eq!(made(&body), pairs(&[("r", "r"), ("y", "y"), ("s", "y"), ("pe", "pe")]));
    }

    #[test]
    fn a_factor_that_waits_for_the_result_is_another_kernel() {
        let body = "%x = input \"x\" : f32[T, 8] %w = weight \"w\" : f32[6, 8]
            %y = einsum \"t d, q d -> t q\" %x, %w : f32[T, 6] %r = inv_rms eps=1e-6 %y : f32[T]
            %s = scale_rows %y, %r : f32[T, 6] output \"s\" %s";
        assert_eq!(made(body), pairs(&[("y", "y"), ("r", "r"), ("s", "s")]));
    }

    #[test]
    fn attention_is_one_kernel_where_nothing_else_reads_the_scores() {
        let body = "%q = input \"q\" : bf16[B, T, 4, 8] %k = input \"k\" : bf16[B, S, 8] %len = input \"len\" : i32[B]
            %x = einsum \"b t h c, b s c -> b t h s\" %q, %k : f32[B, T, 4, S]
            %m = mask %x, %len, %len : f32[B, T, 4, S] %p = softmax %m : bf16[B, T, 4, S]
            %o = einsum \"b t h s, b s c -> b t h c\" %p, %k : bf16[B, T, 4, 8] output \"o\" %o";
        assert_eq!(made(body), pairs(&[("x", "o"), ("m", "o"), ("p", "o"), ("o", "o")]));
        let body = format!("{body} output \"p\" %p");
        assert_eq!(made(&body), pairs(&[("x", "x"), ("m", "m"), ("p", "p"), ("o", "o")]));
    }

    #[test]
    fn each_heads_weight_joins_the_kernel_before_it() {
        let body = "%x = input \"x\" : f32[B, T, 8] %k = input \"k\" : f32[B, S, 6] %w = weight \"w\" : f32[4, 2, 8]
            %u = weight \"u\" : f32[4, 2, 6] %v = weight \"v\" : f32[4, 3, 6]
            %y = einsum \"b t d, h n d -> b t h n\" %x, %w : f32[B, T, 4, 2]
            %q = einsum \"b t h n, h n c -> b t h c\" %y, %u : f32[B, T, 4, 6]
            %s = einsum \"b t h c, b s c -> b t h s\" %q, %k : f32[B, T, 4, S] %p = softmax %s : f32[B, T, 4, S]
            %z = einsum \"b t h s, b s c -> b t h c\" %p, %k : f32[B, T, 4, 6]
            %o = einsum \"b t h c, h v c -> b t h v\" %z, %v : f32[B, T, 4, 3] output \"o\" %o";
        assert_eq!(
            made(body),
            pairs(&[("y", "y"), ("q", "y"), ("s", "z"), ("p", "z"), ("z", "z"), ("o", "z")])
        );
    }

    #[test]
    fn scores_without_a_query_for_each_row_are_in_memory() {
        let body = "%x = input \"x\" : f32[B, T, 8] %k = input \"k\" : f32[B, S, 4, 8] %v = input \"v\" : f32[B, S, 6]
            %s = einsum \"b t d, b s h d -> b t h s\" %x, %k : f32[B, T, 4, S] %p = softmax %s : f32[B, T, 4, S]
            %z = einsum \"b t h s, b s c -> b t h c\" %p, %v : f32[B, T, 4, 6] output \"z\" %z";
        assert_eq!(made(body), pairs(&[("s", "s"), ("p", "p"), ("z", "z")]));
    }

    #[test]
    fn a_cache_write_makes_its_rows() {
        let body = "%x = input \"x\" : f32[B, T, 8] %g = weight \"g\" : f32[8] %cache = input \"cache\" : f32[N, 4, 8]
            %table = input \"table\" : i32[B, P] %len = input \"len\" : i32[B]
            %n = rms_norm eps=1e-6 %x, %g : f32[B, T, 8]
            %new = cache_write %cache, %n, %table, %len, %len : f32[N, 4, 8] output \"new\" %new";
        assert_eq!(made(body), pairs(&[("n", "new"), ("new", "new")]));
        let scaled = body.replace(
            "%new = cache_write %cache, %n",
            "%s = scale factor=2.0 %n : f32[B, T, 8] %new = cache_write %cache, %s",
        );
        assert_eq!(made(&scaled), pairs(&[("n", "n"), ("s", "s"), ("new", "new")]));
    }
}
