//! The head of a request: what is asked for, or the status that it deserves.

use httparse::{EMPTY_HEADER, Error, Status};

/// Header fields of a request; scrapers send about ten.
const FIELDS_MAX: usize = 64;
/// Bytes up to the empty line.
pub(super) const HEAD_SIZE_MAX: usize = 8 << 10;

/// Reads a head, of which perhaps not all is there: `None` until then. Otherwise the path that is
/// asked for, without query and without the server's own address.
///
/// # Errors
///
/// The status of the answer to what is no request for a page.
pub(super) fn parse(head: &[u8]) -> Result<Option<String>, u16> {
    let mut fields = [EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(Status::Complete(_)) => {}
        Ok(Status::Partial) if head.len() < HEAD_SIZE_MAX => return Ok(None),
        Ok(Status::Partial) | Err(Error::TooManyHeaders) => return Err(431),
        Err(Error::Version) => return Err(505),
        Err(_) => return Err(400),
    }
    if !matches!(request.method, Some("GET" | "HEAD")) {
        return Err(405);
    }
    let path = path_of(request.path.unwrap_or_default()).ok_or(400_u16)?;
    Ok(Some(path.to_owned()))
}

/// Whether the answer is to have no body. Also of what is no request otherwise.
pub(super) fn wants_head_alone(head: &[u8]) -> bool {
    head.trim_ascii_start().starts_with(b"HEAD ")
}

/// The path of a target: `/path?query`, or a whole URL, as proxies are asked and some clients ask.
fn path_of(target: &str) -> Option<&str> {
    let path = if target.starts_with('/') {
        target
    } else {
        let (scheme, rest) = target.split_once("://")?;
        if !["http", "https"]
            .iter()
            .any(|known| scheme.eq_ignore_ascii_case(known))
        {
            return None;
        }
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        &rest[end..]
    };
    let end = path.find(['?', '#']).unwrap_or(path.len());
    Some(if end == 0 { "/" } else { &path[..end] })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(target: &str) -> Result<String, u16> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
        parse(head.as_bytes()).map(Option::unwrap)
    }

    #[test]
    fn a_path_is_found_in_every_form_of_target() {
        for target in [
            "/metrics",
            "/metrics?a=/b",
            "http://127.0.0.1:9680/metrics",
            "HTTP://[::1]:9680/metrics?x#y",
            "https://host/metrics",
        ] {
            assert_eq!(path(target), Ok("/metrics".to_owned()), "{target}");
        }
        for target in ["/", "/?x", "http://host", "http://host?x=/metrics"] {
            assert_eq!(path(target), Ok("/".to_owned()), "{target}");
        }
        for target in ["*", "metrics", "host:80", "ftp://host/metrics"] {
            assert_eq!(path(target), Err(400), "{target}");
        }
    }

    #[test]
    fn a_request_is_whole_at_its_empty_line() {
        let head = b"HEAD /health HTTP/1.0\r\nA: b\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(parse(&head[..end]), Ok(None), "{end}");
        }
        assert_eq!(parse(head), Ok(Some("/health".to_owned())));
    }

    #[test]
    fn what_is_no_request_for_a_page_has_a_status() {
        for (head, status) in [
            (&b"POST /metrics HTTP/1.1\r\n\r\n"[..], 405),
            (b"OPTIONS * HTTP/1.1\r\n\r\n", 405),
            (b"PRI * HTTP/2.0\r\n\r\n", 505),
            (b"nonsense\r\n\r\n", 400),
            // A client that speaks TLS.
            (b"\x16\x03\x01\x02\x00", 400),
            (&[b'x'; HEAD_SIZE_MAX], 431),
        ] {
            assert_eq!(parse(head), Err(status), "{head:?}");
        }
        let many = "A: b\r\n".repeat(FIELDS_MAX + 1);
        let head = format!("GET / HTTP/1.1\r\n{many}\r\n");
        assert_eq!(parse(head.as_bytes()), Err(431));
    }

    #[test]
    fn a_head_alone_is_asked_for_by_its_method() {
        assert!(wants_head_alone(b"HEAD / HTTP/9"));
        assert!(wants_head_alone(b"\r\nHEAD /"));
        assert!(!wants_head_alone(b"GET / HTTP/1.1\r\nHEAD x"));
    }
}
