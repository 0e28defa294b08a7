//! The reasons that conditions carry. They are an interface: alerts and scripts match on them, so a
//! reason is never renamed and never changes its meaning.

/// Why a condition has its status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// It is as it should be.
    AsExpected,
    /// Media nodes are being made and do not serve yet.
    MediaNodesStarting,
    /// Pods of media nodes do not run or end soon after they start.
    MediaNodesFailing,
    /// Media nodes of an older template are being replaced.
    RollingOut,
    /// Media nodes are being emptied.
    Draining,
    /// No gateway replica is ready.
    GatewayNotReady,
    /// Gateway replicas of an older template are being replaced.
    GatewayRollingOut,
    /// A pod of the gateway does not run, although others may.
    GatewayFailing,
    /// The scope is missing, expired, suspended or withdrawn.
    ScopeNotValid,
    /// Nobody could look at the scope.
    ScopeUnknown,
    /// No Kubernetes node lies in a scope by the evidence that is asked for.
    NoKubernetesNodeInScope,
    /// Media run where no scope reaches, and nobody answers for it.
    ViolationsOpen,
    /// An admission policy was changed or deleted.
    PoliciesTampered,
    /// The Secret with the keys is missing or cannot be read.
    CredentialsMissing,
    /// A key could be guessed.
    CredentialsWeak,
    /// The API server refused a write (quota, admission, permission).
    ApiRefused,
    /// Media nodes that should report do not.
    ReportsMissing,
    /// The scheduler finds no place for a pod.
    PodUnschedulable,
    /// New rooms were refused for want of capacity.
    RoomsRefused,
    /// More media nodes are needed than `maxNodes` allows.
    NodesMaxReached,
    /// The owner stopped changes.
    Paused,
    /// A new leader is hearing the media nodes.
    Rebuilding,
    /// The speaker does not lead.
    NotLeading,
    /// The wishes contradict each other in a way that no schema rule can see.
    SpecInvalid,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 24] = [
        Self::AsExpected,
        Self::MediaNodesStarting,
        Self::MediaNodesFailing,
        Self::RollingOut,
        Self::Draining,
        Self::GatewayNotReady,
        Self::GatewayRollingOut,
        Self::GatewayFailing,
        Self::ScopeNotValid,
        Self::ScopeUnknown,
        Self::NoKubernetesNodeInScope,
        Self::ViolationsOpen,
        Self::PoliciesTampered,
        Self::CredentialsMissing,
        Self::CredentialsWeak,
        Self::ApiRefused,
        Self::ReportsMissing,
        Self::PodUnschedulable,
        Self::RoomsRefused,
        Self::NodesMaxReached,
        Self::Paused,
        Self::Rebuilding,
        Self::NotLeading,
        Self::SpecInvalid,
    ];

    /// `reason` of the condition.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AsExpected => "AsExpected",
            Self::MediaNodesStarting => "MediaNodesStarting",
            Self::MediaNodesFailing => "MediaNodesFailing",
            Self::RollingOut => "RollingOut",
            Self::Draining => "Draining",
            Self::GatewayNotReady => "GatewayNotReady",
            Self::GatewayRollingOut => "GatewayRollingOut",
            Self::GatewayFailing => "GatewayFailing",
            Self::ScopeNotValid => "ScopeNotValid",
            Self::ScopeUnknown => "ScopeUnknown",
            Self::NoKubernetesNodeInScope => "NoKubernetesNodeInScope",
            Self::ViolationsOpen => "ViolationsOpen",
            Self::PoliciesTampered => "PoliciesTampered",
            Self::CredentialsMissing => "CredentialsMissing",
            Self::CredentialsWeak => "CredentialsWeak",
            Self::ApiRefused => "ApiRefused",
            Self::ReportsMissing => "ReportsMissing",
            Self::PodUnschedulable => "PodUnschedulable",
            Self::RoomsRefused => "RoomsRefused",
            Self::NodesMaxReached => "NodesMaxReached",
            Self::Paused => "Paused",
            Self::Rebuilding => "Rebuilding",
            Self::NotLeading => "NotLeading",
            Self::SpecInvalid => "SpecInvalid",
        }
    }
}
