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
    /// Pages for the tokens that each sequence was promised, at least 1.
    room: usize,
    /// Taken from the end.
    free: Vec<i32>,
    sequences: Vec<Sequence>,
    /// By page: how many sequences have it.
    owners: Vec<u32>,
    /// Seeds what stands in block-table entries that nothing may look at; -1 where there is none.
    garbage: Option<u64>,
}

/// Rows to be copied, counted from the first page on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CopiedRows {
    pub from: usize,
    pub to: usize,
    pub rows: usize,
}

#[derive(Clone, Debug, Default)]
struct Sequence {
    pages: Vec<i32>,
    len: usize,
}

impl Sequence {
    /// An empty one that grows to so many pages without allocating.
    fn with_room(pages: usize) -> Sequence {
        Sequence {
            pages: Vec::with_capacity(pages),
            len: 0,
        }
    }
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
        let room = max_tokens.div_ceil(page_size);
        let total = sequences.checked_mul(room).filter(|&total| total <= LARGEST);
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
            room: room.max(1),
            free,
            sequences: (0..sequences).map(|_| Sequence::with_room(room)).collect(),
            owners: vec![0; total],
            garbage: None,
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
            for page in self.free.drain(keep..).rev() {
                self.owners[page as usize] += 1;
                sequence.pages.push(page);
            }
        }
        Ok(())
    }

    /// Gives the empty sequence `to` the tokens of `from`: it shares the full pages, which nobody writes again, and has a copy
    /// of the last one where that is not full. Says which rows are to be copied.
    pub fn fork(&mut self, from: usize, to: usize) -> Result<Option<CopiedRows>, Error> {
        let sequences = self.sequences.len();
        let unknown = |found| Error::Sequence { found, sequences };
        let Sequence { mut pages, len } = self.sequences.get(from).ok_or_else(|| unknown(from))?.clone();
        match self.len(to) {
            None => return Err(unknown(to)),
            Some(0) => self.release(to)?,
            Some(len) => return Err(Error::Occupied { sequence: to, len }),
        }
        let rows = len % self.page_size;
        pages.truncate(len.div_ceil(self.page_size));
        let mut copied = None;
        if let (Some(last), 1..) = (pages.last_mut(), rows) {
            let full = Error::CacheFull {
                needed: 1,
                free: 0,
                pages: self.total,
                page_size: self.page_size,
            };
            let copy = self.free.pop().ok_or(full)?;
            copied = Some(CopiedRows {
                from: *last as usize * self.page_size,
                to: copy as usize * self.page_size,
                rows,
            });
            *last = copy;
        }
        pages.iter().for_each(|&page| self.owners[page as usize] += 1);
        self.sequences[to] = Sequence { pages, len };
        Ok(copied)
    }

    /// Sets the lengths; each has its pages.
    pub fn commit(&mut self, lens: &[usize]) {
        for (sequence, &len) in self.sequences.iter_mut().zip(lens) {
            debug_assert!(len <= sequence.pages.len() * self.page_size);
            sequence.len = len;
        }
    }

    /// Empties a sequence; its pages are free where no other has them too.
    pub fn release(&mut self, sequence: usize) -> Result<(), Error> {
        let sequences = self.sequences.len();
        let owner = self.sequences.get_mut(sequence).ok_or(Error::Sequence {
            found: sequence,
            sequences,
        })?;
        owner.len = 0;
        for page in owner.pages.drain(..).rev() {
            let owners = &mut self.owners[page as usize];
            *owners -= 1;
            if *owners == 0 {
                self.free.push(page);
            }
        }
        Ok(())
    }

    /// Makes `table` the block table, \[sequences, width\], and gives its width: entries for the tokens that each sequence was promised, doubled
    /// until the longest fits, so that it seldom changes. Entries past a sequence's pages mean nothing.
    pub fn write_table(&self, table: &mut Vec<i32>) -> usize {
        let most = self.sequences.iter().map(|sequence| sequence.pages.len()).max();
        let times = most.unwrap_or(0).div_ceil(self.room).next_power_of_two();
        let width = self.room * times;
        let mut garbage = self.garbage.map(|seed| Garbage {
            random: SplitMix(seed),
            pages: self.total,
        });
        table.clear();
        for sequence in &self.sequences {
            table.extend(&sequence.pages);
            let unused = width - sequence.pages.len();
            table.extend((0..unused).map(|_| garbage.as_mut().map_or(-1, Garbage::next)));
        }
        width
    }

    /// From now on unused entries of the block table hold numbers that follow from `seed`: huge ones, negative ones, and those
    /// of pages. Free pages are in another order.
    pub fn scramble(&mut self, seed: u64) {
        let mut random = SplitMix(seed);
        for last in (1..self.free.len()).rev() {
            self.free.swap(last, random.below(last + 1));
        }
        self.garbage = Some(seed);
    }
}

