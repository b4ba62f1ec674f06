//! A norm before contractions becomes a factor of their rows after them: (r ⊙ x ⊙ g)·W = r ⊙ (x·(g ⊙ W)), where r is the
//! inverse root mean square of each row of x. The gain goes into the weight, at load.

use super::edit::{Edit, other_need};
use super::rule::{Change, Finding};
use crate::graph::{Graph, Op, ValueId};
use mlafuse_tensor::DType;

/// Every norm that a contraction reads.
pub(super) fn find(graph: &Graph) -> Vec<Finding> {
    let constants = graph.constants();
    let contracted = |norm: ValueId| {
        let users = graph.users(norm);
        users.iter().any(|&user| matches!(graph.node(user).op, Op::Einsum(_)))
    };
    graph
        .values()
        .filter(|&value| matches!(graph.node(value).op, Op::RmsNorm { .. }) && contracted(value))
        .map(|norm| Finding::new(graph, &[norm], as_row_factor(graph, &constants, norm)))
        .collect()
}

fn as_row_factor(graph: &Graph, constants: &[bool], norm: ValueId) -> Result<Change, String> {
    let node = graph.node(norm);
    let name = &node.name;
    let (&Op::RmsNorm { eps }, &[x, gain]) = (&node.op, node.args.as_slice()) else {
        return Err(format!("`{name}` is no norm"));
    };
    if graph.is_output(norm) {
        return Err(format!("`{name}` is an output"));
    }
    if !constants[gain.0] {
        return Err(format!("`{}`, its gain, is no weight", graph.node(gain).name));
    }
    let readers = graph.users(norm);
    let weights: Vec<usize> = readers
        .iter()
        .map(|&reader| weight_of(graph, constants, norm, reader))
        .collect::<Result<_, _>>()?;
    let mut edit = Edit::new(graph);
    let misfit = || format!("the row factor of `{name}` does not fit");
    let (x_name, gain_name) = (&graph.node(x).name, &graph.node(gain).name);
    let rows = edit
        .push(&format!("{x_name}_inv_rms"), Op::InvRms { eps }, &[x], DType::F32)
        .ok_or_else(misfit)?;
    for (&reader, &weight) in readers.iter().zip(&weights) {
        let contraction = graph.node(reader);
        let w = contraction.args[weight];
        let product = edit
            .push(&edit.joined_name(w, gain), Op::Mul, &[w, gain], graph.ty(w).dtype)
            .ok_or_else(misfit)?;
        let mut args = [x, x];
        args[weight] = product;
        // Before the factor the rows may be of any magnitude: f32 holds them.
        let raw = edit
            .push(
                &format!("{}_raw", contraction.name),
                contraction.op.clone(),
                &args,
                DType::F32,
            )
            .ok_or_else(misfit)?;
        edit.set(reader, Op::ScaleRows, &[raw, rows]).ok_or_else(misfit)?;
    }
    let names: Vec<&str> = readers.iter().map(|&reader| graph.node(reader).name.as_str()).collect();
    Ok(Change {
        words: format!(
            "{}: inv_rms({x_name}) scales the rows of {x_name} · ({gain_name} ⊙ w) in the place of {name}",
            names.join(" and ")
        ),
        graph: edit.finish(),
    })
}

