//! Targets of the programs' own parsers: configuration, and media over TCP before anybody is known.
//!
//! The sources are taken as modules, so that their crates and all that those need are not built
//! with counters.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::records::byte;

#[allow(dead_code, reason = "the programs use all of it")]
#[path = "../../../media-node/src/ice_tcp/framing.rs"]
mod framing;
#[allow(dead_code, reason = "the programs use all of it")]
#[path = "../../../operator/gateway/src/config.rs"]
mod gateway_config;
#[allow(dead_code, unused_imports, reason = "the programs use all of it")]
#[path = "../../../media-node/src/config/mod.rs"]
mod media_node_config;

use media_node_config::{Config, ConfigError, Given, command};

/// The largest first frame, as the media node bounds it.
const FIRST_FRAME_MAX: usize = 1_500;

/// Frames of RFC 4571 as they come on a connection, and the user name in the first.
pub fn frames(data: &[u8]) {
    let mut rest = data;
    let mut framed = Vec::new();
    let mut most = FIRST_FRAME_MAX;
    while let Some(frame) = next_frame(&mut rest, most) {
        assert!(frame.len() <= most, "a frame larger than allowed");
        if let Some(ufrag) = framing::local_ufrag(&frame) {
            let named = format!("{ufrag}:");
            let said = frame.windows(named.len()).any(|part| part == named.as_bytes());
            assert!(said, "a user name that nobody sent");
        }
        framed.extend(framing::framed(&frame).expect("it came in a frame"));
        most = usize::from(u16::MAX);
    }
    assert!(data.starts_with(&framed), "frames are not what came");
}

/// A reader of bytes that are there never waits.
fn next_frame(rest: &mut &[u8], most: usize) -> Option<Vec<u8>> {
    let mut reading = pin!(framing::read_frame(rest, most));
    match reading.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(frame) => frame.ok(),
        Poll::Pending => panic!("a frame is waited for that cannot come"),
    }
}

/// Files and command lines of the media node, and command lines of the gateway: refused in one
/// line, or a configuration that can be served.
pub fn config(mut data: &[u8]) {
    let kind = byte(&mut data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    // A file of the machine's is no input.
    let flags = text.split('\0').filter(|flag| !flag.starts_with("--config"));
    match kind % 3 {
        0 => served(Given::from_yaml(kind & 0x80 != 0, "media-node.yaml", text)),
        1 => {
            let line = std::iter::once("media-node").chain(flags);
            if let Ok(matches) = command().try_get_matches_from(line) {
                served(Given::from_matches(&matches));
            }
        }
        _ => {
            let tenant = ["gateway", "--tenant=a/b", "--placer-address=p:1", "--public-tls=off"];
            match gateway_config::Config::from_arguments(tenant.into_iter().chain(flags)) {
                Ok(config) => assert!(config.connections_max > 0 && config.anonymous_rate > 0),
                Err(gateway_config::ConfigError::Help(_)) => {}
                Err(error) => one_line(&error.to_string()),
            }
        }
    }
}

fn served(given: Result<Given, ConfigError>) {
    match given.and_then(|given| Config::resolve(&given, 4)) {
        Ok(config) => {
            assert!(config.shards > 0 && config.rooms_max > 0 && !config.tenant.is_empty());
            let last = usize::from(config.udp_port_first) + config.shards;
            assert!(config.udp_port_first == 0 || last <= 65_536, "a shard without a port");
            assert!(config.control_address.is_none() || config.tls_directory.is_some());
        }
        Err(error) => one_line(&error.to_string()),
    }
}

fn one_line(text: &str) {
    assert!(!text.is_empty() && !text.contains('\n'), "an error that is not one line: {text:?}");
}
