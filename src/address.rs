//! Addresses as text: an IP address and a port, with the interface where the address needs one.
//!
//! The standard library reads all of it but the name of an interface (RFC 4007, section 11.2),
//! which only the system can turn into a number. Flags, configuration files and
//! [`ConnectOptions`](crate::ConnectOptions) read addresses here, so that all take the same.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with},
};

use crate::{error::AddressError, limits::NAME_SIZE_MAX};

/// Reads an IP address and a port: `127.0.0.1:8680`, `[::1]:8680`, `[fe80::1%eth0]:8680`,
/// `[fe80::1%2]:8680`. The interface is looked up now, once; it may be given by its name or its
/// number, and a link-local address (`fe80::/10`) needs one.
///
/// # Errors
///
/// See [`AddressError`].
///
/// # Examples
///
/// ```
/// use nebnet::{AddressError, parse_address};
///
/// assert_eq!(parse_address("[::1]:8680")?.port(), 8680);
/// assert!(matches!(parse_address("gateway:8680"), Err(AddressError::Malformed)));
/// # Ok::<(), AddressError>(())
/// ```
pub fn parse_address(text: &str) -> Result<SocketAddr, AddressError> {
    if let Some((ip, interface, port)) = scoped(text) {
        let scope = interface_index(interface)?;
        return Ok(SocketAddrV6::new(ip, port, 0, scope).into());
    }
    let addr: SocketAddr = text.parse().map_err(|_| AddressError::Malformed)?;
    if lacks_interface(&addr) {
        return Err(AddressError::NoInterface);
    }
    Ok(addr)
}

/// Whether the text is a name and a port other than zero, for the resolver to judge. What has a
/// bracket, a colon or a `%` in its host was meant for an address.
pub(crate) fn is_name(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let belongs = |c: char| !":[]%/".contains(c) && !c.is_whitespace() && !c.is_control();
    let fits = !host.is_empty() && text.len() <= NAME_SIZE_MAX && host.chars().all(belongs);
    fits && port_of(port).is_some_and(|port| port > 0)
}

/// Whether the system would not know which interface is meant.
pub(crate) fn lacks_interface(addr: &SocketAddr) -> bool {
    match addr {
        SocketAddr::V4(_) => false,
        SocketAddr::V6(addr) => addr.ip().is_unicast_link_local() && addr.scope_id() == 0,
    }
}

/// The parts of `[IP%INTERFACE]:PORT`.
fn scoped(text: &str) -> Option<(Ipv6Addr, &str, u16)> {
    let (host, port) = text.strip_prefix('[')?.rsplit_once("]:")?;
    let (ip, interface) = host.split_once('%')?;
    Some((ip.parse().ok()?, interface, port_of(port)?))
}

/// Digits alone: the standard library takes a sign as well.
fn port_of(text: &str) -> Option<u16> {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// A name comes before a number, as an interface may be called by digits alone.
fn interface_index(interface: &str) -> Result<u32, AddressError> {
    let failed = |errno: Errno| AddressError::Interface {
        interface: interface.to_owned(),
        source: errno.into(),
    };
    // Any socket will do: the question is put to the system and not to a network.
    let (family, flags) = (AddressFamily::UNIX, SocketFlags::CLOEXEC);
    let socket = socket_with(family, SocketType::DGRAM, flags, None).map_err(failed)?;
    let unknown = match netdevice::name_to_index(&socket, interface) {
        Ok(index) => return Ok(index),
        Err(errno) => errno,
    };
    match interface.parse() {
        Ok(index) if interface.bytes().all(|byte| byte.is_ascii_digit()) => {
            let named = netdevice::index_to_name_inlined(&socket, index);
            named.map(|_| index).map_err(failed)
        }
        Ok(_) | Err(_) => Err(failed(unknown)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The one interface that every system has.
    const LOOPBACK: &str = "lo";

    #[test]
    fn an_address_may_name_its_interface() {
        let named = parse_address(&format!("[fe80::1%{LOOPBACK}]:80")).unwrap();
        let SocketAddr::V6(addr) = named else {
            panic!("{named}");
        };
        assert!(addr.scope_id() > 0);
        assert_eq!(addr.port(), 80);
        assert_eq!(*addr.ip(), "fe80::1".parse::<Ipv6Addr>().unwrap());
        // As the system's number it is the same, and as it is shown.
        assert_eq!(parse_address(&named.to_string()).unwrap(), named);
        for text in ["127.0.0.1:0", "[::1]:8680", "[2001:db8::1]:65535"] {
            assert_eq!(parse_address(text).unwrap(), text.parse().unwrap());
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        for interface in [
            "no-such-one",
            "",
            "a-name-longer-than-any",
            "4294967295",
            "+1",
        ] {
            let text = format!("[fe80::1%{interface}]:80");
            let error = parse_address(&text).unwrap_err();
            let AddressError::Interface {
                interface: named, ..
            } = &error
            else {
                panic!("{text}: {error}");
            };
            assert_eq!(named, interface);
            assert!(error.to_string().contains(interface), "{error}");
        }
        let error = parse_address("[fe80::1]:80").unwrap_err();
        assert!(matches!(error, AddressError::NoInterface), "{error}");
    }

    #[test]
    fn what_is_no_address_is_a_name_only_if_it_can_be_one() {
        for text in ["localhost:80", "a_b.example:1", "1.2.3.4.5:80"] {
            assert!(is_name(text), "{text}");
            let error = parse_address(text).unwrap_err();
            assert!(matches!(error, AddressError::Malformed), "{text}: {error}");
        }
        for text in [
            "localhost",
            ":80",
            "localhost:",
            "localhost:port",
            "localhost:+80",
            "localhost:0",
            "localhost:65536",
            "fe80::1%lo:80",
            "[fe80::1%lo:80",
            "[fe80::1%lo]80",
            "[fe80::1%lo]:65536",
            "[localhost]:80",
            "::1:80",
            "local host:80",
            "http://localhost:80",
            "",
        ] {
            assert!(!is_name(text), "{text}");
            assert!(parse_address(text).is_err(), "{text}");
        }
    }
}
