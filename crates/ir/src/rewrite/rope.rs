//! A rope and a slice or concatenation of its rows change places: of whole heads, as heads of one token turn alike. Batch and
//! tokens tell the positions, and the last dimension holds the pairs; along those nothing moves.

use super::edit::{Edit, adjacent, other_need};
use super::rule::{Change, Finding};
use super::split::slices;
use crate::graph::{Graph, Op, ValueId};
use crate::size::Dim;

/// Every rope of which slices are read, every pair of ropes of neighbouring slices, and every concatenation of two ropes.
pub(super) fn find(graph: &Graph) -> Vec<Finding> {
    let is_rope = |value: &ValueId| matches!(graph.node(*value).op, Op::Rope { .. });
    let ropes: Vec<ValueId> = graph.values().filter(is_rope).collect();
    let mut found = Vec::new();
    for (index, &rope) in ropes.iter().enumerate() {
        let sliced = |&user: &ValueId| matches!(graph.node(user).op, Op::Slice { .. });
        if graph.users(rope).iter().any(sliced) {
            found.push(Finding::new(graph, &[rope], apart(graph, rope)));
        }
        for &other in &ropes[index + 1..] {
            let pairs = [[rope, other], [other, rope]];
            let fits = |pair: &[ValueId; 2]| Some((*pair, neighbours(graph, *pair)?));
            if let Some((pair, axis)) = pairs.iter().find_map(fits) {
                let change = alike(graph, pair).and_then(|()| together(graph, pair, axis));
                found.push(Finding::new(graph, &pair, change));
            }
        }
    }
    for value in graph.values() {
        if let (&Op::Concat { axis }, &[a, b]) = (&graph.node(value).op, graph.node(value).args.as_slice())
            && is_rope(&a)
            && is_rope(&b)
        {
            let change = alike(graph, [a, b]).and_then(|()| behind_concat(graph, value, axis, [a, b]));
            found.push(Finding::new(graph, &[value, a, b], change));
        }
    }
    found
}

/// What a rope turns.
fn turned(graph: &Graph, rope: ValueId) -> ValueId {
    graph.node(rope).args[0]
}

/// A rope's arguments with `x` turned.
fn with_turned(graph: &Graph, rope: ValueId, x: ValueId) -> Vec<ValueId> {
    [&[x], &graph.node(rope).args[1..]].concat()
}

/// Whether rows can be cut or put together along `axis` on either side of `rope`.
fn is_of_heads(graph: &Graph, rope: ValueId, axis: usize) -> Result<(), String> {
    let name = &graph.node(rope).name;
    match axis {
        0 | 1 => Err(format!("dimension {axis} tells the positions of `{name}`")),
        _ if axis + 1 == graph.ty(rope).shape.len() => Err(format!("dimension {axis} holds the pairs of `{name}`")),
        _ => Ok(()),
    }
}

/// Whether two ropes turn alike, by the same angles, to the same type.
fn alike(graph: &Graph, [a, b]: [ValueId; 2]) -> Result<(), String> {
    let [first, second] = [a, b].map(|value| graph.node(value));
    let types = [a, b].map(|value| (graph.ty(value).dtype, graph.ty(turned(graph, value)).dtype));
    match first.op == second.op && first.args[1..] == second.args[1..] && types[0] == types[1] {
        true => Ok(()),
        false => Err(format!("`{}` and `{}` do not turn alike", first.name, second.name)),
    }
}

/// A rope of each slice in the place of the slices of a rope.
fn apart(graph: &Graph, rope: ValueId) -> Result<Change, String> {
    let slices = slices(graph, rope)?;
    let (node, x) = (graph.node(rope), turned(graph, rope));
    let mut edit = Edit::new(graph);
    for slice in &slices {
        is_of_heads(graph, rope, slice.axis)?;
        let op = Op::Slice {
            axis: slice.axis,
            start: slice.start,
            len: slice.len,
        };
        let name = edit.joined_name(x, slice.value);
        let misfit = || format!("`{}` does not fit before `{}`", graph.node(slice.value).name, node.name);
        let part = edit.push(&name, op, &[x], graph.ty(x).dtype).ok_or_else(misfit)?;
        let args = with_turned(graph, rope, part);
        edit.set(slice.value, node.op.clone(), &args).ok_or_else(misfit)?;
    }
    let names: Vec<&str> = slices
        .iter()
        .map(|slice| graph.node(slice.value).name.as_str())
        .collect();
    Ok(Change {
        words: format!("{} turn slices of {}", names.join(" and "), graph.node(x).name),
        graph: edit.finish(),
    })
}

/// The dimension along which what two ropes turn are neighbouring slices of one value.
fn neighbours(graph: &Graph, pair: [ValueId; 2]) -> Option<usize> {
    let [a, b] = pair.map(|rope| turned(graph, rope));
    (0..graph.ty(a).shape.len()).find(|&axis| adjacent(graph, axis, a, b).is_some())
}

/// Slices of one rope in the place of two ropes.
fn together(graph: &Graph, pair: [ValueId; 2], axis: usize) -> Result<Change, String> {
    is_of_heads(graph, pair[0], axis)?;
    let misfit = || "the ropes do not fit beside each other".to_string();
    let mut edit = Edit::new(graph);
    let whole = rope_of_both(graph, &mut edit, pair, axis).ok_or_else(misfit)?;
    let mut start = 0;
    for rope in pair {
        let &Dim::Const(len) = &graph.ty(rope).shape[axis] else {
            return Err(misfit());
        };
        edit.set(rope, Op::Slice { axis, start, len }, &[whole])
            .ok_or_else(misfit)?;
        start += len;
    }
    let names = pair.map(|rope| graph.node(rope).name.as_str());
    Ok(Change {
        words: format!("{} and {} are slices of one rope", names[0], names[1]),
        graph: edit.finish(),
    })
}

