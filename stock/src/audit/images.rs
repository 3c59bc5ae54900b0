//! Images against the books: whoever follows the changes from outside must be told what the events come to.

use std::collections::BTreeMap;

use super::Auditor;
use super::book::Book;
use super::finding::Finding;
use crate::event::Event;
use crate::image::Image;
use crate::record::{ReservationRecord, StockRecord};
use crate::values::{ChangeSequence, ReservationId, StockId};

impl Auditor {
    /// Checks what the log says that `event`, which was observed last, left behind.
    pub fn check_image(&self, event: &Event, image: &Image) -> Result<(), Finding> {
        match event {
            Event::Recalled { record } => match image {
                Image::Nothing => Ok(()),
                _ => Err(differs(self.book(record.id.stock)?, "kind of image", image)),
            },
            Event::Summed { .. } => match image {
                Image::Nothing => Ok(()),
                _ => Err(Finding::SumWithImage { image: Box::new(image.clone()) }),
            },
            Event::Reserved { stock, .. } => {
                let book = self.book(*stock)?;
                match image {
                    Image::Granted { change } if change.0 == book.changes => Ok(()),
                    Image::Granted { .. } => Err(differs(book, "change sequence", image)),
                    _ => Err(differs(book, "kind of image", image)),
                }
            }
            Event::Confirmed { reservation, .. }
            | Event::Released { reservation, .. }
            | Event::Returned { reservation, .. }
            | Event::Extended { reservation, .. } => {
                let book = self.book(reservation.stock)?;
                let Image::Reservation { change, record } = image else { return Err(differs(book, "kind of image", image)) };
                check_reservation(book, *reservation, ChangeSequence(book.changes), (*change, record), image)
            }
            Event::Expired { reservations } => self.check_lapsed(reservations, image),
            Event::StockCreated { stock, .. }
            | Event::StockChanged { stock, .. }
            | Event::StockAdjusted { stock, .. }
            | Event::StockPaused { stock }
            | Event::StockReopened { stock }
            | Event::StockClosed { stock }
            | Event::StockArchived { stock } => {
                let book = self.book(*stock)?;
                let Image::Stock(record) = image else { return Err(differs(book, "kind of image", image)) };
                compare_stock(book, record).map_or(Ok(()), |what| Err(differs(book, what, image)))
            }
        }
    }

    fn check_lapsed(&self, reservations: &[ReservationId], image: &Image) -> Result<(), Finding> {
        let Some(first) = reservations.first() else { return Ok(()) };
        let book = self.book(first.stock)?;
        let Image::Lapsed(lapsed) = image else { return Err(differs(book, "kind of image", image)) };
        if lapsed.len() != reservations.len() {
            return Err(differs(book, "number of reservations", image));
        }
        let mut of_stock = BTreeMap::<StockId, u64>::new();
        for reservation in reservations {
            *of_stock.entry(reservation.stock).or_default() += 1;
        }
        // Before the event each stock had so many changes less; from there they are counted up.
        let mut next = BTreeMap::new();
        for (stock, count) in of_stock {
            next.insert(stock, self.book(stock)?.changes - count);
        }
        for (reservation, (change, record)) in reservations.iter().zip(lapsed) {
            let Some(changes) = next.get_mut(&reservation.stock) else { unreachable!("each stock was counted") };
            *changes += 1;
            let book = self.book(reservation.stock)?;
            check_reservation(book, *reservation, ChangeSequence(*changes), (*change, record), image)?;
        }
        Ok(())
    }
}

fn check_reservation(
    book: &Book,
    id: ReservationId,
    expected: ChangeSequence,
    (change, record): (ChangeSequence, &ReservationRecord),
    image: &Image,
) -> Result<(), Finding> {
    if change != expected {
        return Err(differs(book, "change sequence", image));
    }
    if record.id != id {
        return Err(differs(book, "reservation", image));
    }
    book.compare(record).map_or(Ok(()), |what| Err(differs(book, what, image)))
}

/// In what `record` differs from the books, if it does.
fn compare_stock(book: &Book, record: &StockRecord) -> Option<&'static str> {
    let checks = [
        (record.id == book.id, "stock"),
        (record.sku == book.sku, "sku"),
        (record.first_quantity == book.first_quantity, "first quantity"),
        (record.terms == book.terms, "settings"),
        (record.allotted == book.allotted, "number of units allotted"),
        (record.available == book.available, "number of units available"),
        (record.reserved == book.reserved, "number of units reserved"),
        (record.sold == book.sold, "number of units sold"),
        (record.grants == book.grants_made(), "number of grants"),
        (record.changes.0 == book.changes, "change sequence"),
        (record.revision.0 == book.revision, "revision"),
        (
            (record.is_paused, record.is_closed, record.is_archived) == (book.is_paused, book.is_closed, book.is_archived),
            "phase of life",
        ),
    ];
    checks.into_iter().find(|(is_same, _)| !is_same).map(|(_, what)| what)
}

fn differs(book: &Book, what: &'static str, image: &Image) -> Finding {
    Finding::ImageDiffers { sku: book.sku.clone(), what, image: Box::new(image.clone()) }
}
