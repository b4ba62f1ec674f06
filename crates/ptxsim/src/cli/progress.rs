//! Progress on stderr, for work that takes over a second and where stderr is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long nothing is shown, and how often it is drawn then.
const SECOND: Duration = Duration::from_secs(1);

pub struct Progress {
    bar: ProgressBar,
    /// Ends the thread when dropped.
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Progress {
    /// One piece of work, as in `running mm`.
    pub fn spinner(what: &str) -> Progress {
        Progress::start("{spinner} {msg}, {elapsed}", what)
    }

    /// Pieces of work, as in `12 of 40 runs`.
    pub fn counter(what: &str) -> Progress {
        Progress::start("{spinner} {pos} of {len} {msg}, {elapsed}", what)
    }

    fn start(template: &str, what: &str) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden()).with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        let (done, ended) = channel();
        let shown = bar.clone();
        let show = move || {
            if ended.recv_timeout(SECOND) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                // Hidden still where stderr is no terminal.
                shown.set_draw_target(ProgressDrawTarget::stderr());
                shown.enable_steady_tick(SECOND);
            }
        };
        Progress {
            bar,
            done: Some(done),
            thread: Some(std::thread::spawn(show)),
        }
    }

    pub fn update(&self, done: usize, total: usize) {
        self.bar.set_length(total as u64);
        self.bar.set_position(done as u64);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has said so itself.
            let _ = thread.join();
        }
        self.bar.finish_and_clear();
    }
}
