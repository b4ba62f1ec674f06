//! A line on a terminal for what takes longer than a second.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

/// Shown from the second on, and only where stderr is a terminal; gone when dropped.
pub struct Progress {
    bar: ProgressBar,
    /// Closed when this is dropped, which ends the wait for the first second.
    _running: Sender<()>,
}

impl Progress {
    /// `steps` of work, named in the plural.
    pub fn start(what: &str, steps: usize) -> Progress {
        Progress::new(what, steps, "{spinner} {msg} {pos}/{len} [{elapsed}]")
    }

    /// Bytes of work, so many as is told on the way.
    pub fn of_bytes(what: &str) -> Progress {
        Progress::new(what, 0, "{spinner} {msg} {bar:30} {bytes}/{total_bytes} [{elapsed}]")
    }

    fn new(what: &str, steps: usize, template: &str) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_string());
        let (running, ended) = mpsc::channel::<()>();
        let shown = bar.clone();
        std::thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(Duration::from_millis(200));
            }
        });
        Progress { bar, _running: running }
    }

    /// One step is done.
    pub fn step(&self) {
        self.bar.inc(1);
    }

    /// One step is done of so many, where that shows on the way.
    pub fn step_of(&self, steps: usize) {
        self.bar.set_length(steps as u64);
        self.step();
    }

    /// So much is done of so much.
    pub fn reached(&self, done: usize, of: usize) {
        self.bar.set_length(of as u64);
        self.bar.set_position(done as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
