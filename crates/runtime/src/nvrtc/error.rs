//! What can go wrong with NVRTC.

use std::fmt;
use std::path::PathBuf;

use super::find::{FoundBy, Looked};
use super::log::LogError;

/// Errors of finding, opening and running NVRTC.
#[derive(Debug, thiserror::Error)]
pub enum NvrtcError {
    /// No place holds a usable NVRTC.
    #[error("NVRTC (libnvrtc.so.12 or .13) was not found. Looked in:\n{}{MEND}", looked_in(.looked))]
    NotFound {
        /// Every place looked in, in order.
        looked: Vec<Looked>,
    },
    /// An explicit choice does not hold a usable NVRTC.
    #[error("{source_of_path} names {}, {reason}", .path.display())]
    Unusable {
        /// What named it: the option or the environment variable.
        source_of_path: FoundBy,
        /// The path named.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The loader refused the library.
    #[error("opening {}: {reason}; another NVRTC can be named in MLAFUSE_NVRTC", .path.display())]
    Load {
        /// The library's file.
        path: PathBuf,
        /// The loader's message.
        reason: String,
    },
    /// The library lacks a function.
    #[error("{} has no function {symbol}: it is not an NVRTC, or one older than 11.2", .path.display())]
    MissingSymbol {
        /// The library's file.
        path: PathBuf,
        /// The missing function.
        symbol: &'static str,
    },
    /// A process can use only one NVRTC, and another one is in use.
    #[error("this process already uses {}, so {} cannot be opened", .loaded.display(), .asked.display())]
    AlreadyLoaded {
        /// The library in use.
        loaded: PathBuf,
        /// The library asked for.
        asked: PathBuf,
    },
    /// The bindings would call another library than the one found.
    #[error("{} was found, but the CUDA bindings would use another libnvrtc: {reason}", .path.display())]
    NotSelectable {
        /// The library found.
        path: PathBuf,
        /// Why it could not be put first.
        reason: String,
    },
    /// This NVRTC does not know the architecture.
    #[error("kernel {name}: NVRTC {}.{} does not support {arch:?}; supported: {}", .version.0, .version.1, arch_list(.supported))]
    UnsupportedArch {
        /// The source's name.
        name: String,
        /// The architecture asked for.
        arch: String,
        /// Those it knows, as numbers. Some also exist as `sm_90a`, `sm_120f`.
        supported: Vec<u32>,
        /// NVRTC's (major, minor).
        version: (u32, u32),
    },
    /// Something handed over holds a NUL byte, which NVRTC's C interface cannot take.
    #[error("kernel {name:?}: the {what} holds a NUL byte")]
    BadInput {
        /// The source's name.
        name: String,
        /// Which input: `name`, `source text` or `options`.
        what: &'static str,
    },
    /// NVRTC rejected the source or the options.
    #[error("kernel {name} does not compile for {arch} ({code}){}\n{log}", at_line(.first))]
    Compile {
        /// The source's name.
        name: String,
        /// The architecture.
        arch: String,
        /// NVRTC's result code.
        code: String,
        /// The source line of the first error, where the log names one.
        first: Option<Box<SourceLine>>,
        /// NVRTC's whole log.
        log: String,
    },
    /// A function of NVRTC failed.
    #[error("{function}: {code}")]
    Call {
        /// The function.
        function: &'static str,
        /// NVRTC's result code.
        code: String,
    },
    /// The compiler's log does not tell every kernel's resources.
    #[error("kernel {name}: reading ptxas' log: {reason}\n{log}")]
    ResourceLog {
        /// The source's name.
        name: String,
        /// What is wrong.
        #[source]
        reason: LogError,
        /// The log.
        log: String,
    },
}

const MEND: &str = "Run `cargo xtask setup`, or `pip install nvidia-cuda-nvrtc-cu12`, \
or name a library or its folder in MLAFUSE_NVRTC.";

/// A line of a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLine {
    /// Counted from 1.
    pub line: usize,
    /// The line, without its end.
    pub text: String,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text.trim())
    }
}

fn looked_in(looked: &[Looked]) -> String {
    looked.iter().map(|place| format!("  {place}\n")).collect()
}

fn arch_list(archs: &[u32]) -> String {
    let names: Vec<String> = archs.iter().map(|arch| format!("sm_{arch}")).collect();
    names.join(", ")
}

fn at_line(first: &Option<Box<SourceLine>>) -> String {
    first
        .as_ref()
        .map_or_else(String::new, |line| format!(", first at {line}"))
}
