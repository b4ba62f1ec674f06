//! Why a kernel cannot be executed.

/// Why a kernel cannot be executed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No such entry.
    #[error("the PTX has no kernel `{entry}`; it has {}", listed(.entries))]
    NoEntry {
        /// The name asked for.
        entry: String,
        /// The module's kernels.
        entries: Vec<String>,
    },
    /// A target that is not simulated.
    #[error("`.target {target}`: expected sm_NN")]
    Target {
        /// The target.
        target: String,
    },
    /// An instruction or declaration that is wrong or not implemented.
    #[error("line {line}: {message}")]
    Line {
        /// The line of the PTX text, from 1.
        line: u32,
        /// What is wrong.
        message: String,
    },
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}
