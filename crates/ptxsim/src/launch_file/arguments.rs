//! A launch's arguments and the memory behind them.

use super::LaunchFileError;
use super::element::ElementType;
use super::json::Field;
use super::parse::{Arg, ArgKind, OutputArg};
use super::tensors::{Tensor, TensorFiles};
use crate::program::Kernel;

/// A kernel's argument.
#[derive(Clone, Debug)]
pub(super) enum Argument {
    Bytes(Vec<u8>),
    /// The address of a buffer: its index.
    Pointer(usize),
}

/// An allocation that a launch begins with.
#[derive(Clone, Debug)]
pub(super) struct Buffer {
    pub name: String,
    pub element: ElementType,
    pub shape: Vec<usize>,
    pub bytes: u64,
    pub source: Source,
}

/// What a buffer holds at first.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A tensor, which stays as it is.
    Input(Tensor),
    /// A tensor, which the kernel may change and which is saved.
    Inout(Tensor),
    /// Nothing; it is saved.
    Output,
}

impl Buffer {
    /// Whether it is saved after the launch.
    pub(super) fn is_output(&self) -> bool {
        !matches!(self.source, Source::Input(_))
    }
}

/// The arguments, and the buffers that they point to.
pub(super) struct Arguments {
    pub arguments: Vec<Argument>,
    pub buffers: Vec<Buffer>,
}

impl Arguments {
    pub(super) fn new(
        args: &[Arg<'_>],
        kernel: &Kernel,
        files: &mut TensorFiles<'_>,
    ) -> Result<Arguments, LaunchFileError> {
        let mut all = Arguments {
            arguments: Vec::new(),
            buffers: Vec::new(),
        };
        for (index, arg) in args.iter().enumerate() {
            let argument = all.argument(arg, files)?;
            all.arguments.push(argument);
            fits(arg, kernel, index)?;
        }
        Ok(all)
    }

    fn argument(&mut self, arg: &Arg<'_>, files: &mut TensorFiles<'_>) -> Result<Argument, LaunchFileError> {
        match &arg.kind {
            ArgKind::Scalar(_, bytes) => Ok(Argument::Bytes(bytes.clone())),
            ArgKind::Tensor(field) => self.input(files.tensor(field)?),
            ArgKind::Inout(field) => self.inout(files.tensor(field)?, field),
            ArgKind::Output(output) => self.output(output),
        }
    }

    /// Arguments that name the same tensor share its buffer.
    fn input(&mut self, tensor: Tensor) -> Result<Argument, LaunchFileError> {
        let same = |buffer: &Buffer| matches!(&buffer.source, Source::Input(other) if other.is(&tensor));
        if let Some(index) = self.buffers.iter().position(same) {
            return Ok(Argument::Pointer(index));
        }
        Ok(self.tensor(tensor, Source::Input))
    }

    fn inout(&mut self, tensor: Tensor, field: &Field<'_>) -> Result<Argument, LaunchFileError> {
        self.new_name(&tensor.name, field)?;
        Ok(self.tensor(tensor, Source::Inout))
    }

    fn tensor(&mut self, tensor: Tensor, source: fn(Tensor) -> Source) -> Argument {
        self.push(Buffer {
            name: tensor.name.clone(),
            element: tensor.element,
            shape: tensor.shape.clone(),
            bytes: tensor.bytes().len() as u64,
            source: source(tensor),
        })
    }

    fn output(&mut self, output: &OutputArg<'_>) -> Result<Argument, LaunchFileError> {
        let name = output.name.string("the name of an output")?;
        self.new_name(name, &output.name)?;
        let product = |bytes: u64, extent: &usize| bytes.checked_mul(*extent as u64);
        let size = output.element.bytes() as u64;
        let bytes = output.extents.iter().try_fold(size, product);
        let bytes = bytes.ok_or_else(|| output.shape.unexpected("a shape of fewer than 2^64 bytes"))?;
        Ok(self.push(Buffer {
            name: name.to_owned(),
            element: output.element,
            shape: output.extents.clone(),
            bytes,
            source: Source::Output,
        }))
    }

    fn push(&mut self, buffer: Buffer) -> Argument {
        self.buffers.push(buffer);
        Argument::Pointer(self.buffers.len() - 1)
    }

    /// Outputs are saved by name.
    fn new_name(&self, name: &str, field: &Field<'_>) -> Result<(), LaunchFileError> {
        let same = |buffer: &Buffer| buffer.is_output() && buffer.name == name;
        if name == "__metadata__" || self.buffers.iter().any(same) {
            return Err(field.unexpected("a name that no other output and no `inout` has"));
        }
        Ok(())
    }
}

/// An argument must have its parameter's size. The counts have been compared.
fn fits(arg: &Arg<'_>, kernel: &Kernel, index: usize) -> Result<(), LaunchFileError> {
    let (what, bytes) = match &arg.kind {
        ArgKind::Scalar(name, bytes) => (*name, bytes.len()),
        ArgKind::Tensor(_) | ArgKind::Inout(_) | ArgKind::Output(_) => ("a pointer", 8),
    };
    match kernel.params.get(index) {
        Some(param) if param.bytes as usize != bytes => Err(arg.field.wrong(
            format!("{what} of {bytes} bytes"),
            format!("{} bytes, as parameter `{}` has", param.bytes, param.name),
        )),
        _ => Ok(()),
    }
}
