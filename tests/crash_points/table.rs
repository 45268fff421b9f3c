//! What is printed of a matrix: each cell, and whether it died where it should.

use std::fmt;
use waybill_tests::Verdict;

/// Cells in the order in which they were.
pub(crate) struct Table {
    title: String,
    cells: Vec<(String, Verdict)>,
}

impl Table {
    pub(crate) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), cells: Vec::new() }
    }

    pub(crate) fn note(&mut self, cell: impl Into<String>, verdict: Verdict) {
        self.cells.push((cell.into(), verdict));
    }

    /// Prints it.
    ///
    /// # Panics
    /// When not everybody died where he should.
    pub(crate) fn demand(&self) {
        println!("{self}");
        let green = self.cells.iter().all(|(_, verdict)| *verdict == Verdict::Died);
        assert!(green, "every cell was killed where it should be:\n{self}");
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        self.cells.iter().try_for_each(|(cell, verdict)| writeln!(f, "  {cell:<74} {verdict}"))
    }
}
