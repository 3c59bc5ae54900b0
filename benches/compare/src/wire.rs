//! Requests in which only buyers change, and answers as three kinds of conversation give them: one reservation over HTTP, a batch of them
//! over HTTP, and a script's results over Redis' own protocol. The door of httparse and memchr.
//!
//! It turns bytes into counted outcomes. It knows no sockets.

use std::ops::AddAssign;

use memchr::memmem;
use tidegate_benches::error::BenchError;
use tidegate_benches::load::RequestTemplate;

/// Who stands in a request until the buyers are put in: a letter and ten digits.
const NOBODY: &[u8] = b"u0000000000";

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
    /// Where the digits of each buyer end.
    buyers: Vec<usize>,
}

impl Request {
    fn new(bytes: Vec<u8>) -> Self {
        let buyers = memmem::find_iter(&bytes, NOBODY).map(|at| at + NOBODY.len()).collect();
        Self { bytes, buyers }
    }

    /// One reservation over HTTP: the request that the benches' own generator sends.
    pub fn single(sku: &str) -> Self {
        Self::new(RequestTemplate::reserve(sku).bytes().to_vec())
    }

    /// `commands` reservations in one batch over HTTP, one a line.
    pub fn batch(sku: &str, commands: usize) -> Self {
        let line = format!("{{\"op\":\"reserve\",\"sku\":\"{sku}\",\"user\":\"{}\"}}\n", String::from_utf8_lossy(NOBODY));
        let body = line.repeat(commands);
        let length = body.len();
        let head = format!(
            "POST /v1/batch HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-ndjson\r\ncontent-length: {length}\r\n\r\n"
        );
        Self::new([head, body].concat().into_bytes())
    }

    /// `commands` calls of the script `digest` over Redis' own protocol, one behind the other.
    pub fn script(digest: &str, sku: &str, commands: usize) -> Self {
        let mut words = vec!["EVALSHA".to_owned(), digest.to_owned(), "3".to_owned()];
        words.extend(["stock", "users", "orders"].map(|kind| format!("{sku}:{kind}")));
        words.push(String::from_utf8_lossy(NOBODY).into_owned());
        Self::new(redis_command(&words).repeat(commands))
    }

    /// The bytes to send, for nobody yet.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many commands it holds.
    pub const fn commands(&self) -> u64 {
        self.buyers.len() as u64
    }

    /// Puts the buyers from number `first` on into `bytes`, a copy of the request.
    pub fn put_buyers(&self, bytes: &mut [u8], first: u64) {
        for (end, buyer) in self.buyers.iter().zip(first..) {
            let mut rest = buyer;
            for digit in bytes[end + 1 - NOBODY.len()..*end].iter_mut().rev() {
                *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
                rest /= 10;
            }
        }
    }
}

/// A command as Redis' protocol has it: the number of its words, then each with its length.
pub fn redis_command(words: &[impl AsRef<str>]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words.iter().map(AsRef::as_ref) {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
    }
    bytes
}

/// Whole results of the script: 1 granted, 0 sold out, -1 a duplicate.
pub fn take_script_results(bytes: &[u8], outcomes: &mut Outcomes) -> Result<usize, BenchError> {
    let mut taken = 0;
    for end in memchr::memchr_iter(b'\n', bytes) {
        match &bytes[taken..=end] {
            b":1\r\n" => outcomes.granted += 1,
            b":0\r\n" => outcomes.sold_out += 1,
            b":-1\r\n" => outcomes.duplicates += 1,
            other => return Err(not_understood("a script", other)),
        }
        taken = end + 1;
    }
    Ok(taken)
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

fn not_understood(what: &str, bytes: &[u8]) -> BenchError {
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

    #[test]
    fn every_command_of_a_request_gets_a_buyer_of_its_own() {
        let request = Request::script("d1", "lamp", 2);
        assert_eq!(request.commands(), 2);
        let mut bytes = request.bytes().to_vec();
        request.put_buyers(&mut bytes, 1_234_567_890);
        let one = "*7\r\n$7\r\nEVALSHA\r\n$2\r\nd1\r\n$1\r\n3\r\n$10\r\nlamp:stock\r\n$10\r\nlamp:users\r\n$11\r\nlamp:orders\r\n";
        let expected = format!("{one}$11\r\nu1234567890\r\n{one}$11\r\nu1234567891\r\n");
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
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
    fn results_of_a_script_are_counted_as_far_as_they_are_whole() {
        let counted = Outcomes { granted: 1, sold_out: 1, duplicates: 1 };
        assert_eq!(taken(take_script_results, b":1\r\n:0\r\n:-1\r\n:1"), (13, counted));
        assert!(take_script_results(b"-NOSCRIPT none\r\n", &mut Outcomes::default()).is_err());
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
