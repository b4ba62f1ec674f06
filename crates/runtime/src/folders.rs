//! The user's folders: where compiled kernels and set-up data are kept.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Why a folder cannot be determined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FolderError {
    /// Neither the folder's own variables nor HOME say where it is.
    #[error("no {what} folder: none of {tried} is set to an absolute path")]
    Undetermined {
        /// Which folder was wanted (`cache`, `data`).
        what: &'static str,
        /// The environment variables that were read.
        tried: &'static str,
    },
}

/// The folder for compiled kernels and cached choices: `$MLAFUSE_CACHE`, else
/// `$XDG_CACHE_HOME/mlafuse`, else `~/.cache/mlafuse`. It may not exist yet.
///
/// # Errors
/// [`FolderError::Undetermined`] when none of the variables gives a place.
pub fn cache_folder() -> Result<PathBuf, FolderError> {
    if let Some(own) = variable("MLAFUSE_CACHE") {
        let own = PathBuf::from(own);
        return Ok(std::path::absolute(&own).unwrap_or(own));
    }
    in_home(variable("XDG_CACHE_HOME"), variable("HOME"), ".cache").ok_or(FolderError::Undetermined {
        what: "cache",
        tried: "MLAFUSE_CACHE, XDG_CACHE_HOME, HOME",
    })
}

/// The folder for set-up data: `$XDG_DATA_HOME/mlafuse`, else `~/.local/share/mlafuse`. An NVRTC
/// placed in its `nvrtc` folder is found. It may not exist yet.
///
/// # Errors
/// [`FolderError::Undetermined`] when none of the variables gives a place.
pub fn data_folder() -> Result<PathBuf, FolderError> {
    in_home(variable("XDG_DATA_HOME"), variable("HOME"), ".local/share").ok_or(FolderError::Undetermined {
        what: "data",
        tried: "XDG_DATA_HOME, HOME",
    })
}

/// What `MLAFUSE_TUNING` says of the tuning records that launches use: a file, or `off`.
pub fn tuning_choice() -> Option<OsString> {
    variable("MLAFUSE_TUNING")
}

/// An environment variable; an empty one counts as unset, as the XDG specification says.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The XDG rule: an absolute `$XDG_…` wins, a relative one is ignored, `$HOME` is the fallback.
fn in_home(xdg: Option<OsString>, home: Option<OsString>, below_home: &str) -> Option<PathBuf> {
    let absolute = |value: OsString| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    let base = xdg
        .and_then(absolute)
        .or_else(|| home.and_then(absolute).map(|home| home.join(below_home)))?;
    Some(base.join(Path::new("mlafuse")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(xdg: Option<&str>, home: Option<&str>) -> Option<PathBuf> {
        in_home(xdg.map(Into::into), home.map(Into::into), ".cache")
    }

    #[test]
    fn xdg_wins_over_home() {
        assert_eq!(place(Some("/x"), Some("/h")), Some("/x/mlafuse".into()));
    }

    #[test]
    fn home_is_the_fallback() {
        assert_eq!(place(None, Some("/h")), Some("/h/.cache/mlafuse".into()));
    }

    #[test]
    fn relative_xdg_is_ignored() {
        assert_eq!(place(Some("x"), Some("/h")), Some("/h/.cache/mlafuse".into()));
        assert_eq!(place(Some("x"), None), None);
        assert_eq!(place(None, Some("h")), None);
    }
}
