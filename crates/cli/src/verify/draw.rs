//! Drawing cases. A case follows from the seed, its number and the limits alone.

use super::case::{Case, InputKind, flops};
use super::shape::{Model, Pairing, Shape};
use crate::random::Random;
use anyhow::{Result, bail};
use mlafuse::DType;
use mlafuse::config::MlaConfig;

/// Tokens of the longest first step.
const LONGEST: usize = 2000;

/// Where the layers' sizes come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Sizes of each case's own.
    Random,
    /// The same layer in every case.
    Model(Model),
}

/// What bounds a case.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Operations, as [`flops`] counts them.
    pub budget: f64,
    /// Most steps after the first.
    pub steps: usize,
    /// Whether steps after the first are of one token a sequence, as `mlafuse run` makes them.
    pub single_token_steps: bool,
}

/// Case `number` of a run. It takes at most the budget, unless a given model's smallest case takes more.
pub fn draw(source: &Source, seed: u64, number: usize, limits: &Limits) -> Result<Case> {
    let mut dice = Dice(Random::new(seed, &format!("case {number}")));
    let model = match source {
        Source::Random => Model::Drawn(dice.shape()),
        Source::Model(model) => model.clone(),
    };
    let page = *dice.pick(&[1, 2, 7, 16, 17, 32, 63, 64, 64, 64, 128, 256]);
    let mut case = Case {
        dtype: *dice.pick(&[DType::BF16, DType::BF16, DType::F16, DType::F32]),
        input: if dice.chance(40) {
            InputKind::Normal
        } else {
            *dice.pick(&InputKind::ALL)
        },
        steps: dice.steps(page, limits.steps),
        seed: dice.0.next() >> 32,
        model,
        page,
    };
    if limits.single_token_steps {
        case = case.with_single_token_steps();
    }
    while flops(&case.model.config()?, &case.steps) > limits.budget {
        if !dice.lighten(&mut case) {
            break;
        }
    }
    fit_context(&mut case)?;
    Ok(case)
}

/// Shortens the first step where the model's longest context is shorter.
fn fit_context(case: &mut Case) -> Result<()> {
    let MlaConfig { max_position, .. } = case.model.config()?;
    let over = case.longest().saturating_sub(max_position);
    if let (Some(first), true) = (case.steps.first_mut(), over > 0) {
        first.iter_mut().for_each(|new| *new = new.saturating_sub(over));
    }
    if case.longest() > max_position {
        bail!("--model: a longest context of {max_position} tokens is too short to be verified");
    }
    Ok(())
}

struct Dice(Random);

impl Dice {
    fn chance(&mut self, percent: usize) -> bool {
        self.0.below(100) < percent
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.0.below(from.len())]
    }

    /// From `least` to `most`, each doubling as likely as another.
    fn spread(&mut self, least: usize, most: usize) -> usize {
        let (low, high) = ((least as f64).ln(), (most as f64 + 1.0).ln());
        let drawn = (low + (high - low) * self.0.uniform()).exp();
        (drawn as usize).clamp(least, most)
    }

    /// A dimension: as often a multiple of 16 as just any number.
    fn dimension(&mut self, least: usize, most: usize) -> usize {
        let drawn = self.spread(least, most);
        match self.chance(50) {
            true => drawn.next_multiple_of(16).min(most),
            false => drawn,
        }
    }

    fn shape(&mut self) -> Shape {
        let heads = match self.chance(50) {
            true => *self.pick(&[1, 2, 4, 8, 16, 32, 64, 128]),
            false => self.spread(1, 128),
        };
        let d_rope = match self.chance(10) {
            true => 0,
            false => self.dimension(2, 128) / 2 * 2,
        };
        let rope = *self.pick(&[Pairing::Interleaved, Pairing::Interleaved, Pairing::Half, Pairing::None]);
        Shape {
            heads,
            d_model: self.dimension(4, 1024),
            d_latent: self.dimension(16, 512),
            d_rope,
            d_nope: self.dimension(4, 200),
            d_v: self.dimension(4, 200),
            d_q_latent: self.chance(65).then(|| self.dimension(8, 768)),
            rope,
            yarn: (rope != Pairing::None && self.chance(30)).then(|| *self.pick(&[4, 40])),
        }
    }

    /// A prefill, then steps of a few tokens.
    fn steps(&mut self, page: usize, most: usize) -> Vec<Vec<usize>> {
        let sequences = *self.pick(&[1, 1, 2, 2, 3, 4]);
        let mut steps = vec![(0..sequences).map(|_| self.prefill(page)).collect::<Vec<_>>()];
        for _ in 0..self.0.below(most + 1) {
            let single = self.chance(50);
            let step = (0..sequences).map(|_| if single { 1 } else { self.0.below(9) });
            steps.push(step.collect());
        }
        some_token(&mut steps);
        steps
    }

    /// Mostly short, often beside a page's end, sometimes none.
    fn prefill(&mut self, page: usize) -> usize {
        let page = match self.0.below(3) {
            0 => 2 * page,
            _ => page,
        };
        match self.0.below(20) {
            0 | 1 => 0,
            2 => 1,
            3 | 4 => page - 1,
            5 | 6 => page,
            7 | 8 => page + 1,
            9..15 => self.spread(2, 64),
            _ => self.spread(2, LONGEST),
        }
    }

    /// Makes something of a case smaller; false where nothing can be.
    fn lighten(&mut self, case: &mut Case) -> bool {
        let long = case.steps[0].iter().any(|&new| new > 1);
        let shape = match &mut case.model {
            Model::Drawn(shape) => Some(shape),
            Model::Given { .. } => None,
        };
        if let Some(shape) = shape.filter(|_| !long || self.chance(50))
            && self.halve_dimension(shape)
        {
            return true;
        }
        if long {
            if let Some(longest) = case.steps[0].iter_mut().max() {
                *longest /= 2;
            }
            return true;
        }
        if case.steps.len() > 1 {
            case.steps.pop();
        } else if case.sequences() > 1 {
            case.steps.iter_mut().for_each(|step| step.truncate(step.len() - 1));
        } else {
            return false;
        }
        some_token(&mut case.steps);
        true
    }

    /// False where every dimension is as small as it is drawn.
    fn halve_dimension(&mut self, shape: &mut Shape) -> bool {
        let mut larger: Vec<_> = shape.dimensions().into_iter().filter(|d| d.half().is_some()).collect();
        let chosen = self.0.below(larger.len());
        match larger.get_mut(chosen) {
            Some(dimension) => {
                *dimension.size = dimension.half().unwrap_or(dimension.least);
                true
            }
            None => false,
        }
    }
}

