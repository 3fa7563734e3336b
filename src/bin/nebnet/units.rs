//! Values with units, as flags and the configuration file spell them.
//!
//! Each function takes the text of a value and says what is wrong with it: the value itself, and
//! the forms that are allowed. Flags and file share them, so both accept exactly the same.

use std::{net::SocketAddr, time::Duration};

use nebnet::{AddressError, ConnectError, ConnectOptions, MessageType, NodeId};

/// The longest payload that the wire format's decoder takes.
pub(crate) const PAYLOAD_SIZE_MAX: u32 = 256 << 20;
/// The longest duration, which is also the longest that a timeout of the library may have.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A duration: a whole number with `ms`, `s`, `m` or `h`; zero, which needs no unit, means off.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let forms = "a whole number with ms, s, m or h, such as 500ms or 3s, or 0 for off";
    let (digits, unit) = split_number(text);
    let Some(number) = parse_digits(digits) else {
        return Err(format!("`{text}` is no duration: {forms}"));
    };
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        "" if number == Some(0) => 1,
        "" => return Err(format!("`{text}` has no unit: {forms}")),
        _ => return Err(format!("`{text}` has the unknown unit `{unit}`: {forms}")),
    };
    number
        .and_then(|number| number.checked_mul(unit_ms))
        .map(Duration::from_millis)
        .filter(|duration| *duration <= DURATION_MAX)
        .ok_or_else(|| format!("`{text}` is too long: at most 8760h, which are 365 days"))
}

/// A size in bytes: a whole number, or one with `K`, `M` or `G` for powers of 1024.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let forms = "a number of bytes, or one with K, M or G (powers of 1024), such as 4096 or 1M";
    let (digits, unit) = split_number(text);
    let Some(number) = parse_digits(digits) else {
        return Err(format!("`{text}` is no size: {forms}"));
    };
    let unit_bytes: u64 = match unit {
        "" => 1,
        "K" | "k" => 1 << 10,
        "M" | "m" => 1 << 20,
        "G" | "g" => 1 << 30,
        _ => return Err(format!("`{text}` has the unknown unit `{unit}`: {forms}")),
    };
    number
        .and_then(|number| number.checked_mul(unit_bytes))
        .ok_or_else(|| format!("`{text}` is too large: at most {} bytes", u64::MAX))
}

/// A size that the library keeps in 32 bits.
pub(crate) fn size_u32(text: &str) -> Result<u32, String> {
    u32::try_from(size(text)?)
        .map_err(|_| format!("`{text}` is too large: at most {} bytes", u32::MAX))
}

/// A size that addresses memory.
pub(crate) fn size_usize(text: &str) -> Result<usize, String> {
    usize::try_from(size(text)?)
        .map_err(|_| format!("`{text}` is too large: at most {} bytes", usize::MAX))
}

/// The size of a payload that the wire format can carry.
pub(crate) fn payload_size(text: &str) -> Result<usize, String> {
    let max = PAYLOAD_SIZE_MAX as usize;
    let fits = Some(size_usize(text)?).filter(|size| *size <= max);
    fits.ok_or_else(|| format!("`{text}` is too large: at most {max} bytes"))
}

/// A number of things.
pub(crate) fn count(text: &str) -> Result<usize, String> {
    match parse_digits(text) {
        Some(number) => number
            .and_then(|number| usize::try_from(number).ok())
            .ok_or_else(|| format!("`{text}` is too large: at most {}", usize::MAX)),
        None => Err(format!("`{text}` is no number: digits alone, such as 1000")),
    }
}

/// A number that names something and fits 32 bits, decimal or hexadecimal with `0x`.
pub(crate) fn id_u32(text: &str) -> Result<u32, String> {
    id(text, u64::from(u32::MAX)).map(|number| u32::try_from(number).unwrap_or(u32::MAX))
}

/// A message type that an application may use, decimal or hexadecimal with `0x`.
pub(crate) fn message_type(text: &str) -> Result<MessageType, String> {
    let max = MessageType::APPLICATION_MAX.0;
    id(text, u64::from(max)).map(|number| MessageType(u16::try_from(number).unwrap_or(max)))
}

