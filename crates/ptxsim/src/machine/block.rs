//! A block: its warps, and the order in which they run.

use super::access::Window;
use super::barrier::{BARRIERS, NamedBarrier};
use super::counters::Counters;
use super::environment::Environment;
use super::local::LocalMemory;
use super::mbarrier::Mbarriers;
use super::options::Schedule;
use super::race::BlockRaces;
use super::registers::{LANES, Lanes, Registers};
use super::report::{Checker, Report};
use super::shared::SharedMemory;
use super::warp::{State, Warp};
use crate::program::{Reg, Special};

/// Instructions that a warp runs before others get a turn.
const QUANTUM: u32 = 4096;
/// The same for one that is to starve.
const STARVED_QUANTUM: u32 = 64;

/// What happens after an instruction.
pub(crate) enum Flow {
    Next,
    Jump(u32),
    /// The fragment waits; the instruction is executed again when it no longer does.
    Wait(State),
    /// The instruction has placed the fragments itself.
    Stay,
    /// As `Next`, but others get a turn.
    Yield,
}

/// A report after which the block does not go on.
#[derive(Debug)]
pub(crate) struct Stop;

/// After so many instructions without anything that another thread could wait for a block that looks at what others may
/// change gives way to others.
const PATIENCE: u64 = 1 << 14;

/// How far a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    Running,
    /// It may be waiting for another block.
    Stalled,
    Done,
    Stopped,
}

/// One block of the grid while it runs.
pub(crate) struct Block<'a> {
    pub(crate) env: &'a Environment<'a>,
    pub(crate) index: [u32; 3],
    /// `None` while the warp runs.
    pub(crate) warps: Vec<Option<Warp>>,
    pub(crate) shared: SharedMemory,
    pub(crate) barriers: [NamedBarrier; BARRIERS],
    pub(crate) mbarriers: Mbarriers,
    pub(crate) races: Option<BlockRaces>,
    pub(crate) counters: Counters,
    /// By instruction, where they are asked for.
    pub(crate) line_counters: Vec<Counters>,
    /// Counts what may end another warp's wait.
    pub(crate) progress: u64,
    /// Counts looks at what another block may change.
    pub(crate) polls: u64,
    pub(crate) window: Window,
    pub(crate) steps: u64,
    /// The instruction that is executed.
    pub(crate) pc: u32,
    random: u64,
}

impl<'a> Block<'a> {
    pub(crate) fn new(env: &'a Environment<'a>, linear: u64) -> Block<'a> {
        let [x, y, _] = env.config.grid.map(u64::from);
        let index = [linear % x, linear / x % y, linear / x / y].map(|index| index as u32);
        let threads = env.config.block.iter().product::<u32>();
        let warps = (0..threads.div_ceil(32)).map(|warp| Some(new_warp(env, index, linear, warp, threads)));
        let shared = SharedMemory::new(env.shared_bytes);
        let seed = match env.options.schedule {
            Schedule::Random(seed) => seed,
            _ => 0,
        };
        let races = env.shadow.is_some();
        Block {
            env,
            index,
            warps: warps.collect(),
            barriers: Default::default(),
            mbarriers: Mbarriers::default(),
            races: races.then(|| BlockRaces::new(linear as u32, threads as usize, shared.bytes() as usize)),
            shared,
            counters: Counters::default(),
            line_counters: match env.options.line_counters {
                true => vec![Counters::default(); env.kernel.code.len()],
                false => Vec::new(),
            },
            progress: 1,
            polls: 0,
            window: Window::default(),
            steps: 0,
            pc: 0,
            random: (seed ^ linear.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1,
        }
    }

    /// Threads of the block.
    pub(crate) fn threads(&self) -> u32 {
        self.env.config.block.iter().product()
    }

    /// Threads that have not exited; `current` is the warp that runs.
    pub(crate) fn live_threads(&self, current: Option<&Warp>) -> u32 {
        let others = self.warps.iter().flatten();
        others.chain(current).map(|warp| warp.live.count_ones()).sum()
    }

    /// Runs the block for about `steps` instructions, or for fewer if it seems to wait for another block.
    pub(crate) fn run(&mut self, steps: u64) -> Progress {
        let end = self.steps.saturating_add(steps);
        let (mut progress, mut since, mut polls) = (self.progress, self.steps, self.polls);
        while self.steps < end {
            match self.round() {
                Ok(true) => {}
                Ok(false) => return Progress::Done,
                Err(Stop) => return Progress::Stopped,
            }
            if self.progress != progress {
                (progress, since, polls) = (self.progress, self.steps, self.polls);
            } else if self.polls != polls && self.steps - since > PATIENCE {
                return Progress::Stalled;
            }
        }
        Progress::Running
    }

