//! Whether there is memory for both plans, asked before anything is allocated: a process that asks for too much is ended without
//! a word.

use std::fs;

use mlafuse_ir::plan::{BufferRole, Plan};
use mlafuse_ir::size::Dims;

use crate::ProfileError;

/// # Errors
/// [`ProfileError::Memory`] where the inputs and both plans' other buffers are more than is free; [`ProfileError::Buffer`].
pub(crate) fn check(fused: &Plan, unfused: &Plan, dims: &Dims) -> Result<(), ProfileError> {
    let (inputs, of_fused) = bytes(fused, dims)?;
    let (_, of_unfused) = bytes(unfused, dims)?;
    let needed = inputs.saturating_add(of_fused).saturating_add(of_unfused);
    match free_memory() {
        Some(free) if needed > free => Err(ProfileError::Memory {
            needed: needed >> 20,
            free: free >> 20,
        }),
        _ => Ok(()),
    }
}

/// Of a plan's inputs, and of its other buffers.
fn bytes(plan: &Plan, dims: &Dims) -> Result<(usize, usize), ProfileError> {
    let (mut inputs, mut others) = (0usize, 0usize);
    for buffer in &plan.buffers {
        let sum = match buffer.role {
            BufferRole::Input(_) => &mut inputs,
            BufferRole::Output(_) => &mut others,
            BufferRole::Temp => continue,
        };
        *sum = sum.saturating_add(buffer.bytes(dims)?);
    }
    Ok((inputs, others.saturating_add(plan.arena(dims)?.bytes)))
}

/// Bytes of memory that are free, where Linux tells.
pub fn free_memory() -> Option<usize> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mlafuse_ir::plan::unfused;
    use mlafuse_ir::size::Symbol;
    use mlafuse_ir::text::parse;

    #[test]
    fn inputs_are_shared_and_other_buffers_are_not() {
        let text = "graph g { %x = input \"x\" : f32[T, 10] %y = scale factor=2.0 %x : f32[T, 10] output \"y\" %y }";
        let plan = unfused(&parse(text).unwrap()).unwrap();
        let of = |tokens| Dims::new().with(Symbol::T, tokens);
        assert_eq!(bytes(&plan, &of(3)).unwrap(), (120, 120));
        assert!(check(&plan, &plan, &of(3)).is_ok());
        assert!(check(&plan, &plan, &of(usize::MAX)).is_err());
        if free_memory().is_some() {
            let error = check(&plan, &plan, &of(1 << 50)).unwrap_err().to_string();
            assert!(error.contains("MiB"), "{error}");
        }
    }
}