/// A number of messages a second: a decimal number above zero.
pub(crate) fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        // Below one message in a year and a half the pause between two would not fit a Duration
        // for certain; above 1e9 it is no pause at all.
        Ok(rate) if (2e-8..=1e9).contains(&rate) => Ok(rate),
        Ok(_) | Err(_) => Err(format!(
            "`{text}` is no rate: messages a second, above 0 and up to 1000000000, such as 100"
        )),
    }
}

/// An IP address and a port.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let parsed = nebnet::parse_address(text);
    parsed.map_err(|error| {
        if matches!(error, AddressError::Malformed) {
            format!("`{text}` is no address: IP:PORT, such as 127.0.0.1:8680 or [::1]:8680")
        } else {
            format!("`{text}`: {}", crate::text::chain(&error))
        }
    })
}

/// A name or an IP address, and a port.
pub(crate) fn target(text: &str) -> Result<String, String> {
    let judged = ConnectOptions::from(text).validate();
    judged.map(|()| text.to_owned()).map_err(|error| {
        if matches!(error, ConnectError::BadTarget) {
            format!("`{text}` is no target: HOST:PORT, such as localhost:8680 or 127.0.0.1:8680")
        } else {
            format!("`{text}`: {}", crate::text::chain(&error))
        }
    })
}

/// Sixteen bytes, as 32 hexadecimal digits. Not all zero, which is nobody: a relay without an id
/// would be taken for a client.
pub(crate) fn node_id(text: &str) -> Result<NodeId, String> {
    let wrong = || format!("`{text}` is no node id: 32 hexadecimal digits, not all zero");
    if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    match u128::from_str_radix(text, 16) {
        Ok(number @ 1..) => Ok(NodeId(number.to_be_bytes())),
        Ok(0) | Err(_) => Err(wrong()),
    }
}

/// A token: 1 to 255 bytes. What it was is not repeated.
pub(crate) fn token(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        let size = text.len();
        Err(format!("the token has {size} bytes, allowed are 1 to 255"))
    }
}

/// `true` or `false`.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("`{text}` is neither true nor false")),
    }
}

/// Milliseconds as a duration is spelled.
pub(crate) fn duration_text(ms: u64) -> String {
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    let unit = units
        .into_iter()
        .find(|(_, unit_ms)| ms != 0 && ms % unit_ms == 0);
    match unit {
        Some((unit, unit_ms)) => format!("{}{unit}", ms / unit_ms),
        None if ms == 0 => "0".to_owned(),
        None => format!("{ms}ms"),
    }
}

/// Bytes as a size is spelled.
pub(crate) fn size_text(bytes: u64) -> String {
    let units = [("G", 30), ("M", 20), ("K", 10)];
    let unit = units
        .into_iter()
        .find(|(_, bits)| bytes != 0 && bytes.trailing_zeros() >= *bits);
    match unit {
        Some((unit, bits)) => format!("{}{unit}", bytes >> bits),
        None => bytes.to_string(),
    }
}

fn id(text: &str, max: u64) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(hex) if hex.bytes().all(|byte| byte.is_ascii_hexdigit()) && !hex.is_empty() => {
            u64::from_str_radix(hex, 16).ok()
        }
        Some(_) => None,
        None => parse_digits(text).flatten(),
    };
    number.filter(|number| *number <= max).ok_or_else(|| {
        format!("`{text}` is not in range: 0 to {max}, decimal or hexadecimal (0x{max:x})")
    })
}