/// There is at least one token, so that there is something to compare.
fn some_token(steps: &mut [Vec<usize>]) {
    if steps.iter().flatten().all(|&new| new == 0) {
        steps[0][0] = 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        budget: 3e8,
        steps: 4,
        single_token_steps: false,
    };

    #[test]
    fn a_case_follows_from_seed_and_number() {
        let text = |seed, number| {
            let case = draw(&Source::Random, seed, number, &LIMITS).unwrap();
            format!("{} {case}", case.model)
        };
        assert_eq!(text(3, 8), text(3, 8));
        assert_ne!(text(3, 8), text(3, 9));
        assert_ne!(text(3, 8), text(4, 8));
    }

    #[test]
    fn cases_are_within_their_limits_and_their_texts_repeat_them() {
        for number in 0..500 {
            for single_token_steps in [false, true] {
                let limits = Limits {
                    budget: if number % 2 == 0 { 2e9 } else { 2e6 },
                    single_token_steps,
                    ..LIMITS
                };
                let case = draw(&Source::Random, 1, number, &limits).unwrap();
                assert!(flops(&case.model.config().unwrap(), &case.steps) <= limits.budget);
                assert!(case.steps.iter().flatten().any(|&new| new > 0));
                assert!(!single_token_steps || case.steps[1..].iter().flatten().all(|&new| new == 1));
                let given = Model::parse(&case.model.to_string()).unwrap();
                assert_eq!(given.config().unwrap(), case.model.config().unwrap());
                let parsed = Case::parse(&case.to_string(), case.model.clone()).unwrap();
                assert_eq!(parsed, case);
            }
        }
    }

    #[test]
    fn what_is_hard_is_drawn_often() {
        let cases: Vec<Case> = (0..400)
            .map(|number| draw(&Source::Random, 0, number, &LIMITS).unwrap())
            .collect();
        let count = |what: &dyn Fn(&Case, &Shape) -> bool| {
            let shapes = cases.iter().filter(|case| match &case.model {
                Model::Drawn(shape) => what(case, shape),
                Model::Given { .. } => false,
            });
            shapes.count()
        };
        assert!(count(&|_, shape| shape.d_latent % 2 == 1) > 40);
        assert!(count(&|_, shape| shape.d_q_latent.is_none()) > 40);
        assert!(count(&|_, shape| shape.d_rope == 0) > 10);
        assert!(count(&|_, shape| shape.heads > 16) > 40);
        assert!(count(&|case, _| case.steps[0].contains(&0)) > 40);
        assert!(count(&|case, _| case.longest() > 4 * case.page) > 40);
        assert!(count(&|case, _| case.sequences() > 1) > 200);
        for input in InputKind::ALL {
            assert!(count(&|case, _| case.input == input) > 30, "{input}");
        }
    }

    #[test]
    fn a_given_model_keeps_its_sizes() {
        let model = Model::parse("heads=2,d_model=8,d_latent=16").unwrap();
        let case = draw(&Source::Model(model.clone()), 0, 0, &LIMITS).unwrap();
        assert_eq!(case.model, model);
    }
}
