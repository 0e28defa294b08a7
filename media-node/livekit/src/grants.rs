//! What a token says: who, and what they may do (LiveKit `protocol/auth/grants.go`).
//!
//! Decides what an absent permission means. Does not check signatures or times: `token` does.
//! Invariant: a claim of a wrong type is refused; `null` is the same as absent, as in Go.

use std::collections::BTreeMap;
use std::fmt;

use livekit_protocol::participant_info::Kind;
use livekit_protocol::{ParticipantPermission, RoomConfiguration, TrackSource};
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Everything a token claims. Debug prints no name, identity, metadata or attribute.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claims {
    /// The API key whose secret signed the token.
    #[serde(rename = "iss", default, deserialize_with = "null_is_default")]
    pub issuer: String,
    /// The participant's identity, unique within a room.
    #[serde(
        rename = "sub",
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub identity: String,
    /// Token id; old SDKs put the identity here, and it stands in for an empty `sub`.
    #[serde(
        rename = "jti",
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub token_id: String,
    /// Not valid before, seconds since 1970.
    #[serde(
        rename = "nbf",
        default,
        deserialize_with = "optional_date",
        skip_serializing_if = "Option::is_none"
    )]
    pub not_before_unix_s: Option<u64>,
    /// Issued at, seconds since 1970.
    #[serde(
        rename = "iat",
        default,
        deserialize_with = "optional_date",
        skip_serializing_if = "Option::is_none"
    )]
    pub issued_at_unix_s: Option<u64>,
    /// Expires at, seconds since 1970. Never 0 in verified claims.
    #[serde(rename = "exp", default, deserialize_with = "date")]
    pub expires_at_unix_s: u64,
    /// Display name.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub name: String,
    /// Participant kind in lower case: `standard`, `ingress`, `egress`, `sip`, `agent`, …; empty
    /// is standard. See [`Claims::participant_kind`].
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub kind: String,
    /// Participant metadata, opaque to us.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub metadata: String,
    /// Participant attributes. Visio gives its guests `"room_role": null`, which is absent here.
    #[serde(default, deserialize_with = "attributes", skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// Base64 of the SHA-256 of a message body that the token vouches for (webhooks).
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub sha256: String,
    /// How the room is to be set up if this participant is the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_config: Option<RoomConfiguration>,
    /// Name of a room preset (LiveKit Cloud); carried, not used.
    #[serde(
        default,
        deserialize_with = "null_is_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub room_preset: String,
    /// Rights in rooms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoGrant>,
    /// Rights on telephony.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sip: Option<SipGrant>,
}

/// Rights in rooms. An absent `can_…` is not `false`: ask the methods, not the fields.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VideoGrant {
    /// May create rooms over Twirp.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub room_create: bool,
    /// May list rooms over Twirp.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub room_list: bool,
    /// May start recordings.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub room_record: bool,
    /// May administer `room`, and only it.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub room_admin: bool,
    /// May join `room`.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub room_join: bool,
    /// The room that this token is for.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub room: String,
    /// See [`VideoGrant::can_publish`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish: Option<bool>,
    /// See [`VideoGrant::can_subscribe`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe: Option<bool>,
    /// See [`VideoGrant::can_publish_data`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_publish_data: Option<bool>,
    /// Sources that may be published, in lower case; empty means every source.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub can_publish_sources: Vec<String>,
    /// See [`VideoGrant::can_update_own_metadata`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_update_own_metadata: Option<bool>,
    /// May administer ingresses.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub ingress_admin: bool,
    /// Not shown to other participants.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub hidden: bool,
    /// Records the room.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub recorder: bool,
    /// May register as an agent worker.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub agent: bool,
    /// See [`VideoGrant::can_subscribe_metrics`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_subscribe_metrics: Option<bool>,
    /// May drive an agent's session; absent means no.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub can_manage_agent_session: Option<bool>,
    /// Room that participants may be forwarded or moved to.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub destination_room: String,
}

