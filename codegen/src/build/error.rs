//! Why a kernel cannot be made.

/// A region or schedule that no tile program can be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A form of the region that no program expresses.
    #[error("kernel {kernel}: {what}: expected {expected}, got {found}")]
    Unsupported {
        /// The kernel.
        kernel: String,
        /// What about it.
        what: &'static str,
        /// What it is.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A value the kernel reads or writes has no place in the plan.
    #[error("kernel {kernel}: value {value} is not in memory in this plan")]
    NotInMemory {
        /// The kernel.
        kernel: String,
        /// The value's name, or its index where the graph has no such value.
        value: String,
    },
    /// A size of the schedule that cannot be.
    #[error("kernel {kernel}: schedule's {field}: expected {expected}, got {found}")]
    Schedule {
        /// The kernel.
        kernel: String,
        /// The schedule's field.
        field: &'static str,
        /// Its value.
        found: usize,
        /// What is allowed.
        expected: String,
    },
    /// No schedule fits the part.
    #[error("kernel {kernel} ({shape}): the smallest schedule needs {needed} {limit}, {target} allows {allowed}")]
    NoSchedule {
        /// The kernel.
        kernel: String,
        /// What it computes.
        shape: String,
        /// The part.
        target: String,
        /// What is short: `bytes of shared memory a block` or `registers a thread`.
        limit: &'static str,
        /// What the smallest schedule takes.
        needed: usize,
        /// What there is.
        allowed: usize,
    },
}
