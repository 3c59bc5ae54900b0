//! Requests in which only buyers and products change, and answers over HTTP as three kinds of conversation give them: one reservation, a
//! batch of them, and a stock that is opened. The door of httparse and memchr.
//!
//! It turns bytes into counted outcomes. It knows no sockets. Other conversations have the same shape: see [`Request::new`] and [`Take`].

use std::ops::AddAssign;
use std::sync::Arc;

use memchr::memmem;

use crate::error::BenchError;
use crate::load::RequestTemplate;

/// Who stands in a request until the buyers are put in: a letter and ten digits.
pub const NOBODY: &str = "u0000000000";

/// What stands in a request for a product with a number, until that is put in.
pub const NO_PRODUCT: &str = "p0000000000";

const _: () = assert!(NOBODY.len() == NO_PRODUCT.len(), "both have as many digits");

/// Header fields of an answer that are read at most.
const FIELDS_MAX: usize = 32;

/// Bytes of an answer that is not understood which are quoted.
const QUOTED_BYTES: usize = 300;

/// What buyers were told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// They have a unit.
    pub granted: u64,
    /// No unit is left.
    pub sold_out: u64,
    /// They have theirs already.
    pub duplicates: u64,
}

impl Outcomes {
    /// All of them together.
    pub const fn total(&self) -> u64 {
        self.granted + self.sold_out + self.duplicates
    }
}

impl AddAssign for Outcomes {
    fn add_assign(&mut self, other: Self) {
        self.granted += other.granted;
        self.sold_out += other.sold_out;
        self.duplicates += other.duplicates;
    }
}

/// Reads what is whole at the front of the bytes, counts its outcomes, and gives its length; 0 while nothing is whole. An answer that is
/// none of the outcomes is an error.
pub type Take = fn(&[u8], &mut Outcomes) -> Result<usize, BenchError>;

/// A request of one or many commands, each for a buyer of its own.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
    commands: u64,
    /// Where the digits of each buyer end.
    buyers: Vec<usize>,
    /// Where the digits of each command's product end, where products are numbered.
    products: Vec<usize>,
    /// Users that there are.
    users: u64,
    /// The products that commands ask for, one after the other.
    asked_for: Arc<[u32]>,
}

impl Request {
    /// A request that has [`NOBODY`] in place of each command's buyer and, where products are numbered, [`NO_PRODUCT`] in place of its
    /// product. Each buyer is a user of its own.
    pub fn new(bytes: Vec<u8>) -> Self {
        let ends = |nobody: &str| memmem::find_iter(&bytes, nobody).map(|at| at + nobody.len()).collect::<Vec<_>>();
        let (buyers, products) = (ends(NOBODY), ends(NO_PRODUCT));
        let commands = buyers.len().max(products.len()) as u64;
        Self { bytes, commands, buyers, products, users: u64::MAX, asked_for: Arc::default() }
    }

    /// One reservation over HTTP: the request that the load generator of one command a request sends.
    pub fn single(sku: &str) -> Self {
        Self::new(RequestTemplate::reserve(sku).bytes().to_vec())
    }

    /// `commands` reservations in one batch over HTTP, one a line.
    pub fn batch(sku: &str, commands: usize) -> Self {
        let line = format!("{{\"op\":\"reserve\",\"sku\":\"{sku}\",\"user\":\"{NOBODY}\"}}\n");
        let body = line.repeat(commands);
        let length = body.len();
        let head = format!(
            "POST /v1/batch HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-ndjson\r\ncontent-length: {length}\r\n\r\n"
        );
        Self::new([head, body].concat().into_bytes())
    }

    /// Opens the product whose number the buyer has. `terms` is the request's body.
    pub fn open(terms: &str) -> Self {
        let length = terms.len();
        Self::new(
            format!(
                "PUT /v1/stocks/{NO_PRODUCT} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n\
                 content-length: {length}\r\n\r\n{terms}"
            )
            .into_bytes(),
        )
    }

    /// The same of so many users, at least 1: when all have been there, the first comes again.
    #[must_use]
    pub fn of_users(mut self, users: u64) -> Self {
        self.users = users.max(1);
        self
    }

    /// The same for numbered products: the first buyer asks for the first of `asked_for`, and when all have been asked for, the next for
    /// the first again.
    #[must_use]
    pub fn for_products(mut self, asked_for: Arc<[u32]>) -> Self {
        self.asked_for = asked_for;
        self
    }

