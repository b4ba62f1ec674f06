//! A factor, of all elements (`scale`) or of each row (`scale_rows`), moves past its neighbours: before the node that makes
//! what it scales, or behind the one that reads what it makes. So it meets a contraction whose epilogue it can be, or gets
//! out of the way of another rule.

use super::edit::{Edit, other_need};
use super::rule::{Change, Finding};
use crate::graph::{EinsumSpec, Graph, Op, ValueId};
use mlafuse_tensor::DType;

/// Every factor of what a launch computes, with what stands before and behind it.
pub(super) fn find(graph: &Graph) -> Vec<Finding> {
    let constants = graph.constants();
    let mut found = Vec::new();
    for value in graph.values().filter(|value| !constants[value.0]) {
        if let Some(factor) = Factor::of(graph, value) {
            found.extend(factor.before(graph, &constants));
            found.extend(factor.behind(graph));
        }
        found.extend(behind_concat(graph, value));
    }
    found
}

/// A node that multiplies its first argument.
#[derive(Clone, Copy)]
struct Factor {
    value: ValueId,
    /// What is multiplied.
    of: ValueId,
    /// The factors of the rows; `None` for one constant.
    rows: Option<ValueId>,
}

/// Whether a factor may move past a node, its argument 0 or the one given: `None` where no rule is about it.
type Passes = Option<Result<(), String>>;

impl Factor {
    fn of(graph: &Graph, value: ValueId) -> Option<Factor> {
        let node = graph.node(value);
        let (of, rows) = match (&node.op, node.args.as_slice()) {
            (Op::Scale { .. }, &[of]) => (of, None),
            (Op::ScaleRows, &[of, rows]) => (of, Some(rows)),
            _ => return None,
        };
        Some(Factor { value, of, rows })
    }

    fn op(self, graph: &Graph) -> Op {
        graph.node(self.value).op.clone()
    }

    /// The arguments of the factor on `x`.
    fn args(self, x: ValueId) -> Vec<ValueId> {
        [Some(x), self.rows].into_iter().flatten().collect()
    }

    fn rank(self, graph: &Graph) -> usize {
        self.rows.map_or(0, |rows| graph.ty(rows).shape.len())
    }

    /// Whether the factor may stand on either side of `node`, on whose operand `operand` it stands or would stand.
    fn passes(self, graph: &Graph, node: ValueId, operand: usize) -> Passes {
        let rank = self.rank(graph);
        let name = &graph.node(node).name;
        match (&graph.node(node).op, operand) {
            (Op::Cast | Op::Scale { .. } | Op::ScaleRows, 0) => Some(Ok(())),
            (Op::Rope { .. }, 0) if rank < graph.ty(node).shape.len() => Some(Ok(())),
            (Op::Rope { .. }, 0) => Some(Err(format!("`{name}` mixes elements that have factors of their own"))),
            (Op::Slice { axis, .. }, 0) if *axis >= rank => Some(Ok(())),
            (Op::Slice { axis, .. }, 0) => Some(Err(format!(
                "`{name}` cuts dimension {axis}, which the row factor has too"
            ))),
            (Op::Einsum(EinsumSpec { a, b, out }), _) => {
                let labels = if operand == 0 { a } else { b };
                let same = labels.get(..rank).is_some_and(|first| out.starts_with(first));
                let reason = format!("the first {rank} dimensions of `{name}` are not those of the rows");
                Some(if same { Ok(()) } else { Err(reason) })
            }
            _ => None,
        }
    }

    /// Moves before the node that makes what is multiplied.
    fn before(self, graph: &Graph, constants: &[bool]) -> Vec<Finding> {
        let maker = graph.node(self.of);
        let scales = matches!(
            (&graph.node(self.value).op, &maker.op),
            (Op::Scale { .. }, Op::Scale { .. })
        );
        let operands = match maker.op {
            Op::Einsum(_) => 0..2,
            // One row factor after another stays as it is, and so does their order.
            Op::ScaleRows if self.rows.is_some() => 0..0,
            _ => 0..1,
        };
        let mut found = Vec::new();
        for operand in operands {
            let Some(passes) = self.passes(graph, self.of, operand) else {
                continue;
            };
            if maker.args.get(operand).is_none_or(|arg| constants[arg.0]) {
                continue;
            }
            let private = other_need(graph, self.of, self.value).map_or(Ok(()), Err);
            let change = passes.and(private).and_then(|()| match scales {
                true => self.joined(graph),
                false => self.moved_before(graph, operand),
            });
            found.push(Finding::new(graph, &[self.value, self.of], change));
        }
        found
    }

