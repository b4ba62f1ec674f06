//! The threads that blocks run on: whoever launches, and helpers that are kept from one launch to the next.
//!
//! A thread that sleeps takes as long to wake as a small kernel takes to run. Rayon's threads go to sleep about 20 us after their
//! last work, which is less than what a host does between two steps; helpers stay awake for [`AWAKE`].

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long a helper stays awake after its last work. Longer than a host needs from one layer of a step to the next, and short
/// for whoever else needs the processor.
const AWAKE: Duration = Duration::from_micros(200);

/// Most helpers.
const MOST: usize = 1023;

/// Calls `work` with 0, 1, .. on so many of the threads that kernels run on, this one and helpers, and returns when all have
/// ended. On fewer where the helpers have another launch meanwhile or the system gives no more threads, but always with 0 on this
/// one. Allocates nothing but for a helper that is new.
pub fn on_threads(threads: usize, work: &(dyn Fn(usize) + Sync)) {
    static TEAM: Team = Team::new();
    TEAM.run(threads, work);
}

struct Team {
    /// Those that there are; whoever holds the lock may call them.
    helpers: Mutex<Vec<Thread>>,
    call: Call,
}

/// What helpers watch. On lines of its own: they look all the time.
#[repr(align(128))]
struct Call {
    /// The calls so far, and in the lower [`ASKED_BITS`] bits how many helpers the last one asks: the first ones.
    number: AtomicU64,
    /// What the helpers that are asked call. Written while none is busy.
    work: UnsafeCell<Option<&'static (dyn Fn(usize) + Sync)>>,
    /// Helpers that were asked and have not ended.
    busy: AtomicUsize,
    /// What a helper's work has panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Bits of [`MOST`].
const ASKED_BITS: u32 = 10;

// SAFETY: `work` is written by the holder of `Team::helpers` while `busy` is 0, before the call's number is released, and read by
// helpers that are asked by that number, which acquire it and are busy until they have read it for the last time.
unsafe impl Sync for Call {}

impl Team {
    const fn new() -> Team {
        Team {
            helpers: Mutex::new(Vec::new()),
            call: Call {
                number: AtomicU64::new(0),
                work: UnsafeCell::new(None),
                busy: AtomicUsize::new(0),
                panic: Mutex::new(None),
            },
        }
    }

    fn run(&'static self, threads: usize, work: &(dyn Fn(usize) + Sync)) {
        let mut helpers = match self.helpers.try_lock() {
            Ok(helpers) => helpers,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return work(0),
        };
        let wanted = threads.saturating_sub(1).min(MOST);
        self.grow(&mut helpers, wanted);
        let asked = &helpers[..wanted.min(helpers.len())];
        self.call.begin(asked.len(), work);
        asked.iter().for_each(Thread::unpark);
        // Where this thread's own part panics, helpers are waited for all the same: what they work on is its caller's.
        let mine = catch_unwind(AssertUnwindSafe(|| work(0)));
        self.call.wait();
        let of_helper = self.call.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(helpers);
        if let Some(panic) = mine.err().or(of_helper) {
            resume_unwind(panic);
        }
    }

    /// Makes them so many helpers, where the system gives the threads.
    fn grow(&'static self, helpers: &mut Vec<Thread>, wanted: usize) {
        while helpers.len() < wanted {
            let index = helpers.len() + 1;
            let seen = self.call.number.load(Ordering::Relaxed);
            let named = thread::Builder::new().name(format!("mlafuse-{index}"));
            match named.spawn(move || self.call.help(index, seen)) {
                Ok(helper) => helpers.push(helper.thread().clone()),
                Err(error) => {
                    tracing::warn!(%error, helpers = helpers.len(), wanted, "no more threads");
                    break;
                }
            }
        }
    }
}

impl Call {
    /// Asks the first `asked` helpers to call `work`, which must stay until none is busy.
    fn begin(&self, asked: usize, work: &(dyn Fn(usize) + Sync)) {
        if asked == 0 {
            return;
        }
        // SAFETY: no helper is busy, so none reads it; `Team::run` does not return before none is again, so that `work` lives.
        unsafe {
            *self.work.get() = Some(std::mem::transmute::<
                &(dyn Fn(usize) + Sync),
                &'static (dyn Fn(usize) + Sync),
            >(work));
        }
        self.busy.store(asked, Ordering::Relaxed);
        let calls = self.number.load(Ordering::Relaxed) >> ASKED_BITS;
        let number = (calls + 1) << ASKED_BITS | asked as u64;
        self.number.store(number, Ordering::Release);
    }

