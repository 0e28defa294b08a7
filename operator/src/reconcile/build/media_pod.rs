//! Builds the pod of one media node. Pure: same workload and media node, same pod, byte for byte.
//! Invariant: the pod passes the restricted profile of pod security unless hostNetwork or hostPort
//! was chosen, holds no Kubernetes credential, and can only run on a Kubernetes node of the scope.

use hemicycle_crds::{ANNOTATION_ADDRESSES, ANNOTATION_TEMPLATE_HASH};
use serde_json::{Value, json};

use super::{
    manifest::{Kind, Manifest, hash_of},
    pinning,
};
use crate::reconcile::workload::{
    AdvertisedAddress, Exposure, MEDIA_NODE, MediaPod, MediaTemplate, Workload,
};

/// Signalling listener (mutual TLS).
pub const SIGNAL_PORT: u16 = 7880;
/// Control listener (gRPC over mutual TLS).
pub const CONTROL_PORT: u16 = 7881;
/// Admin listener: probes and metrics.
pub const ADMIN_PORT: u16 = 7882;
/// Where a media node keeps what a restart of its container must not forget.
const STATE_DIRECTORY: &str = "/var/lib/hemicycle";
/// Taint that a platform team may put on Kubernetes nodes kept for media; always tolerated.
const MEDIA_TAINT: &str = "hemicycle.dev/media-node";
/// Seconds in which a process without rooms says goodbye and exits; a pod has them after its drain
/// budget.
pub const EXIT_SECONDS: u32 = 30;

/// Behind the last port that a Kubernetes node offers for NodePorts, as API servers come.
const NODE_PORT_END: u16 = 32_768;

/// Label that names the media node on its pod, for Services of one media node.
const MEDIA_NODE_LABEL: &str = "hemicycle.dev/media-node";

/// Name of the Secret with a media node's certificate.
#[must_use]
pub fn tls_secret(media_node: &str) -> String {
    format!("{media_node}-tls")
}

/// UDP port of the first shard of a media node. A NodePort belongs to the whole cluster, so there
/// each media node has ports of its own, by its number; elsewhere all have the same.
#[must_use]
pub fn udp_port_first(media: &MediaTemplate, media_node: &str) -> u16 {
    let first = media.udp_port_first;
    if media.exposure != Exposure::NodePort {
        return first;
    }
    let shards = media.shards.max(1);
    let slots = (NODE_PORT_END.saturating_sub(first) / shards).max(1);
    let number = media_node.rsplit('-').next().and_then(|number| number.parse::<u64>().ok());
    let slot = u16::try_from(number.unwrap_or_default() % u64::from(slots)).unwrap_or_default();
    first.saturating_add(slot.saturating_mul(shards))
}

/// TCP port of a media node. A NodePort may be had for both protocols, so there it is the number of
/// the first shard's.
#[must_use]
pub fn tcp_port(media: &MediaTemplate, media_node: &str) -> u16 {
    match media.exposure {
        Exposure::NodePort => udp_port_first(media, media_node),
        _ => media.tcp_port,
    }
}

/// First and last TCP port that media nodes may have.
#[must_use]
pub fn tcp_ports(media: &MediaTemplate) -> (u16, u16) {
    match media.exposure {
        Exposure::NodePort => udp_ports(media),
        _ => (media.tcp_port, media.tcp_port),
    }
}

/// First and last UDP port that media nodes may have.
#[must_use]
pub fn udp_ports(media: &MediaTemplate) -> (u16, u16) {
    let first = media.udp_port_first;
    match media.exposure {
        Exposure::NodePort => (first, NODE_PORT_END - 1),
        _ => (first, first.saturating_add(media.shards.saturating_sub(1))),
    }
}

/// The pod of `pod` in `workload`.
#[must_use]
pub fn media_pod(workload: &Workload, pod: &MediaPod) -> Manifest {
    let spec = pod_spec(workload, pod);
    let mut manifest =
        Manifest::new(workload, Kind::Pod, pod.name.clone(), MEDIA_NODE, json!({ "spec": spec }));
    let mut annotations = workload.media.annotations.clone();
    annotations.insert(ANNOTATION_TEMPLATE_HASH.to_owned(), template_hash(workload));
    if let Some(metadata) = manifest.body.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("ownerReferences".to_owned(), json!([pod.owner]));
        metadata.insert("annotations".to_owned(), json!(annotations));
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            for (key, value) in &workload.media.labels {
                labels.entry(key.clone()).or_insert_with(|| json!(value));
            }
            labels.insert(MEDIA_NODE_LABEL.to_owned(), json!(pod.name));
        }
    }
    manifest
}

