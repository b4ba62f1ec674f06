//! Finding out about AMX, and giving a thread its tile registers.

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::Cell;
use std::sync::OnceLock;

use super::ROWS;

/// Whether the processor has AMX for bf16 and the system lets this process use it. Asks for it, once.
pub(crate) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| has_amx() && is_permitted())
}

fn has_amx() -> bool {
    // Leaf 7: EDX bit 22 is AMX-BF16, bit 24 AMX-TILE. XCR0 bits 17 and 18: the system saves tiles.
    let (tiles, state) = (1 << 22 | 1 << 24, 1 << 17 | 1 << 18);
    let highest = __cpuid(0).eax;
    if highest < 7 || !is_x86_feature_detected!("xsave") || __cpuid(1).ecx & 1 << 27 == 0 {
        return false;
    }
    // SAFETY: OSXSAVE (leaf 1, ECX bit 27) is set.
    let saved = unsafe { _xgetbv(0) };
    __cpuid_count(7, 0).edx & tiles == tiles && saved & state == state
}

/// Linux hands out the tiles' large state on request only.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_ulong = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_ulong = 18;
    // SAFETY: this call takes two integers and writes no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// Memory operand of `ldtilecfg`.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    /// Bytes of a row, for each tile.
    columns: [u16; 16],
    rows: [u8; 16],
}

/// Gives all eight tiles of this thread 16 rows of 64 bytes.
pub(crate) fn configure() {
    thread_local! {
        static DONE: Cell<bool> = const { Cell::new(false) };
    }
    if DONE.replace(true) {
        return;
    }
    let mut config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        columns: [0; 16],
        rows: [0; 16],
    };
    config.columns[..8].fill(64);
    config.rows[..8].fill(ROWS as u8);
    // SAFETY: AMX is available, or the kernel would have been refused; the configuration is a valid one.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
}
