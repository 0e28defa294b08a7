//! Where a request goes and what the query of `/rtc` asks for (LiveKit
//! `pkg/service/rtcservice.go`).
//!
//! Decides how paths and queries are read. Does not authenticate.
//! Invariant: a query over its bounds is refused; an unknown parameter is ignored, as in LiveKit.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use livekit_protocol::ClientInfo;
use livekit_protocol::client_info::{Capability, Sdk};

use crate::privacy::Private;

/// Longest query, in bytes: a token, attributes, and in v1 an offer, within what HTTP servers and
/// proxies pass on in a request line.
pub const QUERY_BYTES_MAX: usize = 64 * 1024;
/// Most parameters looked at; v0 knows 25.
pub const PARAMETERS_MAX: usize = 64;
/// Most segments of a path prefix (`/livekit/sfu` has two).
pub const PREFIX_SEGMENTS_MAX: usize = 4;

/// SDKs differ in whether they pad base64url.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a path asks for, whatever prefix and doubled slashes it came with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/`: health.
    Root,
    /// `/rtc`: WebSocket, protocol v0.
    Rtc,
    /// `/rtc/validate`: why did the WebSocket fail?
    RtcValidate,
    /// `/rtc/v1` and below, protocol v1.
    RtcV1 {
        /// `/rtc/v1/validate` rather than the WebSocket.
        validate: bool,
    },
    /// `/twirp/<service>/<method>`.
    Twirp {
        /// Such as `livekit.RoomService`.
        service: String,
        /// Such as `ListRooms`.
        method: String,
    },
    /// Anything else.
    Other,
}

impl Endpoint {
    /// Reads a path. A prefix of up to [`PREFIX_SEGMENTS_MAX`] segments before `rtc` or `twirp` is
    /// accepted, because proxies put LiveKit below one (Element Call: `/livekit/sfu`).
    #[must_use]
    pub fn of(path: &str) -> Self {
        let segments: Vec<&str> = path
            .split('/')
            .filter(|segment| !segment.is_empty())
            .take(PREFIX_SEGMENTS_MAX + 4)
            .collect();
        if segments.is_empty() {
            return Self::Root;
        }
        let known = |segment: &&str| matches!(*segment, "rtc" | "twirp");
        let Some(start) = segments.iter().take(PREFIX_SEGMENTS_MAX + 1).position(known) else {
            return Self::Other;
        };
        match segments.get(start..).unwrap_or_default() {
            ["rtc"] => Self::Rtc,
            ["rtc", "validate"] => Self::RtcValidate,
            ["rtc", "v1"] => Self::RtcV1 { validate: false },
            ["rtc", "v1", "validate"] => Self::RtcV1 { validate: true },
            ["twirp", service, method] => {
                Self::Twirp { service: (*service).to_owned(), method: (*method).to_owned() }
            }
            _ => Self::Other,
        }
    }
}

/// The query of `/rtc`, protocol v0. Debug shows no token, sid or attribute.
#[derive(Clone, Default, PartialEq)]
pub struct ConnectQuery {
    /// The token, when it does not come in the `Authorization` header.
    pub access_token: Option<Private<String>>,
    /// The client as it describes itself; `address` is left for the server to fill.
    pub client: ClientInfo,
    /// Subscribe to whatever is published; absent means yes.
    pub auto_subscribe: bool,
    /// The client reports the sizes it shows and wants layers to match.
    pub adaptive_stream: bool,
    /// This is a resume of `sid`.
    pub reconnect: bool,
    /// `ReconnectReason`; 0 is unknown.
    pub reconnect_reason: i32,
    /// The participant's sid, given with `reconnect`.
    pub sid: Option<String>,
    /// A second, publish-only connection of the same identity; its suffix.
    pub publish: Option<String>,
    /// Attributes that the participant sets for itself.
    pub attributes: BTreeMap<String, String>,
    /// `attributes` was there and could not be read: 400 on `/rtc/validate`, ignored on `/rtc`.
    pub attributes_malformed: bool,
    /// The client can bear that the server pauses its video.
    pub subscriber_allow_pause: Option<bool>,
    /// The client asks for full ICE.
    pub disable_ice_lite: bool,
    /// Subscribe to data tracks by itself.
    pub auto_subscribe_data_track: Option<bool>,
    /// Present only in protocol v1: base64url of a `WrappedJoinRequest`.
    pub join_request: Option<String>,
}

/// Why a query is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Longer than [`QUERY_BYTES_MAX`].
    #[error("query of {0} bytes is longer than {QUERY_BYTES_MAX}")]
    TooLong(usize),
    /// More than [`PARAMETERS_MAX`] parameters.
    #[error("query has more than {PARAMETERS_MAX} parameters")]
    TooMany,
}

