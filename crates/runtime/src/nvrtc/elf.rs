//! The few facts wanted from a shared library's file before it is opened: that this machine can
//! load it, that it is whole, and its build id.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// ELF's number for the machine this program runs on (e_machine); 0 where it is not known here.
pub(super) const HOST_MACHINE: u16 = if cfg!(target_arch = "x86_64") {
    62
} else if cfg!(target_arch = "aarch64") {
    183
} else {
    0
};

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
const HEADER_LEN: usize = 64;
const PROGRAM_HEADER_LEN: usize = 56;
/// Note segments are a few hundred bytes; anything past this is not a library's.
const LONGEST_NOTE: u64 = 1 << 16;

/// Why a file is not a library that this machine can load.
#[derive(Debug, thiserror::Error)]
pub(super) enum ElfError {
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("is not a 64-bit little-endian ELF shared library")]
    NotALibrary,
    #[error("is for another machine (ELF machine {found}, this one is {HOST_MACHINE})")]
    OtherMachine { found: u16 },
    #[error("is truncated: its headers speak of {expected} bytes, the file has {got}")]
    Truncated { expected: u64, got: u64 },
}

/// Checks the file's headers and returns its GNU build id in hex, where it has one.
pub(super) fn inspect(path: &Path) -> Result<Option<String>, ElfError> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(ElfError::NotALibrary);
    }
    let len = metadata.len();
    if len < HEADER_LEN as u64 {
        return Err(ElfError::NotALibrary);
    }
    let header = read_at(&mut file, len, 0, HEADER_LEN)?;
    check_header(&header)?;
    let sections_end = u64_at(&header, 40)
        .saturating_add(u64::from(u16_at(&header, 58)).saturating_mul(u64::from(u16_at(&header, 60))));
    check_len(sections_end, len)?;

    let count = usize::from(u16_at(&header, 56));
    let table = read_at(&mut file, len, u64_at(&header, 32), count * PROGRAM_HEADER_LEN)?;
    let mut build_id = None;
    for segment in table.chunks_exact(PROGRAM_HEADER_LEN) {
        let (offset, size) = (u64_at(segment, 8), u64_at(segment, 32));
        match u32_at(segment, 0) {
            PT_LOAD => check_len(offset.saturating_add(size), len)?,
            PT_NOTE if build_id.is_none() && size <= LONGEST_NOTE => {
                let size = usize::try_from(size).unwrap_or(0);
                build_id = find_build_id(&read_at(&mut file, len, offset, size)?);
            }
            _ => {}
        }
    }
    Ok(build_id)
}

fn check_header(header: &[u8]) -> Result<(), ElfError> {
    let class_64_little_endian = [0x7f, b'E', b'L', b'F', 2, 1];
    let shared = u16_at(header, 16) == 3;
    let program_header_len = usize::from(u16_at(header, 54));
    if !header.starts_with(&class_64_little_endian) || !shared || program_header_len != PROGRAM_HEADER_LEN {
        return Err(ElfError::NotALibrary);
    }
    match u16_at(header, 18) {
        HOST_MACHINE => Ok(()),
        found => Err(ElfError::OtherMachine { found }),
    }
}

fn check_len(expected: u64, got: u64) -> Result<(), ElfError> {
    if expected > got {
        return Err(ElfError::Truncated { expected, got });
    }
    Ok(())
}

fn read_at(file: &mut File, len: u64, offset: u64, size: usize) -> Result<Vec<u8>, ElfError> {
    check_len(offset.saturating_add(size as u64), len)?;
    let mut bytes = vec![0; size];
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Walks the notes (name and descriptor each padded to 4 bytes) for GNU's build id.
fn find_build_id(mut notes: &[u8]) -> Option<String> {
    while notes.len() >= 12 {
        let name_len = u32_at(notes, 0) as usize;
        let desc_len = u32_at(notes, 4) as usize;
        let desc_at = 12usize.checked_add(name_len.checked_next_multiple_of(4)?)?;
        let desc_end = desc_at.checked_add(desc_len)?;
        let desc = notes.get(desc_at..desc_end)?;
        if u32_at(notes, 8) == NT_GNU_BUILD_ID && notes.get(12..16) == Some(b"GNU\0") {
            return Some(desc.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        notes = notes.get(desc_end.checked_next_multiple_of(4)?..)?;
    }
    None
}

/// Little-endian reads; bytes past the end read as 0, which no check here takes for valid.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn reads_the_build_id_after_another_note() {
        let mut notes = Vec::new();
        for (kind, desc) in [(1u32, vec![9u8; 5]), (3, vec![0xab, 0xcd])] {
            notes.extend(4u32.to_le_bytes());
            notes.extend((desc.len() as u32).to_le_bytes());
            notes.extend(kind.to_le_bytes());
            notes.extend(b"GNU\0");
            notes.extend(&desc);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert_eq!(find_build_id(&notes).as_deref(), Some("abcd"));
        for cut in 0..notes.len() {
            find_build_id(&notes[..cut]);
        }
    }

    #[test]
    fn a_whole_library_passes_and_a_cut_one_does_not() {
        let bytes = super::super::alias::library_bytes("libx.so", "/nowhere/libx.so.1");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lib.so");
        fs::write(&path, &bytes).unwrap();
        inspect(&path).unwrap();
        for cut in 0..bytes.len() {
            fs::write(&path, &bytes[..cut]).unwrap();
            assert!(inspect(&path).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn other_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(inspect(dir.path()).is_err());
        let path = dir.path().join("text");
        fs::write(&path, [b'x'; 200]).unwrap();
        assert!(matches!(inspect(&path), Err(ElfError::NotALibrary)));
        let mut other = super::super::alias::library_bytes("libx.so", "/x");
        other[18] = 8;
        fs::write(&path, other).unwrap();
        assert!(matches!(inspect(&path), Err(ElfError::OtherMachine { found: 8 })));
    }
}
