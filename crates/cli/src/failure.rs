//! Errors as one message.

use anyhow::Error;
use mlafuse::RuntimeError;

/// The error and its causes, joined by colons. A cause that the message before it already tells is left out: some
/// libraries' messages hold their causes, others' do not.
pub fn message(error: &Error) -> String {
    let mut told = String::new();
    for cause in error.chain() {
        let words = cause.to_string();
        if told.is_empty() {
            told = words;
        } else if !told.contains(&words) {
            told = format!("{}: {words}", told.trim_end_matches(['.', ':']));
        }
    }
    told
}

/// Whether something ran and a fault of it was found, rather than that it could not run.
pub fn is_finding(error: &Error) -> bool {
    let found = |error: &RuntimeError| matches!(error, RuntimeError::Checker { .. });
    error.chain().any(|cause| match cause.downcast_ref::<mlafuse::Error>() {
        Some(mlafuse::Error::Runtime(error)) => found(error),
        _ => cause.downcast_ref::<RuntimeError>().is_some_and(found),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn causes_are_folded_and_told_once() {
        let plain = anyhow!("no space").context("cannot write out.safetensors");
        assert_eq!(message(&plain), "cannot write out.safetensors: no space");
        let doubled = anyhow!("no space").context("cannot write: no space");
        assert_eq!(message(&doubled), "cannot write: no space");
    }

    #[test]
    fn only_what_ran_is_a_finding() {
        let report = || RuntimeError::Checker {
            kernel: "k".into(),
            arch: "sm_80".parse().unwrap(),
            reports: Vec::new(),
        };
        assert!(is_finding(&Error::from(mlafuse::Error::from(report()))));
        assert!(is_finding(&Error::from(report()).context("a step")));
        let refused = RuntimeError::ForeignBuffer { device: "cpu".into() };
        assert!(!is_finding(&Error::from(refused)) && !is_finding(&anyhow!("no space")));
    }
}
