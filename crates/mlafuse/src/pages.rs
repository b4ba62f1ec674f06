//! Which pages of a cache belong to which sequence.

use crate::Error;

/// Most tokens a page may have.
pub(crate) const LARGEST_PAGE: usize = 1 << 16;
/// Most pages a block table can number, and most tokens of a sequence.
pub(crate) const LARGEST: usize = i32::MAX as usize;

/// Pages and their owners.
#[derive(Clone, Debug)]
pub(crate) struct Pages {
    page_size: usize,
    total: usize,
    /// Taken from the end.
    free: Vec<i32>,
    sequences: Vec<Sequence>,
}

#[derive(Clone, Debug, Default)]
struct Sequence {
    pages: Vec<i32>,
    len: usize,
}

impl Pages {
    /// Pages for `sequences` times `max_tokens` tokens.
    pub fn new(sequences: usize, max_tokens: usize, page_size: usize) -> Result<Pages, Error> {
        if !(1..=LARGEST_PAGE).contains(&page_size) {
            return Err(Error::PageSize {
                found: page_size,
                largest: LARGEST_PAGE,
            });
        }
        let total = sequences
            .checked_mul(max_tokens.div_ceil(page_size))
            .filter(|&total| total <= LARGEST);
        let size = Error::CacheSize {
            sequences,
            max_tokens,
            page_size,
            largest: LARGEST,
        };
        let total = total.ok_or(size)?;
        let free = (0..total as i32).rev().collect();
        Ok(Pages {
            page_size,
            total,
            free,
            sequences: vec![Sequence::default(); sequences],
        })
    }

    pub fn page_size(&self) -> usize {
        self.page_size
    }

    pub fn total(&self) -> usize {
        self.total
    }

    pub fn sequences(&self) -> usize {
        self.sequences.len()
    }

    pub fn len(&self, sequence: usize) -> Option<usize> {
        self.sequences.get(sequence).map(|sequence| sequence.len)
    }

    /// The pages of a sequence, in order; more than its length needs where room was reserved.
    pub fn of(&self, sequence: usize) -> &[i32] {
        self.sequences.get(sequence).map_or(&[], |sequence| &sequence.pages)
    }

    pub fn free(&self) -> &[i32] {
        &self.free
    }

    pub fn free_mut(&mut self) -> &mut [i32] {
        &mut self.free
    }

    /// Gives each sequence the pages that `lens` tokens need; all of them or none.
    pub fn reserve(&mut self, lens: &[usize]) -> Result<(), Error> {
        let page_size = self.page_size;
        let missing = |sequence: &Sequence, len: usize| len.div_ceil(page_size).saturating_sub(sequence.pages.len());
        let needed = self
            .sequences
            .iter()
            .zip(lens)
            .map(|(sequence, &len)| missing(sequence, len))
            .sum();
        if needed > self.free.len() {
            return Err(Error::CacheFull {
                needed,
                free: self.free.len(),
                pages: self.total,
                page_size,
            });
        }
        for (sequence, &len) in self.sequences.iter_mut().zip(lens) {
            let keep = self.free.len() - missing(sequence, len);
            sequence.pages.extend(self.free.drain(keep..).rev());
        }
        Ok(())
    }

    /// Sets the lengths; each has its pages.
    pub fn commit(&mut self, lens: &[usize]) {
        for (sequence, &len) in self.sequences.iter_mut().zip(lens) {
            debug_assert!(len <= sequence.pages.len() * self.page_size);
            sequence.len = len;
        }
    }

    /// Empties a sequence; its pages are free.
    pub fn release(&mut self, sequence: usize) -> Result<(), Error> {
        let sequences = self.sequences.len();
        let owner = self.sequences.get_mut(sequence).ok_or(Error::Sequence {
            found: sequence,
            sequences,
        })?;
        owner.len = 0;
        self.free.extend(owner.pages.drain(..).rev());
        Ok(())
    }

    /// The block table, \[sequences, width\], and its width: the most pages of any sequence, at least 1. Entries past a
    /// sequence's pages are -1.
    pub fn table(&self) -> (Vec<i32>, usize) {
        let width = self
            .sequences
            .iter()
            .map(|sequence| sequence.pages.len())
            .max()
            .unwrap_or(0)
            .max(1);
        let row = |sequence: &Sequence| {
            let pages = sequence.pages.clone().into_iter();
            pages.chain(std::iter::repeat(-1)).take(width).collect::<Vec<i32>>()
        };
        (self.sequences.iter().flat_map(row).collect(), width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Act {
        Grow(usize, usize),
        Release(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0usize..3, 0usize..9).prop_map(|(s, n)| Act::Grow(s, n)),
            (0usize..3).prop_map(Act::Release)
        ]
    }

    proptest! {
        #[test]
        fn each_page_has_one_owner(page_size in 1usize..6, acts in proptest::collection::vec(act(), 0..40)) {
            let mut pages = Pages::new(3, 12, page_size).unwrap();
            let mut lens = vec![0; 3];
            for act in acts {
                match act {
                    Act::Grow(sequence, new) => {
                        let mut wanted = lens.clone();
                        wanted[sequence] += new;
                        let before = pages.clone();
                        match pages.reserve(&wanted) {
                            Ok(()) => {
                                pages.commit(&wanted);
                                lens = wanted;
                            }
                            Err(_) => prop_assert_eq!(format!("{before:?}"), format!("{pages:?}")),
                        }
                    }
                    Act::Release(sequence) => {
                        pages.release(sequence).unwrap();
                        lens[sequence] = 0;
                    }
                }
                let mut all: Vec<i32> = (0..3).flat_map(|s| pages.of(s).to_vec()).chain(pages.free().to_vec()).collect();
                all.sort();
                prop_assert_eq!(all, (0..pages.total() as i32).collect::<Vec<_>>());
                for (sequence, &len) in lens.iter().enumerate() {
                    prop_assert_eq!(pages.len(sequence), Some(len));
                    prop_assert!(pages.of(sequence).len() >= len.div_ceil(page_size));
                }
                let (table, width) = pages.table();
                prop_assert_eq!(table.len(), 3 * width);
            }
        }
    }

    #[test]
    fn limits_are_said() {
        assert!(
            Pages::new(1, 1, 0)
                .unwrap_err()
                .to_string()
                .contains("page size 0: allowed: 1 to 65536")
        );
        assert!(Pages::new(usize::MAX, 2, 1).is_err());
        let mut pages = Pages::new(2, 5, 4).unwrap();
        let error = pages.reserve(&[17, 1]).unwrap_err().to_string();
        assert_eq!(
            error,
            "the cache is full: 6 more pages of 4 tokens are needed, 4 of 4 are free"
        );
        assert!(pages.release(2).is_err());
    }
}
