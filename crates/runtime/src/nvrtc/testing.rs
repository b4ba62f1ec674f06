//! For test suites: one rule for tests that need NVRTC.

use super::{Nvrtc, NvrtcError};
use crate::folders::variable;

/// The NVRTC of this machine, or `None` where there is none and the test may be skipped (a notice
/// goes to stderr). Write `let Some(nvrtc) = nvrtc_or_skip() else { return };`.
///
/// # Panics
/// When NVRTC is missing although `CI=true` or `MLAFUSE_REQUIRE_NVRTC=1` demands it; and when one
/// is found but cannot be used, which is never a reason to skip.
pub fn nvrtc_or_skip() -> Option<Nvrtc> {
    let is = |name: &str, wanted: &str| variable(name).is_some_and(|value| value == wanted);
    match Nvrtc::load(None) {
        Ok(nvrtc) => Some(nvrtc),
        Err(err @ NvrtcError::NotFound { .. }) => {
            assert!(
                !is("CI", "true") && !is("MLAFUSE_REQUIRE_NVRTC", "1"),
                "this test needs NVRTC, and CI or MLAFUSE_REQUIRE_NVRTC forbids to skip it: {err}"
            );
            eprintln!("skipped: NVRTC was not found (cargo xtask setup installs it)");
            None
        }
        Err(err) => panic!("NVRTC was found but cannot be used: {err}"),
    }
}