    /// Waits until no helper is busy.
    fn wait(&self) {
        while self.busy.load(Ordering::Acquire) > 0 {
            thread::yield_now();
        }
    }

    /// What helper number `index` does as long as the process lives; it was made after the call `seen`.
    fn help(&self, index: usize, mut seen: u64) {
        let mut last = Instant::now();
        loop {
            let number = self.number.load(Ordering::Acquire);
            if number == seen {
                match last.elapsed() < AWAKE {
                    true => thread::yield_now(),
                    false => thread::park(),
                }
                continue;
            }
            seen = number;
            if index as u64 <= number & MOST as u64 {
                self.take_part(index);
                last = Instant::now();
            }
        }
    }

    /// The part of helper number `index`, which is asked.
    fn take_part(&self, index: usize) {
        // SAFETY: written before the number that asks this helper, and not again while it is busy.
        let work = unsafe { *self.work.get() };
        if let Some(Err(panic)) = work.map(|work| catch_unwind(AssertUnwindSafe(|| work(index)))) {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
        self.busy.fetch_sub(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn team() -> &'static Team {
        Box::leak(Box::new(Team::new()))
    }

    /// How often `work` was called with each index, by a launch on so many threads.
    fn calls(team: &'static Team, threads: usize) -> Vec<usize> {
        let counts: Vec<AtomicUsize> = (0..8).map(|_| AtomicUsize::new(0)).collect();
        team.run(threads, &|index| {
            counts[index].fetch_add(1, Ordering::Relaxed);
        });
        counts.into_iter().map(AtomicUsize::into_inner).collect()
    }

    fn expected(threads: usize) -> Vec<usize> {
        (0..8).map(|index| usize::from(index < threads.max(1))).collect()
    }

    #[test]
    fn every_thread_is_called_once_in_launches_of_any_size() {
        let team = team();
        for launch in 0..2000 {
            let threads = launch * 7 % 6;
            assert_eq!(calls(team, threads), expected(threads), "launch {launch}");
        }
        assert_eq!(team.helpers.lock().unwrap().len(), 4);
    }

    #[test]
    fn helpers_that_sleep_are_woken() {
        let team = team();
        for _ in 0..5 {
            assert_eq!(calls(team, 3), expected(3));
            thread::sleep(5 * AWAKE);
        }
    }

    #[test]
    fn a_launch_beside_another_runs_alone() {
        let team = team();
        let (inside, done) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                team.run(2, &|_| {
                    inside.store(true, Ordering::Release);
                    while !done.load(Ordering::Acquire) {
                        thread::yield_now();
                    }
                });
            });
            while !inside.load(Ordering::Acquire) {
                thread::yield_now();
            }
            assert_eq!(calls(team, 3), expected(1));
            done.store(true, Ordering::Release);
        });
        assert_eq!(calls(team, 3), expected(3));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = team();
        for panics in [0, 1, 2] {
            let ended = AtomicUsize::new(0);
            let caught = catch_unwind(AssertUnwindSafe(|| {
                team.run(3, &|index| {
                    ended.fetch_add(1, Ordering::Relaxed);
                    assert!(index != panics, "thread {index} fails");
                });
            }));
            let panic = caught.unwrap_err();
            assert_eq!(panic.downcast_ref::<String>(), Some(&format!("thread {panics} fails")));
            assert_eq!(ended.into_inner(), 3);
            assert_eq!(calls(team, 3), expected(3));
        }
    }

    #[test]
    fn what_is_left_of_several_panics_is_not_the_next_caller_s() {
        let team = team();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            team.run(3, &|index| panic!("thread {index} fails"))
        }));
        assert_eq!(caught.unwrap_err().downcast_ref::<String>().unwrap(), "thread 0 fails");
        assert_eq!(calls(team, 3), expected(3));
    }
}
