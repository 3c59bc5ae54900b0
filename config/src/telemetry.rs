//! The kinds of value that only `[telemetry]` has: a share of one, and the address of a collector.

use std::fmt;

/// A share from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio(f64);

// Never a NaN: the bounds leave none in.
impl Eq for Ratio {}

impl Ratio {
    /// `share`, if it is from 0 to 1.
    pub fn new(share: f64) -> Option<Self> {
        (0.0..=1.0).contains(&share).then_some(Self(share))
    }

    /// The number, 0 to 1.
    pub const fn get(self) -> f64 {
        self.0
    }
}

/// Where a collector takes OTLP over plain HTTP: `http://`, a host, a port if it is not 80, and perhaps a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectorUrl(String);

impl CollectorUrl {
    /// `text` without slashes at its end, if it is such an address.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('/');
        let rest = text.strip_prefix("http://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = match authority.rsplit_once(':') {
            // An IPv6 address stands in brackets, so that its colons are told from the port's.
            Some((host, port)) if !port.ends_with(']') => port.parse::<u16>().ok().filter(|port| *port != 0).map(|_| host)?,
            _ => authority,
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let is_good_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.bytes().all(is_host),
        };
        let is_good_path = path.bytes().all(|byte| is_host(byte) || b"/~%".contains(&byte));
        (is_good_host && is_good_path).then(|| Self(text.to_owned()))
    }

    /// Where spans go.
    pub fn traces(&self) -> String {
        format!("{}/v1/traces", self.0)
    }
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_has_a_host_and_perhaps_a_port_and_a_path() {
        for (text, traces) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector", "http://collector/v1/traces"),
            ("http://otel-agent.shop:80/", "http://otel-agent.shop:80/v1/traces"),
            ("http://[::1]:4318/otlp", "http://[::1]:4318/otlp/v1/traces"),
            ("http://[::1]", "http://[::1]/v1/traces"),
        ] {
            assert_eq!(CollectorUrl::new(text).map(|url| url.traces()).as_deref(), Some(traces), "{text}");
        }
        for text in [
            "",
            "127.0.0.1:4318",
            "https://collector",
            "http://",
            "http:///v1",
            "http://host:",
            "http://host:0",
            "http://host:65536",
            "http://:4318",
            "http://[::g]:4318",
            "http://::1:4318",
            "http://user@host",
            "http://host/a?b",
            "http://host/a b",
            "http://host name",
        ] {
            assert_eq!(CollectorUrl::new(text), None, "{text}");
        }
    }

    #[test]
    fn a_ratio_is_from_0_to_1() {
        for (share, is_one) in [(0.0, true), (1.0, true), (0.01, true), (-0.001, false), (1.001, false), (f64::NAN, false)] {
            assert_eq!(Ratio::new(share).is_some(), is_one, "{share}");
        }
    }
}
