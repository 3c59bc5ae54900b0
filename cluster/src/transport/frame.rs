//! A frame: bytes with their length and a checksum in front, and a number by which an answer finds its request.
//!
//! ```text
//!  0  4  length of the body, big-endian like everything here
//!  4  8  number
//! 12  4  crc32c of bytes 0 to 12, followed by the body
//! 16  n  body
//! ```
//!
//! The checksum of TCP is too weak for what is written to a log on the other side: a frame whose own does not fit is an error, and ends its
//! connection.

use std::io;

use tidegate_persistence::GROUP_BYTES_MAX;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest body in bytes.
pub const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;

// The largest group goes into one frame, and so much beside it.
const _: () = assert!(FRAME_BYTES_MAX >= GROUP_BYTES_MAX + crate::log_reader::READ_BYTES_MAX + 64 * 1024);

const HEAD_BYTES: usize = 16;

/// Room that is made for a body at once. More is made as it comes: who announces a long one pays for it.
const ROOM_BYTES: usize = 64 * 1024;

/// What came over a connection at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// By which an answer finds its request; what it means is for whoever asks.
    pub number: u64,
    /// What it holds.
    pub body: Vec<u8>,
}

/// Why a frame did not go over. The connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed, or ended within a frame.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// The body is too long, whoever wanted to send it.
    #[error("frame of {0} bytes where {FRAME_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// What came is not what was sent.
    #[error("frame's checksum is {found:08x}, its bytes give {expected:08x}")]
    Checksum {
        /// What the frame carries.
        found: u32,
        /// What was computed.
        expected: u32,
    },
}

/// What stands in front of a body.
struct Head {
    length: usize,
    number: u64,
    found: u32,
}

fn split(head: &[u8; HEAD_BYTES]) -> Head {
    const WHOLE: &str = "a head has all its fields";
    let (length, rest) = head.split_first_chunk().expect(WHOLE);
    let (number, rest) = rest.split_first_chunk().expect(WHOLE);
    let (found, _) = rest.split_first_chunk().expect(WHOLE);
    let length = u32::from_be_bytes(*length) as usize;
    Head { length, number: u64::from_be_bytes(*number), found: u32::from_be_bytes(*found) }
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&head[..12]), body)
}

/// Writes a frame. It may be buffered at return, if `writer` does so. Dropped in between it leaves a part of a frame.
pub async fn write_frame(writer: &mut (impl AsyncWrite + Unpin), number: u64, body: &[u8]) -> Result<(), FrameError> {
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= FRAME_BYTES_MAX);
    let length = length.ok_or(FrameError::TooLong(body.len()))?;
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&length.to_be_bytes());
    head[4..12].copy_from_slice(&number.to_be_bytes());
    let checksum = checksum(&head, body);
    head[12..].copy_from_slice(&checksum.to_be_bytes());
    writer.write_all(&head).await?;
    Ok(writer.write_all(body).await?)
}

/// Reads the next frame; `None` when the other side has closed the connection between two. Dropped in between it loses a part of a frame.
pub async fn read_frame(reader: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, FrameError> {
    let mut head = [0; HEAD_BYTES];
    if reader.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    reader.read_exact(&mut head[1..]).await?;
    let Head { length, number, found } = split(&head);
    if length > FRAME_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    let mut body = Vec::with_capacity(length.min(ROOM_BYTES));
    reader.take(length as u64).read_to_end(&mut body).await?;
    if body.len() < length {
        return Err(FrameError::Io(io::ErrorKind::UnexpectedEof.into()));
    }
    let expected = checksum(&head, &body);
    if found != expected {
        return Err(FrameError::Checksum { found, expected });
    }
    Ok(Some(Frame { number, body }))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(number: u64, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, number, body).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn frames_come_back_in_order_and_then_the_end() {
        let large = vec![7; 3 * ROOM_BYTES];
        let bytes = [written(1, b"ask").await, written(u64::MAX, b"").await, written(2, &large).await].concat();
        let mut reader = &bytes[..];
        for (number, body) in [(1, &b"ask"[..]), (u64::MAX, b""), (2, &large)] {
            assert_eq!(read_frame(&mut reader).await.unwrap(), Some(Frame { number, body: body.to_vec() }));
        }
        assert_eq!(read_frame(&mut reader).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_frame_is_laid_out_as_described() {
        let bytes = written(0x0102, b"abc").await;
        assert_eq!(bytes[..12], [0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 1, 2]);
        let covered = [&bytes[..12], b"abc"].concat();
        assert_eq!(bytes[12..16], crc32c::crc32c(&covered).to_be_bytes());
        assert_eq!(bytes[16..], *b"abc");
    }

    #[tokio::test]
    async fn a_flipped_bit_anywhere_is_an_error() {
        let good = [written(5, b"body").await, vec![0; 64]].concat();
        for bit in 0..(HEAD_BYTES + 4) * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let read = read_frame(&mut &bytes[..]).await;
            assert!(read.is_err(), "bit {bit}: {read:?}");
        }
    }

    #[tokio::test]
    async fn an_end_within_a_frame_is_an_error() {
        let bytes = written(5, b"body").await;
        for end in 1..bytes.len() {
            let read = read_frame(&mut &bytes[..end]).await;
            assert!(matches!(&read, Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof), "{end}: {read:?}");
        }
    }

    #[tokio::test]
    async fn a_body_that_is_too_long_is_neither_sent_nor_taken() {
        let mut bytes = Vec::new();
        let long = vec![0; FRAME_BYTES_MAX + 1];
        assert!(matches!(write_frame(&mut bytes, 1, &long).await, Err(FrameError::TooLong(33_554_433))));
        assert!(bytes.is_empty());
        let head = [&33_554_433_u32.to_be_bytes()[..], &[0; 12]].concat();
        assert!(matches!(read_frame(&mut &head[..]).await, Err(FrameError::TooLong(33_554_433))));
    }
}
