//! Which instructions the `cpu` device uses.

use mlafuse_cpu::Level;

use crate::RuntimeError;
use crate::folders::variable;

/// The environment variable that names the level of the `cpu` device.
pub const CPU_LEVEL: &str = "MLAFUSE_CPU_LEVEL";

/// The level of the `cpu` device: the one that [`CPU_LEVEL`] names, else the best of this processor.
///
/// # Errors
/// [`RuntimeError::CpuLevel`] where there is no such level, or this processor lacks it.
pub fn cpu_level() -> Result<Level, RuntimeError> {
    match variable(CPU_LEVEL) {
        Some(name) => named(&name.to_string_lossy()),
        None => Ok(Level::detect()),
    }
}

/// The level of this name, if this processor has it.
fn named(name: &str) -> Result<Level, RuntimeError> {
    let level = Level::available().find(|level| level.name() == name);
    level.ok_or_else(|| RuntimeError::CpuLevel {
        found: name.to_string(),
        allowed: Level::available().map(Level::name).collect::<Vec<_>>().join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_this_processor_have_names() {
        for level in Level::available() {
            assert_eq!(named(level.name()).unwrap(), level);
        }
        for lacking in Level::ALL.into_iter().filter(|level| !level.is_available()) {
            assert!(named(lacking.name()).is_err());
        }
        let error = named("AVX9").unwrap_err().to_string();
        let allowed = "MLAFUSE_CPU_LEVEL is `AVX9`; allowed on this processor: portable";
        assert!(error.starts_with(allowed), "{error}");
    }
}
