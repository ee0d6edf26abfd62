//! Sets of completion indexes as the Job's status writes them: `1,3-5,7` (`indexed_job_utils.go`). Pure.

use std::fmt;

/// Disjoint intervals, ascending, never touching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(usize, usize)>);

impl Indexes {
    /// Reads the text; what is not below `completions` or no number is left out.
    pub(super) fn parse(text: &str, completions: usize) -> Self {
        let mut all = Indexes::default();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else { continue };
            if first < completions && first <= last {
                all.insert_interval(first, last.min(completions.saturating_sub(1)));
            }
        }
        all
    }

    pub(super) fn insert(&mut self, index: usize) {
        self.insert_interval(index, index);
    }

    fn insert_interval(&mut self, mut first: usize, mut last: usize) {
        let from = self.0.partition_point(|(_, l)| l.saturating_add(1) < first);
        let to = self.0.partition_point(|(f, _)| *f <= last.saturating_add(1));
        if from < to {
            first = first.min(self.0[from].0);
            last = last.max(self.0[to - 1].1);
        }
        self.0.splice(from..to, [(first, last)]);
    }

    pub(super) fn has(&self, index: usize) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    pub(super) fn total(&self) -> usize {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of ours are in `other`.
    pub(super) fn overlap(&self, other: &Indexes) -> usize {
        let shared = |a: &(usize, usize), b: &(usize, usize)| (a.1.min(b.1) + 1).saturating_sub(a.0.max(b.0));
        self.0.iter().map(|a| other.0.iter().map(|b| shared(a, b)).sum::<usize>()).sum()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_indexes(text: &str, insert: &[usize], expected: &str) {
        let mut all = Indexes::parse(text, 10);
        insert.iter().for_each(|i| all.insert(*i));
        assert_eq!(all.to_string(), expected);
        assert_eq!(Indexes::parse(&all.to_string(), 10), all);
    }

    #[test]
    fn intervals_merge_and_read_back() {
        check_indexes("", &[], "");
        check_indexes("1,3-5", &[2], "1-5");
        check_indexes("1", &[0, 9, 3], "0,1,3,9");
        check_indexes("3-99,x,7", &[], "3-9");
        let all = Indexes::parse("1,3-5", 10);
        assert!(all.has(4) && !all.has(2) && !all.has(6));
        assert_eq!((all.total(), all.overlap(&Indexes::parse("0-3", 10))), (4, 2));
    }
}
