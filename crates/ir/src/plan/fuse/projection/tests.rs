use crate::plan::{CombineRegion, Plan, RegionKind, fused};
use crate::text::parse;
use proptest::prelude::*;

/// Heads, outputs of the weight and value columns: three different numbers, so that a dimension tells what it is.
const H: usize = 3;
const V: usize = 5;
const C: usize = 8;

/// Attention and a contraction of its result `x`, which `rest` describes.
fn plan(weight: &str, contraction: &str, rest: &str) -> Plan {
    let text = format!(
        "graph g {{
        %cache = input \"cache\" : bf16[N, 4, {C}] %table = input \"block_table\" : i32[B, P]
        %q_len = input \"q_len\" : i32[B] %kv_len = input \"kv_len\" : i32[B]
        %q = input \"q\" : bf16[B, T, {H}, {C}] %w = input \"W\" : {weight}
        %rows = cache_read %cache, %table, %kv_len : bf16[B, S, {C}]
        %scores = einsum \"b t h c, b s c -> b t h s\" %q, %rows : f32[B, T, {H}, S]
        %masked = mask %scores, %q_len, %kv_len : f32[B, T, {H}, S]
        %p = softmax %masked : bf16[B, T, {H}, S]
        %x = einsum \"b t h s, b s c -> b t h c\" %p, %rows : bf16[B, T, {H}, {C}]
        %o = einsum {contraction}
        {rest} output \"o\" %o }}"
    );
    fused(&parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))).unwrap()
}

fn combine(plan: &Plan) -> &CombineRegion {
    match &plan.kernel("combine").unwrap().kind {
        RegionKind::Combine(combine) => combine,
        other => panic!("{other:?}"),
    }
}

prop_compose! {
    /// The contraction that joins, with its operands and the weight's dimensions in some order and labels of any name.
    fn projections()(
        order in Just([0, 1, 2]).prop_shuffle(),
        swapped: bool,
        labels in Just(["b", "t", "h", "c", "v", "x7"]).prop_shuffle(),
    ) -> (String, String) {
        let [b, t, h, c, v, _] = labels;
        let pick = |names: [&'static str; 3]| order.map(move |i| names[i]);
        let of_weight = pick([h, v, c]).join(" ");
        let shape = order.map(|i| [H, V, C][i].to_string()).join(", ");
        let x = format!("{b} {t} {h} {c}");
        let (a_b, args) = match swapped {
            false => (format!("{x}, {of_weight}"), "%x, %w"),
            true => (format!("{of_weight}, {x}"), "%w, %x"),
        };
        (shape, format!("\"{a_b} -> {b} {t} {h} {v}\" {args} : bf16[B, T, {H}, {V}]"))
    }
}

proptest! {
    #[test]
    fn a_contraction_of_each_head_joins_however_it_is_written((shape, contraction) in projections()) {
        let plan = plan(&format!("bf16[{shape}]"), &contraction, "");
        prop_assert_eq!(plan.kernels.len(), 2);
        prop_assert!(plan.notes.is_empty(), "{:?}", plan.notes);
        let combine = combine(&plan);
        let projection = combine.projection.unwrap();
        let shape = &plan.graph.ty(projection.weight).shape;
        prop_assert_eq!(projection.axes.map(|axis| shape[axis]), [H, V, C].map(Into::into));
        prop_assert_eq!(Some(combine.output), plan.graph.output("o"));
        // The attention's result never reaches memory; the weight is read.
        prop_assert!(plan.view(combine.result).is_none());
        prop_assert_eq!(&plan.kernel("attention").unwrap().writes, &[combine.partial, combine.lse]);
        let weight = plan.view(projection.weight).unwrap().buffer;
        prop_assert_eq!(&plan.kernel("combine").unwrap().reads, &[combine.partial, combine.lse, weight]);
    }

    #[test]
    fn a_result_that_is_needed_elsewhere_stays_in_memory(
        (shape, contraction) in projections(),
        rest in prop_oneof![
            Just("output \"x\" %x".to_string()),
            Just(format!("%y = scale factor=2 %x : bf16[B, T, {H}, {C}] output \"y\" %y")),
        ],
    ) {
        let plan = plan(&format!("bf16[{shape}]"), &contraction, &rest);
        prop_assert_eq!(&plan.notes, &["`o` not fused with the combine of `x`: `x` is needed elsewhere too"]);
        let combine = combine(&plan);
        prop_assert_eq!((combine.projection, combine.output), (None, combine.result));
        prop_assert!(plan.view(combine.result).is_some() && plan.kernel("einsum_o").is_some());
    }
}

#[test]
fn what_is_no_projection_of_each_head_keeps_its_kernel() {
    let of = |weight: &str, contraction: &str| {
        let plan = plan(weight, contraction, "");
        assert!(
            combine(&plan).projection.is_none() && plan.kernel("einsum_o").is_some(),
            "{plan}"
        );
        plan.notes.join("; ")
    };
    let heads_summed = format!("\"b t h c, d h c -> b t d\" %x, %w : bf16[B, T, {V}]");
    assert_eq!(
        of(&format!("bf16[{V}, {H}, {C}]"), &heads_summed),
        "`o` not fused with the combine of `x`: it is b t h c, d h c -> b t d, not b t h c, h v c -> b t h v"
    );
    let shared = format!("\"b t h c, v c -> b t h v\" %x, %w : bf16[B, T, {H}, {V}]");
    assert!(of(&format!("bf16[{V}, {C}]"), &shared).contains("it is b t h c, v c -> b t h v"));
    let turned = format!("\"b t h c, h v c -> b h t v\" %x, %w : bf16[B, {H}, T, {V}]");
    assert!(of(&format!("bf16[{H}, {V}, {C}]"), &turned).contains("it is b t h c, h v c -> b h t v"));
    let other_type = format!("\"b t h c, h v c -> b t h v\" %x, %w : bf16[B, T, {H}, {V}]");
    assert!(of(&format!("f32[{H}, {V}, {C}]"), &other_type).ends_with("`x` is bf16, `w` is f32"));
}
