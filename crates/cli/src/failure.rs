//! Errors as one message.

use anyhow::Error;

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
}