/// Which operand of `reader` takes the gain, or why the norm cannot move behind it.
fn weight_of(graph: &Graph, constants: &[bool], norm: ValueId, reader: ValueId) -> Result<usize, String> {
    let node = graph.node(reader);
    let (name, reader_name) = (&graph.node(norm).name, &node.name);
    let Op::Einsum(spec) = &node.op else {
        return Err(format!(
            "`{name}` is also read by `{reader_name}` ({}), which needs it normed",
            node.op.word()
        ));
    };
    let (weight, rows, labels) = match node.args.as_slice() {
        [a, b] if *a == norm && *b != norm => (1, &spec.a, &spec.b),
        [a, b] if *b == norm && *a != norm => (0, &spec.b, &spec.a),
        _ => return Err(format!("`{name}` is both operands of `{reader_name}`")),
    };
    let w = node.args[weight];
    let w_name = &graph.node(w).name;
    let Some((last, rows)) = rows.split_last() else {
        return Err(format!("`{name}` has no rows"));
    };
    if spec.out.contains(last) || !labels.contains(last) {
        return Err(format!(
            "`{reader_name}` does not contract `{last}`, the dimension that is normed"
        ));
    }
    if !spec.out.starts_with(rows) {
        return Err(format!(
            "the rows of `{name}` are not the first dimensions of `{reader_name}`"
        ));
    }
    if labels.last() != Some(last) {
        return Err(format!(
            "`{last}` is not the last dimension of `{w_name}`, so the gain does not fit it"
        ));
    }
    if !constants[w.0] {
        return Err(format!(
            "`{w_name}` is no weight, so its product with the gain would be made in every launch"
        ));
    }
    match other_need(graph, w, reader) {
        Some(need) => Err(format!("{need}, so it would be in memory twice")),
        None => Ok(weight),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;
    use crate::verify::verify;

    const HEAD: &str =
        "graph g { %x = input \"x\" : bf16[B, T, 8] %g = weight \"g\" : bf16[8] %w = weight \"w\" : bf16[2, 3, 8]
        %n = rms_norm eps=1e-6 %x, %g : bf16[B, T, 8]";

    fn found(body: &str) -> Result<Change, String> {
        let graph = parse(&format!("{HEAD} {body} }}")).unwrap();
        let change = find(&graph).remove(0).change?;
        verify(&change.graph).unwrap();
        Ok(change)
    }

    #[test]
    fn all_readers_share_one_row_factor() {
        let change = found(
            "%v = weight \"v\" : bf16[5, 8] %y = einsum \"b t d, h n d -> b t h n\" %n, %w : bf16[B, T, 2, 3]
             %z = einsum \"q d, b t d -> b t q\" %v, %n : bf16[B, T, 5] output \"y\" %y output \"z\" %z",
        )
        .unwrap();
        assert_eq!(
            change.words,
            "y and z: inv_rms(x) scales the rows of x · (g ⊙ w) in the place of n"
        );
        let text = change.graph.to_string();
        for line in [
            "%x_inv_rms = inv_rms eps=1e-6 %x : f32[B, T]",
            "%w_g = mul %w, %g : bf16[2, 3, 8]",
            "%y_raw = einsum \"b t d, h n d -> b t h n\" %x, %w_g : f32[B, T, 2, 3]",
            "%y = scale_rows %y_raw, %x_inv_rms : bf16[B, T, 2, 3]",
            "%z_raw = einsum \"q d, b t d -> b t q\" %v_g, %x : f32[B, T, 5]",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(!text.contains("rms_norm"), "{text}");
    }

    #[test]
    fn what_needs_the_norm_keeps_it() {
        let y = "%y = einsum \"b t d, h n d -> b t h n\" %n, %w : bf16[B, T, 2, 3] output \"y\" %y";
        let refusal = |body: &str| found(body).unwrap_err();
        assert_eq!(refusal(&format!("{y} output \"n\" %n")), "`n` is an output");
        assert_eq!(
            refusal(&format!("{y} %s = softmax %n : bf16[B, T, 8] output \"s\" %s")),
            "`n` is also read by `s` (softmax), which needs it normed"
        );
        assert_eq!(
            refusal(&format!("{y} %z = scale factor=2.0 %w : bf16[2, 3, 8] output \"z\" %z")),
            "`w` is also read by `z`, so it would be in memory twice"
        );
        for (reader, reason) in [
            (
                "einsum \"b t d, h n d -> b t h n d\" %n, %w : bf16[B, T, 2, 3, 8]",
                "`y` does not contract `d`, the dimension",
            ),
            (
                "einsum \"b t d, h n d -> h b t n\" %n, %w : bf16[2, B, T, 3]",
                "the rows of `n` are not the first",
            ),
            (
                "einsum \"b t d, b t d -> b t\" %n, %n : bf16[B, T]",
                "`n` is both operands of `y`",
            ),
            (
                "einsum \"b t d, b s d -> b t s\" %n, %x : bf16[B, T, T]",
                "`x` is no weight, so its product",
            ),
        ] {
            let found = refusal(&format!("%y = {reader} output \"y\" %y"));
            assert!(found.starts_with(reason), "{found}");
        }
        let turned =
            "%v = weight \"v\" : bf16[8, 5] %y = einsum \"b t d, d q -> b t q\" %n, %v : bf16[B, T, 5] output \"y\" %y";
        assert_eq!(
            refusal(turned),
            "`d` is not the last dimension of `v`, so the gain does not fit it"
        );
    }

    #[test]
    fn a_gain_that_is_no_weight_stays() {
        let graph = parse(
            "graph g { %x = input \"x\" : bf16[T, 8] %g = input \"g\" : bf16[8] %w = weight \"w\" : bf16[3, 8]
             %n = rms_norm eps=1e-6 %x, %g : bf16[T, 8] %y = einsum \"t d, q d -> t q\" %n, %w : bf16[T, 3]
             output \"y\" %y }",
        )
        .unwrap();
        let refusal = find(&graph).remove(0).change.unwrap_err();
        assert_eq!(refusal, "`g`, its gain, is no weight");
    }
}
