//! CUDA text is made only by the printer, and PTX mnemonics stand in one table.

use super::Finding;
use super::repo::{File, Repo};
use super::source::Source;

const CUDA: &[&str] = &["__global__", "__shared__", "asm volatile", "#pragma"];
const MNEMONICS: &[&str] = &["mma.sync", "ldmatrix", "cp.async", "ex2.approx", "bar.sync"];
const PRINTER: &str = "codegen/src/cuda/";
const TABLE: &str = "codegen/src/cuda/intrinsics.rs";
/// Reads PTX, so that it has to name what it reads.
const READER: &str = "crates/ptxsim/";

/// In code and strings, tests included: a test of another part has no business with CUDA text.
pub fn only_in_the_printer(repo: &Repo) -> Vec<Finding> {
    let sources = repo
        .sources()
        .filter(|(file, _)| in_codegen(file) && !file.path.starts_with(PRINTER));
    sources
        .flat_map(|(file, source)| {
            let lines = source.code().chain(source.strings());
            holding(
                lines,
                CUDA,
                file,
                "cuda-in-printer",
                "is CUDA text: it belongs to codegen/src/cuda/",
            )
        })
        .collect()
}

pub fn mnemonics_in_one_table(repo: &Repo) -> Vec<Finding> {
    let sources = repo
        .sources()
        .filter(|(file, _)| file.is_product() && file.path != TABLE && !file.path.starts_with(READER));
    sources
        .flat_map(|(file, source)| {
            let message = format!("is a PTX mnemonic: it belongs to {TABLE}");
            holding(product_strings(source), MNEMONICS, file, "mnemonics-in-table", &message)
        })
        .collect()
}

pub fn no_includes(repo: &Repo) -> Vec<Finding> {
    let sources = repo.sources().filter(|(file, _)| in_codegen(file));
    sources
        .flat_map(|(file, source)| {
            let message = "is not for generated source: it compiles without any header";
            holding(product_strings(source), &["#include"], file, "no-include", message)
        })
        .collect()
}

fn in_codegen(file: &File) -> bool {
    file.path.starts_with("codegen/src/")
}

fn product_strings(source: &Source) -> impl Iterator<Item = (usize, &str)> {
    source.strings().filter(|(line, _)| source.is_product_line(*line))
}

fn holding<'a>(
    lines: impl Iterator<Item = (usize, &'a str)>,
    texts: &[&str],
    file: &File,
    rule: &'static str,
    message: &str,
) -> Vec<Finding> {
    let found = lines.flat_map(|(line, text)| {
        let held = texts.iter().filter(move |held| text.contains(**held));
        held.map(move |held| (line, *held))
    });
    found
        .map(|(line, held)| Finding::error(&file.path, line, rule, format!("`{held}` {message}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::places;

    #[test]
    fn cuda_text_outside_the_printer_is_found() {
        let text = "// __global__\nfn f() -> &'static str {\n    \"__shared__ float x;\"\n}\n";
        let files = [("codegen/src/lower.rs", text), ("codegen/src/cuda/print.rs", text)];
        assert_eq!(places(only_in_the_printer, &files), ["codegen/src/lower.rs:3"]);
    }

    #[test]
    fn mnemonics_outside_the_table_are_found() {
        let text =
            "const A: &str = \"ldmatrix.sync\";\n#[cfg(test)]\nmod tests {\n    const B: &str = \"cp.async\";\n}\n";
        let files = [
            ("codegen/src/cuda/print.rs", text),
            (TABLE, text),
            ("crates/runtime/src/a.rs", text),
        ];
        assert_eq!(
            places(mnemonics_in_one_table, &files),
            ["codegen/src/cuda/print.rs:1", "crates/runtime/src/a.rs:1"]
        );
    }

    #[test]
    fn an_include_is_found_even_in_the_printer() {
        let files = [(
            "codegen/src/cuda/print.rs",
            "fn f() {}\nconst H: &str = r\"\n#include <cuda_fp16.h>\n\";\n",
        )];
        assert_eq!(places(no_includes, &files), ["codegen/src/cuda/print.rs:3"]);
    }
}
