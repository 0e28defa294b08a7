//! Turns a MeetingCluster's spec into what the rest works with: the core's policy and the workload
//! that objects are made from. Pure; needs no client. Invariant: behind it nobody reads the spec.

use hemicycle_crds::{
    MeetingCluster, MeetingClusterSpec,
    meeting_cluster::{
        AddressSource, EvidenceLevel, Exposure as SpecExposure, LocalRef, MeetingPage,
        OnLoss as SpecOnLoss, PullPolicy, Sovereignty, Toleration as SpecToleration,
    },
};
use k8s_openapi::{
    api::core::v1::{LocalObjectReference, Toleration},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource, ResourceExt};
use media_api::ticket::PublicKey;
use operator_core::{
    evidence::Level,
    ids::ScopeName,
    policy::{
        Acknowledgement, CapacityPolicy, OnLoss, Paused, Policy, PolicyError, SovereigntyPolicy,
    },
};

use super::{
    build::media_pod,
    seen,
    workload::{AdvertisedAddress, Exposure, GatewayTemplate, MediaTemplate, Route, Workload},
};
use crate::config::Config;

/// Where the gateway's image keeps the meeting page.
const PAGE_DIRECTORY: &str = "/page";

/// Checks the wishes; `ticket_key` proves the operator's tickets.
///
/// # Errors
/// The first wish that contradicts another or is out of range.
pub fn validate(
    cluster: &MeetingCluster,
    config: &Config,
    ticket_key: PublicKey,
) -> Result<(Workload, Policy), PolicyError> {
    let spec = &cluster.spec;
    let capacity = CapacityPolicy {
        nodes_min: positive(spec.capacity.min_nodes),
        nodes_max: positive(spec.capacity.max_nodes),
        participants_per_node_max: positive(spec.capacity.participants_per_node_max),
        headroom_percent: positive(spec.capacity.headroom_percent),
        target_fill_percent: positive(spec.capacity.target_fill_percent),
    };
    capacity.check()?;
    let sovereignty = sovereignty(&spec.sovereignty);
    let workload = workload(cluster, config, ticket_key, &sovereignty);
    let policy = Policy {
        name: workload.name.clone(),
        tenant: workload.tenant(),
        capacity,
        sovereignty,
        drain_deadline_ms: u64::from(workload.drain_seconds) * 1_000,
        template_hash: media_pod::template_hash(&workload),
        paused: if spec.paused { Paused::Yes } else { Paused::No },
    };
    Ok((workload, policy))
}

fn sovereignty(spec: &Sovereignty) -> SovereigntyPolicy {
    let acknowledgements = spec.acknowledgements.iter().filter_map(|it| {
        // One whose end cannot be read answers for nothing.
        let until = seen::timestamp(it.until.parse().ok()?);
        Some(Acknowledgement { violation: it.violation.clone(), by: it.by.clone(), until })
    });
    SovereigntyPolicy {
        scopes: spec.scope_refs.iter().map(|it| ScopeName::new(it.name.clone())).collect(),
        minimum_evidence: match spec.minimum_evidence {
            EvidenceLevel::E0 => Level::E0,
            EvidenceLevel::E1 => Level::E1,
            EvidenceLevel::E2 => Level::E2,
        },
        on_loss: match spec.on_loss {
            SpecOnLoss::Drain => OnLoss::Drain,
            SpecOnLoss::Terminate => OnLoss::Terminate,
        },
        acknowledgements: acknowledgements.collect(),
    }
}

