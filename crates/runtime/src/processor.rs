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

/// Bytes of the largest cache that a core has for itself (the second level); where Linux tells.
pub(crate) fn core_cache_bytes() -> Option<usize> {
    let read = |index: usize, file: &str| {
        fs::read_to_string(format!("/sys/devices/system/cpu/cpu0/cache/index{index}/{file}")).ok()
    };
    let second = (0..8).find(|&index| read(index, "level").is_some_and(|level| level.trim() == "2"))?;
    kib(&read(second, "size")?)
}

fn kib(text: &str) -> Option<usize> {
    let kib: usize = text.trim().strip_suffix('K')?.parse().ok()?;
    kib.checked_mul(1 << 10).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_linux_says_is_understood() {
        let text = "processor\t: 0\nmodel name\t: Some  Processor 9\nmodel name\t: Other\n";
        assert_eq!(model_in(text), Some("Some Processor 9".to_string()));
        assert_eq!((model_in("processor : 0"), model_in("model name :")), (None, None));
        assert_eq!(kib("2048K\n"), Some(2 << 20));
        assert_eq!((kib("2M"), kib("0K"), kib("99999999999999999999K")), (None, None, None));
    }
}