impl ConnectQuery {
    /// Reads the part of the URL behind `?`. A repeated parameter counts once, the first time.
    ///
    /// # Errors
    /// When it is over its bounds; the values themselves never make it fail.
    pub fn parse(query: &str) -> Result<Self, ConnectError> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(ConnectError::TooLong(query.len()));
        }
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        for (count, (key, value)) in form_urlencoded::parse(query.as_bytes()).enumerate() {
            if count >= PARAMETERS_MAX {
                return Err(ConnectError::TooMany);
            }
            values.entry(key.into_owned()).or_insert_with(|| value.into_owned());
        }
        values.retain(|_, value| !value.is_empty());
        let reconnect = values.get("reconnect").is_some_and(|value| is_true(value));
        let attributes = values.get("attributes").map(|text| read_attributes(text));
        Ok(Self {
            client: client_info(&values),
            auto_subscribe: values.get("auto_subscribe").is_none_or(|value| is_true(value)),
            adaptive_stream: values.get("adaptive_stream").is_some_and(|value| is_true(value)),
            reconnect,
            reconnect_reason: number(&values, "reconnect_reason"),
            sid: values.remove("sid").filter(|_| reconnect),
            publish: values.remove("publish"),
            attributes_malformed: matches!(attributes, Some(None)),
            attributes: attributes.flatten().unwrap_or_default(),
            subscriber_allow_pause: flag(&values, "subscriber_allow_pause"),
            disable_ice_lite: flag(&values, "disable_ice_lite").unwrap_or(false),
            auto_subscribe_data_track: flag(&values, "auto_subscribe_data_track"),
            join_request: values.remove("join_request"),
            access_token: values.remove("access_token").map(Private::new),
        })
    }
}

impl fmt::Debug for ConnectQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectQuery")
            .field("sdk", &self.client.sdk)
            .field("protocol", &self.client.protocol)
            .field("auto_subscribe", &self.auto_subscribe)
            .field("adaptive_stream", &self.adaptive_stream)
            .field("reconnect", &self.reconnect)
            .field("reconnect_reason", &self.reconnect_reason)
            .field("v1", &self.join_request.is_some())
            .finish_non_exhaustive()
    }
}

fn is_true(value: &str) -> bool {
    matches!(value, "1" | "true")
}

fn flag(values: &BTreeMap<String, String>, key: &str) -> Option<bool> {
    values.get(key).map(|value| is_true(value))
}

fn number(values: &BTreeMap<String, String>, key: &str) -> i32 {
    values.get(key).and_then(|value| value.parse().ok()).unwrap_or(0)
}

fn read_attributes(text: &str) -> Option<BTreeMap<String, String>> {
    let bytes = BASE64URL.decode(text).ok()?;
    let entries: BTreeMap<String, Option<String>> = serde_json::from_slice(&bytes).ok()?;
    Some(entries.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
}

fn client_info(values: &BTreeMap<String, String>) -> ClientInfo {
    let text = |key: &str| values.get(key).cloned().unwrap_or_default();
    let capabilities = text("capabilities");
    ClientInfo {
        sdk: sdk_of(&text("sdk")) as i32,
        version: text("version"),
        protocol: number(values, "protocol"),
        os: text("os"),
        os_version: text("os_version"),
        device_model: text("device_model"),
        browser: text("browser"),
        browser_version: text("browser_version"),
        address: String::new(),
        network: text("network"),
        other_sdks: text("other_sdks"),
        client_protocol: number(values, "client_protocol"),
        capabilities: capabilities
            .split(',')
            .filter_map(|name| Capability::from_str_name(name.trim()))
            .map(|capability| capability as i32)
            .collect(),
    }
}

/// The browser that a `User-Agent` header names, as far as it matters: LiveKit's JavaScript SDK
/// does not name it, and its server reads this header (`pkg/service/utils.go`).
#[must_use]
pub fn browser_of(user_agent: &str) -> &'static str {
    // Chromium names Safari as well, and everything names Mozilla.
    let known = [("Firefox/", "Firefox"), ("Chrome/", "Chrome"), ("CriOS/", "Safari")];
    let found = known.into_iter().chain([("Safari/", "Safari")]);
    let mut found = found.filter(|(token, _)| user_agent.contains(token));
    found.next().map_or("", |(_, browser)| browser)
}

fn sdk_of(name: &str) -> Sdk {
    match name {
        "js" => Sdk::Js,
        "ios" | "swift" => Sdk::Swift,
        "android" => Sdk::Android,
        "flutter" => Sdk::Flutter,
        "go" => Sdk::Go,
        "unity" => Sdk::Unity,
        "reactnative" => Sdk::ReactNative,
        "rust" => Sdk::Rust,
        "python" => Sdk::Python,
        "cpp" => Sdk::Cpp,
        "unityweb" => Sdk::UnityWeb,
        "node" => Sdk::Node,
        "esp32" => Sdk::Esp32,
        _ => Sdk::Unknown,
    }
}