    /// The bytes to send, for nobody yet.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many commands it holds.
    pub const fn commands(&self) -> u64 {
        self.commands
    }

    /// The number of the product that buyer number `buyer`, counted from 1, asks for: their own where no other is said.
    pub fn product_of(&self, buyer: u64) -> u64 {
        let place = usize::try_from(buyer.saturating_sub(1)).unwrap_or(usize::MAX) % self.asked_for.len().max(1);
        self.asked_for.get(place).map_or(buyer, |product| u64::from(*product))
    }

    /// Puts the buyers from number `first` on into `bytes`, a copy of the request, and what they ask for.
    pub fn put_buyers(&self, bytes: &mut [u8], first: u64) {
        for (end, buyer) in self.buyers.iter().zip(first..) {
            put_number(&mut bytes[..*end], buyer % self.users);
        }
        for (end, buyer) in self.products.iter().zip(first..) {
            put_number(&mut bytes[..*end], self.product_of(buyer));
        }
    }
}

/// Puts ten digits at the end of `bytes`.
fn put_number(bytes: &mut [u8], mut rest: u64) {
    for digit in bytes.iter_mut().rev().take(NOBODY.len() - 1) {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
}

/// The name of a numbered product.
pub fn product_name(number: u64) -> String {
    let mut name = NO_PRODUCT.as_bytes().to_vec();
    put_number(&mut name, number);
    String::from_utf8_lossy(&name).into_owned()
}

/// The answer to one reservation.
pub fn take_single(bytes: &[u8], outcomes: &mut Outcomes) -> Result<usize, BenchError> {
    let Some(answer) = answer(bytes)? else { return Ok(0) };
    let says = |code: &[u8]| memmem::find(answer.body, code).is_some();
    match answer.status {
        201 if says(b"\"reserved\"") => outcomes.granted += 1,
        409 if says(b"\"sold_out\"") => outcomes.sold_out += 1,
        409 if says(b"\"limit_reached\"") => outcomes.duplicates += 1,
        _ => return Err(not_understood("a reservation", &bytes[..answer.length])),
    }
    Ok(answer.length)
}

/// The answer to a batch: one line for each command.
pub fn take_batch(bytes: &[u8], outcomes: &mut Outcomes) -> Result<usize, BenchError> {
    let Some(answer) = answer(bytes)? else { return Ok(0) };
    if answer.status != 200 {
        return Err(not_understood("a batch", &bytes[..answer.length]));
    }
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', answer.body) {
        let line = &answer.body[start..end];
        if line.starts_with(br#"{"status":201,"reservation":{"#) {
            outcomes.granted += 1;
        } else if line.starts_with(br#"{"status":409,"code":"sold_out""#) {
            outcomes.sold_out += 1;
        } else if line.starts_with(br#"{"status":409,"code":"limit_reached""#) {
            outcomes.duplicates += 1;
        } else {
            return Err(not_understood("a command of a batch", line));
        }
        start = end + 1;
    }
    if start < answer.body.len() {
        return Err(not_understood("a batch's last command", &answer.body[start..]));
    }
    Ok(answer.length)
}

/// The answer to a stock that is opened, which counts as granted.
pub fn take_opened(bytes: &[u8], outcomes: &mut Outcomes) -> Result<usize, BenchError> {
    let Some(answer) = answer(bytes)? else { return Ok(0) };
    if answer.status != 201 {
        return Err(not_understood("a stock's opening", &bytes[..answer.length]));
    }
    outcomes.granted += 1;
    Ok(answer.length)
}

struct Answer<'a> {
    status: u16,
    body: &'a [u8],
    /// Of head and body.
    length: usize,
}

/// The answer at the front of `bytes`; `None` while it is not whole.
fn answer(bytes: &[u8]) -> Result<Option<Answer<'_>>, BenchError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let start = match head.parse(bytes).map_err(|error| BenchError::Wrong(format!("an answer that is not HTTP: {error}")))? {
        httparse::Status::Complete(start) => start,
        httparse::Status::Partial => return Ok(None),
    };
    let length = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|field| std::str::from_utf8(field.value).ok()?.trim().parse::<usize>().ok());
    let (Some(status), Some(length)) = (head.code, length) else {
        return Err(not_understood("an answer without status or length", bytes));
    };
    Ok(bytes.get(start..start + length).map(|body| Answer { status, body, length: start + length }))
}

