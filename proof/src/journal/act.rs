//! Who acted on what, and what held before and after: types that cannot hold the name of a room
//! or a person.
//!
//! Invariant: a room is a [`RoomHash`], a person is [`Redacted`], and a user is shown only where
//! Kubernetes itself names them as the author of a write.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::key::KeyId;
use crate::room_hash::RoomHash;
use crate::text::Text;

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
pub enum Actor {
    /// The operator itself.
    Operator {
        /// Name of the replica's pod.
        replica: Text,
        /// Its epoch as a leader; 0 when it does not lead.
        epoch: u64,
    },
    /// A user or service account, as the API server names the author of a write.
    KubernetesUser {
        /// Its username.
        username: Text,
    },
    /// A person known by other means.
    Person {
        /// Nothing of who it was.
        name: Redacted,
    },
    /// The kubelet of a Kubernetes node.
    KubernetesNode {
        /// Its name.
        name: Text,
    },
    /// A media node.
    MediaNode {
        /// Its name.
        name: Text,
    },
    /// Whoever owns a scope and signed a declaration.
    ScopeOwner {
        /// The key that signed.
        #[serde(rename = "keyId")]
        key_id: KeyId,
    },
    /// Nobody knows: the change was found, not seen.
    Unknown,
}

/// What stands in place of a person's name. It forgets what it was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Redacted;

/// A text where [`Redacted`] belongs.
#[derive(Debug, Error)]
#[error("a name stands where it must be redacted")]
pub struct NotRedacted;

const REDACTED: &str = "‹redacted›";

impl Redacted {
    /// Forgets a name.
    #[must_use]
    pub fn name<T>(_: T) -> Self {
        Self
    }
}

impl From<Redacted> for String {
    fn from(_: Redacted) -> Self {
        REDACTED.to_owned()
    }
}

impl TryFrom<String> for Redacted {
    type Error = NotRedacted;

    fn try_from(text: String) -> Result<Self, NotRedacted> {
        if text == REDACTED { Ok(Self) } else { Err(NotRedacted) }
    }
}

/// What was acted on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Object {
    /// A room, as its owner can find it.
    Room(RoomObject),
    /// A Kubernetes object.
    Resource(Resource),
}

/// A room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoomObject {
    /// Its keyed hash.
    pub room: RoomHash,
}

/// A Kubernetes object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resource {
    /// Which kind.
    pub kind: ObjectKind,
    /// Where; absent for cluster-scoped kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Text>,
    /// Its name.
    pub name: Text,
}

impl Object {
    /// A cluster-scoped object.
    #[must_use]
    pub const fn cluster(kind: ObjectKind, name: Text) -> Self {
        Self::Resource(Resource { kind, namespace: None, name })
    }

    /// An object in a namespace.
    #[must_use]
    pub const fn namespaced(kind: ObjectKind, namespace: Text, name: Text) -> Self {
        Self::Resource(Resource { kind, namespace: Some(namespace), name })
    }

    /// A room.
    #[must_use]
    pub const fn room(room: RoomHash) -> Self {
        Self::Room(RoomObject { room })
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room(RoomObject { room }) => write!(f, "room {room}"),
            Self::Resource(Resource { kind, namespace: Some(namespace), name }) => {
                write!(f, "{kind:?} {namespace}/{name}")
            }
            Self::Resource(Resource { kind, namespace: None, name }) => {
                write!(f, "{kind:?} {name}")
            }
        }
    }
}

/// The kinds that are acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObjectKind {
    /// `hemicycle.dev` `QualificationScope`.
    QualificationScope,
    /// `hemicycle.dev` `MeetingCluster`.
    MeetingCluster,
    /// `hemicycle.dev` `MediaNode`.
    MediaNode,
    /// Kubernetes' `Node`.
    Node,
    /// `Pod`.
    Pod,
    /// `Secret`; its name alone.
    Secret,
    /// `ValidatingAdmissionPolicy`.
    ValidatingAdmissionPolicy,
    /// `ValidatingAdmissionPolicyBinding`.
    ValidatingAdmissionPolicyBinding,
}

/// What held before or after an act: small facts by name, in order.
pub type State = BTreeMap<FactName, Fact>;

/// The name of a fact: 1 to 64 letters and digits, such as `expiresAt`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FactName(String);

/// A text is no [`FactName`].
#[derive(Debug, Error)]
#[error("the name of a fact has 1 to {} letters and digits", FactName::BYTES_MAX)]
pub struct NotAFactName;

impl FactName {
    /// Longest name: no field of ours comes near it.
    pub const BYTES_MAX: usize = 64;

    /// Accepts a name.
    ///
    /// # Errors
    /// [`NotAFactName`].
    pub fn new(name: impl Into<String>) -> Result<Self, NotAFactName> {
        let name = name.into();
        let fits = (1..=Self::BYTES_MAX).contains(&name.len());
        if fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Ok(Self(name));
        }
        Err(NotAFactName)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FactName {
    type Error = NotAFactName;

    fn try_from(name: String) -> Result<Self, NotAFactName> {
        Self::new(name)
    }
}

impl From<FactName> for String {
    fn from(name: FactName) -> Self {
        name.0
    }
}

/// A small value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Fact {
    /// Yes or no.
    Flag(bool),
    /// A count or an epoch.
    Number(i64),
    /// A moment, a name of a Kubernetes object, a state, a reason. Never a room or a person.
    Text(Text),
    /// A room.
    Room(RoomObject),
}

impl Fact {
    /// A text, cut and cleaned where it must be.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text(Text::lossy(text))
    }
}
