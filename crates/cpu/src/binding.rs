//! The buffers of a launch, held until it ends.

use mlafuse_codegen::tile::Access;
use smallvec::SmallVec;

use crate::kernel::TensorParam;
use crate::memory::{Bound, ReadLock, WriteLock};
use crate::{CpuBuffer, CpuError};

/// As many as a kernel has tensors: with no allocation up to 16.
pub(crate) type Few<T> = SmallVec<[T; 16]>;

/// The buffers that are bound to a kernel's tensor parameters, their memory locked.
pub(crate) struct Held<'a> {
    /// Each memory once, whatever parts of it are bound.
    locks: Few<Lock<'a>>,
    /// For each parameter: its buffer, what it does with it, and the lock of the buffer's memory.
    uses: Few<(&'a CpuBuffer, Access, usize)>,
}

enum Lock<'a> {
    /// No parameter writes.
    Read(ReadLock<'a>),
    Write(WriteLock<'a>),
}

impl<'a> Held<'a> {
    /// Locks the memory of `tensors`, which are bound to `params` in their order.
    ///
    /// # Errors
    /// [`CpuError::TensorCount`], [`CpuError::Alias`] and [`CpuError::Busy`].
    pub(crate) fn lock(kernel: &str, params: &[TensorParam], tensors: &[&'a CpuBuffer]) -> Result<Held<'a>, CpuError> {
        if tensors.len() != params.len() {
            return Err(CpuError::TensorCount {
                kernel: kernel.to_string(),
                expected: params.len(),
                got: tensors.len(),
            });
        }
        check_aliases(kernel, params, tensors)?;
        let mut held = Held {
            locks: Few::new(),
            uses: Few::new(),
        };
        for (i, (param, &buffer)) in params.iter().zip(tensors).enumerate() {
            let earlier = tensors[..i].iter().position(|other| other.same_memory(buffer));
            let lock = earlier.map_or(held.locks.len(), |j| held.uses[j].2);
            if earlier.is_none() {
                let mut sharers = params
                    .iter()
                    .zip(tensors)
                    .filter(|(_, other)| other.same_memory(buffer));
                let lock = match sharers.any(|(param, _)| param.access == Access::Write) {
                    true => buffer.lock_write().map(Lock::Write),
                    false => buffer.lock_read().map(Lock::Read),
                };
                held.locks.push(lock.ok_or_else(|| CpuError::Busy {
                    kernel: kernel.to_string(),
                    tensor: param.name.clone(),
                })?);
            }
            held.uses.push((buffer, param.access, lock));
        }
        Ok(held)
    }

    /// What each parameter reads or stores to.
    pub(crate) fn bind(&mut self) -> Few<Bound<'_>> {
        let whole: Few<Bound<'_>> = self
            .locks
            .iter_mut()
            .map(|lock| match lock {
                Lock::Read(lock) => Bound::Read(lock.bytes()),
                Lock::Write(lock) => Bound::Write(lock.stores()),
            })
            .collect();
        let bind = |&(buffer, access, lock): &(&CpuBuffer, Access, usize)| match (whole[lock], access) {
            (Bound::Read(bytes), _) => Bound::Read(&bytes[buffer.range()]),
            (Bound::Write(stores), Access::Write) => Bound::Write(stores.part(buffer)),
            // SAFETY: `check_aliases` has seen that no parameter that writes has a byte of this buffer.
            (Bound::Write(stores), Access::Read) => Bound::Read(unsafe { stores.part(buffer).into_bytes() }),
        };
        self.uses.iter().map(bind).collect()
    }
}

/// Parameters with bytes in common both read them, or both write them as elements of one type.
fn check_aliases(kernel: &str, params: &[TensorParam], tensors: &[&CpuBuffer]) -> Result<(), CpuError> {
    for (j, (second, buffer)) in params.iter().zip(tensors).enumerate() {
        let mut earlier = params.iter().zip(tensors).take(j);
        let clash = earlier.find(|(first, other)| {
            let allowed = match (first.access, second.access) {
                (Access::Read, Access::Read) => true,
                (Access::Write, Access::Write) => first.element == second.element,
                _ => false,
            };
            !allowed && other.overlaps(buffer)
        });
        if let Some((first, _)) = clash {
            return Err(CpuError::Alias {
                kernel: kernel.to_string(),
                first: first.name.clone(),
                second: second.name.clone(),
            });
        }
    }
    Ok(())
}
