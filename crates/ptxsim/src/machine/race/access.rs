//! What an access is, and which two conflict.

/// How far a strong access or a fence reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scope {
    /// The threads of the block (`.cta`).
    Block,
    /// The threads of every block (`.gpu`, `.sys`; volatile accesses too).
    Device,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A weak read.
    Read,
    /// A weak write.
    Write,
    /// A strong read: volatile, relaxed or acquire.
    StrongRead(Scope),
    /// A strong write: volatile, relaxed or release; and every atomic operation.
    StrongWrite(Scope),
}

/// Who makes an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Actor {
    /// The thread itself.
    Sync,
    /// Its asynchronous operation with this number.
    Async(u32),
}

/// One access of one lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    /// The thread's index in its block.
    pub thread: u32,
    /// Whether it or one of its copies makes the access.
    pub actor: Actor,
    /// What is done.
    pub kind: Kind,
    /// How many bytes, from 1 to 16.
    pub bytes: u32,
    /// The line of the PTX text; lines from [`MAX_LINE`] on are all given as that.
    pub line: u32,
}

/// An access as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AccessInfo {
    /// The block's index in the grid.
    pub block: u32,
    /// The thread's index in its block.
    pub thread: u32,
    /// What was done.
    pub kind: Kind,
    /// The line of the PTX text.
    pub line: u32,
    /// Whether an asynchronous copy did it.
    pub asynchronous: bool,
}

/// Two accesses that nothing orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// The earlier one.
    pub previous: AccessInfo,
    /// The later one.
    pub current: AccessInfo,
    /// What is missing, as the end of a sentence.
    pub missing: &'static str,
}

/// The largest line that is remembered.
pub(crate) const MAX_LINE: u32 = (1 << 21) - 1;

impl Kind {
    /// Every kind, in the order of [`Kind::index`].
    pub(super) const ALL: [Kind; 6] = [
        Kind::Write,
        Kind::Read,
        Kind::StrongWrite(Scope::Device),
        Kind::StrongRead(Scope::Device),
        Kind::StrongWrite(Scope::Block),
        Kind::StrongRead(Scope::Block),
    ];

    /// A number below 6.
    pub(super) const fn index(self) -> usize {
        match self {
            Kind::Write => 0,
            Kind::Read => 1,
            Kind::StrongWrite(Scope::Device) => 2,
            Kind::StrongRead(Scope::Device) => 3,
            Kind::StrongWrite(Scope::Block) => 4,
            Kind::StrongRead(Scope::Block) => 5,
        }
    }

    /// Whether the bytes change.
    pub(super) fn writes(self) -> bool {
        matches!(self, Kind::Write | Kind::StrongWrite(_))
    }

    /// Whether it is strong for its own block alone.
    pub(super) fn narrow(self) -> bool {
        self.scope() == Some(Scope::Block)
    }

    /// The scope of a strong access.
    fn scope(self) -> Option<Scope> {
        match self {
            Kind::Read | Kind::Write => None,
            Kind::StrongRead(scope) | Kind::StrongWrite(scope) => Some(scope),
        }
    }

    /// Whether unordered accesses of these kinds race. Two strong ones whose scopes reach each other do not.
    pub(super) fn conflicts(self, other: Kind, same_block: bool) -> bool {
        let reach = |scope| same_block || scope == Scope::Device;
        let both_strong = self.scope().is_some_and(reach) && other.scope().is_some_and(reach);
        (self.writes() || other.writes()) && !both_strong
    }
}

impl Conflict {
    /// The conflict of two unordered accesses.
    pub(super) fn new(previous: AccessInfo, current: AccessInfo) -> Conflict {
        let missing = missing(&previous, &current);
        Conflict {
            previous,
            current,
            missing,
        }
    }
}

/// What would have ordered the accesses.
fn missing(previous: &AccessInfo, current: &AccessInfo) -> &'static str {
    if previous.block != current.block {
        if previous.kind.narrow() || current.kind.narrow() {
            return "different blocks: an access of .cta scope is not strong for another block";
        }
        return "different blocks: only atomics with fences order them";
    }
    let same_thread = previous.thread == current.thread;
    match (previous.asynchronous, current.asynchronous) {
        (true, _) if same_thread => "the thread did not wait for the copy (cp.async.wait_group) in between",
        (true, _) => "the copy was not waited for (cp.async.wait_group) before a barrier",
        (false, true) if same_thread => "the thread had issued the copy already, and did not wait for it",
        (false, true) => "no barrier orders them before the copy was issued",
        (false, false) if previous.thread / 32 == current.thread / 32 => {
            "no barrier orders them, and lanes of one warp are ordered only by bar.warp.sync"
        }
        (false, false) => "no barrier orders them",
    }
}
