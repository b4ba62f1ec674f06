//! Casts that say nothing go: to the type that is there, of a cast that loses nothing, and of a result that its own node
//! can store in the wanted type.

use super::edit::{Edit, other_need};
use super::rule::{Change, Finding};
use crate::graph::{Graph, Op, ValueId};
use mlafuse_tensor::DType;

/// Every cast of what a launch computes.
pub(super) fn find(graph: &Graph) -> Vec<Finding> {
    let constants = graph.constants();
    graph
        .values()
        .filter(|&value| graph.node(value).op == Op::Cast && !constants[value.0])
        .map(|cast| Finding::new(graph, &[cast], dropped(graph, cast)))
        .collect()
}

fn dropped(graph: &Graph, cast: ValueId) -> Result<Change, String> {
    let node = graph.node(cast);
    let wanted = node.ty.dtype;
    let &[arg] = node.args.as_slice() else {
        return Err("a cast has one argument".to_string());
    };
    let from = graph.node(arg);
    let (name, from_name) = (&node.name, &from.name);
    let mut edit = Edit::new(graph);
    let words = match (&from.op, from.args.first()) {
        _ if from.ty.dtype == wanted => {
            edit.replace(cast, arg);
            format!("{name} is {from_name}, which is {wanted} already")
        }
        (Op::Cast, Some(&x)) if holds(from.ty.dtype, graph.ty(x).dtype) => {
            edit.set(cast, Op::Cast, &[x]);
            format!(
                "{name} is a cast of {}, of which {from_name} loses nothing",
                graph.node(x).name
            )
        }
        (Op::Input { .. }, _) => return Err(format!("`{from_name}` is given in {}", from.ty.dtype)),
        (Op::Cast, _) => {
            return Err(format!(
                "`{from_name}` rounds to {}, which `{name}` must not undo",
                from.ty.dtype
            ));
        }
        _ => match other_need(graph, arg, cast) {
            Some(need) => return Err(format!("{need}, as {}", from.ty.dtype)),
            None => edit
                .set(cast, from.op.clone(), &from.args)
                .map(|()| {
                    format!(
                        "{name} is {} in {wanted}, not in {} before",
                        from.op.word(),
                        from.ty.dtype
                    )
                })
                .ok_or_else(|| format!("`{from_name}` ({}) is stored as its argument is", from.op.word()))?,
        },
    };
    Ok(Change {
        words,
        graph: edit.finish(),
    })
}

/// Whether every number of type `narrow` is one of type `wide`.
fn holds(wide: DType, narrow: DType) -> bool {
    wide == narrow || wide == DType::F64 || (wide == DType::F32 && narrow != DType::F64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;
    use crate::verify::verify;

    fn found(body: &str) -> Result<String, String> {
        let graph = parse(&format!(
            "graph g {{ %x = input \"x\" : bf16[4] {body} output \"c\" %c }}"
        ))
        .unwrap();
        let change = find(&graph).pop().unwrap().change?;
        verify(&change.graph).unwrap();
        Ok(change.graph.to_string())
    }

    #[test]
    fn what_says_nothing_goes() {
        let text = found("%y = scale factor=2.0 %x : bf16[4] %c = cast %y : bf16[4]").unwrap();
        assert!(!text.contains("cast") && text.contains("output \"c\" %y"), "{text}");
        let text = found("%y = cast %x : f32[4] %c = cast %y : f16[4]").unwrap();
        assert!(text.contains("%c = cast %x : f16[4]") && !text.contains("%y"), "{text}");
        let text = found("%y = scale factor=2.0 %x : f32[4] %c = cast %y : f16[4]").unwrap();
        assert!(
            text.contains("%c = scale factor=2.0 %x : f16[4]") && !text.contains("%y"),
            "{text}"
        );
    }

    #[test]
    fn what_rounds_or_is_read_stays() {
        let reason = found("%y = cast %x : f16[4] %c = cast %y : f32[4]").unwrap_err();
        assert_eq!(reason, "`y` rounds to f16, which `c` must not undo");
        let reason = found("%y = scale factor=2.0 %x : f32[4] %c = cast %y : f16[4] output \"y\" %y").unwrap_err();
        assert_eq!(reason, "`y` is also the output \"y\", as f32");
        let reason = found("%y = slice axis=0 start=1 len=2 %x : bf16[2] %c = cast %y : f32[2]").unwrap_err();
        assert_eq!(reason, "`y` (slice) is stored as its argument is");
        assert_eq!(found("%c = cast %x : f32[4]").unwrap_err(), "`x` is given in bf16");
    }
}
