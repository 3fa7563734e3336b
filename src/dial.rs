//! Whom to connect to, and how: what a link is asked for with.

use std::{fmt, net::SocketAddr, time::Duration};

use crate::{
    address::{is_name, parse_address},
    clock::{Tick, ticks_of_timeout},
    error::{AddressError, ConnectError},
    id::LinkId,
    limits::{ADDRESSES_PER_NAME_MAX, TIMEOUT_MS_CEILING},
    resolve::Resolver,
};

/// Whom to connect to, and how.
///
/// Made of a `SocketAddr`, a list of them, or a text: an address, as
/// [`parse_address`](crate::parse_address) reads it, or a name and a port like
/// `gateway.example:8680`, which is looked up at each attempt. All addresses are tried, one after
/// the other; those that it had the last time, if the lookup fails or takes longer than the
/// [`timeout`](Self::timeout).
///
/// # Examples
///
/// ```
/// use nebnet::ConnectOptions;
/// use std::{net::SocketAddr, time::Duration};
///
/// let once = ConnectOptions::from(SocketAddr::from(([127, 0, 0, 1], 8680)));
/// let kept = ConnectOptions::from("gateway.example:8680")
///     .keep_connected(true)
///     .timeout(Duration::from_secs(2));
/// # let _ = (once, kept);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    target: Target,
    pub(crate) keep: bool,
    pub(crate) hello: bool,
    checksums: bool,
    timeout: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Addrs(Vec<SocketAddr>),
    Name(String),
}

impl ConnectOptions {
    fn new(target: Target) -> Self {
        Self {
            target,
            keep: false,
            hello: true,
            checksums: false,
            timeout: None,
        }
    }

    /// Connects again whenever the connection ends or cannot be made, after a pause that doubles
    /// from 100 ms to 30 s ([`Config::reconnect`](crate::Config::reconnect)) and of which a random
    /// part is waited. While the node that answered the last time has another connection, the link
    /// stands by: it makes no attempts and gives no events. Off by default: one attempt.
    #[must_use]
    pub fn keep_connected(self, keep: bool) -> Self {
        Self { keep, ..self }
    }

    /// Whether to say HELLO, and to wait for the OK before anything else is sent; on by default.
    /// Off for a peer that speaks frames and no HELLO.
    #[must_use]
    pub fn hello(self, hello: bool) -> Self {
        Self { hello, ..self }
    }

    /// Sends this peer everything with a CRC-32C, the protocol's own frames included, whatever
    /// [`Outgoing::checksum`](crate::Outgoing::checksum) says of a message; off by default.
    /// [`Config::checksums`](crate::Config::checksums) does so for all peers, and is not taken back
    /// by this. A broadcast is encoded once more for each such peer.
    #[must_use]
    pub fn checksums(self, always: bool) -> Self {
        Self {
            checksums: always,
            ..self
        }
    }

    /// How long one address may take to connect, and then to answer HELLO, and how long an attempt
    /// waits for the addresses of a name before; 1 ms to 365 days.
    /// Default: [`Config::connect_timeout`](crate::Config::connect_timeout).
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..self
        }
    }

    /// Whether [`Handle::connect`](crate::Handle::connect) would take the target and the timeout.
    /// An interface that the target names is looked up; a name is not.
    ///
    /// # Errors
    ///
    /// [`ConnectError::BadTarget`], [`ConnectError::BadAddress`] or [`ConnectError::BadTimeout`].
    pub fn validate(&self) -> Result<(), ConnectError> {
        self.clone().check().map(drop)
    }

    /// Whether a name has to be looked up. A text that is an address is one from now on.
    pub(crate) fn check(&mut self) -> Result<bool, ConnectError> {
        let timeout = self.timeout.map_or(1, ticks_of_timeout);
        if !(1..=TIMEOUT_MS_CEILING).contains(&timeout) {
            return Err(ConnectError::BadTimeout);
        }
        let addr = match &self.target {
            Target::Addrs(addrs) if addrs.is_empty() => return Err(ConnectError::BadTarget),
            Target::Addrs(_) => return Ok(false),
            Target::Name(text) => match parse_address(text) {
                Ok(addr) if addr.port() == 0 => return Err(ConnectError::BadTarget),
                Ok(addr) => addr,
                Err(AddressError::Malformed) if is_name(text) => return Ok(true),
                Err(AddressError::Malformed) => return Err(ConnectError::BadTarget),
                Err(error) => return Err(ConnectError::BadAddress(error)),
            },
        };
        self.target = Target::Addrs(vec![addr]);
        Ok(false)
    }
}