/// One rope behind the concatenation of what two turn.
fn behind_concat(graph: &Graph, value: ValueId, axis: usize, pair: [ValueId; 2]) -> Result<Change, String> {
    is_of_heads(graph, pair[0], axis)?;
    if let Some(need) = pair.into_iter().find_map(|rope| other_need(graph, rope, value)) {
        return Err(need);
    }
    let node = graph.node(value);
    let misfit = || format!("the rope does not fit behind `{}`", node.name);
    let mut edit = Edit::new(graph);
    let whole = rope_of_both(graph, &mut edit, pair, axis).ok_or_else(misfit)?;
    edit.replace(value, whole);
    Ok(Change {
        words: format!("one rope turns {}", node.name),
        graph: edit.finish(),
    })
}

/// One rope of what two turn, side by side.
fn rope_of_both(graph: &Graph, edit: &mut Edit, pair: [ValueId; 2], axis: usize) -> Option<ValueId> {
    let [a, b] = pair.map(|rope| turned(graph, rope));
    let both = edit.concat(axis, a, b)?;
    let (name, args) = (edit.joined_name(pair[0], pair[1]), with_turned(graph, pair[0], both));
    edit.push(&name, graph.node(pair[0]).op.clone(), &args, graph.ty(pair[0]).dtype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;
    use crate::verify::verify;

    /// The first finding: its words and the text of its graph, or why there is none.
    fn found(body: &str) -> Result<(String, String), String> {
        let text = format!(
            "graph g {{ %x = input \"x\" : bf16[B, T, 6, 8] %cos = input \"cos\" : f32[L, 4] %sin = input \"sin\" : f32[L, 4]
             %q = input \"q\" : i32[B] %kv = input \"kv\" : i32[B] {body} }}"
        );
        let change = find(&parse(&text).unwrap()).remove(0).change?;
        verify(&change.graph).unwrap();
        Ok((change.words, change.graph.to_string()))
    }

    /// `name` turns `of`, a value of so many heads.
    fn rope(name: &str, of: &str, heads: usize) -> String {
        format!("%{name} = rope pairing=halves %{of}, %cos, %sin, %q, %kv : f32[B, T, {heads}, 8]")
    }

    /// Heads `start..start + len` of `of`.
    fn heads(name: &str, of: &str, start: usize, len: usize) -> String {
        let dtype = if of == "x" { "bf16" } else { "f32" };
        format!("%{name} = slice axis=2 start={start} len={len} %{of} : {dtype}[B, T, {len}, 8]")
    }

    #[test]
    fn slices_of_heads_move_before_a_rope_and_behind_again() {
        let [y, a, b] = [rope("y", "x", 6), heads("a", "y", 1, 2), heads("b", "y", 3, 3)];
        let (words, text) = found(&format!("{y} {a} {b} output \"a\" %a output \"b\" %b")).unwrap();
        assert_eq!(words, "a and b turn slices of x");
        for line in [heads("x_a", "x", 1, 2), rope("a", "x_a", 2), rope("b", "x_b", 3)] {
            assert!(text.contains(&line), "{line}\n{text}");
        }
        let body = text.split_once("%a =").unwrap();
        assert!(!body.0.contains("rope pairing"), "{text}");
        let parts = [
            heads("u", "x", 1, 2),
            heads("v", "x", 3, 3),
            rope("a", "u", 2),
            rope("b", "v", 3),
        ];
        let (words, text) = found(&format!("{} output \"b\" %b output \"a\" %a", parts.join(" "))).unwrap();
        assert_eq!(words, "a and b are slices of one rope");
        for line in [rope("a_b", "u_v", 5), heads("a", "a_b", 0, 2), heads("b", "a_b", 2, 3)] {
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }

    #[test]
    fn one_rope_turns_heads_side_by_side() {
        let z = "%z = input \"z\" : bf16[B, T, 2, 8]";
        let c = "%c = concat axis=2 %a, %b : f32[B, T, 8, 8] output \"c\" %c";
        let (words, text) = found(&format!("{z} {} {} {c}", rope("a", "x", 6), rope("b", "z", 2))).unwrap();
        assert_eq!(words, "one rope turns c");
        assert!(
            text.contains(&rope("a_b", "x_z", 8)) && text.contains("output \"c\" %a_b"),
            "{text}"
        );
        let other = rope("b", "z", 2).replace("halves", "interleaved");
        let refusal = found(&format!("{z} {} {other} {c}", rope("a", "x", 6))).unwrap_err();
        assert_eq!(refusal, "`a` and `b` do not turn alike");
        let refusal = found(&format!(
            "{z} {} {} {c} output \"b\" %b",
            rope("a", "x", 6),
            rope("b", "z", 2)
        ))
        .unwrap_err();
        assert_eq!(refusal, "`b` is also the output \"b\"");
    }

    #[test]
    fn positions_and_pairs_stay_together() {
        let y = rope("y", "x", 6);
        let half = "%a = slice axis=3 start=0 len=4 %y : f32[B, T, 6, 4] output \"a\" %a";
        assert_eq!(
            found(&format!("{y} {half}")).unwrap_err(),
            "dimension 3 holds the pairs of `y`"
        );
        let text = "%x2 = input \"x2\" : bf16[2, 4, 6, 8] %q2 = input \"q2\" : i32[2]
            %y = rope pairing=halves %x2, %cos, %sin, %q2, %q2 : f32[2, 4, 6, 8]
            %a = slice axis=1 start=0 len=2 %y : f32[2, 2, 6, 8] output \"a\" %a";
        assert_eq!(found(text).unwrap_err(), "dimension 1 tells the positions of `y`");
    }
}
