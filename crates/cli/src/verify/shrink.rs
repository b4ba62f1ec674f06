//! From a failing case to a small one that fails.

use super::case::{Case, InputKind};
use super::shape::{Model, Pairing, Shape};

/// The smallest failing case that was found, and the verdict on it, in at most `tries` tries: as long as something smaller
/// fails, goes on from there. `fails` judges a case and gives what came of it where it failed.
pub fn shrink<V>(case: Case, verdict: V, tries: usize, mut fails: impl FnMut(&Case) -> Option<V>) -> (Case, V) {
    let (mut case, mut verdict) = (case, verdict);
    let mut left = tries;
    'smaller: loop {
        for candidate in smaller(&case) {
            if left == 0 {
                break 'smaller;
            }
            left -= 1;
            if let Some(found) = fails(&candidate) {
                (case, verdict) = (candidate, found);
                continue 'smaller;
            }
        }
        break;
    }
    (case, verdict)
}

/// Cases that are smaller or simpler in one way, those that take away most first.
fn smaller(case: &Case) -> Vec<Case> {
    let mut all = steps(case);
    if let Model::Drawn(shape) = &case.model {
        all.extend(shapes(shape).into_iter().map(|shape| Case {
            model: Model::Drawn(shape),
            ..case.clone()
        }));
    }
    if case.input != InputKind::Normal {
        all.push(Case {
            input: InputKind::Normal,
            ..case.clone()
        });
    }
    all.extend(less(case.page, 1).into_iter().map(|page| Case { page, ..case.clone() }));
    all
}

/// Without a sequence or a step, or with fewer tokens; some token stays.
fn steps(case: &Case) -> Vec<Case> {
    let mut all = Vec::new();
    if case.sequences() > 1 {
        for sequence in 0..case.sequences() {
            let mut steps = case.steps.clone();
            for step in &mut steps {
                step.remove(sequence);
            }
            all.push(steps);
        }
    }
    if case.steps.len() > 1 {
        for step in 0..case.steps.len() {
            let mut steps = case.steps.clone();
            steps.remove(step);
            all.push(steps);
        }
    }
    for (step, sequence) in (0..case.steps.len()).flat_map(|step| (0..case.sequences()).map(move |s| (step, s))) {
        all.extend(less(case.steps[step][sequence], 0).into_iter().map(|tokens| {
            let mut steps = case.steps.clone();
            steps[step][sequence] = tokens;
            steps
        }));
    }
    all.retain(|steps| steps.iter().flatten().any(|&new| new > 0));
    let with = |steps| Case { steps, ..case.clone() };
    all.into_iter().map(with).collect()
}

fn shapes(shape: &Shape) -> Vec<Shape> {
    let mut all = Vec::new();
    for index in 0..shape.clone().dimensions().len() {
        let mut sizes = Vec::new();
        if let Some(dimension) = shape.clone().dimensions().get(index) {
            sizes = less(
                *dimension.size / dimension.multiple,
                dimension.least / dimension.multiple,
            );
            sizes.iter_mut().for_each(|size| *size *= dimension.multiple);
        }
        for size in sizes {
            let mut smaller = shape.clone();
            if let Some(dimension) = smaller.dimensions().get_mut(index) {
                *dimension.size = size;
            }
            all.push(smaller);
        }
    }
    let simpler = [
        Shape {
            d_rope: 0,
            ..shape.clone()
        },
        Shape {
            d_q_latent: None,
            ..shape.clone()
        },
        Shape {
            yarn: None,
            ..shape.clone()
        },
        Shape {
            rope: Pairing::Interleaved,
            ..shape.clone()
        },
    ];
    all.extend(simpler.into_iter().filter(|simpler| simpler != shape));
    all
}

/// Smaller numbers, the smallest first: the least, half, one less.
fn less(number: usize, least: usize) -> Vec<usize> {
    let mut all = vec![least, number / 2, number.saturating_sub(1)];
    all.retain(|&smaller| smaller < number && smaller >= least);
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::draw::{Limits, Source, draw};

    /// Shrinks cases of which those fail that `fails` says.
    fn smallest(fails: impl Fn(&Case) -> bool, tries: usize) -> Case {
        let limits = Limits {
            budget: 1e9,
            steps: 4,
            single_token_steps: false,
        };
        let cases = (0..).map(|number| draw(&Source::Random, 0, number, &limits).unwrap());
        let first = cases.into_iter().find(|case| fails(case)).unwrap();
        shrink(first, (), tries, |case| fails(case).then_some(())).0
    }

    fn shape(case: &Case) -> String {
        case.model.to_string()
    }

    const SMALLEST: &str = "heads=1,d_model=4,d_latent=16,d_rope=0,d_nope=4,d_v=4,d_q_latent=none";

    #[test]
    fn what_always_fails_becomes_the_smallest_case() {
        let case = smallest(|_| true, 10_000);
        assert_eq!(shape(&case), SMALLEST);
        assert_eq!(
            (case.page, case.steps, case.input),
            (1, vec![vec![1]], InputKind::Normal)
        );
    }

    #[test]
    fn what_matters_stays() {
        let heads = |case: &Case| match &case.model {
            Model::Drawn(shape) => shape.heads,
            Model::Given { .. } => 0,
        };
        let case = smallest(
            |case| heads(case) >= 5 && case.longest() > case.page && case.page >= 7,
            10_000,
        );
        assert_eq!(shape(&case), SMALLEST.replace("heads=1", "heads=5"));
        assert_eq!((case.page, case.longest(), case.sequences()), (7, 8, 1));
        let case = smallest(|case| case.input == InputKind::NearTie && case.sequences() >= 2, 10_000);
        assert_eq!((case.input, case.sequences()), (InputKind::NearTie, 2));
    }

    #[test]
    fn tries_are_bounded() {
        let count = std::cell::Cell::new(0);
        let limits = Limits {
            budget: 1e9,
            steps: 4,
            single_token_steps: false,
        };
        let case = draw(&Source::Random, 0, 0, &limits).unwrap();
        shrink(case, (), 7, |_| {
            count.set(count.get() + 1);
            Some(())
        });
        assert_eq!(count.get(), 7);
    }

    #[test]
    fn a_given_model_keeps_its_sizes() {
        let model = Model::parse("heads=3,d_model=8").unwrap();
        let case = Case::parse("steps=9:4/1:1,page=64,input=rope", model.clone()).unwrap();
        let (case, ()) = shrink(case, (), 1000, |_| Some(()));
        assert_eq!(case.to_string(), "dtype=bf16,page=1,steps=1,input=normal,seed=0");
        assert_eq!(case.model, model);
    }
}