    /// Two constant factors as one.
    fn joined(self, graph: &Graph) -> Result<Change, String> {
        let [outer, inner] = [self.value, self.of].map(|value| graph.node(value));
        let (&Op::Scale { factor }, &Op::Scale { factor: first }) = (&outer.op, &inner.op) else {
            return Err("only constant factors join".to_string());
        };
        let mut edit = Edit::new(graph);
        let factor = factor * first;
        edit.set(self.value, Op::Scale { factor }, &inner.args)
            .ok_or_else(|| format!("the product of `{}` and `{}` is no number", outer.name, inner.name))?;
        Ok(Change {
            words: format!("{} is {factor:?} times {}", outer.name, graph.node(inner.args[0]).name),
            graph: edit.finish(),
        })
    }

    fn moved_before(self, graph: &Graph, operand: usize) -> Result<Change, String> {
        let (node, maker) = (graph.node(self.value), graph.node(self.of));
        let misfit = || format!("`{}` does not fit before `{}`", node.name, maker.name);
        let mut edit = Edit::new(graph);
        let arg = maker.args[operand];
        // Views are stored as what they are of.
        let dtype = match maker.op {
            Op::Slice { .. } => node.ty.dtype,
            _ => graph.ty(arg).dtype,
        };
        let name = format!("{}_scaled", graph.node(arg).name);
        let scaled = edit
            .push(&name, self.op(graph), &self.args(arg), dtype)
            .ok_or_else(misfit)?;
        let mut args = maker.args.clone();
        args[operand] = scaled;
        edit.set(self.value, maker.op.clone(), &args).ok_or_else(misfit)?;
        Ok(Change {
            words: format!("{} scales {}, before {}", node.name, graph.node(arg).name, maker.name),
            graph: edit.finish(),
        })
    }

    /// The move behind the node that reads the product.
    fn behind(self, graph: &Graph) -> Option<Finding> {
        let reader = *graph.users(self.value).first()?;
        let args = &graph.node(reader).args;
        let operand = args.iter().position(|&arg| arg == self.value)?;
        // Two factors in a row are the second one's affair.
        if Factor::of(graph, reader).is_some() {
            return None;
        }
        let passes = self.passes(graph, reader, operand)?;
        let twice = args.iter().filter(|&&arg| arg == self.value).count() > 1;
        let change = passes.and_then(|()| match other_need(graph, self.value, reader) {
            Some(need) => Err(need),
            None if twice => Err(format!("`{}` reads it twice", graph.node(reader).name)),
            None => self.moved_behind(graph, reader, operand),
        });
        Some(Finding::new(graph, &[reader, self.value], change))
    }

    fn moved_behind(self, graph: &Graph, reader: ValueId, operand: usize) -> Result<Change, String> {
        let (node, after) = (graph.node(self.value), graph.node(reader));
        let misfit = || format!("`{}` does not fit behind `{}`", node.name, after.name);
        let mut edit = Edit::new(graph);
        let mut args = after.args.clone();
        args[operand] = self.of;
        let dtype = match after.op {
            Op::Slice { .. } => graph.ty(self.of).dtype,
            // Before the factors the rows may be of any magnitude: f32 holds them.
            Op::Einsum(_) if self.rows.is_some() => DType::F32,
            _ => after.ty.dtype,
        };
        let raw = edit
            .push(&format!("{}_raw", after.name), after.op.clone(), &args, dtype)
            .ok_or_else(misfit)?;
        edit.set(reader, self.op(graph), &self.args(raw)).ok_or_else(misfit)?;
        Ok(Change {
            words: format!("{} scales {}, not {}", node.name, after.name, graph.node(self.of).name),
            graph: edit.finish(),
        })
    }
}

