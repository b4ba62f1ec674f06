//! A launch of a launch file: memory in, outputs out.

use super::arguments::{Argument, Buffer, Source};
use super::element::ElementType;
use super::{LaunchFile, LaunchFileError};
use crate::machine::{Access, Contents, Memory, MemoryError, Options, Outcome, launch};
use crate::program::Kernel;

/// What a launch did, and what it left.
#[derive(Clone, Debug)]
pub struct Run {
    /// What it did.
    pub outcome: Outcome,
    /// The outputs and the changed inputs, in order of the arguments.
    pub outputs: Vec<Output>,
}

/// An output after a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// The type of its elements.
    pub element: ElementType,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, little-endian, row by row.
    pub bytes: Vec<u8>,
    /// How many elements were never written; they are NaN, or 0 where their type has none.
    pub unwritten: u64,
}

impl Output {
    /// The index of an element, from its place in `bytes`.
    pub(crate) fn index(&self, mut element: usize) -> Vec<usize> {
        let mut index = vec![0; self.shape.len()];
        for (place, extent) in index.iter_mut().zip(&self.shape).rev() {
            *place = element % extent;
            element /= extent;
        }
        index
    }
}

/// Bytes that are looked at together for whether all were written.
const STRETCH: usize = 4096;

impl LaunchFile {
    /// Runs a kernel, which may be a changed copy of this file's, in memory of its own.
    ///
    /// # Errors
    /// Where the launch does not suit the kernel or its target, or the host has not enough memory.
    pub fn run(&self, kernel: &Kernel, options: &Options) -> Result<Run, LaunchFileError> {
        let wrong = |source| LaunchFileError::Memory {
            path: self.path.clone(),
            source,
        };
        let mut memory = Memory::new();
        let place = |buffer: &Buffer| allocate(buffer, &mut memory);
        let addresses: Vec<u64> = self
            .buffers
            .iter()
            .map(place)
            .collect::<Result<_, _>>()
            .map_err(wrong)?;
        let argument = |argument: &Argument| match argument {
            Argument::Bytes(bytes) => bytes.clone(),
            Argument::Pointer(buffer) => addresses[*buffer].to_le_bytes().to_vec(),
        };
        let arguments: Vec<Vec<u8>> = self.arguments.iter().map(argument).collect();
        let outcome = launch(kernel, self.config, &arguments, &mut memory, options).map_err(|source| {
            LaunchFileError::Launch {
                path: self.path.clone(),
                source,
            }
        })?;
        let results = self
            .buffers
            .iter()
            .zip(&addresses)
            .filter(|(buffer, _)| buffer.is_output());
        let outputs = results.map(|(buffer, address)| output(buffer, *address, &memory));
        let outputs = outputs.collect::<Result<_, _>>().map_err(wrong)?;
        Ok(Run { outcome, outputs })
    }
}

fn allocate(buffer: &Buffer, memory: &mut Memory) -> Result<u64, MemoryError> {
    let (contents, access, tensor) = match &buffer.source {
        Source::Input(tensor) => (Contents::Zeros, Access::ReadOnly, Some(tensor)),
        Source::Inout(tensor) => (Contents::Zeros, Access::ReadWrite, Some(tensor)),
        Source::Output => (Contents::Uninitialised, Access::ReadWrite, None),
    };
    let address = memory.allocate(&buffer.name, buffer.bytes, contents, access)?;
    if let Some(tensor) = tensor {
        memory.write(address, tensor.bytes())?;
    }
    Ok(address)
}

fn output(buffer: &Buffer, address: u64, memory: &Memory) -> Result<Output, MemoryError> {
    let refused = || MemoryError::OutOfMemory {
        name: buffer.name.clone(),
        bytes: buffer.bytes,
    };
    let length = usize::try_from(buffer.bytes).map_err(|_| refused())?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length).map_err(|_| refused())?;
    bytes.resize(length, 0);
    memory.read(address, &mut bytes)?;
    let mut unwritten = 0;
    let mut at = address;
    for stretch in bytes.chunks_mut(STRETCH) {
        if !memory.is_written(at, stretch.len() as u64)? {
            unwritten += mark_unwritten(stretch, at, buffer.element, memory)?;
        }
        at += stretch.len() as u64;
    }
    Ok(Output {
        name: buffer.name.clone(),
        element: buffer.element,
        shape: buffer.shape.clone(),
        bytes,
        unwritten,
    })
}

/// Sets the elements that were never written; how many those are.
fn mark_unwritten(stretch: &mut [u8], address: u64, element: ElementType, memory: &Memory) -> Result<u64, MemoryError> {
    let mut unwritten = 0;
    let mut at = address;
    for bytes in stretch.chunks_exact_mut(element.bytes()) {
        if !memory.is_written(at, bytes.len() as u64)? {
            bytes.copy_from_slice(element.unwritten());
            unwritten += 1;
        }
        at += bytes.len() as u64;
    }
    Ok(unwritten)
}
