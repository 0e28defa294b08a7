//! The identifiers and the time that everything else in this crate speaks in.
//!
//! Leaves: nothing here decides anything. An identifier is parsed once at the border and never
//! confused with another kind of identifier afterwards. Time is a number handed in; nothing here
//! reads a clock. Room names may let their holder in, so `Debug` shows only a fingerprint of them.

use std::fmt;

/// A moment in milliseconds since the Unix epoch, on the caller's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// A moment from milliseconds since the Unix epoch.
    #[must_use]
    pub fn from_unix_ms(unix_ms: u64) -> Self {
        Self(unix_ms)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub fn unix_ms(self) -> u64 {
        self.0
    }

    /// How long ago `earlier` was, in milliseconds; zero when it lies in the future.
    #[must_use]
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `duration_ms` later.
    #[must_use]
    pub fn plus_ms(self, duration_ms: u64) -> Self {
        Self(self.0.saturating_add(duration_ms))
    }
}

/// The fencing number of the leader: its Lease's transition count. A media node refuses a command
/// that carries a lower one than it has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Wraps the text as it is.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }
    };
}

name!(
    /// Name of a `MediaNode` resource, and of its pod.
    MediaNodeName
);
name!(
    /// Name of a `Pod`.
    PodName
);
name!(
    /// Name of a Kubernetes `Node`.
    KubernetesNodeName
);
name!(
    /// Name of a `QualificationScope` resource.
    ScopeName
);
name!(
    /// `metadata.uid` of an object: the evidence that it is this object and not its successor.
    Uid
);
name!(
    /// `metadata.resourceVersion` of an object: the evidence that nothing changed since it was
    /// read.
    ResourceVersion
);
name!(
    /// One start of a media-node process, chosen by it at random. A new one has no rooms.
    Incarnation
);
name!(
    /// A zone, as in the label `topology.kubernetes.io/zone`; empty when unknown.
    Zone
);

/// A room: whose it is, and its name in the access token.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomKey {
    /// `namespace/name` of the meeting cluster.
    pub tenant: String,
    /// The room's name.
    pub name: String,
}

impl RoomKey {
    /// A room of `tenant` called `name`.
    pub fn new(tenant: impl Into<String>, name: impl Into<String>) -> Self {
        Self { tenant: tenant.into(), name: name.into() }
    }

    /// A short number by which log lines about one room can be matched without naming it (FNV-1a).
    #[must_use]
    pub fn fingerprint(&self) -> u32 {
        let bytes = self.tenant.bytes().chain([b'/']).chain(self.name.bytes());
        bytes.fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }
}

impl fmt::Debug for RoomKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/#{:08x}", self.tenant, self.fingerprint())
    }
}

impl fmt::Display for RoomKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_is_logged_without_its_name() {
        let room = RoomKey::new("ministry/visio", "budget-2027");
        let shown = format!("{room:?} {room}");
        assert!(!shown.contains("budget"), "{shown}");
        assert!(shown.starts_with("ministry/visio/#"), "{shown}");
        assert_ne!(room.fingerprint(), RoomKey::new("ministry/visio", "budget-2028").fingerprint());
    }

    #[test]
    fn time_never_underflows() {
        assert_eq!(Timestamp(5).since_ms(Timestamp(9)), 0);
        assert_eq!(Timestamp(9).since_ms(Timestamp(5)), 4);
        assert_eq!(Timestamp(u64::MAX).plus_ms(1), Timestamp(u64::MAX));
    }
}
