//! Matrices whose columns stand in another order than the elements of an input.
//!
//! Groups of columns that share a scale may be any columns of a quantised matrix. Put side by side they are blocks like all
//! others; the input is then put into the same order, and quantised in it, for each such matrix.
//!
//! In [`Precision::Reference`](super::Precision) the rows of floats are put back into the order of the input instead, so that
//! such a matrix gives the bits of the same numbers in order.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::activations::{Activations, BLOCK};
use super::{Precision, Product, Rows, run_jobs};
use crate::parallel::Region;

/// For each stored column the element of the input that it is for; u32, little-endian.
#[derive(Clone, Copy)]
pub(super) struct Order<'a>(&'a [[u8; 4]]);

impl<'a> Order<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.as_chunks().0)
    }

    /// Whether all are elements of an input of so many.
    pub fn is_within(self, cols: usize) -> bool {
        // Without a branch for each, so that it is done in vectors.
        (self.0.iter().fold(0, |most, place| most.max(u32::from_le_bytes(*place))) as usize) < cols
    }

    /// The element of the input that stored column `column` is for.
    pub fn place(self, column: usize) -> usize {
        u32::from_le_bytes(self.0[column]) as usize
    }
}

/// Room for rows in the order of some matrix.
pub(super) struct Room(Mutex<Activations>);

impl Room {
    /// Room for so many elements.
    pub fn new(elems: usize) -> Self {
        Self(Mutex::new(Activations::new(1, elems)))
    }

    fn lock(&self) -> MutexGuard<'_, Activations> {
        // Whoever locks it fills it anew.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rows of one product in the room.
pub(super) struct Moved<'a> {
    input: &'a Activations,
    input_rows: Option<&'a [u32]>,
    order: Order<'a>,
    /// Number of the first row in the room.
    first: usize,
}

impl Moved<'_> {
    /// Number of its first row in the room.
    pub fn first(&self) -> usize {
        self.first
    }

    /// The input in the order of the matrix, row `row` of the room.
    pub fn fill(&self, row: usize, out: &mut [f32]) {
        let row = row - self.first;
        let x = self.input.values(self.input_rows.map_or(row, |rows| rows[row] as usize));
        for (column, out) in out.iter_mut().enumerate() {
            *out = x[self.order.place(column)];
        }
    }
}

/// Whether the input of a product has to be put into another order.
pub(super) fn is_moved(product: &Product<'_>, precision: Precision) -> bool {
    precision != Precision::Reference && product.weights.order.is_some()
}

/// Computes products of which each has an order: as many at once as there is room for, one at least.
pub(super) fn multiply(region: &Region<'_>, precision: Precision, mut products: &mut [Product<'_>]) {
    while let Some(first) = products.first() {
        let (input, cols) = (first.input, first.weights.cols);
        let (count, rows) = fitting(products, input, cols);
        let (now, later) = products.split_at_mut(count);
        match input.room().map(Room::lock) {
            Some(mut room) if room.holds(rows * cols) => together(region, precision, now, &mut room, rows),
            _ => together(region, precision, now, &mut Activations::new(rows, cols), rows),
        }
        products = later;
    }
}

/// How many of the products fit into the room of an input, and their rows.
fn fitting(products: &[Product<'_>], input: &Activations, cols: usize) -> (usize, usize) {
    let (mut count, mut all) = (0, 0);
    let holds = |elems: usize| input.room().is_some_and(|room| room.lock().holds(elems));
    for product in products {
        let rows = product.input_rows.map_or(product.input.rows(), <[u32]>::len);
        let same = std::ptr::eq(product.input, input) && product.weights.cols == cols;
        if count > 0 && !(same && holds((all + rows) * cols)) {
            break;
        }
        (count, all) = (count + 1, all + rows);
    }
    (count, all)
}

fn together(
    region: &Region<'_>,
    precision: Precision,
    products: &mut [Product<'_>],
    room: &mut Activations,
    rows: usize,
) {
    let mut moved: Vec<Moved<'_>> = Vec::with_capacity(products.len());
    let mut first = 0;
    for product in products.iter() {
        // Only those with an order come here.
        let Some(order) = product.weights.order else { continue };
        moved.push(Moved { input: product.input, input_rows: product.input_rows, order, first });
        first += product.input_rows.map_or(product.input.rows(), <[u32]>::len);
    }
    let cols = products.first().map_or(BLOCK, |product| product.weights.cols);
    room.fill(region, rows, cols, precision, &moved);
    let room = &*room;
    run_jobs(region, precision, products, |number, product| Rows {
        input: room,
        numbers: None,
        first: moved[number].first,
        count: Rows::of(product).count,
    });
}
