//! Bytes from the network on their way to a terminal, a log or a pipe.

use std::{
    borrow::Cow,
    error::Error,
    fmt::Display,
    io::{self, Write},
};

/// The text with every control character written as an escape.
///
/// A terminal obeys control characters, and a line break forges a line of a log.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// What an error says, and behind it what caused it, as far as that is known.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Writes the line that `serve --print` and `send --replies` show for a message: sender, type,
/// length, `text` or `hex`, payload, with tabs between them.
///
/// A payload is text if it is UTF-8 without control characters. A tab is one, so the payload is
/// what follows the fourth tab, and `cut -f5-` gives it back.
pub(crate) fn write_message(
    out: &mut impl Write,
    sender: impl Display,
    message_type: u16,
    payload: &[u8],
) -> io::Result<()> {
    write!(out, "{sender}\t{message_type}\t{}\t", payload.len())?;
    if is_text(payload) {
        out.write_all(b"text\t")?;
        out.write_all(payload)?;
    } else {
        out.write_all(b"hex\t")?;
        write_hex(out, payload)?;
    }
    out.write_all(b"\n")
}

fn is_text(payload: &[u8]) -> bool {
    std::str::from_utf8(payload).is_ok_and(|text| !text.chars().any(char::is_control))
}

fn write_hex(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    // In pieces, so that a payload of 256 MiB does not become a string of 512 MiB.
    let mut digits = [0; 512];
    for piece in bytes.chunks(digits.len() / 2) {
        for (pair, byte) in digits.chunks_exact_mut(2).zip(piece) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        out.write_all(&digits[..piece.len() * 2])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(payload: &[u8]) -> String {
        let mut out = Vec::new();
        write_message(&mut out, "0.1.2", 7, payload).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn escape_leaves_no_control_character() {
        assert_eq!(escape("plain \u{e9}"), "plain \u{e9}");
        assert_eq!(escape("a\nb\x1b[2J\u{9b}"), "a\\nb\\u{1b}[2J\\u{9b}");
    }

    #[test]
    fn text_and_hex() {
        assert_eq!(line(b"hi"), "0.1.2\t7\t2\ttext\thi\n");
        assert_eq!(line(b""), "0.1.2\t7\t0\ttext\t\n");
        assert_eq!(line("\u{e9}".as_bytes()), "0.1.2\t7\t2\ttext\t\u{e9}\n");
        assert_eq!(line(b"a\tb"), "0.1.2\t7\t3\thex\t610962\n");
        assert_eq!(line(b"\xff\x00"), "0.1.2\t7\t2\thex\tff00\n");
        assert_eq!(line("\u{85}".as_bytes()), "0.1.2\t7\t2\thex\tc285\n");
        assert_eq!(line(b"\x7f"), "0.1.2\t7\t1\thex\t7f\n");
    }

    #[test]
    fn hex_of_every_length_around_a_piece() {
        for size in [255, 256, 257, 600] {
            let text = line(&vec![0xab; size]);
            assert_eq!(
                text,
                format!("0.1.2\t7\t{size}\thex\t{}\n", "ab".repeat(size))
            );
        }
    }
}
