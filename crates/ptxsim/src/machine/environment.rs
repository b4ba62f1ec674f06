//! What all blocks of a launch share.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::launch::LaunchConfig;
use super::memory::Memory;
use super::options::Options;
use super::race::GlobalShadow;
use super::registers::Lanes;
use super::report::{Checker, Report};
use crate::numeric::mma::MmaMode;
use crate::program::Kernel;

/// What all blocks of a launch share.
pub(crate) struct Environment<'a> {
    pub kernel: &'a Kernel,
    pub config: LaunchConfig,
    pub params: Vec<u8>,
    pub memory: &'a Memory,
    pub options: &'a Options,
    pub mma: MmaMode,
    /// Static and dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// The register file as a warp finds it, with constants filled in.
    pub image: Vec<Lanes>,
    /// Where races are looked for.
    pub shadow: Option<GlobalShadow>,
    pub reports: Reports,
    /// Held while an atomic, or another strong access, of more than one word is made.
    pub wide_atomics: Mutex<()>,
}

/// Reports of all blocks.
pub(crate) struct Reports {
    most: usize,
    stopped: AtomicBool,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    reports: Vec<Report>,
    /// Each checker reports an instruction once.
    seen: HashSet<(Checker, u32)>,
}

impl Reports {
    pub(crate) fn new(most: usize) -> Reports {
        Reports {
            most,
            stopped: AtomicBool::new(false),
            found: Mutex::default(),
        }
    }

    /// Takes a report of an instruction, unless the same was reported; whether the block may go on.
    pub(crate) fn submit(&self, report: Report, pc: u32) -> bool {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.reports.len() < self.most && found.seen.insert((report.checker, pc)) {
            found.reports.push(report);
        }
        let full = found.reports.len() >= self.most;
        if full {
            self.stopped.store(true, Ordering::Relaxed);
        }
        !full
    }

    /// Takes a report that ends the launch.
    pub(crate) fn submit_fault(&self, report: Report, pc: u32) {
        self.submit(report, pc);
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether blocks are to stop.
    pub(crate) fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// All reports, in order of block.
    pub(crate) fn into_reports(self) -> Vec<Report> {
        let mut reports = self.found.into_inner().unwrap_or_else(PoisonError::into_inner).reports;
        reports.sort_by_key(|report| (report.block[2], report.block[1], report.block[0]));
        reports
    }
}
