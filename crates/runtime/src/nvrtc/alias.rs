//! Makes the library that was found answer to the name that cudarc opens.
//!
//! cudarc opens NVRTC by bare name: `libnvrtc.so` first, then a fixed list of versions that, for
//! the CUDA 12.9 bindings, has no 13. So a toolkit's `libnvrtc.so` on the loader's path would be
//! taken in place of the one that was found, and an NVRTC 13 would not be seen at all. The loader
//! answers a bare name with a library already loaded under that SONAME. This module therefore
//! loads an empty library whose SONAME is `libnvrtc.so` and whose one dependency is the found
//! file: cudarc's handle is then the empty library, and symbol look-ups go to its dependency.

use std::io::Write;
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::elf::HOST_MACHINE;

/// The first name cudarc tries.
const CUDARC_NAME: &str = "libnvrtc.so";

/// Why the alias could not be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum AliasError {
    #[error("writing a temporary file: {0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Load(#[from] libloading::Error),
    #[error("the path {path} is not UTF-8, or has a dollar sign, which the loader would expand")]
    Path { path: String },
}

/// Loads the alias for `target`, an absolute path. The returned handle must be kept: the name is
/// known to the loader for as long as it lives.
pub(super) fn load(target: &Path) -> Result<Library, AliasError> {
    let target = target
        .to_str()
        .filter(|text| !text.contains('$'))
        .ok_or_else(|| AliasError::Path {
            path: target.display().to_string(),
        })?;
    let mut file = tempfile::Builder::new()
        .prefix("mlafuse-nvrtc-")
        .suffix(".so")
        .tempfile()?;
    file.write_all(&library_bytes(CUDARC_NAME, target))?;
    file.flush()?;
    // SAFETY: the library has no code, no constructors and no relocations; its only dependency is
    // `target`, which is loaded already. The file may be removed after this: it stays mapped.
    Ok(unsafe { Library::open(Some(file.path()), RTLD_NOW | RTLD_LOCAL) }?)
}

/// The bytes of a shared library without code: a SONAME and one dependency.
///
/// Layout (System V gABI, 64-bit little-endian): header, three program headers, a symbol table
/// with only the null symbol, its hash table, the dynamic section, the strings.
pub(super) fn library_bytes(soname: &str, needed: &str) -> Vec<u8> {
    const PROGRAM_HEADERS: u64 = 64;
    const SYMBOLS: u64 = PROGRAM_HEADERS + 3 * 56;
    const HASH: u64 = SYMBOLS + 24;
    const DYNAMIC: u64 = HASH + 16;
    const DYNAMIC_LEN: u64 = 8 * 16;
    const STRINGS: u64 = DYNAMIC + DYNAMIC_LEN;
    let strings = [b"\0", soname.as_bytes(), b"\0", needed.as_bytes(), b"\0"].concat();
    let total = STRINGS + strings.len() as u64;
    let needed_at = 2 + soname.len() as u64;

    let mut out = Vec::with_capacity(STRINGS as usize + strings.len());
    // e_ident: class 64, little-endian, version 1.
    out.extend([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    push16(&mut out, &[3, HOST_MACHINE]);
    push32(&mut out, &[1]);
    push64(&mut out, &[0, PROGRAM_HEADERS, 0]);
    push32(&mut out, &[0]);
    push16(&mut out, &[64, 56, 3, 64, 0, 0]);

    // Writable, because loaders before glibc 2.35 relocate the dynamic section in place. Aligned
    // to 64 KiB, the largest page. Without GNU_STACK the loader would want an executable stack.
    const PT_LOAD: u32 = 1;
    const PT_DYNAMIC: u32 = 2;
    const PT_GNU_STACK: u32 = 0x6474_e551;
    const READ_WRITE: u32 = 6;
    for (kind, at, len, align) in [
        (PT_LOAD, 0, total, 0x1_0000),
        (PT_DYNAMIC, DYNAMIC, DYNAMIC_LEN, 8),
        (PT_GNU_STACK, 0, 0, 16),
    ] {
        push32(&mut out, &[kind, READ_WRITE]);
        push64(&mut out, &[at, at, at, len, len, align]);
    }

    push64(&mut out, &[0; 3]); // the null symbol
    push32(&mut out, &[1, 1, 0, 0]); // one bucket, one chain, both empty

    const DT_NEEDED: u64 = 1;
    const DT_HASH: u64 = 4;
    const DT_STRTAB: u64 = 5;
    const DT_SYMTAB: u64 = 6;
    const DT_STRSZ: u64 = 10;
    const DT_SYMENT: u64 = 11;
    const DT_SONAME: u64 = 14;
    push64(&mut out, &[DT_SONAME, 1, DT_NEEDED, needed_at]);
    push64(&mut out, &[DT_HASH, HASH, DT_SYMTAB, SYMBOLS]);
    push64(&mut out, &[DT_STRTAB, STRINGS, DT_SYMENT, 24]);
    push64(&mut out, &[DT_STRSZ, strings.len() as u64, 0, 0]);
    out.extend(strings);
    out
}

fn push16(out: &mut Vec<u8>, values: &[u16]) {
    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn push32(out: &mut Vec<u8>, values: &[u32]) {
    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn push64(out: &mut Vec<u8>, values: &[u64]) {
    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::c_void;

    #[test]
    fn a_loaded_alias_answers_to_its_soname_and_forwards_symbols() {
        // Another SONAME than NVRTC's, so that this test cannot disturb those which load it.
        let soname = "libmlafuse-alias-test.so";
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&library_bytes(soname, "libm.so.6")).unwrap();
        // SAFETY: a library without code; libm has no unsafe constructors.
        let alias = unsafe { Library::open(Some(file.path()), RTLD_NOW | RTLD_LOCAL) }.unwrap();
        drop(file);
        // SAFETY: as above; this is a second handle to the same library.
        let by_name = unsafe { Library::open(Some(soname), RTLD_NOW | RTLD_LOCAL) }.unwrap();
        // SAFETY: only the address is used, the function is never called.
        let cos = unsafe { by_name.get::<*mut c_void>(b"cos\0") }.unwrap();
        assert!(!cos.is_null());
        drop((by_name, alias));
    }
}