/// Hash of everything that makes a media pod, but for its name and its maker's epoch: pods with
/// another one are outdated.
#[must_use]
pub fn template_hash(workload: &Workload) -> String {
    let owner = workload.owner.clone();
    let anybody = MediaPod { name: "media-node".to_owned(), owner, epoch: 0 };
    // How long a pod may take to end is no reason to replace it.
    let spec = pod_spec(&Workload { drain_seconds: 0, ..workload.clone() }, &anybody);
    hash_of([&json!([spec, workload.media.labels, workload.media.annotations])])
}

fn pod_spec(workload: &Workload, pod: &MediaPod) -> Value {
    let media = &workload.media;
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "restartPolicy": "Always",
        "terminationGracePeriodSeconds": workload.drain_seconds.saturating_add(EXIT_SECONDS),
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "affinity": pinning::affinity(workload),
        "tolerations": tolerations(media),
        "topologySpreadConstraints": [
            spread(workload, "topology.kubernetes.io/zone"),
            spread(workload, "kubernetes.io/hostname"),
        ],
        "containers": [container(workload, pod)],
        "volumes": [
            {"name": "keys", "secret": {"secretName": workload.credentials_secret}},
            {"name": "tls", "secret": {"secretName": tls_secret(&pod.name)}},
            // Lives as long as the pod: a container that starts again finds the epoch it had seen.
            {"name": "state", "emptyDir": {"sizeLimit": "1Mi"}},
        ],
    });
    if let Some(spec) = spec.as_object_mut() {
        if media.exposure == Exposure::HostNetwork {
            spec.insert("hostNetwork".to_owned(), json!(true));
            spec.insert("dnsPolicy".to_owned(), json!("ClusterFirstWithHostNet"));
        }
        if let Some(class) = &media.priority_class {
            spec.insert("priorityClassName".to_owned(), json!(class));
        }
        if !workload.image_pull_secrets.is_empty() {
            spec.insert("imagePullSecrets".to_owned(), json!(workload.image_pull_secrets));
        }
    }
    spec
}

fn tolerations(media: &MediaTemplate) -> Vec<Value> {
    [pinning::toleration(), json!({"key": MEDIA_TAINT, "operator": "Exists"})]
        .into_iter()
        .chain(media.tolerations.iter().map(|toleration| json!(toleration)))
        .collect()
}

fn spread(workload: &Workload, topology_key: &str) -> Value {
    json!({
        "maxSkew": 1,
        "topologyKey": topology_key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": workload.selector(MEDIA_NODE)},
    })
}

fn container(workload: &Workload, pod: &MediaPod) -> Value {
    let media = &workload.media;
    let resources = json!({"cpu": media.cpu, "memory": media.memory});
    json!({
        "name": "media-node",
        "image": media.image,
        "imagePullPolicy": workload.image_pull_policy,
        "env": environment(workload, pod),
        "ports": ports(media, &pod.name),
        // Equal, and whole cores: the kubelet can then pin shards to them.
        "resources": {"requests": resources, "limits": resources},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "startupProbe": probe("/healthz", 1, 60),
        // Live: the process turns. Only a process that hangs for a minute is ended, with its rooms.
        "livenessProbe": probe("/healthz", 10, 6),
        // Ready: it may get new rooms.
        "readinessProbe": probe("/readyz", 1, 3),
        "volumeMounts": [
            {"name": "keys", "mountPath": "/etc/hemicycle/keys", "readOnly": true},
            {"name": "tls", "mountPath": "/etc/hemicycle/tls", "readOnly": true},
            {"name": "state", "mountPath": STATE_DIRECTORY},
        ],
    })
}

fn probe(path: &str, period_seconds: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": "admin"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 2,
        "failureThreshold": failures,
    })
}

