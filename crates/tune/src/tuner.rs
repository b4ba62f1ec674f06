//! The search: judge what is worth it, remember it at once, and choose what stays better when it is looked at again.

use std::collections::BTreeSet;
use std::time::Duration;

use mlafuse_codegen::schedule::Schedule;
use mlafuse_ir::plan::{Plan, Region};
use mlafuse_ir::size::Dims;

use crate::race::{Rounds, race};
use crate::record::{Candidate, Choice, Fact, Outcome};
use crate::{Contest, Judge, Key, RecordFile, Records, TuneError};

/// A kernel in launches of one size.
#[derive(Clone, Debug)]
pub struct Task<'a> {
    /// The kernel's plan.
    pub plan: &'a Plan,
    /// The kernel.
    pub region: &'a Region,
    /// The sizes of its launches, the cache's strides included.
    pub dims: Dims,
}

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// When to end, counted from the start. Each kernel has its share of what is left; what is under way is finished.
    pub budget: Duration,
    /// Whether what is recorded is judged again.
    pub again: bool,
}

/// What is known of a task in the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuned {
    /// What it is about.
    pub key: Key,
    /// What was tried, now or before, of the schedules that are worth it.
    pub candidates: Vec<Candidate>,
    /// What was chosen from those that were judged; nothing where time was short.
    pub choice: Option<Choice>,
    /// Schedules that time was too short for.
    pub left: usize,
    /// Schedules that were judged now, and not before.
    pub judged: usize,
}

/// A candidate must be so much faster than the device's own schedule, when first seen and when looked at again.
const GAIN: f64 = 0.98;
/// Candidates that are looked at again.
const FINALISTS: usize = 3;
/// The part of a task's time after which no new candidate begins, so that there is some to decide.
const JUDGING: f64 = 0.75;

