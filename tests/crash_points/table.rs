//! What is printed of a matrix: each cell, and whether what should happen in it did.

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
    /// When not all went as it should, or there are no cells.
    pub(crate) fn demand(&self) {
        println!("{self}");
        assert!(!self.cells.is_empty(), "{}: no cell at all", self.title);
        let green = self.cells.iter().all(|(_, verdict)| verdict.is_green());
        assert!(green, "not every cell is green:\n{self}");
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        self.cells.iter().try_for_each(|(cell, verdict)| writeln!(f, "  {cell:<74} {verdict}"))
    }
}

#[test]
#[should_panic(expected = "no cell at all")]
fn a_table_without_cells_is_not_green() {
    Table::new("nothing is called like this").demand();
}

#[test]
#[should_panic(expected = "not every cell is green")]
fn one_red_cell_is_enough() {
    let mut table = Table::new("cells");
    table.note("reached", Verdict::Reached);
    table.note("wrong", Verdict::Wrong("completed, not failed".to_owned()));
    table.demand();
}
