//! Matrices that consist of elements of a stored one: parts of it, rows that take turns, transposed ones.

/// Columns that are copied together where neighbours in a row are far apart in the stored matrix: what is read of it is a few
/// rows then, of which all elements near by are used.
const TILE: usize = 16;

/// Where the elements of a matrix stand in a stored one. Its rows come in groups of equally many, such as heads. Places and
/// steps are in elements, row after row of the stored matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Rows and columns of the stored matrix.
    pub stored: [usize; 2],
    /// The place of the first element.
    pub first: usize,
    /// Rows of a group.
    pub group_rows: usize,
    /// From a group to the next.
    pub group_step: usize,
    /// From a row to the next within a group.
    pub row_step: usize,
    /// From a column to the next.
    pub col_step: usize,
}

impl View {
    /// All of a stored matrix.
    pub(super) fn whole(rows: usize, cols: usize) -> Self {
        Self { stored: [rows, cols], first: 0, group_rows: rows, group_step: 0, row_step: cols, col_step: 1 }
    }

    /// Whether each element of a matrix of this shape is one of the stored matrix.
    pub(super) fn fits(&self, rows: usize, cols: usize) -> bool {
        let last = || {
            let groups = rows.checked_div(self.group_rows)?;
            let group = groups.checked_sub(1)?.checked_mul(self.group_step)?;
            let row = (self.group_rows - 1).checked_mul(self.row_step)?;
            let col = cols.checked_sub(1)?.checked_mul(self.col_step)?;
            self.first.checked_add(group)?.checked_add(row)?.checked_add(col)
        };
        // Four bytes each.
        let stored = self.stored[0].checked_mul(self.stored[1]).filter(|all| all.checked_mul(4).is_some());
        self.group_rows > 0
            && rows.is_multiple_of(self.group_rows)
            && last().zip(stored).is_some_and(|(last, stored)| last < stored)
    }

    /// The place of an element.
    pub(super) fn place(&self, row: usize, col: usize) -> usize {
        let (group, row) = (row / self.group_rows, row % self.group_rows);
        self.first + group * self.group_step + row * self.row_step + col * self.col_step
    }

    /// Whether rows of so many columns are rows of the stored matrix.
    pub(super) fn has_whole_rows(&self, cols: usize) -> bool {
        let starts = [self.first, self.group_step, self.row_step];
        self.col_step == 1
            && cols == self.stored[1]
            && starts.iter().all(|step| step.is_multiple_of(self.stored[1]))
    }

    /// Whether 32 neighbours in a row of `cols` columns are always in one block of the stored matrix, where a block is so many
    /// rows and columns.
    pub(super) fn keeps_blocks(&self, block: [usize; 2], cols: usize) -> bool {
        let [stored_rows, stored_cols] = self.stored;
        let inside = |side: usize, whole: usize| side >= whole || side.is_multiple_of(32);
        if !cols.is_multiple_of(32) || stored_cols == 0 {
            return false;
        }
        if self.col_step == 1 {
            // Then no 32 of them stand in two stored rows.
            let steps = [self.first, self.group_step, self.row_step, stored_cols];
            return steps.iter().all(|step| step.is_multiple_of(32)) && inside(block[1], stored_cols);
        }
        // Columns run down the stored rows.
        let across = self.first % stored_cols + (self.group_rows - 1) * self.row_step;
        let starts = [self.first / stored_cols, self.group_step / stored_cols];
        self.col_step == stored_cols
            && across < stored_cols
            && self.group_step.is_multiple_of(stored_cols)
            && starts.iter().all(|row| row.is_multiple_of(32))
            && inside(block[0], stored_rows)
    }

    /// Copies the elements of rows of `cols` columns.
    pub(super) fn copy<T: Copy>(&self, stored: &[T], cols: usize, out: &mut [T]) {
        if self.col_step == 1 {
            for (row, out) in out.chunks_exact_mut(cols).enumerate() {
                let place = self.place(row, 0);
                out.copy_from_slice(&stored[place..place + cols]);
            }
            return;
        }
        for first in (0..cols).step_by(TILE) {
            for (row, out) in out.chunks_exact_mut(cols).enumerate() {
                let tile = &mut out[first..cols.min(first + TILE)];
                let mut place = self.place(row, first);
                for out in tile {
                    *out = stored[place];
                    place += self.col_step;
                }
            }
        }
    }
}