    /// Gives each warp that can run a turn, as the schedule says; whether any has not exited.
    fn round(&mut self) -> Result<bool, Stop> {
        let ran = match self.env.options.schedule {
            Schedule::Fixed => self.turns(None)?,
            Schedule::Random(_) => self.random_turn()?,
            Schedule::Starve(warp) => {
                let starved = warp as usize % self.warps.len();
                self.turns(Some(starved))? || self.turn(starved, STARVED_QUANTUM)?
            }
        };
        if ran {
            return Ok(true);
        }
        if self.warps.iter().flatten().all(|warp| warp.live == 0) {
            return Ok(false);
        }
        Err(self.deadlock())
    }

    /// A turn for every warp but one; whether any could run.
    fn turns(&mut self, but: Option<usize>) -> Result<bool, Stop> {
        let mut ran = false;
        for warp in 0..self.warps.len() {
            if Some(warp) != but {
                ran |= self.turn(warp, QUANTUM)?;
            }
        }
        Ok(ran)
    }

    fn random_turn(&mut self) -> Result<bool, Stop> {
        let first = self.draw() as usize % self.warps.len();
        let quantum = 1 + self.draw() as u32 % 32;
        for offset in 0..self.warps.len() {
            if self.turn((first + offset) % self.warps.len(), quantum)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A pseudo-random number (xorshift64*).
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
    }

    /// Runs a warp until it must wait or has had its turn; whether it could run at all.
    fn turn(&mut self, index: usize, quantum: u32) -> Result<bool, Stop> {
        let Some(mut warp) = self.warps[index].take() else {
            return Ok(false);
        };
        let result = self.run_warp(&mut warp, quantum);
        self.warps[index] = Some(warp);
        result
    }

    fn run_warp(&mut self, warp: &mut Warp, quantum: u32) -> Result<bool, Stop> {
        let mut left = quantum;
        while left > 0 {
            let Some(index) = warp.select(self.progress) else {
                return Ok(left < quantum);
            };
            left -= 1;
            let (fragments, goes_on) = (warp.fragments.len(), self.step(warp, index)?);
            let stays = warp.fragments.len() == fragments;
            if stays && (!goes_on || left == 0) && !warp.yield_to_others(index, self.progress) {
                break;
            }
        }
        Ok(true)
    }

    /// Executes one instruction; whether the warp may go on.
    #[inline(always)]
    fn step(&mut self, warp: &mut Warp, index: usize) -> Result<bool, Stop> {
        let fragment = &warp.fragments[index];
        let (pc, all) = (fragment.pc, fragment.mask);
        self.pc = pc;
        self.steps += 1;
        if self.steps > self.env.options.step_limit {
            return Err(self.step_limit(warp, all));
        }
        let inst = &self.env.kernel.code[pc as usize];
        let mask = match inst.guard {
            None => all,
            Some(guard) => all & warp.holds(guard.pred, guard.negated),
        };
        let before = self.env.options.line_counters.then(|| self.counters.clone());
        let flow = self.execute(warp, index, inst, mask);
        if let Some(before) = before {
            self.line_counters[pc as usize].add_difference(&self.counters, &before);
        }
        match flow? {
            Flow::Next => warp.fragments[index].pc += 1,
            Flow::Jump(target) => warp.fragments[index].pc = target,
            Flow::Wait(state) => warp.fragments[index].state = state,
            Flow::Stay => {}
            Flow::Yield => {
                warp.fragments[index].pc += 1;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What all of these lanes hold in a register that must be the same for them.
    pub(crate) fn uniform(&mut self, warp: &Warp, mask: u32, reg: Reg, what: &str) -> Result<u32, Stop> {
        let lanes = warp.registers.lanes(reg);
        let first = lanes[mask.trailing_zeros() as usize % LANES];
        if super::registers::lanes_of(mask).any(|lane| lanes[lane] != first) {
            let message = format!("{what} differs between lanes of a warp");
            self.report(warp, mask, Checker::Synccheck, message)?;
        }
        Ok(first)
    }

    /// A report; the block goes on unless there are too many.
    pub(crate) fn report(&mut self, warp: &Warp, mask: u32, checker: Checker, message: String) -> Result<(), Stop> {
        let checks = self.env.options.checks;
        let wanted = match checker {
            Checker::Synccheck => checks.synchronisation,
            Checker::Initcheck => checks.initialised,
            Checker::Racecheck => checks.races,
            _ => true,
        };
        if !wanted {
            return Ok(());
        }
        let report = self.new_report(warp, mask, checker, message);
        self.submit(report)
    }

    /// Hands a report in.
    pub(crate) fn submit(&mut self, report: Report) -> Result<(), Stop> {
        if self.env.reports.submit(report, self.pc) {
            Ok(())
        } else {
            Err(Stop)
        }
    }

    /// A report after which the block cannot go on.
    pub(crate) fn fault(&mut self, warp: &Warp, mask: u32, checker: Checker, message: String) -> Stop {
        let report = self.new_report(warp, mask, checker, message);
        self.env.reports.submit_fault(report, self.pc);
        Stop
    }

    pub(crate) fn new_report(&self, warp: &Warp, mask: u32, checker: Checker, message: String) -> Report {
        let inst = &self.env.kernel.code[self.pc as usize];
        Report {
            checker,
            message,
            kernel: self.env.kernel.name.clone(),
            ptx_line: inst.line,
            source: self.env.kernel.source(inst).cloned(),
            block: self.index,
            thread: self.thread_index(warp.index * 32 + mask.trailing_zeros() % 32),
            address: None,
            allocation: None,
        }
    }

    /// `%tid` of a thread by its number in the block.
    pub(crate) fn thread_index(&self, thread: u32) -> [u32; 3] {
        thread_index(self.env.config.block, thread)
    }

    fn step_limit(&mut self, warp: &Warp, mask: u32) -> Stop {
        let message = format!(
            "the block executed {} instructions without coming to its end; a loop that does not end? (--step-limit sets how \
             many are allowed)",
            self.env.options.step_limit
        );
        self.fault(warp, mask, Checker::Steplimit, message)
    }

    /// No warp can go on, and not all have ended.
    fn deadlock(&mut self) -> Stop {
        let mut lines = Vec::new();
        let mut first = None;
        for warp in self.warps.iter().flatten() {
            for fragment in &warp.fragments {
                let line = self.env.kernel.code[fragment.pc as usize].line;
                let what = match fragment.state {
                    State::Ready => "waits for an mbarrier".to_owned(),
                    State::Barrier(id) => format!("waits at barrier {id}"),
                    State::WarpSync(members) => {
                        format!("waits in bar.warp.sync for lanes {:#010x}", members & warp.live)
                    }
                    State::Converge(members) => {
                        format!(
                            "waits for lanes {:#010x} to come to the same instruction",
                            members & !fragment.mask
                        )
                    }
                };
                first.get_or_insert((warp.index as usize, fragment.mask, fragment.pc));
                lines.push(format!(
                    "warp {} lanes {:#010x} {what} at PTX line {line}",
                    warp.index, fragment.mask
                ));
            }
        }
        let exited = self.warps.iter().flatten().filter(|warp| warp.live == 0).count();
        let rest = if exited == 0 {
            String::new()
        } else {
            format!("; {exited} warps have exited")
        };
        let message = format!("deadlock: {}{rest}", lines.join("; "));
        if let Some((index, mask, pc)) = first
            && let Some(warp) = self.warps[index].take()
        {
            self.pc = pc;
            self.fault(&warp, mask, Checker::Synccheck, message);
            self.warps[index] = Some(warp);
        }
        Stop
    }
}

/// `%tid` of a thread by its number in the block.
pub(crate) fn thread_index([x, y, _]: [u32; 3], thread: u32) -> [u32; 3] {
    [thread % x, thread / x % y, thread / x / y]
}

fn new_warp(env: &Environment<'_>, block: [u32; 3], linear: u64, index: u32, threads: u32) -> Warp {
    let count = (threads - index * 32).min(32);
    let live = u32::MAX >> (32 - count);
    let mut registers = Registers::new(&env.image, env.kernel.predicates as usize);
    for (special, reg) in &env.kernel.specials {
        registers.set(
            u32::MAX,
            *reg,
            &special_value(env, *special, block, linear, index, threads),
        );
    }
    let frame = env.kernel.functions[0].frame_bytes;
    Warp::new(index, live, registers, LocalMemory::new(frame))
}

fn special_value(
    env: &Environment<'_>,
    special: Special,
    block: [u32; 3],
    linear: u64,
    warp: u32,
    threads: u32,
) -> Lanes {
    let each = |f: &dyn Fn(u32) -> u32| std::array::from_fn(|lane| f(lane as u32));
    match special {
        Special::Tid(axis) => each(&|lane| thread_index(env.config.block, warp * 32 + lane)[axis as usize]),
        Special::Ntid(axis) => [env.config.block[axis as usize]; LANES],
        Special::Ctaid(axis) => [block[axis as usize]; LANES],
        Special::Nctaid(axis) => [env.config.grid[axis as usize]; LANES],
        Special::LaneId => each(&|lane| lane),
        Special::WarpId => [warp; LANES],
        Special::NWarpId => [threads.div_ceil(32); LANES],
        Special::LaneMask(kind) => each(&|lane| {
            let below = (1_u32 << lane) - 1;
            match kind {
                0 => 1 << lane,
                1 => below | 1 << lane,
                2 => below,
                3 => !below,
                _ => !(below | 1 << lane),
            }
        }),
        Special::Fixed(value) => [value; LANES],
        Special::SmId => [linear as u32 % SM_COUNT; LANES],
        Special::NSmId => [SM_COUNT; LANES],
        Special::DynamicSharedBytes => [env.config.dynamic_shared; LANES],
        Special::TotalSharedBytes => [env.shared_bytes; LANES],
    }
}

/// Multiprocessors that `%nsmid` tells of.
const SM_COUNT: u32 = 108;
