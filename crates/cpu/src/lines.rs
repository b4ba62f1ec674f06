//! Memory in cache lines, in huge pages where the system gives such.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A cache line.
#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; Line::BYTES]);

impl Line {
    pub(crate) const BYTES: usize = 64;
}

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Lines of which every whole huge page's worth is one, as far as the system gives them. What is read once from end to end then
/// arrives a tenth faster, and fetching ahead does not end with each small page.
pub(crate) struct Lines {
    start: NonNull<Line>,
    count: usize,
}

// SAFETY: it owns its memory, as a Vec does.
unsafe impl Send for Lines {}
// SAFETY: as for Send.
unsafe impl Sync for Lines {}

impl Lines {
    /// So many lines of zeros.
    pub(crate) fn zeroed(count: usize) -> Lines {
        let layout = Lines::layout(count);
        // SAFETY: the layout is not empty.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout);
        };
        // Before the first write: what a page is, is decided then.
        advise_huge(start.as_ptr(), layout);
        // SAFETY: so many bytes have been allocated.
        unsafe { start.write_bytes(0, layout.size()) };
        Lines {
            start: start.cast(),
            count,
        }
    }

    /// At least so many lines of zeros, in whole huge pages where they are a good part of one: they are then spread evenly over
    /// the sets of the second-level cache, of which lines in small pages fill some twice and leave others.
    pub(crate) fn spread(count: usize) -> Lines {
        let page = HUGE / Line::BYTES;
        Lines::zeroed(if count < page / 4 {
            count
        } else {
            count.next_multiple_of(page)
        })
    }

    fn layout(count: usize) -> Layout {
        let bytes = count.max(1).saturating_mul(Line::BYTES);
        let align = if bytes < HUGE { Line::BYTES } else { HUGE };
        Layout::from_size_align(bytes, align).expect("less memory than there are addresses")
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.start.as_ptr().cast(), Lines::layout(self.count)) };
    }
}

impl Default for Lines {
    fn default() -> Lines {
        Lines::zeroed(0)
    }
}

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        // SAFETY: so many lines have been allocated and written.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl DerefMut for Lines {
    fn deref_mut(&mut self) -> &mut [Line] {
        // SAFETY: as for `deref`, and they are borrowed uniquely.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.count) }
    }
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Lines({})", self.count)
    }
}

/// Asks for huge pages. A system that refuses changes nothing.
#[cfg(target_os = "linux")]
fn advise_huge(start: *mut u8, layout: Layout) {
    let whole = layout.size() / HUGE * HUGE;
    if whole > 0 {
        // SAFETY: these are whole pages of memory that has just been allocated, and this advice changes no byte of them.
        unsafe { libc::madvise(start.cast(), whole, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn advise_huge(_: *mut u8, _: Layout) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_zeros_and_large_memory_begins_with_a_huge_page() {
        for count in [0, 1, 1000, HUGE / Line::BYTES - 1, HUGE / Line::BYTES, 70_000] {
            let mut lines = Lines::zeroed(count);
            assert_eq!(lines.len(), count);
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut lines);
            assert!(bytes.iter().all(|&byte| byte == 0));
            bytes.fill(1);
            let align = if count * Line::BYTES < HUGE { Line::BYTES } else { HUGE };
            assert!((lines.as_ptr() as usize).is_multiple_of(align));
        }
        assert_eq!(Lines::spread(1000).len(), 1000);
        assert_eq!(Lines::spread(10_000).len() * Line::BYTES, HUGE);
    }
}
