//! Pieces of work that are small enough to be measured one by one: made ready, done a number of times, checked. Whether they are timed or
//! their instructions are counted is for whoever has them done.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::{BenchError, expect_equal};
use crate::node::Node;

/// A piece of work. Belongs to one thread.
pub trait Piece {
    /// Makes everything ready that the next `operations` need. Not measured.
    fn ready(&mut self, operations: u64) -> Result<(), BenchError>;

    /// Does what was made ready, once. Returns how many operations did what they should.
    fn run(&mut self) -> Result<u64, BenchError>;

    /// Ends what runs beside the piece.
    fn stop(self: Box<Self>) -> Result<(), BenchError>;
}

/// Does `operations` of `piece`, at most `at_once` of them in a row, and gives the time of the work alone. Fails when one of them did not do
/// what it should.
pub fn timed(piece: &mut dyn Piece, operations: u64, at_once: u64) -> Result<Duration, BenchError> {
    let (mut left, mut elapsed) = (operations, Duration::ZERO);
    while left > 0 {
        let now = left.min(at_once);
        piece.ready(now)?;
        let start = Instant::now();
        let right = piece.run()?;
        elapsed += start.elapsed();
        expect_equal("operations that did what they should", right, now)?;
        left -= now;
    }
    Ok(elapsed)
}

/// An operation that can be done again as it is.
pub struct Again<F> {
    operations: u64,
    operation: F,
}

impl<F: FnMut() -> Result<bool, BenchError>> Again<F> {
    /// `operation` says whether it did what it should.
    pub const fn new(operation: F) -> Self {
        Self { operations: 0, operation }
    }
}

impl<F: FnMut() -> Result<bool, BenchError>> Piece for Again<F> {
    fn ready(&mut self, operations: u64) -> Result<(), BenchError> {
        self.operations = operations;
        Ok(())
    }

    fn run(&mut self) -> Result<u64, BenchError> {
        let mut right = 0;
        for _ in 0..self.operations {
            right += u64::from((self.operation)()?);
        }
        Ok(right)
    }

    fn stop(self: Box<Self>) -> Result<(), BenchError> {
        Ok(())
    }
}

/// A piece beside a node, which is stopped with it.
pub struct BesideNode<P> {
    /// The piece.
    pub piece: P,
    /// The node.
    pub node: Node,
    /// Its folder.
    pub folder: TempDir,
}

impl<P: Piece> Piece for BesideNode<P> {
    fn ready(&mut self, operations: u64) -> Result<(), BenchError> {
        self.piece.ready(operations)
    }

    fn run(&mut self) -> Result<u64, BenchError> {
        self.piece.run()
    }

    fn stop(self: Box<Self>) -> Result<(), BenchError> {
        let Self { piece, node, folder } = *self;
        Box::new(piece).stop()?;
        node.stop()?;
        drop(folder);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_goes_wrong_gives_no_time() {
        let mut count = 0;
        let mut piece = Again::new(|| {
            count += 1;
            Ok(count != 5)
        });
        assert!(timed(&mut piece, 4, 3).is_ok());
        let error = timed(&mut piece, 4, 3).unwrap_err().to_string();
        assert_eq!(error, "operations that did what they should is 2 where 3 was expected");
    }
}
