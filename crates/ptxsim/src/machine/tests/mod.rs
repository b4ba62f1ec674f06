//! Kernels as small PTX texts, launched on small grids, and compared with what the host computes.

mod asynchronous;
mod atomics;
mod control;
mod counters;
mod errors;
mod functions;
mod initcheck;
mod matrices;
mod mbarriers;
mod memcheck;
mod memory;
mod publishing;
mod races;
mod schedules;
mod synccheck;
mod warp;

use super::{
    Access, Asynchrony, Checker, Contents, LaunchConfig, LaunchError, Memory, Options, Outcome, Report, Schedule,
    Statistics, launch,
};
use crate::program::{DecodeError, Kernel};

/// Begins every kernel: registers; `%t`, the thread in the block; `%g`, the thread in the grid; `%b`, the block; and for each
/// argument `%aN`, with `%own` as the thread's word of the first. One line, so that a test's text begins on a line of its own.
const PROLOGUE: &str = ".reg .pred %p<16>; .reg .b16 %h<32>; .reg .b32 %r<64>; .reg .b64 %d<64>; .reg .b128 %q<4>; \
     .reg .b32 %t; .reg .b32 %g; .reg .b32 %b; .reg .b64 %own; \
     mov.u32 %t, %tid.x; mov.u32 %b, %ctaid.x; mov.u32 %g, %ntid.x; mad.lo.u32 %g, %g, %b, %t; ";

/// What an argument is.
#[derive(Clone, Debug)]
enum Argument {
    Buffer {
        name: String,
        bytes: u64,
        /// `None` where nothing was written.
        contents: Option<Vec<u8>>,
        access: Access,
    },
    Word(u32),
}

/// A kernel with its launch.
#[derive(Clone, Debug)]
pub(super) struct Case {
    module: String,
    body: String,
    arguments: Vec<Argument>,
    grid: u32,
    block: u32,
    dynamic_shared: u32,
    options: Options,
}

/// What a launch did, with its memory.
pub(super) struct Done {
    outcome: Outcome,
    memory: Memory,
    buffers: Vec<(String, u64, u64)>,
    text: String,
}

/// A kernel of these instructions, on one warp.
pub(super) fn case(body: &str) -> Case {
    Case {
        module: String::new(),
        body: body.to_owned(),
        arguments: Vec::new(),
        grid: 1,
        block: 32,
        dynamic_shared: 0,
        options: Options {
            step_limit: 1 << 20,
            threads: Some(1),
            ..Options::default()
        },
    }
}

