//! What was rewritten, and what it saved, as comment lines before the graph.

use super::{Outcome, Rewritten, Step};
use std::fmt::{self, Write};

impl Rewritten {
    /// The steps as comment lines and then the graph: a text that [`crate::text::parse()`] reads.
    pub fn to_text(&self) -> String {
        self.comments() + &self.graph.to_string()
    }

    /// The steps as comment lines.
    pub fn comments(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = self.write_comments(&mut text);
        text
    }

    fn write_comments(&self, text: &mut String) -> fmt::Result {
        let of = |wanted: fn(&Outcome) -> bool| self.steps.iter().filter(move |step| wanted(&step.outcome));
        let applied: Vec<&Step> = of(|outcome| *outcome == Outcome::Applied).collect();
        if let [first, ..] = applied.as_slice() {
            writeln!(text, "# applied, to {}", first.before)?;
        }
        for step in &applied {
            writeln!(text, "#   {}: {}", step.place(), step.change)?;
            let gain = match step.after.seconds < step.before.seconds {
                true => format!("saves {}", step.before.saved(&step.after)),
                false => format!("makes way for {} more", step.after.saved(&step.before)),
            };
            writeln!(text, "#     {gain}: {}", step.after)?;
        }
        if let [first, .., last] = applied.as_slice() {
            writeln!(text, "#   in all: saves {}", first.before.saved(&last.after))?;
        }
        for (index, step) in of(|outcome| matches!(outcome, Outcome::Rejected { .. })).enumerate() {
            if index == 0 {
                writeln!(text, "# rejected")?;
            }
            if let Outcome::Rejected { reason } = &step.outcome {
                writeln!(text, "#   {}: {}", step.place(), step.change)?;
                writeln!(text, "#     {reason}: {}", step.after)?;
            }
        }
        for (index, step) in of(|outcome| matches!(outcome, Outcome::Refused { .. })).enumerate() {
            if index == 0 {
                writeln!(text, "# refused")?;
            }
            if let Outcome::Refused { reason } = &step.outcome {
                writeln!(text, "#   {}: {reason}", step.place())?;
            }
        }
        Ok(())
    }
}

impl Step {
    /// The rule and where.
    fn place(&self) -> String {
        format!("{} {}", self.rule, self.site.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use crate::rewrite::{Machine, Rule, rewrite_with};
    use crate::size::Dims;
    use crate::text::parse;

    #[test]
    fn every_step_says_what_it_saves_or_why_not() {
        let graph = parse(
            "graph g { %x = input \"x\" : f32[64, 16] %v = input \"v\" : f32[8, 16] %w = input \"w\" : f32[8, 8]
             %z = input \"z\" : f32[4, 8] %g = input \"g\" : f32[8] %r = input \"r\" : f32[64]
             %a = einsum \"t d, q d -> t q\" %x, %v : f32[64, 8] %s = scale_rows %a, %r : f32[64, 8]
             %b = einsum \"t q, r q -> t r\" %s, %w : f32[64, 8] %c = rms_norm eps=1e-6 %b, %g : f32[64, 8]
             %y = einsum \"t r, u r -> t u\" %c, %z : f32[64, 4] output \"y\" %y }",
        )
        .unwrap();
        let machine = Machine {
            flops_per_s: 1e9,
            bytes_per_s: 1e18,
            launch_s: 0.0,
        };
        let rewritten = rewrite_with(&graph, &Dims::new(), &machine, &Rule::LAUNCH).unwrap();
        let text = rewritten.to_text();
        assert_eq!(parse(&text).unwrap(), rewritten.graph);
        for part in [
            "#   move_factor b, s: s scales b, not a\n#     makes way for 0 FLOP, 0 B, 0 kernels and 0 ns more: ",
            "#   reassociate b_raw, a: b_raw = x · (v · w)\n#     saves 6.14 kFLOP, ",
            "#   in all: saves 6.14 kFLOP, ",
            "# rejected\n#   reassociate b_raw, v_w: b_raw = (x · v) · w\n#     it would take ",
            "# refused\n#   reassociate y, b_raw: `c` (rms_norm) stands between `y` and `b_raw`: ",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }
}