impl From<SocketAddr> for ConnectOptions {
    fn from(addr: SocketAddr) -> Self {
        Self::new(Target::Addrs(vec![addr]))
    }
}

impl From<Vec<SocketAddr>> for ConnectOptions {
    /// At most 16 of the addresses are tried.
    fn from(mut addrs: Vec<SocketAddr>) -> Self {
        addrs.truncate(ADDRESSES_PER_NAME_MAX);
        Self::new(Target::Addrs(addrs))
    }
}

impl From<&[SocketAddr]> for ConnectOptions {
    /// At most 16 of the addresses are tried.
    fn from(addrs: &[SocketAddr]) -> Self {
        addrs.to_vec().into()
    }
}

impl From<&str> for ConnectOptions {
    fn from(name: &str) -> Self {
        name.to_owned().into()
    }
}

impl From<String> for ConnectOptions {
    fn from(name: String) -> Self {
        Self::new(Target::Name(name))
    }
}

/// A link as the loop is asked for it.
#[derive(Debug)]
pub(crate) struct NewLink {
    pub(crate) id: LinkId,
    pub(crate) source: Source,
    pub(crate) keep: bool,
    pub(crate) hello: bool,
    pub(crate) checksums: bool,
    /// In milliseconds; `None` is the service's.
    pub(crate) timeout_ms: Option<Tick>,
}

/// Where the addresses of a link come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Addrs(Vec<SocketAddr>),
    Name(String, Resolver),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addrs(addrs) => write!(f, "{} addresses", addrs.len()),
            Self::Name(name, _) => f.write_str(name),
        }
    }
}

impl Source {
    /// A link wants no addresses any more.
    pub(crate) fn forget(&self, link: LinkId) {
        if let Self::Name(name, resolver) = self {
            resolver.forget(link, name);
        }
    }
}

impl NewLink {
    /// `resolver` is there if [`ConnectOptions::check`] asked for it.
    pub(crate) fn new(id: LinkId, options: ConnectOptions, resolver: Option<Resolver>) -> Self {
        let source = match (options.target, resolver) {
            (Target::Addrs(addrs), _) => Source::Addrs(addrs),
            (Target::Name(name), Some(resolver)) => Source::Name(name, resolver),
            (Target::Name(_), None) => Source::Addrs(Vec::new()),
        };
        Self {
            id,
            source,
            keep: options.keep,
            hello: options.hello,
            checksums: options.checksums,
            timeout_ms: options.timeout.map(ticks_of_timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::NAME_SIZE_MAX;

    #[test]
    fn targets_are_addresses_or_names_with_a_port() {
        let check = |text: &str| ConnectOptions::from(text).check();
        assert!(matches!(check("127.0.0.1:80"), Ok(false)));
        assert!(matches!(check("[::1]:80"), Ok(false)));
        assert!(matches!(check("localhost:80"), Ok(true)));
        let long = format!("{}:80", "a".repeat(NAME_SIZE_MAX));
        for bad in [
            "localhost",
            ":80",
            "localhost:port",
            "localhost:65536",
            "",
            &long,
        ] {
            let result = check(bad);
            assert!(
                matches!(result, Err(ConnectError::BadTarget)),
                "{bad:?} {result:?}"
            );
        }
        assert!(matches!(check("[fe80::1%lo]:80"), Ok(false)));
        assert!(matches!(check("[::1]:0"), Err(ConnectError::BadTarget)));
        for bad in ["[fe80::1%no-such-one]:80", "[fe80::1]:80"] {
            let result = ConnectOptions::from(bad).validate();
            assert!(
                matches!(result, Err(ConnectError::BadAddress(_))),
                "{bad:?} {result:?}"
            );
        }
        let none = ConnectOptions::from(Vec::new()).check();
        assert!(matches!(none, Err(ConnectError::BadTarget)));
        let late = ConnectOptions::from("[::1]:80")
            .timeout(Duration::MAX)
            .check();
        assert!(matches!(late, Err(ConnectError::BadTimeout)));
        let none = ConnectOptions::from("[::1]:80")
            .timeout(Duration::ZERO)
            .check();
        assert!(matches!(none, Err(ConnectError::BadTimeout)));
    }
}
