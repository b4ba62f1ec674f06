//! Two schedules in turn, so that both meet the same machine.

use std::time::Duration;

use mlafuse_codegen::schedule::Schedule;
use mlafuse_profile::median;

use crate::{Contest, TuneError};

/// How often two schedules are launched in turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounds {
    /// At least so often,
    pub fewest: usize,
    /// and then until this is over,
    pub time: Duration,
    /// but no more than so often.
    pub most: usize,
}

impl Rounds {
    /// For a figure.
    pub const FIRST: Rounds = Rounds {
        fewest: 3,
        time: Duration::from_millis(250),
        most: 51,
    };
    /// For a decision.
    pub const DECISIVE: Rounds = Rounds {
        fewest: 7,
        time: Duration::from_millis(800),
        most: 201,
    };
    /// Where every launch takes the same time.
    pub const EXACT: Rounds = Rounds {
        fewest: 1,
        time: Duration::ZERO,
        most: 1,
    };
}

/// A candidate that was so much slower in each of its first launches is not launched again.
const HOPELESS: f64 = 1.3;
const FIRST_LAUNCHES: usize = 2;

/// Medians of both, in microseconds: of the own schedule, and of the other.
///
/// # Errors
/// The own schedule's failure, or inside of that the other's: the one ends the contest, the other the candidate.
pub(crate) fn race(
    contest: &mut dyn Contest,
    [own, other]: [&Schedule; 2],
    rounds: Rounds,
    clock: &dyn Fn() -> Duration,
) -> Result<Result<[f64; 2], TuneError>, TuneError> {
    let mut times = [Vec::new(), Vec::new()];
    if rounds.most > 1 {
        contest.us(own)?;
        if let Err(failure) = contest.us(other) {
            return Ok(Err(failure));
        }
    }
    let start = clock();
    for round in 0..rounds.most {
        if round >= rounds.fewest && clock().saturating_sub(start) >= rounds.time {
            break;
        }
        // Whoever comes second finds the other's leavings in the caches.
        for which in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let us = match (which, contest.us([own, other][which])) {
                (_, Ok(us)) => us,
                (0, Err(failure)) => return Err(failure),
                (_, Err(failure)) => return Ok(Err(failure)),
            };
            times[which].push(us);
        }
        if is_hopeless(&times) {
            break;
        }
    }
    Ok(Ok(times.map(median)))
}

fn is_hopeless([own, other]: &[Vec<f64>; 2]) -> bool {
    let slowest = own.iter().copied().fold(0.0, f64::max);
    own.len() == FIRST_LAUNCHES && other.iter().all(|&us| us > HOPELESS * slowest)
}
