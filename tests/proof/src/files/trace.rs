//! The file operations of a process as `strace` tells them, one after the other. Reads lines; knows nothing of what the operations do.
//!
//! A call that another thread's calls came between begins at one line and ends at another. Strings are told in hexadecimal, so nothing in
//! them can be taken for anything else.

use std::collections::HashMap;

/// What `strace` must be told to tell.
pub(crate) const CALLS: &str = "trace=open,openat,creat,close,dup,dup2,dup3,fcntl,read,write,pwrite64,writev,pwritev,pwritev2,lseek,\
    truncate,ftruncate,fallocate,fsync,fdatasync,sync_file_range,sync,syncfs,msync,mmap,rename,renameat,renameat2,unlink,unlinkat,\
    rmdir,mkdir,mkdirat,link,linkat,symlink,symlinkat,ioctl,copy_file_range,sendfile,splice";

/// A call, or one end of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) process: u32,
    pub(crate) call: Call,
    pub(crate) begins: bool,
    pub(crate) ends: bool,
}

/// A call of the operating system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) arguments: Vec<String>,
    /// What it gave; `None` where it has not ended, or failed.
    pub(crate) result: Option<i64>,
    pub(crate) has_failed: bool,
}

impl Call {
    /// An argument that is a number, such as a descriptor or an offset.
    pub(crate) fn number(&self, place: usize) -> Option<i64> {
        self.arguments.get(place)?.parse().ok()
    }

    /// An argument that is a string: a path, or bytes.
    pub(crate) fn bytes(&self, place: usize) -> Option<Vec<u8>> {
        decode(self.arguments.get(place)?)
    }

    /// Whether an argument of flags has this one.
    pub(crate) fn has(&self, place: usize, flag: &str) -> bool {
        self.arguments.get(place).is_some_and(|flags| flags.split('|').any(|one| one == flag))
    }
}

/// Reads one line after the other.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    begun: HashMap<u32, String>,
}

impl Reader {
    /// What a line says; `None` where it tells of no call.
    pub(crate) fn line(&mut self, line: &str) -> Result<Option<Line>, String> {
        let unreadable = || format!("a line of the trace cannot be read: {}", line.chars().take(200).collect::<String>());
        let (process, text) = line.split_once(' ').ok_or_else(unreadable)?;
        let (process, text) = (process.parse::<u32>().map_err(|_| unreadable())?, text.trim_start());
        if text.starts_with("+++") || text.starts_with("---") {
            return Ok(None);
        }
        if let Some(begun) = text.strip_suffix("<unfinished ...>") {
            let call = parse(begun, None).ok_or_else(unreadable)?;
            self.begun.insert(process, begun.to_owned());
            return Ok(Some(Line { process, call, begins: true, ends: false }));
        }
        let (text, begins) = match text.strip_prefix("<... ") {
            Some(rest) => {
                let begun = self.begun.remove(&process).ok_or_else(unreadable)?;
                let (_, rest) = rest.split_once("resumed>").ok_or_else(unreadable)?;
                (begun + rest, false)
            }
            None => (text.to_owned(), true),
        };
        let (text, result) = text.rsplit_once(" = ").ok_or_else(unreadable)?;
        let call = parse(text.trim_end().trim_end_matches(')'), Some(result)).ok_or_else(unreadable)?;
        Ok(Some(Line { process, call, begins, ends: true }))
    }
}

fn parse(text: &str, result: Option<&str>) -> Option<Call> {
    let (name, arguments) = text.split_once('(')?;
    let arguments = split(arguments);
    // The end of a process has no result, and that is how it is told.
    let result = result.map(|result| result.split(' ').next().unwrap_or_default()).filter(|result| *result != "?");
    let result = match result {
        None => None,
        Some(hex) if hex.starts_with("0x") => Some(0),
        Some(number) => Some(number.parse::<i64>().ok()?),
    };
    let has_failed = result.is_some_and(|result| result < 0);
    Some(Call { name: name.to_owned(), arguments, result: result.filter(|_| !has_failed), has_failed })
}

/// Arguments by the commas that are in no brackets.
fn split(text: &str) -> Vec<String> {
    let (mut all, mut one, mut depth) = (Vec::new(), String::new(), 0_u32);
    for letter in text.chars() {
        match letter {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                all.push(std::mem::take(&mut one).trim().to_owned());
                continue;
            }
            _ => {}
        }
        one.push(letter);
    }
    if !one.trim().is_empty() {
        all.push(one.trim().to_owned());
    }
    all
}

/// The bytes of `"\x61\x62"`.
fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.strip_prefix('"')?.strip_suffix('"')?;
    let byte = |pair: &str| u8::from_str_radix(pair, 16).ok();
    text.split("\\x").skip(1).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_with_its_bytes_flags_and_result() {
        let mut reader = Reader::default();
        let line = reader.line(r#"12  openat(AT_FDCWD, "\x2f\x61", O_RDWR|O_CREAT|O_CLOEXEC, 0600) = 5"#).unwrap().unwrap();
        assert!(line.begins && line.ends);
        assert_eq!((line.call.name.as_str(), line.call.bytes(1), line.call.result), ("openat", Some(b"/a".to_vec()), Some(5)));
        assert!(line.call.has(2, "O_CREAT") && !line.call.has(2, "O_TRUNC"));
        let line = reader.line(r#"12  pwrite64(5, "\x00\xff", 2, 4096)     = 2"#).unwrap().unwrap();
        assert_eq!((line.call.bytes(1), line.call.number(3)), (Some(vec![0, 255]), Some(4096)));
        let failed = reader.line(r#"12  unlink("\x61") = -1 ENOENT (No such file or directory)"#).unwrap().unwrap();
        assert!(failed.call.has_failed && failed.call.result.is_none());
    }

    #[test]
    fn a_call_that_others_came_between_begins_and_ends() {
        let mut reader = Reader::default();
        let begun = reader.line("7  fdatasync(5 <unfinished ...>").unwrap().unwrap();
        assert!(begun.begins && !begun.ends && begun.call.number(0) == Some(5));
        assert!(reader.line(r#"8  write(1, "\x0a", 1) = 1"#).unwrap().unwrap().ends);
        let ended = reader.line("7  <... fdatasync resumed>)      = 0").unwrap().unwrap();
        assert!(!ended.begins && ended.ends);
        assert_eq!((ended.call.number(0), ended.call.result), (Some(5), Some(0)));
        assert_eq!(reader.line("7  +++ exited with 0 +++").unwrap(), None);
        assert!(reader.line("7  <... fsync resumed>) = 0").is_err());
    }
}
