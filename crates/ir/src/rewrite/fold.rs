//! A constant factor goes into a weight, at load: into the gain of a norm, or into an operand of a contraction.

use super::edit::{Edit, other_need};
use super::rule::{Change, Finding};
use crate::graph::{Graph, Op, ValueId};

/// Every constant factor next to a weight: on what a norm or contraction makes, or on what contractions read.
pub(super) fn find(graph: &Graph) -> Vec<Finding> {
    let constants = graph.constants();
    let mut found = Vec::new();
    for value in graph.values().filter(|value| !constants[value.0]) {
        let (&Op::Scale { factor }, Some(&of)) = (&graph.node(value).op, graph.node(value).args.first()) else {
            continue;
        };
        let fold = Fold {
            graph,
            constants: &constants,
            value,
            factor,
        };
        let maker = fold.weight_of(of, None).map(|weight| fold.fold_before(of, weight));
        let changes = [maker, fold.fold_behind(of)].into_iter().flatten();
        found.extend(changes.map(|change| Finding::new(graph, &[value], change)));
    }
    found
}

struct Fold<'a> {
    graph: &'a Graph,
    constants: &'a [bool],
    /// The scale.
    value: ValueId,
    factor: f64,
}

impl Fold<'_> {
    /// Which argument of a norm or contraction is a weight that can take the factor; not `read`, where that is one.
    fn weight_of(&self, node: ValueId, read: Option<ValueId>) -> Option<usize> {
        let args = &self.graph.node(node).args;
        let weight = match (&self.graph.node(node).op, read) {
            (Op::RmsNorm { .. }, None) => 1,
            (Op::Einsum(_), Some(read)) => 1 - args.iter().position(|&arg| arg == read)?,
            (Op::Einsum(_), None) => args.iter().position(|arg| self.constants[arg.0])?,
            _ => return None,
        };
        self.constants[args.get(weight)?.0].then_some(weight)
    }

    /// `node` with the factor in its argument `weight`.
    fn fold_into(&self, edit: &mut Edit, node: ValueId, weight: usize) -> Result<Vec<ValueId>, String> {
        let mut args = self.graph.node(node).args.clone();
        let w = args[weight];
        if let Some(need) = other_need(self.graph, w, node) {
            return Err(format!("{need}, so it would be in memory twice"));
        }
        let op = Op::Scale { factor: self.factor };
        let name = format!("{}_scaled", self.graph.node(w).name);
        args[weight] = edit
            .push(&name, op, &[w], self.graph.ty(w).dtype)
            .ok_or("the factor is no number")?;
        Ok(args)
    }

    fn fold_before(&self, maker: ValueId, weight: usize) -> Result<Change, String> {
        if let Some(need) = other_need(self.graph, maker, self.value) {
            return Err(need);
        }
        let mut edit = Edit::new(self.graph);
        let args = self.fold_into(&mut edit, maker, weight)?;
        edit.set(self.value, self.graph.node(maker).op.clone(), &args)
            .ok_or("the factor does not fit the weight")?;
        Ok(self.change(edit, &[self.graph.node(maker).args[weight]]))
    }

    /// `None` where a reader takes no factor.
    fn fold_behind(&self, of: ValueId) -> Option<Result<Change, String>> {
        let readers = self.graph.users(self.value);
        let weight = |&reader: &ValueId| Some((reader, self.weight_of(reader, Some(self.value))?));
        let weights: Vec<(ValueId, usize)> = readers.iter().map(weight).collect::<Option<_>>()?;
        let some = !weights.is_empty() && !self.graph.is_output(self.value);
        some.then(|| {
            let mut edit = Edit::new(self.graph);
            let mut taken = Vec::new();
            for (reader, weight) in weights {
                let mut args = self.fold_into(&mut edit, reader, weight)?;
                args[1 - weight] = of;
                edit.set(reader, self.graph.node(reader).op.clone(), &args)
                    .ok_or("the factor does not fit the weight")?;
                taken.push(self.graph.node(reader).args[weight]);
            }
            Ok(self.change(edit, &taken))
        })
    }

    fn change(&self, edit: Edit, weights: &[ValueId]) -> Change {
        let names: Vec<&str> = weights.iter().map(|&w| self.graph.node(w).name.as_str()).collect();
        let name = &self.graph.node(self.value).name;
        Change {
            words: format!(
                "{:?}, the factor of {name}, goes into {}",
                self.factor,
                names.join(" and ")
            ),
            graph: edit.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse;
    use crate::verify::verify;

    fn found(body: &str) -> Vec<Result<String, String>> {
        let graph = parse(&format!(
            "graph g {{ %x = input \"x\" : f32[T, 8] %g = weight \"g\" : f32[8] %w = weight \"w\" : f32[6, 8] {body} }}"
        ))
        .unwrap();
        let texts = find(&graph).into_iter().map(|finding| {
            let change = finding.change?;
            verify(&change.graph).unwrap();
            Ok(format!("{}\n{}", change.words, change.graph))
        });
        texts.collect()
    }

    #[test]
    fn gains_and_operands_take_factors() {
        let body = "%n = rms_norm eps=1e-6 %x, %g : f32[T, 8] %s = scale factor=2.0 %n : f32[T, 8] output \"s\" %s";
        let text = found(body).remove(0).unwrap();
        assert!(text.starts_with("2.0, the factor of s, goes into g\n"), "{text}");
        assert!(
            text.contains("%s = rms_norm eps=1e-6 %x, %g_scaled : f32[T, 8]"),
            "{text}"
        );
        let body =
            "%y = einsum \"t d, q d -> t q\" %x, %w : f32[T, 6] %s = scale factor=2.0 %y : f32[T, 6] output \"s\" %s";
        let text = found(body).remove(0).unwrap();
        assert!(
            text.contains("%s = einsum \"t d, q d -> t q\" %x, %w_scaled : f32[T, 6]"),
            "{text}"
        );
        let body = "%v = weight \"v\" : f32[5, 8] %s = scale factor=2.0 %x : f32[T, 8]
            %y = einsum \"t d, q d -> t q\" %s, %w : f32[T, 6] %z = einsum \"q d, t d -> t q\" %v, %s : f32[T, 5]
            output \"y\" %y output \"z\" %z";
        let text = found(body).remove(0).unwrap();
        assert!(
            text.starts_with("2.0, the factor of s, goes into w and v\n") && !text.contains("%s ="),
            "{text}"
        );
        assert!(
            text.contains("%z = einsum \"q d, t d -> t q\" %v_scaled, %x : f32[T, 5]"),
            "{text}"
        );
    }

    #[test]
    fn what_is_needed_as_it_is_stays() {
        let y =
            "%y = einsum \"t d, q d -> t q\" %x, %w : f32[T, 6] %s = scale factor=2.0 %y : f32[T, 6] output \"s\" %s";
        let reasons = |body: &str| found(body).into_iter().filter_map(Result::err).collect::<Vec<_>>();
        assert_eq!(
            reasons(&format!("{y} output \"y\" %y")),
            ["`y` is also the output \"y\""]
        );
        assert_eq!(
            reasons(&format!(
                "{y} %z = einsum \"t d, q d -> t q\" %x, %w : f32[T, 6] output \"z\" %z"
            )),
            ["`w` is also read by `z`, so it would be in memory twice"]
        );
        let read =
            "%s = scale factor=2.0 %x : f32[T, 8] %y = einsum \"t d, q d -> t q\" %s, %w : f32[T, 6] output \"y\" %y";
        assert!(found(&format!("{read} output \"s\" %s")).is_empty());
        assert!(found(&format!("{read} %z = softmax %s : f32[T, 8] output \"z\" %z")).is_empty());
    }
}