fn environment(workload: &Workload, pod: &MediaPod) -> Vec<Value> {
    let field = |name: &str, path: &str| {
        let source = json!({"fieldRef": {"fieldPath": path}});
        json!({"name": name, "valueFrom": source})
    };
    let value = |name: &str, value: String| json!({"name": name, "value": value});
    let media = &workload.media;
    let advertised = "HEMICYCLE_ADVERTISED_ADDRESSES";
    let mut all = vec![
        value("HEMICYCLE_MEDIA_NODE_NAME", pod.name.clone()),
        value("HEMICYCLE_TENANT", workload.tenant()),
        value("HEMICYCLE_STATE_DIRECTORY", STATE_DIRECTORY.to_owned()),
        value("HEMICYCLE_EPOCH_FLOOR", pod.epoch.to_string()),
        field("HEMICYCLE_POD_UID", "metadata.uid"),
        field("HEMICYCLE_KUBERNETES_NODE", "spec.nodeName"),
        value("HEMICYCLE_SCOPES", workload.scopes.join(",")),
        value("HEMICYCLE_TICKET_KEYS", workload.ticket_keys.clone()),
        value("HEMICYCLE_SHARDS", media.shards.to_string()),
        // The kubelet's own word on the limit, whatever changes it: what a share of CPU is of.
        json!({
            "name": "HEMICYCLE_CPU_MILLICORES",
            "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}},
        }),
        value("HEMICYCLE_UDP_PORT_FIRST", udp_port_first(media, &pod.name).to_string()),
        value("HEMICYCLE_TCP_PORT", tcp_port(media, &pod.name).to_string()),
        match media.advertised {
            AdvertisedAddress::HostIp => field(advertised, "status.hostIP"),
            // Written by the operator as soon as the pod is bound; read at each start of the
            // container, so that one that starts too early finds it when it starts again.
            AdvertisedAddress::NodeExternalIp
            | AdvertisedAddress::NodeAnnotation
            | AdvertisedAddress::LoadBalancer => {
                field(advertised, &format!("metadata.annotations['{ANNOTATION_ADDRESSES}']"))
            }
        },
    ];
    all.extend(media.environment.iter().map(|(name, text)| value(name, text.clone())));
    all
}

fn ports(media: &MediaTemplate, media_node: &str) -> Vec<Value> {
    let bound = matches!(media.exposure, Exposure::HostPort | Exposure::HostNetwork);
    let media_port = |name: String, port: u16, protocol: &str| {
        let mut entry = json!({"name": name, "containerPort": port, "protocol": protocol});
        if let (true, Some(entry)) = (bound, entry.as_object_mut()) {
            entry.insert("hostPort".to_owned(), json!(port));
        }
        entry
    };
    let own = |name: &str, port: u16| {
        let mut entry = json!({"name": name, "containerPort": port, "protocol": "TCP"});
        // With hostNetwork every container port is the Kubernetes node's, and must say so.
        if let (Exposure::HostNetwork, Some(entry)) = (media.exposure, entry.as_object_mut()) {
            entry.insert("hostPort".to_owned(), json!(port));
        }
        entry
    };
    let mut all = vec![
        own("signal", SIGNAL_PORT),
        own("control", CONTROL_PORT),
        own("admin", ADMIN_PORT),
        media_port("ice-tcp".to_owned(), tcp_port(media, media_node), "TCP"),
    ];
    let udp_port_first = udp_port_first(media, media_node);
    all.extend((0..media.shards).map(|shard| {
        let port = udp_port_first.saturating_add(shard);
        media_port(format!("media-{shard}"), port, "UDP")
    }));
    all
}

/// Name of [`media_service`].
#[must_use]
pub fn service_name(media_node: &str) -> String {
    format!("{media_node}-media")
}

/// The Service through which media reaches one media node, where the exposure asks for one.
#[must_use]
pub fn media_service(workload: &Workload, media_node: &str) -> Option<Manifest> {
    let media = &workload.media;
    let type_ = match media.exposure {
        Exposure::HostPort | Exposure::HostNetwork => return None,
        Exposure::NodePort => "NodePort",
        Exposure::LoadBalancer => "LoadBalancer",
    };
    let port = |name: String, port: u16, protocol: &str| {
        let mut entry =
            json!({"name": name, "port": port, "targetPort": port, "protocol": protocol});
        // Participants are told this port, so the outside must have the same.
        if let (Exposure::NodePort, Some(entry)) = (media.exposure, entry.as_object_mut()) {
            entry.insert("nodePort".to_owned(), json!(port));
        }
        entry
    };
    let first = udp_port_first(media, media_node);
    let udp = |shard: u16| port(format!("media-{shard}"), first.saturating_add(shard), "UDP");
    let tcp = port("ice-tcp".to_owned(), tcp_port(media, media_node), "TCP");
    let ports: Vec<Value> = (0..media.shards).map(udp).chain([tcp]).collect();
    let content = json!({"spec": {
        "type": type_,
        // The participants' addresses are to arrive as they are, without a second hop.
        "externalTrafficPolicy": "Local",
        "publishNotReadyAddresses": true,
        "selector": {MEDIA_NODE_LABEL: media_node},
        "ports": ports,
    }});
    let name = service_name(media_node);
    Some(Manifest::new(workload, Kind::Service, name, MEDIA_NODE, content))
}
