use super::*;
use crate::testing::{MadeUp, attention_plan, dims, schedule};
use std::fs;
use tempfile::TempDir;

const LONG: Limits = Limits {
    budget: Duration::from_secs(3600),
    again: false,
};

struct Bench {
    plan: Plan,
    dir: TempDir,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            plan: attention_plan(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self) -> RecordFile {
        RecordFile::new(self.dir.path().join("records.jsonl"))
    }

    /// Tunes these kernels in launches of each batch.
    fn tune(&self, judge: &MadeUp, kernels: &[&str], batches: &[usize], limits: Limits) -> Vec<Tuned> {
        let mut tasks = Vec::new();
        for kernel in kernels {
            let region = self.plan.kernel(kernel).unwrap();
            tasks.extend(batches.iter().map(|&batch| Task {
                plan: &self.plan,
                region,
                dims: dims(batch, 100),
            }));
        }
        let start = judge.now.get();
        tune(
            &tasks,
            judge,
            &self.file(),
            limits,
            &|| judge.now.get() - start,
            &|_, _| (),
        )
        .unwrap()
    }

    fn one(&self, judge: &MadeUp, limits: Limits) -> Tuned {
        self.tune(judge, &["attention"], &[4], limits).remove(0)
    }
}

/// Milliseconds, as microseconds.
const MS: f64 = 1e3;

#[test]
fn the_fastest_is_chosen_and_failures_are_told() {
    let bench = Bench::new();
    let judge = MadeUp::new(&[
        (8, Some(10.0 * MS)),
        (16, Some(7.0 * MS)),
        (32, None),
        (64, Some(6.0 * MS)),
        (128, Some(99.0 * MS)),
    ]);
    let tuned = bench.one(&judge, LONG);
    let choice = tuned.choice.unwrap();
    assert_eq!((choice.schedule, choice.candidates), (schedule(64), 5));
    assert_eq!((choice.default_us, choice.tuned_us), (10.0 * MS, 6.0 * MS));
    assert_eq!((tuned.candidates.len(), tuned.judged, tuned.left), (5, 5, 0));
    let failed: Vec<&Outcome> = tuned
        .candidates
        .iter()
        .map(|candidate| &candidate.outcome)
        .filter(|outcome| outcome.ratio().is_none())
        .collect();
    assert!(
        matches!(failed[..], [Outcome::Fails { failed }] if failed.contains("made up")),
        "{failed:?}"
    );
    // Once to warm up, and twice.
    assert_eq!(judge.launches.borrow()[&128], 3);
    let records = bench.file().read().unwrap();
    let entry = records.get(&tuned.key).unwrap();
    assert_eq!((&entry.candidates, entry.choice), (&tuned.candidates, tuned.choice));
}

#[test]
fn small_and_passing_gains_are_none() {
    let bench = Bench::new();
    let judge = MadeUp::new(&[(8, Some(100.0 * MS)), (16, Some(99.0 * MS)), (32, Some(101.0 * MS))]);
    // The third is fast for as long as it takes to be noticed.
    judge.first_times.borrow_mut().insert(32, vec![50.0 * MS; 4]);
    let tuned = bench.one(&judge, LONG);
    assert!(
        tuned
            .candidates
            .iter()
            .any(|candidate| candidate.outcome.ratio() < Some(0.6))
    );
    let choice = tuned.choice.unwrap();
    assert_eq!((choice.schedule, choice.is_gain()), (schedule(8), false));
}

#[test]
fn a_second_run_goes_on_where_the_first_ended() {
    let bench = Bench::new();
    let times = [
        (8, Some(100.0 * MS)),
        (16, Some(90.0 * MS)),
        (32, Some(80.0 * MS)),
        (64, Some(70.0 * MS)),
    ];
    let judge = MadeUp::new(&times);
    let short = Limits {
        budget: Duration::from_millis(1800),
        ..LONG
    };
    let first = bench.one(&judge, short);
    assert_eq!((first.judged, first.left), (2, 2), "{first:?}");
    let before = judge.launches.take();
    let none = bench.one(
        &judge,
        Limits {
            budget: Duration::ZERO,
            ..LONG
        },
    );
    assert_eq!((none.choice, none.left), (first.choice, 2));
    let second = bench.one(&judge, LONG);
    assert_eq!((second.judged, second.left), (2, 0));
    assert_eq!(second.choice.unwrap().schedule, schedule(64));
    // What was known was launched again only where it was compared with.
    let after = judge.launches.take();
    assert!(
        before.contains_key(&16) && !after.contains_key(&16),
        "{before:?} {after:?}"
    );
    let third = bench.one(&judge, LONG);
    assert_eq!((third.judged, third.choice), (0, second.choice));
    assert!(judge.launches.borrow().is_empty());
    let again = bench.one(&judge, Limits { again: true, ..LONG });
    assert_eq!((again.judged, again.choice), (4, second.choice));
}

