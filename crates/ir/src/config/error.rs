//! What can be wrong with a config.

use thiserror::Error;

/// Why a config was refused. Every message names the file or flag, the field, what was found and what is allowed.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum ConfigError {
    /// The text isn't JSON; NaN and Infinity, which Python writes, count as that.
    #[error("{file}: not valid JSON at line {line}, column {column}, near `{near}`: {reason}")]
    Json {
        /// The file's name as given.
        file: String,
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// The text just before the fault, which mostly holds the field's name.
        near: String,
        /// The JSON reader's message.
        reason: String,
    },
    /// The model isn't an MLA model.
    #[error("{file}: model type `{model_type}` isn't an MLA model: it has no {missing}")]
    NotMla {
        /// The file's name as given.
        file: String,
        /// The config's `model_type`.
        model_type: String,
        /// The fields an MLA model has and this config lacks.
        missing: String,
    },
    /// Fields that have no default are absent.
    #[error("{file}: missing {missing}")]
    Missing {
        /// The file's name, or the inline form.
        file: String,
        /// The absent fields.
        missing: String,
    },
    /// A field's value isn't allowed.
    #[error("{file}: `{field}` is {found}; allowed: {allowed}")]
    Field {
        /// The file's name, or the inline form.
        file: String,
        /// The field, with the objects it lies in.
        field: String,
        /// The value as found, cut short where it is long.
        found: String,
        /// What is allowed.
        allowed: String,
    },
    /// The config asks for something that exists but isn't supported.
    #[error("{file}: {what} isn't supported; supported: {supported}")]
    Unsupported {
        /// The file's name as given.
        file: String,
        /// The feature by name.
        what: String,
        /// What is supported in its place.
        supported: String,
    },
    /// The inline form has a key that isn't known.
    #[error("{file}: unknown key `{key}`; known: {known}")]
    UnknownKey {
        /// The inline form.
        file: String,
        /// The key as found.
        key: String,
        /// The known keys.
        known: String,
    },
}

/// The first characters of a value, enough to recognise it in a message.
pub(super) fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let head: String = text.chars().take(LONGEST).collect();
    format!("{head}…")
}