/// The digits at the start, and the rest.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// The number that the digits make; `Some(None)` if it is above 64 bits, `None` if they are none.
fn parse_digits(digits: &str) -> Option<Option<u64>> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        assert_eq!(duration("8760h"), Ok(DURATION_MAX));
        for (text, why) in [
            ("5", "`5` has no unit"),
            ("", "`` is no duration"),
            ("s", "`s` is no duration"),
            ("-1s", "`-1s` is no duration"),
            ("1.5s", "unknown unit `.5s`"),
            ("3 s", "unknown unit ` s`"),
            ("3sec", "unknown unit `sec`"),
            ("8761h", "too long"),
            ("99999999999999999999h", "too long"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(size("0"), Ok(0));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(size("64K"), Ok(65_536));
        assert_eq!(size("1M"), Ok(1 << 20));
        assert_eq!(size("2G"), Ok(2 << 30));
        assert_eq!(
            size("16777215T").unwrap_err().matches("unit `T`").count(),
            1
        );
        for text in ["", "K", "1KB", "1.5M", "-1", "0x10", "1 M"] {
            assert!(size(text).unwrap_err().contains("K, M or G"), "{text}");
        }
        assert!(size("99999999999G").unwrap_err().contains("too large"));
        assert_eq!(size_u32("4194303K"), Ok(u32::MAX - 1023));
        assert!(size_u32("4G").unwrap_err().contains("4294967295"));
        assert_eq!(payload_size("256M"), Ok(256 << 20));
        assert!(payload_size("257M").unwrap_err().contains("268435456"));
    }

    #[test]
    fn what_is_spelled_is_read_as_the_same() {
        for (ms, text) in [
            (0, "0"),
            (1, "1ms"),
            (1500, "1500ms"),
            (45_000, "45s"),
            (120_000, "2m"),
            (365 * 24 * 3_600_000, "8760h"),
        ] {
            assert_eq!(duration_text(ms), text);
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)));
        }
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (1025, "1025"),
            (64 << 10, "64K"),
            (256 << 20, "256M"),
            (3 << 30, "3G"),
        ] {
            assert_eq!(size_text(bytes), text);
            assert_eq!(size(text), Ok(bytes));
        }
    }

    #[test]
    fn numbers_that_name_things() {
        assert_eq!(id_u32("4294967295"), Ok(u32::MAX));
        assert_eq!(id_u32("0xffffffff"), Ok(u32::MAX));
        assert!(id_u32("4294967296").is_err());
        assert_eq!(message_type("7"), Ok(MessageType(7)));
        assert_eq!(message_type("0xfeff"), Ok(MessageType(0xFEFF)));
        for text in ["0xff00", "65536", "x", "", "0x", "-1", "+1", "0x+1"] {
            assert!(
                message_type(text).unwrap_err().contains("0 to 65279"),
                "{text}"
            );
        }
    }

    #[test]
    fn node_ids() {
        let id = node_id("000000000000000000000000000000aB");
        assert_eq!(id.map(|id| id.0[15]), Ok(0xAB));
        for text in ["", "ab", &"0".repeat(32), &"0".repeat(33), &"+1".repeat(16)] {
            assert!(node_id(text).unwrap_err().contains("32"), "{text}");
        }
    }

    #[test]
    fn counts_rates_addresses() {
        assert_eq!(count("10000"), Ok(10_000));
        assert!(count("10K").unwrap_err().contains("digits alone"));
        assert!(
            count("99999999999999999999")
                .unwrap_err()
                .contains("too large")
        );
        assert_eq!(rate("0.5"), Ok(0.5));
        for text in ["0", "-1", "inf", "nan", "x", "1e10"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert!(address("127.0.0.1:0").is_ok());
        assert!(address("localhost:1").unwrap_err().contains("IP:PORT"));
        assert!(target("localhost:1").is_ok());
        assert!(target("localhost").unwrap_err().contains("HOST:PORT"));
        for judge in [
            |text| address(text).map(drop),
            |text| target(text).map(drop),
        ] {
            assert_eq!(judge("[fe80::1%lo]:1"), Ok(()));
            let error = judge("[fe80::1%none]:1").unwrap_err();
            assert!(
                error.starts_with("`[fe80::1%none]:1`: interface `none` cannot be used: "),
                "{error}"
            );
        }
        assert!(boolean("yes").is_err());
    }
}
