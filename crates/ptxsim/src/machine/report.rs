//! What a checker found.

use std::fmt;

use serde::Serialize;

/// Who found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Checker {
    /// An access outside of every allocation, misaligned, or a store to what is read-only.
    Memcheck,
    /// A read of bytes that nothing wrote.
    Initcheck,
    /// Two accesses that nothing orders.
    Racecheck,
    /// A barrier used against its rules, a deadlock.
    Synccheck,
    /// More steps than allowed.
    Steplimit,
    /// `trap`, or what the hardware would refuse to execute.
    Fault,
    /// Results that differ: from the reference, or between schedules.
    Compare,
}

/// A place in the CUDA source, from `.loc`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SourceLine {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Who found it.
    pub checker: Checker,
    /// What it is, in a sentence that needs no other field.
    pub message: String,
    /// The kernel.
    pub kernel: String,
    /// The line of the PTX text, from 1; 0 where no instruction is at fault.
    pub ptx_line: u32,
    /// The line of the CUDA source, where the PTX says.
    pub source: Option<SourceLine>,
    /// `%ctaid`.
    pub block: [u32; 3],
    /// `%tid`.
    pub thread: [u32; 3],
    /// The address: an offset for shared and local memory, else as the kernel sees it.
    pub address: Option<u64>,
    /// The allocation it lies in or near to.
    pub allocation: Option<String>,
}

impl fmt::Display for Checker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Checker::Memcheck => "memcheck",
            Checker::Initcheck => "initcheck",
            Checker::Racecheck => "racecheck",
            Checker::Synccheck => "synccheck",
            Checker::Steplimit => "steplimit",
            Checker::Fault => "fault",
            Checker::Compare => "compare",
        })
    }
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.checker, self.message)?;
        if self.ptx_line == 0 {
            return write!(f, "\n    kernel {}", self.kernel);
        }
        write!(f, "\n    kernel {}, PTX line {}", self.kernel, self.ptx_line)?;
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        write!(f, ", block {}, thread {}", triple(self.block), triple(self.thread))
    }
}

/// `(1,0,0)`.
pub(crate) fn triple([x, y, z]: [u32; 3]) -> String {
    format!("({x},{y},{z})")
}