/// Rights on telephony.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SipGrant {
    /// May administer trunks and dispatch rules.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub admin: bool,
    /// May place calls.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "is_false")]
    pub call: bool,
}

impl Claims {
    /// The room that the token lets its bearer join, if any and if it names one.
    #[must_use]
    pub fn room_to_join(&self) -> Option<&str> {
        let video = self.video.as_ref()?;
        (video.room_join && !video.room.is_empty()).then_some(video.room.as_str())
    }

    /// Whether the bearer may administer `room`: `roomAdmin` and the very same room.
    #[must_use]
    pub fn may_administer(&self, room: &str) -> bool {
        self.video.as_ref().is_some_and(|video| video.room_admin && video.room == room)
    }

    /// Whether the bearer may create rooms.
    #[must_use]
    pub fn may_create_rooms(&self) -> bool {
        self.video.as_ref().is_some_and(|video| video.room_create)
    }

    /// Whether the bearer may list rooms.
    #[must_use]
    pub fn may_list_rooms(&self) -> bool {
        self.video.as_ref().is_some_and(|video| video.room_list)
    }

    /// The participant kind; what is unknown is standard, as in LiveKit.
    #[must_use]
    pub fn participant_kind(&self) -> Kind {
        match self.kind.to_ascii_lowercase().as_str() {
            "ingress" => Kind::Ingress,
            "egress" => Kind::Egress,
            "sip" => Kind::Sip,
            "agent" => Kind::Agent,
            "connector" => Kind::Connector,
            "bridge" => Kind::Bridge,
            _ => Kind::Standard,
        }
    }
}

impl VideoGrant {
    /// A grant that lets its bearer join `room` with every default permission.
    #[must_use]
    pub fn join(room: &str) -> Self {
        Self { room_join: true, room: room.to_owned(), ..Self::default() }
    }

    /// May publish tracks; absent means yes.
    #[must_use]
    pub fn can_publish(&self) -> bool {
        self.can_publish.unwrap_or(true)
    }

    /// May receive tracks; absent means yes.
    #[must_use]
    pub fn can_subscribe(&self) -> bool {
        self.can_subscribe.unwrap_or(true)
    }

    /// May send data; absent means the same as publishing.
    #[must_use]
    pub fn can_publish_data(&self) -> bool {
        self.can_publish_data.unwrap_or_else(|| self.can_publish())
    }

    /// May publish this source: publishing is allowed, and the list is empty or names it.
    #[must_use]
    pub fn can_publish_source(&self, source: TrackSource) -> bool {
        let listed = || self.can_publish_sources.iter().any(|name| source_of(name) == Some(source));
        self.can_publish() && (self.can_publish_sources.is_empty() || listed())
    }

    /// May change its own metadata, name and attributes; absent means no.
    #[must_use]
    pub fn can_update_own_metadata(&self) -> bool {
        self.can_update_own_metadata.unwrap_or(false)
    }

    /// May receive metrics of others; absent means no.
    #[must_use]
    pub fn can_subscribe_metrics(&self) -> bool {
        self.can_subscribe_metrics.unwrap_or(false)
    }

    /// The permission as sent to clients in `ParticipantInfo`.
    #[must_use]
    #[expect(deprecated, reason = "clients in the field still read recorder and agent")]
    pub fn permission(&self) -> ParticipantPermission {
        ParticipantPermission {
            can_subscribe: self.can_subscribe(),
            can_publish: self.can_publish(),
            can_publish_data: self.can_publish_data(),
            can_publish_sources: self
                .can_publish_sources
                .iter()
                .map(|name| source_of(name).unwrap_or(TrackSource::Unknown) as i32)
                .collect(),
            hidden: self.hidden,
            recorder: self.recorder,
            can_update_metadata: self.can_update_own_metadata(),
            agent: self.agent,
            can_subscribe_metrics: self.can_subscribe_metrics(),
            can_manage_agent_session: self.can_manage_agent_session.unwrap_or(false),
        }
    }