/// The schema keeps these numbers from being negative; an older API server might not.
fn positive(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

fn port(number: i32) -> u16 {
    u16::try_from(number).unwrap_or_default()
}

fn pull_secret(reference: &LocalRef) -> LocalObjectReference {
    LocalObjectReference { name: reference.name.clone() }
}

/// Owner reference that points to the meeting cluster.
#[must_use]
pub fn owner_of(cluster: &MeetingCluster) -> OwnerReference {
    OwnerReference {
        api_version: MeetingCluster::api_version(&()).into_owned(),
        kind: MeetingCluster::kind(&()).into_owned(),
        name: cluster.name_any(),
        uid: cluster.uid().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn workload(
    cluster: &MeetingCluster,
    config: &Config,
    ticket_key: PublicKey,
    sovereignty: &SovereigntyPolicy,
) -> Workload {
    let spec = &cluster.spec;
    let pull_policy = match spec.image.pull_policy {
        // The default of the resource: then the installation's own default speaks.
        PullPolicy::IfNotPresent => config.image_pull_policy.clone(),
        chosen => chosen.as_str().to_owned(),
    };
    Workload {
        namespace: cluster.namespace().unwrap_or_default(),
        name: cluster.name_any(),
        owner: owner_of(cluster),
        domain: spec.domain.clone(),
        credentials_secret: spec.credentials.secret_ref.name.clone(),
        image_pull_policy: pull_policy,
        image_pull_secrets: spec.image.pull_secret_refs.iter().map(pull_secret).collect(),
        scopes: sovereignty.scopes.iter().map(ToString::to_string).collect(),
        minimum_evidence: sovereignty.minimum_evidence,
        ticket_keys: ticket_key.to_string(),
        drain_seconds: positive(spec.drain.deadline_seconds),
        media: media_template(spec, config),
        gateway: gateway_template(spec, config),
        route: route(spec),
        placer_address: config.placer_address.clone(),
        operator_namespace: config.namespace.clone(),
    }
}

fn media_template(spec: &MeetingClusterSpec, config: &Config) -> MediaTemplate {
    let resources = &spec.pod_template.resources;
    let cores = resources.cpu_millicores / 1_000;
    let shards = if spec.media.shards > 0 { spec.media.shards } else { cores.max(1) };
    let rooms = &spec.rooms;
    let environment = [
        ("HEMICYCLE_ROOM_EMPTY_TIMEOUT_SECONDS", rooms.empty_timeout_seconds),
        ("HEMICYCLE_ROOM_DEPARTURE_TIMEOUT_SECONDS", rooms.departure_timeout_seconds),
        ("HEMICYCLE_ROOM_PARTICIPANTS_MAX", rooms.participants_max),
    ];
    MediaTemplate {
        image: spec.image.media_node.clone().unwrap_or_else(|| config.media_node_image.clone()),
        shards: port(shards),
        cpu: format!("{}m", resources.cpu_millicores),
        memory: format!("{}Mi", resources.memory_mebibytes),
        udp_port_first: port(spec.media.udp_port_first),
        tcp_port: port(spec.media.tcp_port),
        exposure: match spec.media.exposure {
            SpecExposure::HostPort => Exposure::HostPort,
            SpecExposure::LoadBalancer => Exposure::LoadBalancer,
            SpecExposure::NodePort => Exposure::NodePort,
            SpecExposure::HostNetwork => Exposure::HostNetwork,
        },
        advertised: match spec.media.address_source {
            // What reaches the Kubernetes node is not what reaches a load balancer.
            _ if spec.media.exposure == SpecExposure::LoadBalancer => {
                AdvertisedAddress::LoadBalancer
            }
            AddressSource::HostIP => AdvertisedAddress::HostIp,
            AddressSource::NodeExternalIP => AdvertisedAddress::NodeExternalIp,
            AddressSource::Annotation => AdvertisedAddress::NodeAnnotation,
        },
        priority_class: spec.pod_template.priority_class_name.clone(),
        labels: spec.pod_template.labels.clone(),
        annotations: spec.pod_template.annotations.clone(),
        tolerations: spec.pod_template.tolerations.iter().map(toleration).collect(),
        environment: environment
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_string()))
            .collect(),
    }
}

fn toleration(spec: &SpecToleration) -> Toleration {
    Toleration {
        key: spec.key.clone(),
        operator: spec.operator.clone(),
        value: spec.value.clone(),
        effect: spec.effect.clone(),
        toleration_seconds: spec.toleration_seconds,
    }
}

fn gateway_template(spec: &MeetingClusterSpec, config: &Config) -> GatewayTemplate {
    let gateway = &spec.gateway;
    let mut environment = std::collections::BTreeMap::new();
    if !gateway.allowed_origins.is_empty() {
        let origins = gateway.allowed_origins.join(",");
        environment.insert("HEMICYCLE_ALLOWED_ORIGINS".to_owned(), origins);
    }
    if gateway.meeting_page == MeetingPage::Enabled {
        environment.insert("HEMICYCLE_PAGE_DIR".to_owned(), PAGE_DIRECTORY.to_owned());
    }
    GatewayTemplate {
        image: spec.image.gateway.clone().unwrap_or_else(|| config.gateway_image.clone()),
        replicas: gateway.replicas,
        tls_secret: gateway.tls.as_ref().map(|tls| tls.secret_ref.name.clone()),
        service_type: gateway.service.type_.as_str().to_owned(),
        node_port: gateway.service.node_port,
        service_annotations: gateway.service.annotations.clone(),
        environment,
    }
}

fn route(spec: &MeetingClusterSpec) -> Route {
    if let Some(ingress) = &spec.gateway.ingress {
        return Route::Ingress {
            class: ingress.class_name.clone(),
            tls_secret: ingress.tls_secret_ref.as_ref().map(|secret| secret.name.clone()),
            annotations: ingress.annotations.clone(),
        };
    }
    match &spec.gateway.http_route {
        None => Route::None,
        Some(route) => Route::HttpRoute {
            gateway: route.parent_name.clone(),
            namespace: route.parent_namespace.clone(),
            section: route.section_name.clone(),
        },
    }
}
