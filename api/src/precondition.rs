//! On which versions of a stock a change may be based: the `if-match` header (RFC 9110, section 13.1.1).

use http::HeaderMap;
use http::header::IF_MATCH;
use tidegate_stock::Revision;

use crate::problem::Problem;

/// The revisions that `if-match` names; `None` where it is missing or names any. A tag that is weak, or none of ours, is no revision, so
/// it never matches.
pub(crate) fn revisions(headers: &HeaderMap) -> Result<Option<Vec<Revision>>, Problem> {
    let mut lines = headers.get_all(IF_MATCH).iter().peekable();
    if lines.peek().is_none() {
        return Ok(None);
    }
    let malformed = || Problem::invalid_request("the if-match header is neither * nor a list of entity tags in quotes");
    // Lines of a list count as one list.
    let mut names_any = false;
    let mut tags = 0;
    let mut revisions = Vec::new();
    for line in lines {
        let mut rest = line.as_bytes().trim_ascii();
        if rest == b"*" {
            names_any = true;
            continue;
        }
        loop {
            rest = rest.trim_ascii_start();
            // A list may have empty elements.
            if let [b',', behind @ ..] = rest {
                rest = behind;
                continue;
            }
            if rest.is_empty() {
                break;
            }
            let (is_weak, quoted) = match rest {
                [b'W', b'/', quoted @ ..] => (true, quoted),
                quoted => (false, quoted),
            };
            let opaque = quoted.strip_prefix(b"\"").ok_or_else(malformed)?;
            let end = opaque.iter().position(|byte| !is_tag_byte(*byte)).ok_or_else(malformed)?;
            let (opaque, behind) = opaque.split_at(end);
            rest = behind.strip_prefix(b"\"").ok_or_else(malformed)?.trim_ascii_start();
            if !matches!(rest, [] | [b',', ..]) {
                return Err(malformed());
            }
            tags += 1;
            revisions.extend(revision(opaque).filter(|_| !is_weak));
        }
    }
    match (names_any, tags) {
        (true, 0) => Ok(None),
        (false, 1..) => Ok(Some(revisions)),
        _ => Err(malformed()),
    }
}

/// A stock's entity tag, without its quotes.
pub(crate) fn tag(revision: Revision) -> String {
    format!("{:x}", revision.0)
}

fn revision(opaque: &[u8]) -> Option<Revision> {
    let text = str::from_utf8(opaque).ok()?;
    let revision = Revision(u64::from_str_radix(text, 16).ok()?);
    // Other ways to write the number are other tags.
    (tag(revision) == text).then_some(revision)
}

const fn is_tag_byte(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x7e | 0x80..=0xff)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[track_caller]
    fn check(lines: &[&str], expect: Result<Option<&[u64]>, ()>) {
        let headers: HeaderMap = lines.iter().map(|line| (IF_MATCH, HeaderValue::from_str(line).unwrap())).collect();
        let given = revisions(&headers).map(|given| given.map(|given| given.iter().map(|revision| revision.0).collect::<Vec<_>>()));
        assert_eq!(given.map_err(drop), expect.map(|expect| expect.map(<[_]>::to_vec)), "{lines:?}");
    }

    #[test]
    fn a_list_of_tags_names_the_revisions_of_the_strong_ones() {
        check(&[], Ok(None));
        check(&["*"], Ok(None));
        check(&[" * "], Ok(None));
        check(&["\"1f\""], Ok(Some(&[31])));
        check(&["\"1\",\"2\" , \"ffffffffffffffff\""], Ok(Some(&[1, 2, u64::MAX])));
        check(&["\"1\"", "\"2\""], Ok(Some(&[1, 2])));
        check(&[", \"1\",,"], Ok(Some(&[1])));
        check(&["W/\"1\""], Ok(Some(&[])));
        check(&["W/\"1\", \"2\""], Ok(Some(&[2])));
    }

    #[test]
    fn a_tag_that_no_stock_has_matches_nothing() {
        for other in ["\"\"", "\"01\"", "\"1F\"", "\"+1\"", "\"x\"", "\"a,b\"", "\"10000000000000000\""] {
            check(&[other], Ok(Some(&[])));
        }
    }

    #[test]
    fn what_is_no_list_of_tags_is_malformed() {
        for bad in ["", ",", "1f", "\"1", "1\"", "\"1\" \"2\"", "\"1\"x", "w/\"1\"", "W/ \"1\"", "\"a b\"", "*, \"1\"", "\"1\", *"]
        {
            check(&[bad], Err(()));
        }
        check(&["*", "\"1\""], Err(()));
    }
}
