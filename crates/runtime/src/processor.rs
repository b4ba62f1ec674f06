//! What the system tells of the processor. Nothing here is needed: without it schedules are a little worse.

use std::fs;

/// The model's name, as `Intel(R) Xeon(R) Platinum 8480+`; where Linux tells.
pub(crate) fn model() -> Option<String> {
    model_in(&fs::read_to_string("/proc/cpuinfo").ok()?)
}

fn model_in(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    let name = line.split_once(':')?.1.split_whitespace().collect::<Vec<_>>().join(" ");
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_says_is_understood() {
        let text = "processor\t: 0\nmodel name\t: Some  Processor 9\nmodel name\t: Other\n";
        assert_eq!(model_in(text), Some("Some Processor 9".to_string()));
        assert_eq!((model_in("processor : 0"), model_in("model name :")), (None, None));
    }
}
