//! Device memory: buffers with exact bounds that know which of their bytes hold a value.

/// One allocation. It is aligned to 256 bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceBuffer {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Which of them hold a value: reading others is a fault.
    pub written: Vec<bool>,
    /// Thread of the present launch that wrote two bytes, plus one; empty before the first write.
    writers: Vec<u64>,
}

impl DeviceBuffer {
    /// Memory that nobody has written.
    pub fn empty(bytes: usize) -> DeviceBuffer {
        // All ones is NaN in every float type, and -1.
        DeviceBuffer {
            bytes: vec![0xff; bytes],
            written: vec![false; bytes],
            writers: Vec::new(),
        }
    }

    /// Memory that holds `bytes`.
    pub fn holding(bytes: Vec<u8>) -> DeviceBuffer {
        DeviceBuffer {
            written: vec![true; bytes.len()],
            bytes,
            writers: Vec::new(),
        }
    }

    /// Sets bytes from `at` on.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.written[at..at + bytes.len()].fill(true);
    }
}

/// All device memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// The buffers.
    pub buffers: Vec<DeviceBuffer>,
}

impl Memory {
    pub(super) fn begin_launch(&mut self) {
        self.buffers.iter_mut().for_each(|buffer| buffer.writers.clear());
    }

    /// Bytes `at..at + count` of a buffer for thread `thread` of the launch.
    pub(super) fn read(&self, buffer: usize, at: i64, count: usize, thread: u64) -> Result<&[u8], String> {
        let buffer = &self.buffers[buffer];
        let range = range(buffer, at, count)?;
        if let Some(byte) = range.clone().find(|&byte| !buffer.written[byte]) {
            return Err(format!("reads byte {byte}, which nobody has written"));
        }
        let writers = buffer
            .writers
            .get(range.start / 2..range.end.div_ceil(2))
            .unwrap_or_default();
        if let Some(writer) = writers.iter().find(|&&writer| writer != 0 && writer != thread + 1) {
            return Err(format!(
                "reads bytes {range:?}, which thread {} writes in the same launch",
                writer - 1
            ));
        }
        Ok(&buffer.bytes[range])
    }

    /// Writes `bytes` from `at` on for thread `thread` of the launch.
    pub(super) fn write(&mut self, buffer: usize, at: i64, bytes: &[u8], thread: u64) -> Result<(), String> {
        let buffer = &mut self.buffers[buffer];
        let range = range(buffer, at, bytes.len())?;
        buffer.writers.resize(buffer.bytes.len().div_ceil(2), 0);
        for writer in &mut buffer.writers[range.start / 2..range.end.div_ceil(2)] {
            if *writer != 0 {
                return Err(format!(
                    "writes bytes {range:?}, which thread {} has written in the same launch",
                    *writer - 1
                ));
            }
            *writer = thread + 1;
        }
        buffer.bytes[range.clone()].copy_from_slice(bytes);
        buffer.written[range].fill(true);
        Ok(())
    }
}

fn range(buffer: &DeviceBuffer, at: i64, count: usize) -> Result<std::ops::Range<usize>, String> {
    let len = buffer.bytes.len();
    let start = usize::try_from(at)
        .ok()
        .filter(|start| start.checked_add(count).is_some_and(|end| end <= len));
    let start = start.ok_or_else(|| format!("bytes {at}..+{count} of a buffer of {len}"))?;
    match start.is_multiple_of(count) {
        true => Ok(start..start + count),
        false => Err(format!("{count} bytes at {start}, which is not a multiple")),
    }
}