/// A concatenation of what one factor scales: the factor moves behind it.
fn behind_concat(graph: &Graph, value: ValueId) -> Option<Finding> {
    let node = graph.node(value);
    let (&Op::Concat { axis }, &[a, b]) = (&node.op, node.args.as_slice()) else {
        return None;
    };
    let (first, second) = (Factor::of(graph, a)?, Factor::of(graph, b)?);
    let site = [value, a, b];
    if (first.op(graph), first.rows) != (second.op(graph), second.rows) {
        let names = [a, b].map(|value| graph.node(value).name.as_str());
        let reason = format!("`{}` and `{}` are not scaled alike", names[0], names[1]);
        return Some(Finding::new(graph, &site, Err(reason)));
    }
    let needed = || [a, b].into_iter().find_map(|part| other_need(graph, part, value));
    let change = match needed() {
        _ if axis < first.rank(graph) => Err(format!("`{}` puts rows of two factors together", node.name)),
        Some(need) => Err(need),
        None => concat_first(graph, value, axis, [first, second]),
    };
    Some(Finding::new(graph, &site, change))
}

fn concat_first(graph: &Graph, value: ValueId, axis: usize, parts: [Factor; 2]) -> Result<Change, String> {
    let node = graph.node(value);
    let [a, b] = parts.map(|part| part.of);
    let types = [a, b].map(|part| graph.ty(part).dtype);
    if types[0] != types[1] {
        let names = [a, b].map(|part| graph.node(part).name.as_str());
        return Err(format!(
            "`{}` is {}, `{}` is {}",
            names[0], types[0], names[1], types[1]
        ));
    }
    let mut edit = Edit::new(graph);
    let misfit = || format!("the factor does not fit behind `{}`", node.name);
    let whole = edit.concat(axis, a, b).ok_or_else(misfit)?;
    edit.set(value, parts[0].op(graph), &parts[0].args(whole))
        .ok_or_else(misfit)?;
    Ok(Change {
        words: format!("one factor scales {}", node.name),
        graph: edit.finish(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;
    use crate::verify::verify;

    /// What is found, each change as its words and the text of its graph.
    fn found(body: &str) -> Vec<Result<(String, String), String>> {
        let graph = parse(&format!(
            "graph g {{ %x = input \"x\" : f32[B, T, 8] %r = input \"r\" : f32[B, T] %w = weight \"w\" : f32[6, 8]
             %cos = input \"cos\" : f32[L, 4] %len = input \"len\" : i32[B] {body} }}"
        ))
        .unwrap();
        let texts = find(&graph).into_iter().map(|finding| {
            let change = finding.change?;
            verify(&change.graph).unwrap();
            Ok((change.words, change.graph.to_string()))
        });
        texts.collect()
    }

    /// The change that puts `line` into the graph, in words.
    fn with(body: &str, line: &str) -> String {
        let all = found(body);
        let fits = all.iter().flatten().find(|(_, text)| text.contains(line));
        fits.unwrap_or_else(|| panic!("{line}: {all:?}")).0.clone()
    }

    fn refused(body: &str) -> Vec<String> {
        found(body).into_iter().filter_map(Result::err).collect()
    }

    #[test]
    fn factors_move_before_what_makes_their_argument() {
        let y = "%y = einsum \"b t d, q d -> b t q\" %x, %w : f32[B, T, 6]";
        let body = format!("{y} %s = scale factor=2.0 %y : f32[B, T, 6] output \"s\" %s");
        let words = with(
            &body,
            "%s = einsum \"b t d, q d -> b t q\" %x_scaled, %w : f32[B, T, 6]",
        );
        assert_eq!(words, "s scales x, before y");
        assert_eq!(found(&body).len(), 1, "not onto the weight");
        let body = format!("{y} %s = scale_rows %y, %r : f32[B, T, 6] output \"s\" %s");
        with(&body, "%x_scaled = scale_rows %x, %r : f32[B, T, 8]");
        for op in [
            "cast %x",
            "rope pairing=halves %x, %cos, %cos, %len, %len",
            "scale_rows %x, %r",
        ] {
            let body = format!("%y = {op} : f32[B, T, 8] %s = scale factor=2.0 %y : f32[B, T, 8] output \"s\" %s");
            with(&body, "%x_scaled = scale factor=2.0 %x : f32[B, T, 8]");
        }
        let body =
            "%y = slice axis=2 start=1 len=3 %x : f32[B, T, 3] %s = scale_rows %y, %r : bf16[B, T, 3] output \"s\" %s";
        with(body, "%x_scaled = scale_rows %x, %r : bf16[B, T, 8]");
    }

    #[test]
    fn factors_move_behind_what_reads_their_product() {
        let s = "%s = scale_rows %x, %r : bf16[B, T, 8]";
        let body = format!("{s} %y = einsum \"b t d, q d -> b t q\" %s, %w : bf16[B, T, 6] output \"y\" %y");
        let words = with(&body, "%y_raw = einsum \"b t d, q d -> b t q\" %x, %w : f32[B, T, 6]");
        assert_eq!(words, "s scales y, not x");
        with(&body, "%y = scale_rows %y_raw, %r : bf16[B, T, 6]");
        let body = format!("{s} %y = slice axis=2 start=1 len=3 %s : bf16[B, T, 3] output \"y\" %y");
        with(&body, "%y_raw = slice axis=2 start=1 len=3 %x : f32[B, T, 3]");
        let body = "%s = scale factor=2.0 %x : f32[B, T, 8] %y = cast %s : bf16[B, T, 8] output \"y\" %y";
        with(body, "%y = scale factor=2.0 %y_raw : bf16[B, T, 8]");
    }

    #[test]
    fn two_constants_are_one_and_equal_parts_share_theirs() {
        let body = "%s = scale factor=2.0 %x : f32[B, T, 8] %u = scale factor=3.0 %s : f32[B, T, 8] output \"u\" %u";
        assert_eq!(
            with(body, "%u = scale factor=6.0 %x : f32[B, T, 8]"),
            "u is 6.0 times x"
        );
        let body = "%z = input \"z\" : f32[B, T, 2] %a = scale_rows %x, %r : f32[B, T, 8] %b = scale_rows %z, %r : f32[B, T, 2]
            %c = concat axis=2 %a, %b : f32[B, T, 10] output \"c\" %c";
        assert_eq!(
            with(body, "%c = scale_rows %x_z, %r : f32[B, T, 10]"),
            "one factor scales c"
        );
    }

    #[test]
    fn what_cannot_move_says_why() {
        let s = "%s = scale_rows %x, %r : f32[B, T, 8]";
        let y = "%y = einsum \"b t d, q d -> b q t\" %s, %w : f32[B, 6, T] output \"y\" %y";
        assert_eq!(
            refused(&format!("{s} {y}")),
            ["the first 2 dimensions of `y` are not those of the rows"]
        );
        let y = "%y = einsum \"b t d, q d -> b t q\" %s, %w : f32[B, T, 6] output \"y\" %y";
        assert_eq!(
            refused(&format!("{s} {y} output \"s\" %s")),
            ["`s` is also the output \"s\""]
        );
        let y = "%y = einsum \"b t d, b t d -> b t\" %s, %s : f32[B, T] output \"y\" %y";
        assert_eq!(refused(&format!("{s} {y}")), ["`y` reads it twice"]);
        let body = "%k = input \"k\" : f32[B, 3, 8] %h = input \"h\" : f32[B, 3] %s = scale_rows %k, %h : f32[B, 3, 8]
            %y = slice axis=1 start=0 len=2 %s : f32[B, 2, 8] output \"y\" %y";
        assert_eq!(refused(body), ["`y` cuts dimension 1, which the row factor has too"]);
        let body = "%e = input \"e\" : f32[B, T, 8] %s = scale_rows %x, %e : f32[B, T, 8]
            %y = rope pairing=halves %s, %cos, %cos, %len, %len : f32[B, T, 8] output \"y\" %y";
        assert_eq!(refused(body), ["`y` mixes elements that have factors of their own"]);
    }

    #[test]
    fn parts_that_differ_keep_their_factors() {
        let parts = |a: &str, b: &str| {
            refused(&format!("%k = input \"k\" : f32[B, 3, 8] %h = input \"h\" : f32[B, 3] %z = input \"z\" : bf16[B, 3, 8]
                %a = {a} : f32[B, 3, 8] %b = {b} : f32[B, 3, 8] %c = concat axis=1 %a, %b : f32[B, 6, 8] output \"c\" %c"))
        };
        let reason = "`a` and `b` are not scaled alike";
        assert_eq!(parts("scale factor=2.0 %k", "scale factor=3.0 %k"), [reason]);
        assert_eq!(parts("scale factor=2.0 %k", "scale_rows %k, %h"), [reason]);
        let reason = "`c` puts rows of two factors together";
        assert_eq!(parts("scale_rows %k, %h", "scale_rows %k, %h"), [reason]);
        assert_eq!(
            parts("scale factor=2.0 %k", "scale factor=2.0 %z"),
            ["`k` is f32, `z` is bf16"]
        );
    }
}