/// An answer that is none of the outcomes: an error that quotes its front.
pub fn not_understood(what: &str, bytes: &[u8]) -> BenchError {
    let quoted = String::from_utf8_lossy(&bytes[..bytes.len().min(QUOTED_BYTES)]);
    BenchError::Wrong(format!("{what} was answered with: {quoted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(take: Take, bytes: &[u8]) -> (usize, Outcomes) {
        let mut outcomes = Outcomes::default();
        let length = take(bytes, &mut outcomes).unwrap();
        (length, outcomes)
    }

    fn filled(request: &Request, first: u64) -> String {
        let mut bytes = request.bytes().to_vec();
        request.put_buyers(&mut bytes, first);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn every_command_of_a_request_gets_a_buyer_of_its_own() {
        let request = Request::new(format!("a {NOBODY} b {NOBODY}").into_bytes());
        assert_eq!(request.commands(), 2);
        assert_eq!(filled(&request, 1_234_567_890), "a u1234567890 b u1234567891");
    }

    #[test]
    fn users_come_again_and_products_are_asked_for_in_order() {
        let request = Request::new(format!("{NO_PRODUCT} {NOBODY} {NO_PRODUCT} {NOBODY}").into_bytes());
        let request = request.of_users(3).for_products(Arc::new([7, 9, 8]));
        assert_eq!(request.commands(), 2);
        assert_eq!(filled(&request, 1), "p0000000007 u0000000001 p0000000009 u0000000002");
        assert_eq!(filled(&request, 3), "p0000000008 u0000000000 p0000000007 u0000000001");
    }

    #[test]
    fn a_stock_is_opened_with_its_terms_under_the_buyers_number() {
        let request = Request::open(r#"{"quantity":5}"#);
        assert_eq!(request.commands(), 1);
        let text = filled(&request, 42);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with(&format!("PUT /v1/stocks/{} HTTP/1.1\r\n", product_name(42))), "{head}");
        assert!(head.ends_with("content-length: 14") && body == r#"{"quantity":5}"#, "{text}");
        let answer = b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}";
        assert_eq!(taken(take_opened, answer), (answer.len(), Outcomes { granted: 1, ..Outcomes::default() }));
        assert!(take_opened(b"HTTP/1.1 409 Conflict\r\ncontent-length: 0\r\n\r\n", &mut Outcomes::default()).is_err());
    }

    #[test]
    fn a_batch_carries_its_own_length() {
        let request = Request::batch("lamp", 3);
        let text = String::from_utf8(request.bytes().to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
        assert_eq!(body.lines().collect::<Vec<_>>(), [r#"{"op":"reserve","sku":"lamp","user":"u0000000000"}"#; 3]);
    }

    #[test]
    fn a_reservation_is_granted_sold_out_or_a_duplicate() {
        let answer = |status: &str, body: &str| format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let granted = answer("201 Created", r#"{"state":"reserved"}"#);
        assert_eq!(taken(take_single, granted.as_bytes()), (granted.len(), Outcomes { granted: 1, ..Outcomes::default() }));
        assert_eq!(taken(take_single, &granted.as_bytes()[..granted.len() - 1]), (0, Outcomes::default()));
        let sold_out = answer("409 Conflict", r#"{"code":"sold_out"}"#);
        assert_eq!(taken(take_single, sold_out.as_bytes()).1, Outcomes { sold_out: 1, ..Outcomes::default() });
        let duplicate = answer("409 Conflict", r#"{"code":"limit_reached"}"#);
        assert_eq!(taken(take_single, duplicate.as_bytes()).1, Outcomes { duplicates: 1, ..Outcomes::default() });
        assert!(take_single(answer("503 Service Unavailable", "{}").as_bytes(), &mut Outcomes::default()).is_err());
    }

    #[test]
    fn a_batch_is_counted_line_by_line() {
        let body = "{\"status\":201,\"reservation\":{\"id\":\"x\"}}\n{\"status\":409,\"code\":\"sold_out\",\"detail\":\"y\"}\n";
        let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let counted = Outcomes { granted: 1, sold_out: 1, duplicates: 0 };
        assert_eq!(taken(take_batch, whole.as_bytes()), (whole.len(), counted));
        let unknown = "HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n{\"status\":503}\n";
        assert!(take_batch(unknown.as_bytes(), &mut Outcomes::default()).is_err());
    }
}
