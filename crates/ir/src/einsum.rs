//! The labels of a contraction: how they are written, and what part each plays.

use crate::graph::EinsumSpec;
use std::fmt;
use std::str::FromStr;

/// Labels sorted by the part they play; each list keeps the order named.
///
/// `out[batch, m, n] = sum over k of a[batch, m, k] · b[batch, k, n]`, after `a` is summed over `sum_a` and `b` over
/// `sum_b`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles<'a> {
    /// In both operands and the result, in the result's order.
    pub batch: Vec<&'a str>,
    /// In the first operand and the result, in the result's order.
    pub m: Vec<&'a str>,
    /// In the second operand and the result, in the result's order.
    pub n: Vec<&'a str>,
    /// In both operands and not in the result, in the first operand's order.
    pub k: Vec<&'a str>,
    /// In the first operand alone.
    pub sum_a: Vec<&'a str>,
    /// In the second operand alone.
    pub sum_b: Vec<&'a str>,
}

/// Why a contraction's text or labels are wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EinsumError {
    /// Not of the form `a b, b c -> a c`.
    #[error("expected two operands and a result as in \"a b, b c -> a c\", got \"{found}\"")]
    Form {
        /// The text as given.
        found: String,
    },
    /// A label that is not made of ASCII letters, digits and underscores.
    #[error("label \"{label}\": expected ASCII letters, digits or underscores")]
    Label {
        /// The label as given.
        label: String,
    },
    /// A label twice in one list.
    #[error("label `{label}` stands twice in the {place}")]
    Repeated {
        /// The label.
        label: String,
        /// `first operand`, `second operand` or `result`.
        place: &'static str,
    },
    /// A result label that no operand has.
    #[error("label `{label}` of the result stands in no operand")]
    Unknown {
        /// The label.
        label: String,
    },
}

impl EinsumSpec {
    /// Sorts the labels by the part they play.
    pub fn roles(&self) -> Roles<'_> {
        let mut roles = Roles::default();
        for label in &self.out {
            match (self.a.contains(label), self.b.contains(label)) {
                (true, true) => roles.batch.push(label),
                (true, false) => roles.m.push(label),
                (false, _) => roles.n.push(label),
            }
        }
        for label in self.a.iter().filter(|l| !self.out.contains(l)) {
            if self.b.contains(label) {
                roles.k.push(label)
            } else {
                roles.sum_a.push(label)
            }
        }
        for label in self.b.iter().filter(|l| !self.out.contains(l) && !self.a.contains(l)) {
            roles.sum_b.push(label);
        }
        roles
    }

    /// Every label once: the first operand's, then those only the second has.
    pub fn labels(&self) -> impl Iterator<Item = &String> {
        self.a.iter().chain(self.b.iter().filter(|l| !self.a.contains(l)))
    }

    /// Checks what [`EinsumSpec`] promises of its labels.
    pub fn check(&self) -> Result<(), EinsumError> {
        for (list, place) in [
            (&self.a, "first operand"),
            (&self.b, "second operand"),
            (&self.out, "result"),
        ] {
            for (i, label) in list.iter().enumerate() {
                if label.is_empty() || !label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
                    return Err(EinsumError::Label { label: label.clone() });
                }
                if list[..i].contains(label) {
                    return Err(EinsumError::Repeated {
                        label: label.clone(),
                        place,
                    });
                }
            }
        }
        match self.out.iter().find(|l| !self.a.contains(l) && !self.b.contains(l)) {
            Some(label) => Err(EinsumError::Unknown { label: label.clone() }),
            None => Ok(()),
        }
    }
}

impl FromStr for EinsumSpec {
    type Err = EinsumError;

    fn from_str(text: &str) -> Result<EinsumSpec, EinsumError> {
        let form = || EinsumError::Form {
            found: text.to_string(),
        };
        let (operands, out) = text.split_once("->").ok_or_else(form)?;
        let (a, b) = operands.split_once(',').ok_or_else(form)?;
        let labels = |list: &str| list.split_whitespace().map(str::to_string).collect();
        let spec = EinsumSpec {
            a: labels(a),
            b: labels(b),
            out: labels(out),
        };
        spec.check()?;
        Ok(spec)
    }
}

impl fmt::Display for EinsumSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} -> {}",
            self.a.join(" "),
            self.b.join(" "),
            self.out.join(" ")
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_sorted_by_role() {
        let spec: EinsumSpec = "b t h n x, y h n c b -> c t b h".parse().unwrap();
        let roles = spec.roles();
        assert_eq!(roles.batch, ["b", "h"]);
        assert_eq!(roles.m, ["t"]);
        assert_eq!(roles.n, ["c"]);
        assert_eq!(roles.k, ["n"]);
        assert_eq!(roles.sum_a, ["x"]);
        assert_eq!(roles.sum_b, ["y"]);
        assert_eq!(spec.labels().collect::<Vec<_>>(), ["b", "t", "h", "n", "x", "y", "c"]);
    }

    #[test]
    fn wrong_specs_are_named() {
        let error = |text: &str| text.parse::<EinsumSpec>().unwrap_err().to_string();
        assert!(error("a b -> a").contains("expected two operands"));
        assert!(error("a b, b c").contains("expected two operands"));
        assert!(error("a b, c, d -> a").contains("label \"c,\""));
        assert!(error("a a, b -> a").contains("`a` stands twice in the first operand"));
        assert!(error("a, b -> c").contains("`c` of the result"));
    }
}
