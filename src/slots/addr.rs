//! The address of a slot's connection, in half the space of a `SocketAddr`, and once for all
//! threads.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering},
};

/// Written by the loop under the slot's lock; read by the loop, and by others under the lock.
#[derive(Debug, Default)]
pub(super) struct AddrCell {
    /// Of an IPv4 address the last word alone counts.
    ip: [AtomicU32; 4],
    flow_info: AtomicU32,
    scope_id: AtomicU32,
    port: AtomicU16,
    is_v6: AtomicBool,
}

impl AddrCell {
    pub(super) fn set(&self, addr: SocketAddr) {
        let (bits, flow_info, scope_id) = match addr {
            SocketAddr::V4(v4) => (u128::from(v4.ip().to_bits()), 0, 0),
            SocketAddr::V6(v6) => (v6.ip().to_bits(), v6.flowinfo(), v6.scope_id()),
        };
        for (word, bytes) in self.ip.iter().zip(bits.to_be_bytes().chunks_exact(4)) {
            let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
            word.store(u32::from_be_bytes(bytes), Ordering::Relaxed);
        }
        self.flow_info.store(flow_info, Ordering::Relaxed);
        self.scope_id.store(scope_id, Ordering::Relaxed);
        self.port.store(addr.port(), Ordering::Relaxed);
        self.is_v6.store(addr.is_ipv6(), Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> SocketAddr {
        let words = self.ip.each_ref().map(|word| word.load(Ordering::Relaxed));
        let port = self.port.load(Ordering::Relaxed);
        if !self.is_v6.load(Ordering::Relaxed) {
            return SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(words[3])), port);
        }
        let bits = words
            .iter()
            .fold(0, |bits, word| bits << 32 | u128::from(*word));
        let flow_info = self.flow_info.load(Ordering::Relaxed);
        let scope_id = self.scope_id.load(Ordering::Relaxed);
        SocketAddrV6::new(Ipv6Addr::from_bits(bits), port, flow_info, scope_id).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_was() {
        let cell = AddrCell::default();
        let scoped = SocketAddrV6::new("fe80::1:2".parse().unwrap(), 65_535, 7, u32::MAX);
        let others = ["10.1.2.3:4", "[2001:db8::ffff:1]:80", "[::ffff:1.2.3.4]:9"];
        let others = others.map(|text| text.parse().unwrap());
        let all = others.into_iter().chain([scoped.into()]);
        for addr in all.chain(others) {
            cell.set(addr);
            assert_eq!(cell.get(), addr);
        }
    }
}
