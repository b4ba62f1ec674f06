//! Outputs against expected ones.

use super::element::ElementType;
use super::parse::ReferenceFile;
use super::run::Output;
use super::tensors::{Tensor, TensorFiles};
use super::{Buffer, LaunchFile, LaunchFileError};
use crate::machine::{Checker, Report};

/// Expected outputs.
#[derive(Clone, Debug)]
pub(super) struct Reference {
    tensors: Vec<Tensor>,
    rel_l2: f64,
}

/// How far an output is from its reference.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// The output.
    pub output: String,
    /// The norm of the difference over the norm of the reference; infinite where an element is infinite or not a number and
    /// the other is not the same.
    pub rel_l2: f64,
    /// What is allowed.
    pub allowed: f64,
}

impl Reference {
    pub(super) fn open(
        reference: &ReferenceFile<'_>,
        buffers: &[Buffer],
        files: &mut TensorFiles<'_>,
    ) -> Result<Reference, LaunchFileError> {
        let field = &reference.file;
        let file = files.open(field.string("the path of a safetensors file")?)?;
        let mut tensors = Vec::new();
        for name in file.names() {
            let Some(buffer) = buffers.iter().find(|buffer| buffer.is_output() && buffer.name == name) else {
                tracing::warn!(
                    "{}: the reference has `{name}`, which is no output",
                    field.file.display()
                );
                continue;
            };
            let tensor = file.tensor(&name, field)?;
            if tensor.shape != buffer.shape {
                let found = format!("a file whose `{name}` has shape {:?}", tensor.shape);
                return Err(field.wrong(found, format!("shape {:?}, as the output has", buffer.shape)));
            }
            tensors.push(tensor);
        }
        if tensors.is_empty() {
            let names = buffers.iter().filter(|buffer| buffer.is_output());
            let names: Vec<&str> = names.map(|buffer| buffer.name.as_str()).collect();
            return Err(field.unexpected(format!("a file that has some of the outputs: {}", names.join(", "))));
        }
        let rel_l2 = reference.rel_l2;
        Ok(Reference { tensors, rel_l2 })
    }
}

impl LaunchFile {
    /// The outputs that have a reference against it, in order of name; and a report for each that is too far from it.
    pub fn compare(&self, outputs: &[Output]) -> (Vec<Error>, Vec<Report>) {
        let (mut errors, mut reports) = (Vec::new(), Vec::new());
        let Some(reference) = &self.reference else {
            return (errors, reports);
        };
        for want in &reference.tensors {
            let Some(got) = outputs.iter().find(|output| output.name == want.name) else {
                continue;
            };
            let distance = Distance::new(got, want);
            if distance.rel_l2() > reference.rel_l2 {
                reports.push(self.report(got, distance.message(got, reference.rel_l2)));
            }
            errors.push(Error {
                output: got.name.clone(),
                rel_l2: distance.rel_l2(),
                allowed: reference.rel_l2,
            });
        }
        (errors, reports)
    }

    /// A report on an output.
    pub(crate) fn report(&self, output: &Output, message: String) -> Report {
        Report {
            checker: Checker::Compare,
            message,
            kernel: self.kernel.name.clone(),
            ptx_line: 0,
            source: None,
            block: [0; 3],
            thread: [0; 3],
            address: None,
            allocation: Some(output.name.clone()),
        }
    }
}

/// Two numbers, and which element they are.
#[derive(Clone, Copy)]
struct Pair {
    element: usize,
    got: f64,
    want: f64,
}

/// Sums over the elements of an output and its reference.
struct Distance {
    /// The first element where one is infinite or not a number and the other not the same.
    special: Option<Pair>,
    /// The element with the largest difference.
    worst: Option<Pair>,
    difference: Norm,
    reference: Norm,
}

impl Distance {
    fn new(got: &Output, want: &Tensor) -> Distance {
        let mut distance = Distance {
            special: None,
            worst: None,
            difference: Norm::default(),
            reference: Norm::default(),
        };
        let pairs = values(got.element, &got.bytes).zip(values(want.element, want.bytes()));
        for (element, (got, want)) in pairs.enumerate() {
            distance.add(Pair { element, got, want });
        }
        distance
    }

    fn add(&mut self, pair: Pair) {
        let Pair { got, want, .. } = pair;
        if got.is_finite() && want.is_finite() {
            let larger = |worst: Pair| (got - want).abs() > (worst.got - worst.want).abs();
            if self.worst.is_none_or(larger) {
                self.worst = Some(pair);
            }
            self.difference.add(got - want);
            self.reference.add(want);
        } else if got != want && !(got.is_nan() && want.is_nan()) {
            self.special.get_or_insert(pair);
        }
    }

    fn rel_l2(&self) -> f64 {
        if self.special.is_some() {
            return f64::INFINITY;
        }
        match (self.difference.value(), self.reference.value()) {
            (0.0, _) => 0.0,
            (difference, reference) => difference / reference,
        }
    }

    fn message(&self, output: &Output, allowed: f64) -> String {
        let (why, pair) = match (self.special, self.worst) {
            (Some(pair), _) => ("the first that is not finite alike".to_owned(), Some(pair)),
            (None, pair) => (
                format!(
                    "rel-L2 {:.3e}, allowed {allowed:e}; the largest difference",
                    self.rel_l2()
                ),
                pair,
            ),
        };
        let place = pair.map_or(String::new(), |pair| {
            format!(
                " is at {:?}: {}, reference {}",
                output.index(pair.element),
                pair.got,
                pair.want
            )
        });
        let unwritten = match output.unwritten {
            0 => String::new(),
            count => format!("; {count} elements were never written"),
        };
        format!(
            "output `{}` differs from the reference: {why}{place}{unwritten}",
            output.name
        )
    }
}

fn values(element: ElementType, bytes: &[u8]) -> impl Iterator<Item = f64> + '_ {
    bytes
        .chunks_exact(element.bytes())
        .map(move |bytes| element.value(bytes))
}

/// A Euclidean norm that does not overflow: the squares are kept relative to the largest.
#[derive(Default)]
struct Norm {
    largest: f64,
    squares: f64,
}

impl Norm {
    fn add(&mut self, value: f64) {
        let value = value.abs();
        if value > self.largest {
            self.squares = self.squares * (self.largest / value).powi(2) + 1.0;
            self.largest = value;
        } else if value > 0.0 {
            self.squares += (value / self.largest).powi(2);
        }
    }

    fn value(&self) -> f64 {
        self.largest * self.squares.sqrt()
    }
}