/// Words as bytes.
pub(super) fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl Case {
    /// Declarations that stand before the kernel.
    pub fn module(mut self, text: &str) -> Case {
        self.module = text.to_owned();
        self
    }

    /// Threads of a block.
    pub fn block(mut self, threads: u32) -> Case {
        self.block = threads;
        self
    }

    /// Blocks.
    pub fn grid(mut self, blocks: u32) -> Case {
        self.grid = blocks;
        self
    }

    /// Bytes of dynamic shared memory.
    pub fn shared(mut self, bytes: u32) -> Case {
        self.dynamic_shared = bytes;
        self
    }

    fn buffer(mut self, name: &str, bytes: u64, contents: Option<Vec<u8>>, access: Access) -> Case {
        let name = name.to_owned();
        self.arguments.push(Argument::Buffer {
            name,
            bytes,
            contents,
            access,
        });
        self
    }

    /// A read-only argument.
    pub fn input(self, name: &str, words: &[u32]) -> Case {
        self.buffer(name, 4 * words.len() as u64, Some(bytes(words)), Access::ReadOnly)
    }

    /// An argument that nothing was written to.
    pub fn output(self, name: &str, words: u64) -> Case {
        self.buffer(name, 4 * words, None, Access::ReadWrite)
    }

    /// An argument that may be read and written.
    pub fn both(self, name: &str, contents: &[u8]) -> Case {
        let contents = contents.to_vec();
        self.buffer(name, contents.len() as u64, Some(contents), Access::ReadWrite)
    }

    /// A number as an argument.
    pub fn word(mut self, value: u32) -> Case {
        self.arguments.push(Argument::Word(value));
        self
    }

    /// Changes options.
    pub fn with(mut self, change: impl FnOnce(&mut Options)) -> Case {
        change(&mut self.options);
        self
    }

    /// The order of warps.
    pub fn schedule(self, schedule: Schedule) -> Case {
        self.with(|options| options.schedule = schedule)
    }

    /// Asynchronous copies land at issue.
    pub fn eager(self) -> Case {
        self.with(|options| options.asynchrony = Asynchrony::Eager)
    }

    /// The PTX.
    pub fn text(&self) -> String {
        let (mut params, mut loads) = (Vec::new(), String::new());
        for (index, argument) in self.arguments.iter().enumerate() {
            let (ty, width) = match argument {
                Argument::Buffer { .. } => ("u64", "b64"),
                Argument::Word(_) => ("u32", "b32"),
            };
            params.push(format!(".param .{ty} p{index}"));
            loads += &format!(".reg .{width} %a{index}; ld.param.{ty} %a{index}, [p{index}]; ");
        }
        if let Some(Argument::Buffer { .. }) = self.arguments.first() {
            loads += "mad.wide.u32 %own, %g, 4, %a0; ";
        }
        format!(
            ".version 8.8\n.target sm_100\n.address_size 64\n{}\n.visible .entry k({})\n{{ {PROLOGUE}{loads}\n{}\n}}\n",
            self.module,
            params.join(", "),
            self.body
        )
    }

    /// The kernel.
    pub fn decode(&self) -> Result<Kernel, DecodeError> {
        let text = self.text();
        let module = crate::parse::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        Kernel::new(&module, "k")
    }

    /// The message of a text that cannot be decoded.
    pub fn decode_error(&self) -> String {
        match self.decode() {
            Ok(_) => panic!("no error\n{}", self.text()),
            Err(error) => error.to_string(),
        }
    }

    /// Launches the kernel.
    pub fn try_run(&self) -> Result<Done, LaunchError> {
        let kernel = self.decode().unwrap_or_else(|error| panic!("{error}\n{}", self.text()));
        let (mut memory, mut buffers, mut arguments) = (Memory::new(), Vec::new(), Vec::new());
        for argument in &self.arguments {
            match argument {
                Argument::Word(word) => arguments.push(word.to_le_bytes().to_vec()),
                Argument::Buffer {
                    name,
                    bytes,
                    contents,
                    access,
                } => {
                    let address = memory.allocate(name, *bytes, Contents::Uninitialised, *access)?;
                    memory.write(address, contents.as_deref().unwrap_or_default())?;
                    arguments.push(address.to_le_bytes().to_vec());
                    buffers.push((name.clone(), address, *bytes));
                }
            }
        }
        let config = LaunchConfig {
            grid: [self.grid, 1, 1],
            block: [self.block, 1, 1],
            dynamic_shared: self.dynamic_shared,
        };
        let outcome = launch(&kernel, config, &arguments, &mut memory, &self.options)?;
        Ok(Done {
            outcome,
            memory,
            buffers,
            text: self.text(),
        })
    }

    /// Launches the kernel.
    pub fn run(&self) -> Done {
        self.try_run().expect("the launch suits the kernel")
    }

    /// Launches a kernel that must be without faults; the words of its first buffer.
    #[track_caller]
    pub fn words(&self) -> Vec<u32> {
        self.run().clean().words(0)
    }

    /// Launches a kernel that has one fault, and only that.
    #[track_caller]
    pub fn report(&self) -> Report {
        let done = self.run();
        match done.reports() {
            [report] => report.clone(),
            reports => panic!("expected one report, found {reports:#?}\n{}", done.text),
        }
    }

    /// The line of a piece of the text that stands in it once.
    #[track_caller]
    pub fn line_of(&self, piece: &str) -> u32 {
        let text = self.text();
        let lines: Vec<usize> = (1..)
            .zip(text.lines())
            .filter(|(_, line)| line.contains(piece))
            .map(|(n, _)| n)
            .collect();
        assert_eq!(lines.len(), 1, "`{piece}` stands at lines {lines:?}");
        lines[0] as u32
    }
}

impl Done {
    pub fn reports(&self) -> &[Report] {
        &self.outcome.reports
    }

    pub fn statistics(&self) -> &Statistics {
        &self.outcome.statistics
    }

    /// Fails where anything was reported.
    #[track_caller]
    pub fn clean(&self) -> &Done {
        assert!(
            self.outcome.reports.is_empty() && self.outcome.completed,
            "{:#?}\n{}",
            self.outcome.reports,
            self.text
        );
        self
    }

    /// A buffer, by its number among the buffers.
    pub fn bytes(&self, index: usize) -> Vec<u8> {
        let (_, address, bytes) = &self.buffers[index];
        let mut out = vec![0; *bytes as usize];
        self.memory.read(*address, &mut out).expect("the buffer is there");
        out
    }

    /// A buffer, by its number among the buffers.
    pub fn words(&self, index: usize) -> Vec<u32> {
        let word = |chunk: &[u8]| chunk.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte));
        self.bytes(index).chunks(4).map(word).collect()
    }

    /// Where a buffer lies.
    pub fn address(&self, index: usize) -> u64 {
        self.buffers[index].1
    }
}

/// `f` of 0, 1, 2 and so on.
pub(super) fn each<T>(count: usize, f: impl FnMut(usize) -> T) -> Vec<T> {
    (0..count).map(f).collect()
}