/// An end at any byte of the file, as of a process that is killed, costs one record at most.
#[test]
fn whoever_is_killed_keeps_what_was_found() {
    let bench = Bench::new();
    let judge = MadeUp::new(&[(8, Some(MS)), (16, Some(0.9 * MS)), (32, Some(0.8 * MS))]);
    let whole = bench.one(&judge, LONG);
    let text = fs::read(bench.file().path()).unwrap();
    for cut in (0..text.len()).step_by(37) {
        fs::write(bench.file().path(), &text[..cut]).unwrap();
        let kept = text[..cut].iter().filter(|&&byte| byte == b'\n').count().min(3);
        let resumed = bench.one(&judge, LONG);
        assert_eq!((resumed.choice, resumed.candidates.len()), (whole.choice, 3));
        assert!(resumed.judged <= 3 - kept, "{} {kept}", resumed.judged);
    }
}

#[test]
fn the_budget_is_shared_out_and_kept() {
    let bench = Bench::new();
    let judge = MadeUp::new(&[(8, Some(100.0 * MS)), (16, Some(90.0 * MS)), (32, Some(80.0 * MS))]);
    let budget = Duration::from_secs(4);
    let tuned = bench.tune(&judge, &["attention", "combine"], &[4, 16], Limits { budget, ..LONG });
    assert_eq!(tuned.len(), 4);
    assert!(tuned.iter().all(|tuned| tuned.judged > 0), "{tuned:?}");
    assert!(tuned.iter().any(|tuned| tuned.left > 0 || tuned.choice.is_none()));
    // What is under way is finished.
    assert!(judge.now.get() < budget + Duration::from_secs(2), "{:?}", judge.now);
    let none = bench.tune(
        &judge,
        &["attention"],
        &[1],
        Limits {
            budget: Duration::ZERO,
            ..LONG
        },
    );
    assert_eq!((none[0].judged, none[0].left, none[0].choice), (0, 3, None));
}

/// The first kernel's share is too short for it; what the second leaves is not.
#[test]
fn time_that_is_left_goes_to_whoever_had_too_little() {
    let bench = Bench::new();
    let judge = MadeUp::new(&[8, 16, 32, 64, 128, 256].map(|width| (width, Some(100.0 * MS))));
    let budget = Duration::from_secs(10);
    let tuned = bench.tune(&judge, &["attention"], &[4, 16], Limits { budget, ..LONG });
    assert!(
        tuned.iter().all(|tuned| tuned.left == 0 && tuned.choice.is_some()),
        "{tuned:?}"
    );
    // Lines of the first kernel come after lines of the second.
    let text = fs::read_to_string(bench.file().path()).unwrap();
    let kernels: Vec<bool> = text.lines().map(|line| line.contains("\"batch\":4")).collect();
    assert!(kernels.windows(2).any(|pair| pair == [false, true]), "{text}");
}

#[test]
fn what_does_not_depend_on_the_cached_tokens_is_judged_once() {
    let bench = Bench::new();
    let judge = MadeUp::new(&[(8, Some(MS))]);
    let kernels = ["attention", "einsum_y"];
    let tasks: Vec<Task<'_>> = kernels
        .iter()
        .flat_map(|kernel| [100, 200].map(|kv_len| (kernel, kv_len)))
        .map(|(kernel, kv_len)| Task {
            plan: &bench.plan,
            region: bench.plan.kernel(kernel).unwrap(),
            dims: dims(4, kv_len),
        })
        .collect();
    let tuned = tune(&tasks, &judge, &bench.file(), LONG, &|| judge.now.get(), &|_, _| ()).unwrap();
    let keys: Vec<(&str, Option<usize>)> = tuned
        .iter()
        .map(|tuned| (tuned.key.kernel.as_str(), tuned.key.kv_len))
        .collect();
    assert_eq!(
        keys,
        [("attention", Some(100)), ("attention", Some(200)), ("einsum_y", None)]
    );
}

#[test]
fn an_exact_judge_is_asked_once() {
    let bench = Bench::new();
    let judge = MadeUp {
        exact: true,
        ..MadeUp::new(&[(8, Some(100.0)), (16, Some(90.0)), (32, Some(95.0))])
    };
    assert_eq!(bench.one(&judge, LONG).choice.unwrap().schedule, schedule(16));
    assert_eq!(judge.launches.borrow()[&32], 1);
}