/// Numbers that lead astray whoever takes them for pages.
struct Garbage {
    random: SplitMix,
    pages: usize,
}

impl Garbage {
    fn next(&mut self) -> i32 {
        match self.random.below(4) {
            0 => i32::MIN + self.random.below(2) as i32,
            1 => i32::MAX - self.random.below(2) as i32,
            2 => -1 - self.random.below(self.pages) as i32,
            _ => self.random.below(self.pages) as i32,
        }
    }
}

/// SplitMix64.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z % count.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(pages: &Pages) -> (Vec<i32>, usize) {
        let mut table = Vec::new();
        let width = pages.write_table(&mut table);
        (table, width)
    }
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Act {
        Grow(usize, usize),
        Fork(usize, usize),
        Release(usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            3 => (0usize..3, 0usize..9).prop_map(|(s, n)| Act::Grow(s, n)),
            2 => (0usize..3, 0usize..3).prop_map(|(from, to)| Act::Fork(from, to)),
            1 => (0usize..3).prop_map(Act::Release)
        ]
    }

    /// What stands in each row: the sequence and token that wrote it.
    type Memory = Vec<Option<(usize, usize)>>;

    proptest! {
        #[test]
        fn rows_stay_whose_they_are(page_size in 1usize..6, acts in proptest::collection::vec(act(), 0..40)) {
            let mut pages = Pages::new(3, 12, page_size).unwrap();
            let mut memory: Memory = vec![None; pages.total() * page_size];
            let mut texts: Vec<Vec<(usize, usize)>> = vec![Vec::new(); 3];
            let mut written = 0;
            for act in acts {
                let before = format!("{pages:?}");
                match act {
                    Act::Grow(sequence, new) => {
                        let mut lens: Vec<usize> = texts.iter().map(Vec::len).collect();
                        lens[sequence] += new;
                        match pages.reserve(&lens) {
                            Ok(()) => pages.commit(&lens),
                            Err(_) => {
                                prop_assert_eq!(before, format!("{pages:?}"));
                                continue;
                            }
                        }
                        for token in lens[sequence] - new..lens[sequence] {
                            let page = pages.of(sequence)[token / page_size] as usize;
                            written += 1;
                            memory[page * page_size + token % page_size] = Some((sequence, written));
                            texts[sequence].push((sequence, written));
                        }
                    }
                    Act::Fork(from, to) => match pages.fork(from, to) {
                        Ok(copied) => {
                            if let Some(CopiedRows { from, to, rows }) = copied {
                                memory.copy_within(from..from + rows, to);
                            }
                            texts[to] = texts[from].clone();
                        }
                        Err(_) => prop_assert_eq!(before, format!("{pages:?}")),
                    },
                    Act::Release(sequence) => {
                        pages.release(sequence).unwrap();
                        texts[sequence].clear();
                    }
                }
                let owned = |page: i32| (0..3).filter(|&s| pages.of(s).contains(&page)).count();
                for page in 0..pages.total() as i32 {
                    let free = pages.free().iter().filter(|&&free| free == page).count();
                    prop_assert_eq!((owned(page) as u32, free), (pages.owners[page as usize], usize::from(owned(page) == 0)));
                }
                let (table, width) = table(&pages);
                prop_assert!(table.len() == 3 * width && width >= 12usize.div_ceil(page_size));
                for (sequence, text) in texts.iter().enumerate() {
                    prop_assert_eq!(pages.len(sequence), Some(text.len()));
                    for (token, row) in text.iter().enumerate() {
                        let page = table[sequence * width + token / page_size] as usize;
                        prop_assert_eq!(memory[page * page_size + token % page_size], Some(*row));
                    }
                }
            }
        }
    }

    #[test]
    fn the_table_keeps_its_width_while_sequences_grow() {
        let mut pages = Pages::new(2, 8, 2).unwrap();
        for (lens, width) in [([0, 0], 4), ([1, 8], 4), ([1, 9], 8), ([1, 14], 8)] {
            pages.reserve(&lens).unwrap();
            assert_eq!(table(&pages).1, width, "{lens:?}");
        }
    }

    #[test]
    fn garbage_is_in_unused_entries_only() {
        let mut pages = Pages::new(2, 40, 2).unwrap();
        pages.reserve(&[5, 0]).unwrap();
        let (plain, width) = table(&pages);
        let tables = [1, 2].map(|seed| {
            pages.scramble(seed);
            table(&pages).0
        });
        assert_eq!(tables[0][..3], plain[..3]);
        assert_eq!(tables[1][..3], plain[..3]);
        assert_ne!(tables[0], tables[1]);
        for table in tables {
            let unused = &table[3..];
            assert!(unused.iter().any(|&page| page > width as i32 * 2) && unused.iter().any(|&page| page < 0));
            assert!(unused.iter().any(|&page| (0..2 * width as i32).contains(&page)));
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