/// Tunes every task, each kernel and size once: what `file` tells already is not judged again, and what is found goes there at
/// once. `clock` tells the time since the start; `step` is called after each judgement, with the tasks that are done and how many
/// there are.
///
/// # Errors
/// Where a kernel cannot be built or run under the device's own schedule, its memory cannot be had, or the file not be read or
/// written. What was found before is in the file.
pub fn tune(
    tasks: &[Task<'_>],
    judge: &dyn Judge,
    file: &RecordFile,
    limits: Limits,
    clock: &dyn Fn() -> Duration,
    step: &dyn Fn(usize, usize),
) -> Result<Vec<Tuned>, TuneError> {
    let records = if limits.again { Records::default() } else { file.read()? };
    let mut tuner = Tuner {
        judge,
        records,
        file,
        clock,
        found: 0,
    };
    let mut seen = BTreeSet::new();
    let keyed = tasks.iter().map(|task| (task, tuner.key(task)));
    let distinct: Vec<(&Task<'_>, Key)> = keyed.filter(|(_, key)| seen.insert(key.clone())).collect();
    let (mut tuned, mut spaces) = (Vec::with_capacity(distinct.len()), Vec::with_capacity(distinct.len()));
    for (task, key) in &distinct {
        judge.check(task)?;
        let schedules = judge.candidates(task)?;
        tuned.push(tuner.known(key, &schedules));
        spaces.push(schedules);
    }
    // What some leave of their time, those may have that had too little.
    while clock() < limits.budget {
        let (mut open, before) = (tuned.iter().filter(|tuned| !tuned.is_done()).count(), tuner.found);
        for (index, ((task, _), schedules)) in distinct.iter().zip(&spaces).enumerate() {
            if let Some(tuned) = tuned.get_mut(index).filter(|tuned| !tuned.is_done()) {
                let now = clock();
                let share = limits.budget.saturating_sub(now) / open.max(1) as u32;
                tuner.task(task, schedules, tuned, [now, now + share], &|| {
                    step(index, distinct.len())
                })?;
                open -= 1;
            }
            step(index + 1, distinct.len());
        }
        if tuner.found == before {
            break;
        }
    }
    Ok(tuned)
}

impl Tuned {
    /// Whether every schedule was judged, and the choice made from all of them.
    fn is_done(&self) -> bool {
        let from_all = |choice: Choice| choice.candidates == self.candidates.len();
        self.left == 0 && self.choice.is_some_and(from_all)
    }
}

struct Tuner<'a> {
    judge: &'a dyn Judge,
    records: Records,
    file: &'a RecordFile,
    clock: &'a dyn Fn() -> Duration,
    /// Facts that were added.
    found: usize,
}

impl Tuner<'_> {
    fn key(&self, task: &Task<'_>) -> Key {
        Key::new(self.judge.identity(), task.plan, task.region, &task.dims)
    }

    /// Judges what is left, in a task's time, and chooses.
    fn task(
        &mut self,
        task: &Task<'_>,
        schedules: &[Schedule],
        tuned: &mut Tuned,
        [start, end]: [Duration; 2],
        step: &dyn Fn(),
    ) -> Result<(), TuneError> {
        let Some(own) = schedules.first().filter(|_| start < end) else {
            return Ok(());
        };
        let mut contest = self.judge.contest(task)?;
        let judging = start + (end - start).mul_f64(JUDGING);
        let before: Vec<Schedule> = tuned.candidates.iter().map(|candidate| candidate.schedule).collect();
        for schedule in schedules.iter().filter(|schedule| !before.contains(schedule)) {
            if (self.clock)() >= judging {
                break;
            }
            let candidate = self.judge_one(contest.as_mut(), own, schedule)?;
            self.add(&tuned.key, Fact::Candidate(candidate.clone()))?;
            tuned.candidates.push(candidate);
            tuned.judged += 1;
            tuned.left -= 1;
            step();
        }
        if let Some(choice) = self.choose(contest.as_mut(), own, &tuned.candidates, end)? {
            self.add(&tuned.key, Fact::Choice(choice))?;
            tuned.choice = Some(choice);
        }
        Ok(())
    }

    /// What the records tell of these schedules.
    fn known(&self, key: &Key, schedules: &[Schedule]) -> Tuned {
        let entry = self.records.get(key);
        let of_entry = |schedule| entry.and_then(|entry| entry.candidate(schedule).cloned());
        let candidates: Vec<Candidate> = schedules.iter().filter_map(of_entry).collect();
        Tuned {
            key: key.clone(),
            choice: entry.and_then(|entry| entry.choice),
            left: schedules.len() - candidates.len(),
            judged: 0,
            candidates,
        }
    }

    fn add(&mut self, key: &Key, fact: Fact) -> Result<(), TuneError> {
        self.found += 1;
        Ok(self.file.add(key, &fact)?)
    }

    fn rounds(&self, rounds: Rounds) -> Rounds {
        if self.judge.is_exact() { Rounds::EXACT } else { rounds }
    }

    /// The own schedule runs against itself: what that gives is a figure like any other.
    fn judge_one(
        &self,
        contest: &mut dyn Contest,
        own: &Schedule,
        schedule: &Schedule,
    ) -> Result<Candidate, TuneError> {
        let raced = race(contest, [own, schedule], self.rounds(Rounds::FIRST), self.clock)?;
        let outcome = match raced {
            Ok([default_us, us]) => Outcome::Runs {
                us: rounded(us),
                default_us: rounded(default_us),
            },
            Err(failure) => Outcome::Fails {
                failed: failure.to_string(),
            },
        };
        tracing::debug!(%schedule, ?outcome, "judged");
        Ok(Candidate {
            schedule: *schedule,
            outcome,
        })
    }

    /// The best that is better again; the own schedule where none is. `None` where time is over before that is known.
    fn choose(
        &self,
        contest: &mut dyn Contest,
        own: &Schedule,
        tried: &[Candidate],
        end: Duration,
    ) -> Result<Option<Choice>, TuneError> {
        let Some(figure) = tried.iter().find(|candidate| candidate.schedule == *own) else {
            return Ok(None);
        };
        let Outcome::Runs { us, .. } = figure.outcome else {
            return Ok(None);
        };
        let choice = |schedule: &Schedule, [default_us, tuned_us]: [f64; 2]| Choice {
            schedule: *schedule,
            default_us: rounded(default_us),
            tuned_us: rounded(tuned_us),
            candidates: tried.len(),
        };
        for schedule in finalists(own, tried) {
            if (self.clock)() >= end {
                return Ok(None);
            }
            let raced = race(contest, [own, &schedule], self.rounds(Rounds::DECISIVE), self.clock)?;
            match raced {
                Ok(times @ [default_us, us]) if us < GAIN * default_us => return Ok(Some(choice(&schedule, times))),
                _ => tracing::debug!(%schedule, "no better when looked at again"),
            }
        }
        Ok(Some(choice(own, [us, us])))
    }
}

/// Candidates that seem better than the own schedule, the best first.
fn finalists(own: &Schedule, tried: &[Candidate]) -> Vec<Schedule> {
    let others = tried.iter().filter(|candidate| candidate.schedule != *own);
    let ratios = others.filter_map(|candidate| Some((candidate.outcome.ratio()?, candidate.schedule)));
    let mut better: Vec<(f64, Schedule)> = ratios.filter(|&(ratio, _)| ratio < GAIN).collect();
    better.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    better.truncate(FINALISTS);
    better.into_iter().map(|(_, schedule)| schedule).collect()
}

/// To nanoseconds: more digits say nothing. Above 0, as every record is.
fn rounded(us: f64) -> f64 {
    ((us * 1e3).round() / 1e3).max(1e-3)
}

#[cfg(test)]
mod tests;
