//! The script's calls and results, in Redis' own protocol.

use tidegate_benches::error::BenchError;
use tidegate_benches::wire::{NOBODY, Outcomes, Request, not_understood};

/// `commands` calls of the script `digest`, one behind the other.
pub fn request(digest: &str, sku: &str, commands: usize) -> Request {
    let mut words = vec!["EVALSHA".to_owned(), digest.to_owned(), "3".to_owned()];
    words.extend(["stock", "users", "orders"].map(|kind| format!("{sku}:{kind}")));
    words.push(NOBODY.to_owned());
    Request::new(redis_command(&words).repeat(commands))
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
pub fn take_results(bytes: &[u8], outcomes: &mut Outcomes) -> Result<usize, BenchError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_a_request_gets_a_buyer_of_its_own() {
        let request = request("d1", "lamp", 2);
        assert_eq!(request.commands(), 2);
        let mut bytes = request.bytes().to_vec();
        request.put_buyers(&mut bytes, 1_234_567_890);
        let one = "*7\r\n$7\r\nEVALSHA\r\n$2\r\nd1\r\n$1\r\n3\r\n$10\r\nlamp:stock\r\n$10\r\nlamp:users\r\n$11\r\nlamp:orders\r\n";
        let expected = format!("{one}$11\r\nu1234567890\r\n{one}$11\r\nu1234567891\r\n");
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn results_of_a_script_are_counted_as_far_as_they_are_whole() {
        let mut outcomes = Outcomes::default();
        assert_eq!(take_results(b":1\r\n:0\r\n:-1\r\n:1", &mut outcomes).unwrap(), 13);
        assert_eq!(outcomes, Outcomes { granted: 1, sold_out: 1, duplicates: 1 });
        assert!(take_results(b"-NOSCRIPT none\r\n", &mut Outcomes::default()).is_err());
    }
}
