//! Where a body in chunks ends, byte by byte, in the one form that every reader understands.

use std::io;

/// Where in the body the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunks {
    /// In the size, of which so much has been read in so many digits.
    Size { size: u64, digits: u8 },
    /// After the size, in an extension of so many bytes, which nobody reads.
    Extension { size: u64, length: u8 },
    /// Before the line feed after the size.
    SizeEnd { size: u64 },
    /// In the data, before so many bytes of it.
    Data { left: u64 },
    /// Before the CR and the LF after the data.
    DataEnd { lf: bool },
    /// Before the CR and the LF after the last chunk.
    End { lf: bool },
    /// Behind the body.
    Done,
}

impl Chunks {
    pub(super) const START: Self = Self::Size { size: 0, digits: 0 };

    /// Goes over bytes of the body. Gives how many of them belong to it: fewer than all only at its end.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut index = 0;
        while index < bytes.len() && *self != Self::Done {
            if let Self::Data { left } = *self {
                let here = (bytes.len() - index).min(usize::try_from(left).unwrap_or(usize::MAX));
                index += here;
                let left = left - here as u64;
                *self = if left == 0 { Self::DataEnd { lf: false } } else { Self::Data { left } };
            } else {
                *self = self.step(bytes[index])?;
                index += 1;
            }
        }
        Ok(index)
    }

    fn step(self, byte: u8) -> io::Result<Self> {
        Ok(match (self, byte) {
            // Fifteen digits: no reader's integer is too small.
            (Self::Size { size, digits: digits @ 0..=14 }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                Self::Size { size: size * 16 + u64::from(digit), digits: digits + 1 }
            }
            (Self::Size { size, digits: 1.. } | Self::Extension { size, .. }, b'\r') => {
                Self::SizeEnd { size }
            }
            (Self::Size { size, digits: 1.. }, b';') => Self::Extension { size, length: 0 },
            (Self::Extension { size, length: length @ 0..=254 }, b'\t' | b' '..=b'~') => {
                Self::Extension { size, length: length + 1 }
            }
            (Self::SizeEnd { size: 0 }, b'\n') => Self::End { lf: false },
            (Self::SizeEnd { size }, b'\n') => Self::Data { left: size },
            (Self::DataEnd { lf: false }, b'\r') => Self::DataEnd { lf: true },
            (Self::DataEnd { lf: true }, b'\n') => Self::START,
            (Self::End { lf: false }, b'\r') => Self::End { lf: true },
            (Self::End { lf: true }, b'\n') => Self::Done,
            // Trailers too: nobody behind expects any.
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "the chunks cannot be read")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a body cut into pieces of `size`, and gives where it ends.
    fn read(body: &[u8], size: usize) -> io::Result<Option<usize>> {
        let (mut chunks, mut total) = (Chunks::START, 0);
        for piece in body.chunks(size) {
            total += chunks.advance(piece)?;
        }
        Ok((chunks == Chunks::Done).then_some(total))
    }

    #[test]
    fn the_end_is_found_however_the_body_is_cut() {
        let body = b"4\r\nWiki\r\n00A;name=value\r\n0123456789\r\n0\r\n\r\n";
        let next = [&body[..], b"GET / HTTP/1.1\r\n"].concat();
        for size in 1..next.len() {
            assert_eq!(read(&next, size).unwrap(), Some(body.len()), "{size}");
        }
        assert_eq!(read(b"4\r\nWiki\r\n0\r\n", 5).unwrap(), None);
    }

    #[test]
    fn what_two_readers_could_cut_differently_is_refused() {
        for body in [
            "\r\n",
            "g\r\n",
            "-1\r\n",
            "+1\r\n",
            "0x1\r\n",
            " 1\r\n",
            "1 \r\n",
            "1\n",
            "1\rx",
            "1;\n",
            "1;\u{0}\r\n",
            "1\r\nab\r\n",
            "1\r\na\n",
            "1\r\na\rb",
            "0\r\nTrailer: x\r\n\r\n",
            "0\r\n\n",
            "1000000000000000\r\n",
            "ffffffffffffffff1\r\n",
        ] {
            assert!(read(body.as_bytes(), 3).is_err(), "{body:?}");
        }
        let long = format!("1;{}\r\n", "x".repeat(256));
        assert!(read(long.as_bytes(), 64).is_err());
    }
}