    /// Takes over a permission that an administrator set (`UpdateParticipant`).
    #[expect(deprecated, reason = "administrators' SDKs still send recorder and agent")]
    pub fn apply_permission(&mut self, permission: &ParticipantPermission) {
        self.can_publish = Some(permission.can_publish);
        self.can_publish_data = Some(permission.can_publish_data);
        self.can_subscribe = Some(permission.can_subscribe);
        self.can_update_own_metadata = Some(permission.can_update_metadata);
        self.can_subscribe_metrics = Some(permission.can_subscribe_metrics);
        self.can_manage_agent_session = Some(permission.can_manage_agent_session);
        self.hidden = permission.hidden;
        self.recorder = permission.recorder;
        self.agent = permission.agent;
        self.can_publish_sources =
            permission.can_publish_sources().map(|source| source_name(source).to_owned()).collect();
    }
}

/// A source by its name in tokens, in whatever case SDKs write it.
#[must_use]
pub fn source_of(name: &str) -> Option<TrackSource> {
    match name.to_ascii_lowercase().as_str() {
        "camera" => Some(TrackSource::Camera),
        "microphone" => Some(TrackSource::Microphone),
        "screen_share" => Some(TrackSource::ScreenShare),
        "screen_share_audio" => Some(TrackSource::ScreenShareAudio),
        "unknown" => Some(TrackSource::Unknown),
        _ => None,
    }
}

/// A source's name in tokens.
#[must_use]
pub fn source_name(source: TrackSource) -> &'static str {
    match source {
        TrackSource::Unknown => "unknown",
        TrackSource::Camera => "camera",
        TrackSource::Microphone => "microphone",
        TrackSource::ScreenShare => "screen_share",
        TrackSource::ScreenShareAudio => "screen_share_audio",
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims")
            .field("issuer", &self.issuer)
            .field("expires_at_unix_s", &self.expires_at_unix_s)
            .field("kind", &self.kind)
            .field("video", &self.video)
            .field("sip", &self.sip)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for VideoGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VideoGrant")
            .field("room_join", &self.room_join)
            .field("room_admin", &self.room_admin)
            .field("can_publish", &self.can_publish())
            .field("can_subscribe", &self.can_subscribe())
            .field("hidden", &self.hidden)
            .finish_non_exhaustive()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn attributes<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: Deserializer<'de>,
{
    let entries: Option<BTreeMap<String, Option<String>>> = Option::deserialize(deserializer)?;
    let entries = entries.unwrap_or_default().into_iter();
    Ok(entries.filter_map(|(key, value)| Some((key, value?))).collect())
}

/// A NumericDate of RFC 7519: a number of seconds, not necessarily whole. Text is refused:
/// CVE-2026-25537 was a check skipped because `exp` was a string.
struct Date(u64);

impl<'de> Deserialize<'de> for Date {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seconds;
        impl Visitor<'_> for Seconds {
            type Value = Date;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds since 1970")
            }

            fn visit_u64<E>(self, value: u64) -> Result<Date, E> {
                Ok(Date(value))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Date, E> {
                u64::try_from(value).map(Date).map_err(|_| E::custom("time before 1970"))
            }

            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to lie between 0 and 2^53 first"
            )]
            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Date, E> {
                const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
                if !(0.0..=EXACT_MAX).contains(&value) {
                    return Err(E::custom("time out of range"));
                }
                Ok(Date(value as u64))
            }
        }
        deserializer.deserialize_any(Seconds)
    }
}

fn date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Date::deserialize(deserializer).map(|date| date.0)
}

fn optional_date<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    if value.is_null() {
        return Ok(None);
    }
    Date::deserialize(value).map(|date| Some(date.0)).map_err(D::Error::custom)
}
