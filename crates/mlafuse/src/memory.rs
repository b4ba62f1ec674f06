//! Host tensors to device memory and back.

use mlafuse_runtime::{Buffer, Device, Run};
use mlafuse_tensor::{DType, HostTensor};

use crate::Error;

/// A copy of a tensor on a device, under a name for reports.
pub(crate) fn upload(device: &dyn Device, name: &str, tensor: &HostTensor) -> Result<Buffer, Error> {
    let buffer = device.alloc(name, tensor.bytes().len())?;
    device.write(&buffer, 0, tensor.bytes())?;
    Ok(buffer)
}

/// Bytes, and elements, that are on their way at a time.
const CHUNK: usize = 1 << 18;

/// Where a tensor lies in device memory: `run` bytes of it from `offset` on, the next `stride` bytes further on, and so on.
pub(crate) struct Place<'a> {
    pub device: &'a dyn Device,
    pub buffer: &'a Buffer,
    pub offset: usize,
    pub run: usize,
    pub stride: usize,
}

impl<'a> Place<'a> {
    /// All of a buffer.
    pub fn whole(device: &'a dyn Device, buffer: &'a Buffer) -> Place<'a> {
        let (run, stride) = (buffer.len(), buffer.len());
        Place {
            device,
            buffer,
            offset: 0,
            run,
            stride,
        }
    }

    /// Writes a tensor's elements as `dtype`. No converted copy of it all is made.
    pub fn write(&self, tensor: &HostTensor, dtype: DType) -> Result<(), Error> {
        let flat = tensor.reshape(&[tensor.numel()])?;
        for start in (0..flat.numel()).step_by(CHUNK) {
            let chunk = flat.slice_outer(start..flat.numel().min(start + CHUNK))?;
            self.bytes(start * dtype.size_bytes(), chunk.to_dtype(dtype).bytes())?;
        }
        Ok(())
    }

    /// Copies all of another device's buffer here.
    pub fn copy(&self, from_device: &dyn Device, from: &Buffer) -> Result<(), Error> {
        let mut chunk = vec![0; from.len().min(CHUNK)];
        for start in (0..from.len()).step_by(CHUNK) {
            chunk.truncate(from.len() - start);
            from_device.read(from, start, &mut chunk)?;
            self.bytes(start, &chunk)?;
        }
        Ok(())
    }

    /// Writes the tensor's bytes from `at` on.
    fn bytes(&self, mut at: usize, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let (row, column) = (at / self.run, at % self.run);
            let (now, rest) = bytes.split_at(bytes.len().min(self.run - column));
            self.device
                .write(self.buffer, self.offset + row * self.stride + column, now)?;
            (at, bytes) = (at + now.len(), rest);
        }
        Ok(())
    }
}

/// The first elements of the output `name` of a run, as a tensor.
pub(crate) fn download(
    device: &dyn Device,
    run: &Run,
    name: &'static str,
    dtype: DType,
    shape: &[usize],
) -> Result<HostTensor, Error> {
    let buffer = run.outputs.get(name).ok_or(Error::MissingOutput { name })?;
    let mut tensor = HostTensor::zeros(dtype, shape)?;
    device.read(buffer, 0, tensor.bytes_mut())?;
    Ok(tensor)
}
