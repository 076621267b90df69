//! Which addresses the name of a granted host may lead to.
//!
//! A name is somebody else's word: it may lead to this machine, to its neighbours, or to the service that hands a cloud
//! machine its credentials. So a name leads to public addresses only, unless its grant says `private`, and to none of the
//! places that are never a web server's. An address that a grant names itself is what it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is, if it is not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// Of this machine or its network: `private = true` allows it.
    Private(&'static str),
    /// Of no web server, or of one that gives credentials away: only an address in the grant allows it.
    Never(&'static str),
}

use Special::{Never, Private};

/// Addresses outside of the ranges below at which cloud machines find credentials or settings.
const METADATA_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(100, 100, 100, 200)];
const METADATA_V6: [Ipv6Addr; 5] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    Ipv6Addr::new(0xfd00, 0xa9fe, 0xa9fe, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

/// What is special about an address; none if it is public.
pub fn special(address: IpAddr) -> Option<Special> {
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<Special> {
    let [a, b, c, _] = address.octets();
    if METADATA_V4.contains(&address) {
        return Some(Never("a cloud's metadata address"));
    }
    match (a, b, c) {
        (0, ..) => Some(Never("an address of no host")),
        (127, ..) => Some(Private("a loopback address")),
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => Some(Private("a private address")),
        (100, 64..=127, _) => Some(Private("an address of a provider's inner network")),
        (169, 254, _) => Some(Never("a link-local address, where clouds keep credentials")),
        (198, 18..=19, _) => Some(Private("an address for measurements")),
        (192, 0, 0 | 2) | (192, 88, 99) | (198, 51, 100) | (203, 0, 113) => Some(Never("a reserved address")),
        (224..=239, ..) => Some(Never("a multicast address")),
        (240..=255, ..) => Some(Never("a reserved address")),
        _ => None,
    }
}

fn special_v6(address: Ipv6Addr) -> Option<Special> {
    if METADATA_V6.contains(&address) {
        return Some(Never("a cloud's metadata address"));
    }
    if address == Ipv6Addr::LOCALHOST {
        return Some(Private("a loopback address"));
    }
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        special_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b, c, d, e, f) {
        // Mapped, translated (NAT64) and 6to4: where they lead is the IPv4 address in them.
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => v4(g, h),
        (0x2002, ..) => v4(b, c),
        (0x64, 0xff9b, 1, ..) => Some(Private("an address of a translator of this network")),
        (0xfc00..=0xfdff, ..) | (0xfec0..=0xfeff, ..) => Some(Private("a private address")),
        (0xfe80..=0xfebf, ..) => Some(Never("a link-local address")),
        (0xff00..=0xffff, ..) => Some(Never("a multicast address")),
        // Teredo, documentation and others below 2001:200::, and documentation in 3fff::/20.
        (0x2001, 0..=0x1ff, ..) | (0x2001, 0xdb8, ..) | (0x3fff, 0..=0xfff, ..) => {
            Some(Never("a reserved address"))
        }
        (0x2000..=0x3fff, ..) => None,
        _ => Some(Never("a reserved address")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Special> {
        special(text.parse().unwrap_or_else(|_| panic!("{text}")))
    }

    #[test]
    fn public_addresses_are_not_special() {
        for text in
            ["1.1.1.1", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2002:0101:0101::1"]
        {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn private_addresses_take_a_word() {
        for text in [
            "127.0.0.1",
            "127.255.0.9",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "198.18.0.1",
            "::1",
            "fc00::1",
            "fd12:3456::1",
            "fec0::1",
            "::ffff:127.0.0.1",
            "::ffff:10.1.2.3",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "64:ff9b:1::1",
        ] {
            assert!(matches!(of(text), Some(Private(_))), "{text}: {:?}", of(text));
        }
    }

    #[test]
    fn metadata_and_reserved_addresses_take_the_address_itself() {
        for text in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "fe80::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fd00:42::42",
            "fd00:a9fe:a9fe::1",
            "fd00:c1::a9fe:a9fe",
            "168.63.129.16",
            "100.100.100.200",
            "0.0.0.0",
            "::",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "192.0.2.1",
            "2001:db8::1",
            "2001::1",
            "::7f00:1",
            "240.0.0.1",
            "4000::1",
            "3fff::1",
        ] {
            assert!(matches!(of(text), Some(Never(_))), "{text}: {:?}", of(text));
        }
    }
}
