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

/// A copy of integers on a device, under a name for reports.
pub(crate) fn upload_ints(device: &dyn Device, name: &str, values: &[i32]) -> Result<Buffer, Error> {
    upload(device, name, &HostTensor::from_i32(&[values.len()], values)?)
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
