//! The repository holds small text files with clean line ends, and small fixtures.

use super::Finding;
use super::repo::{File, Repo};

const RULE: &str = "plain-text";
const LARGEST: u64 = 1 << 20;

pub fn clean_and_small(repo: &Repo) -> Vec<Finding> {
    repo.files.iter().flat_map(faults).collect()
}

fn faults(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |line, message: &str| findings.push(Finding::error(&file.path, line, RULE, message));
    if file.bytes > LARGEST {
        add(1, "larger than 1 MiB");
    }
    if is_fixture(file) {
        return findings;
    }
    let Some(text) = &file.text else {
        add(
            1,
            "not text: only safetensors files under examples/ and testdata/ may be binary",
        );
        return findings;
    };
    for (index, line) in text.split('\n').enumerate() {
        if line.ends_with(char::is_whitespace) {
            add(index + 1, "white space at the end of the line");
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        add(text.lines().count(), "no newline at the end of the file");
    }
    findings
}

/// Files as a program wrote them: tensors, and PTX of other compilers.
fn is_fixture(file: &File) -> bool {
    let test_data = file.path.contains("/testdata/");
    let tensors = file.path.ends_with(".safetensors") && (test_data || file.path.starts_with("examples/"));
    tensors || (test_data && file.path.ends_with(".ptx"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn unclean_line_ends_are_found() {
        let files = [("a", "x\ny \nz"), ("b", "x\r\n"), ("c", "x\n"), ("d", "")];
        assert_eq!(places(clean_and_small, &files), ["a:2", "a:3", "b:1"]);
    }

    #[test]
    fn binary_and_large_files_are_found() {
        let large = vec![b'\n'; LARGEST as usize + 1];
        let fixture = "examples/tiny/model.safetensors";
        let cases = [
            ("a.bin", vec![0, 1], 1),
            (fixture, vec![0, 1], 0),
            (fixture, large.clone(), 1),
            ("crates/a/testdata/x.safetensors", vec![0, 1], 0),
            ("crates/a/testdata/x.ptx", b"a \n".to_vec(), 0),
            ("crates/a/src/x.ptx", b"a \n".to_vec(), 1),
            ("a.md", large, 1),
        ];
        for (path, content, expected) in cases {
            assert_eq!(faults(&File::new(path.to_owned(), content)).len(), expected, "{path}");
        }
    }
}
