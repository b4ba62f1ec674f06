//! Kernels as the PTX that NVRTC makes of them, in the PTX simulator with all of its checks.

use crate::executor::Executor;
use crate::machine::{DeviceBuffer, Memory};
use mlafuse_codegen::cuda;
use mlafuse_codegen::thread::ThreadProgram;
use mlafuse_codegen::tile::{Access, Arg, Launch};
use mlafuse_ir::target::Arch;
use mlafuse_runtime::nvrtc::{CudaSource, Nvrtc};
use ptxsim::machine::{self, Asynchrony, Contents, LaunchConfig, MemoryError, Options, Schedule, Statistics};
use ptxsim::program::Kernel;
use std::collections::{BTreeMap, HashMap};

/// A GPU of one architecture.
pub struct Simulator {
    arch: Arch,
    nvrtc: Nvrtc,
    /// How each launch is repeated.
    modes: Vec<Options>,
    /// By CUDA source.
    kernels: HashMap<String, Kernel>,
}

impl Simulator {
    /// Every launch runs under each of `schedules`, with copies that arrive late and early.
    pub fn new(arch: Arch, nvrtc: &Nvrtc, schedules: &[Schedule]) -> Simulator {
        let modes = schedules.iter().flat_map(|&schedule| {
            [Asynchrony::Lazy, Asynchrony::Eager].map(|asynchrony| Options {
                schedule,
                asynchrony,
                ..Options::default()
            })
        });
        Simulator {
            arch,
            nvrtc: nvrtc.clone(),
            modes: modes.collect(),
            kernels: HashMap::new(),
        }
    }

    fn kernel(&mut self, threads: &ThreadProgram) -> Result<&Kernel, String> {
        let text = cuda::print(threads);
        if !self.kernels.contains_key(&text) {
            let kernel = self.compile(&threads.name, &text)?;
            self.kernels.insert(text.clone(), kernel);
        }
        Ok(&self.kernels[&text])
    }

    fn compile(&self, name: &str, text: &str) -> Result<Kernel, String> {
        let source = CudaSource {
            name: format!("{name}.cu"),
            text: text.to_string(),
            arch: self.arch.to_string(),
            options: Vec::new(),
        };
        let compiled = self.nvrtc.compile(&source).map_err(|error| error.to_string())?;
        let module = ptxsim::parse::parse(&compiled.ptx).map_err(|error| error.to_string())?;
        Kernel::new(&module, name).map_err(|error| error.to_string())
    }
}

impl Executor for Simulator {
    type Stats = Statistics;

    fn execute(&mut self, threads: &ThreadProgram, launch: &Launch, memory: &mut Memory) -> Result<Statistics, String> {
        if launch.grid.contains(&0) {
            return Ok(Statistics::default());
        }
        let config = LaunchConfig {
            grid: launch.grid,
            block: [threads.threads as u32, 1, 1],
            dynamic_shared: threads.shared_bytes as u32,
        };
        let modes = self.modes.clone();
        let kernel = self.kernel(threads)?;
        let mut results = Vec::new();
        for options in &modes {
            let (after, statistics) = run(kernel, config, launch, memory, options)
                .map_err(|what| format!("{}, {}: {what}", options.schedule, options.asynchrony))?;
            results.push((options, after, statistics));
        }
        let mut results = results.into_iter();
        let (_, first, statistics) = results.next().ok_or("no mode to run in")?;
        for (options, after, _) in results {
            if after != first {
                let (schedule, asynchrony) = (options.schedule, options.asynchrony);
                return Err(format!(
                    "{schedule}, {asynchrony} gives another result than the first mode"
                ));
            }
        }
        for (index, buffer) in first {
            memory.buffers[index] = buffer;
        }
        Ok(statistics)
    }
}

/// The buffers that a launch may write, by their index, as it leaves them.
type Written = BTreeMap<usize, DeviceBuffer>;

/// One launch on a copy of `memory`.
fn run(
    kernel: &Kernel,
    config: LaunchConfig,
    launch: &Launch,
    memory: &Memory,
    options: &Options,
) -> Result<(Written, Statistics), String> {
    let mut device = machine::Memory::new();
    let bound = upload(memory, launch, &mut device).map_err(|error| error.to_string())?;
    let args = launch.args.iter().map(|arg| match *arg {
        Arg::Buffer { buffer, .. } => bound[&buffer.0].0.to_le_bytes().to_vec(),
        Arg::I32(value) => value.to_le_bytes().to_vec(),
        Arg::I64(value) => value.to_le_bytes().to_vec(),
    });
    let args: Vec<Vec<u8>> = args.collect();
    let outcome = machine::launch(kernel, config, &args, &mut device, options).map_err(|error| error.to_string())?;
    if !outcome.completed || !outcome.reports.is_empty() {
        let reports: Vec<String> = outcome.reports.iter().map(ToString::to_string).collect();
        return Err(reports.join("\n"));
    }
    let written = bound.iter().filter(|(_, (_, access))| *access == Access::Write);
    let after = written.map(|(&index, &(address, _))| {
        let bytes = memory.buffers[index].bytes.len();
        Ok((index, download(&device, address, bytes)?))
    });
    let after: Result<_, MemoryError> = after.collect();
    Ok((after.map_err(|error| error.to_string())?, outcome.statistics))
}

/// The buffers that the launch binds, by their index: address and what the kernel may do. What was never written is marked
/// so, and what the kernel only reads cannot be written.
fn upload(
    memory: &Memory,
    launch: &Launch,
    device: &mut machine::Memory,
) -> Result<BTreeMap<usize, (u64, Access)>, MemoryError> {
    let mut uses = BTreeMap::new();
    for arg in &launch.args {
        if let Arg::Buffer { buffer, access } = *arg {
            let kept = uses.entry(buffer.0).or_insert(access);
            if access == Access::Write {
                *kept = access;
            }
        }
    }
    let mut bound = BTreeMap::new();
    for (index, access) in uses {
        let buffer = &memory.buffers[index];
        let protection = match access {
            Access::Write => machine::Access::ReadWrite,
            Access::Read => machine::Access::ReadOnly,
        };
        let (name, bytes) = (format!("buffer {index}"), buffer.bytes.len() as u64);
        let address = device.allocate(&name, bytes, Contents::Uninitialised, protection)?;
        let mut at = 0;
        for run in buffer.written.chunk_by(|a, b| a == b) {
            if run[0] {
                device.write(address + at as u64, &buffer.bytes[at..at + run.len()])?;
            }
            at += run.len();
        }
        bound.insert(index, (address, access));
    }
    Ok(bound)
}

fn download(device: &machine::Memory, address: u64, bytes: usize) -> Result<DeviceBuffer, MemoryError> {
    let mut read = vec![0; bytes];
    device.read(address, &mut read)?;
    let mut buffer = DeviceBuffer::empty(bytes);
    for (at, byte) in read.iter().enumerate() {
        if device.is_written(address + at as u64, 1)? {
            buffer.put(at, &[*byte]);
        }
    }
    Ok(buffer)
}
