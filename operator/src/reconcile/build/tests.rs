//! Holds what every object must satisfy, whatever the wishes.

use hemicycle_crds::{SCOPE_LABEL_PREFIX, SCOPE_TAINT};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{LocalObjectReference, Pod, PodSpec, Service},
        networking::v1::{Ingress, NetworkPolicy},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use operator_core::evidence::Level;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    gateway,
    manifest::{Kind, Manifest},
    media_pod::{media_pod, template_hash},
    standing,
};
use crate::reconcile::workload::{
    AdvertisedAddress, Exposure, GatewayTemplate, MediaPod, MediaTemplate, Route, Workload,
};

const SCOPE_LABEL: &str = "scope.hemicycle.node-restriction.kubernetes.io/paris";

pub(in crate::reconcile) fn workload() -> Workload {
    Workload {
        namespace: "ministry".into(),
        name: "visio".into(),
        owner: owner("MeetingCluster", "visio"),
        domain: "visio.example.org".into(),
        credentials_secret: "visio-keys".into(),
        image_pull_policy: "Never".into(),
        image_pull_secrets: vec![],
        scopes: vec!["paris".into()],
        minimum_evidence: Level::E1,
        ticket_keys: "a2V5".into(),
        drain_seconds: 600,
        media: MediaTemplate {
            image: "localhost/hemicycle/media-node:dev".into(),
            shards: 2,
            cpu: "2".into(),
            memory: "1Gi".into(),
            udp_port_first: 50_000,
            tcp_port: 7_883,
            exposure: Exposure::HostPort,
            advertised: AdvertisedAddress::HostIp,
            priority_class: None,
            labels: [("team".to_owned(), "visio".to_owned())].into(),
            tolerations: vec![],
            environment: [].into(),
            annotations: [].into(),
        },
        gateway: GatewayTemplate {
            image: "localhost/hemicycle/gateway:dev".into(),
            replicas: 2,
            tls_secret: None,
            service_type: "ClusterIP".into(),
            node_port: None,
            service_annotations: [].into(),
            environment: [].into(),
        },
        route: Route::None,
        placer_address: "hemicycle-operator-placer.hemicycle-system.svc:7400".into(),
        operator_namespace: "hemicycle-system".into(),
    }
}

fn owner(kind: &str, name: &str) -> OwnerReference {
    OwnerReference {
        api_version: "hemicycle.dev/v1alpha1".into(),
        kind: kind.into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

fn pod_wish(name: &str) -> MediaPod {
    MediaPod { name: name.into(), owner: owner("MediaNode", name), epoch: 7 }
}

/// The typed object, with proof that nothing in the manifest is unknown to its type.
fn typed<T: DeserializeOwned + serde::Serialize>(manifest: &Manifest) -> T {
    let object: T = serde_json::from_value(manifest.body.clone()).expect("of its type");
    let back = serde_json::to_value(&object).expect("serialises");
    assert_contains(&back, &manifest.body, &manifest.name);
    object
}

fn assert_contains(whole: &Value, part: &Value, path: &str) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (key, value) in part {
                let inner = whole.get(key).unwrap_or(&Value::Null);
                assert_contains(inner, value, &format!("{path}.{key}"));
            }
        }
        (Value::Array(whole), Value::Array(part)) => {
            assert_eq!(whole.len(), part.len(), "{path}");
            for (index, (whole, part)) in whole.iter().zip(part).enumerate() {
                assert_contains(whole, part, &format!("{path}[{index}]"));
            }
        }
        _ => assert_eq!(whole, part, "{path} is unknown to the type or was changed by it"),
    }
}

fn exposures() -> [Exposure; 4] {
    [Exposure::HostPort, Exposure::HostNetwork, Exposure::NodePort, Exposure::LoadBalancer]
}

fn workloads() -> Vec<Workload> {
    let mut all = Vec::new();
    for exposure in exposures() {
        for tls_secret in [None, Some("visio-public".to_owned())] {
            for route in [
                Route::None,
                Route::Ingress {
                    class: Some("nginx".into()),
                    tls_secret: Some("visio-edge".into()),
                    annotations: [("a/b".to_owned(), "c".to_owned())].into(),
                },
                Route::HttpRoute {
                    gateway: "edge".into(),
                    namespace: None,
                    section: Some("https".into()),
                },
            ] {
                let mut one = workload();
                one.media.exposure = exposure;
                one.gateway.tls_secret.clone_from(&tls_secret);
                one.route = route;
                all.push(one);
            }
        }
    }
    all
}

fn assert_restricted(spec: &PodSpec) {
    let pod = spec.security_context.as_ref().expect("set");
    assert_eq!(pod.run_as_non_root, Some(true));
    assert_eq!(pod.run_as_user, Some(65532));
    assert_eq!(pod.seccomp_profile.as_ref().expect("set").type_, "RuntimeDefault");
    assert_eq!(spec.automount_service_account_token, Some(false));
    for container in &spec.containers {
        let own = container.security_context.as_ref().expect("set");
        assert_eq!(own.allow_privilege_escalation, Some(false));
        assert_eq!(own.read_only_root_filesystem, Some(true));
        let capabilities = own.capabilities.as_ref().expect("set");
        assert_eq!(capabilities.drop.as_deref(), Some(&["ALL".to_owned()][..]));
        assert_eq!(capabilities.add, None);
        let live = container.liveness_probe.as_ref().and_then(|probe| probe.http_get.as_ref());
        let ready = container.readiness_probe.as_ref().and_then(|probe| probe.http_get.as_ref());
        assert_ne!(live.expect("set").path, ready.expect("set").path, "live is not ready");
    }
}

fn assert_pinned(spec: &PodSpec) {
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref())
        .expect("required affinity");
    assert!(!required.node_selector_terms.is_empty());
    // Terms are alternatives: each of them must hold the scope.
    for term in &required.node_selector_terms {
        let expressions = term.match_expressions.as_ref().expect("set");
        assert!(expressions.iter().any(|expression| expression.key == SCOPE_LABEL
            && expression.operator == "In"
            && expression.values.as_deref() == Some(&["E1".to_owned(), "E2".to_owned()][..])));
    }
    let tolerated = spec.tolerations.as_ref().expect("set");
    assert!(tolerated.iter().any(|toleration| toleration.key.as_deref() == Some(SCOPE_TAINT)));
}

#[test]
fn registries_that_ask_who_pulls_are_told() {
    let secrets = vec![LocalObjectReference { name: "registry".into() }];
    let workload = Workload { image_pull_secrets: secrets, ..workload() };
    let media: Pod = typed(&media_pod(&workload, &pod_wish("visio-1")));
    let gateway: Deployment = typed(&gateway::deployment(&workload));
    let gateway = gateway.spec.expect("set").template.spec;
    for spec in [media.spec, gateway] {
        let named = spec.expect("set").image_pull_secrets.expect("set");
        assert_eq!(named[0].name, "registry");
    }
}

#[test]
fn every_pod_is_restricted_and_pinned_to_the_scope() {
    for workload in workloads() {
        let manifest = media_pod(&workload, &pod_wish("visio-1"));
        let pod: Pod = typed(&manifest);
        assert_eq!(pod.metadata.name.as_deref(), Some("visio-1"));
        assert_eq!(pod.metadata.owner_references.as_ref().expect("owned")[0].kind, "MediaNode");
        let spec = pod.spec.expect("set");
        assert_restricted(&spec);
        assert_pinned(&spec);
        let resources = spec.containers[0].resources.as_ref().expect("set");
        assert_eq!(resources.requests, resources.limits);
        assert!(spec.termination_grace_period_seconds.expect("set") >= 600);
    }
}

#[test]
fn each_scope_is_a_term_and_evidence_that_is_too_weak_is_none() {
    let scopes = vec!["paris".to_owned(), "lyon".to_owned()];
    let workload = Workload { scopes, minimum_evidence: Level::E2, ..workload() };
    let manifest = media_pod(&workload, &pod_wish("visio-1"));
    let required = "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    let terms = &manifest.body.pointer(required).expect("required")["nodeSelectorTerms"];
    let term = |scope: &str| {
        let key = format!("{SCOPE_LABEL_PREFIX}{scope}");
        json!({"matchExpressions": [{"key": key, "operator": "In", "values": ["E2"]}]})
    };
    assert_eq!(*terms, json!([term("paris"), term("lyon")]));
}

#[test]
fn host_ports_are_one_udp_port_per_shard_and_one_tcp_port() {
    let manifest = media_pod(&workload(), &pod_wish("visio-1"));
    let pod: Pod = typed(&manifest);
    let ports = pod.spec.expect("set").containers[0].ports.clone().expect("set");
    let bound: Vec<_> =
        ports.iter().filter_map(|port| Some((port.host_port?, port.protocol.clone()?))).collect();
    let expected = [(7883, "TCP"), (50000, "UDP"), (50001, "UDP")];
    assert_eq!(bound, expected.map(|(port, protocol)| (port, protocol.to_owned())));
    let environment = pod_environment(&manifest);
    assert!(environment.contains("status.hostIP") && environment.contains("metadata.uid"));
}

#[test]
fn a_media_pod_knows_its_makers_epoch_and_keeps_the_highest_while_it_lives() {
    let manifest = media_pod(&workload(), &pod_wish("visio-1"));
    let environment = pod_environment(&manifest);
    assert!(environment.contains(r#"{"name":"HEMICYCLE_EPOCH_FLOOR","value":"7"}"#));
    let pod: Pod = typed(&manifest);
    let spec = pod.spec.expect("set");
    let kept = spec.volumes.expect("set").into_iter().find(|volume| volume.empty_dir.is_some());
    let kept = kept.expect("a directory that a restart of the container leaves").name;
    let mounts = spec.containers[0].volume_mounts.clone().expect("set");
    let mount = mounts.iter().find(|mount| mount.name == kept).expect("mounted");
    let setting = json!({"name": "HEMICYCLE_STATE_DIRECTORY", "value": mount.mount_path});
    assert!(environment.contains(&setting.to_string()));
}

fn pod_environment(manifest: &Manifest) -> String {
    manifest.body["spec"]["containers"][0]["env"].to_string()
}

/// Harm if it fails: behind an Ingress all people share one address, and its limits.
#[test]
fn gateways_know_people_by_the_address_that_the_proxy_before_them_saw() {
    for workload in workloads() {
        let deployment = gateway::deployment(&workload);
        let container = &deployment.body["spec"]["template"]["spec"]["containers"][0];
        let environment = container["env"].to_string();
        let behind_proxy = workload.route != Route::None;
        assert_eq!(environment.contains("HEMICYCLE_TRUSTED_HOPS"), behind_proxy, "{environment}");
    }
}

#[test]
fn every_standing_object_is_of_its_type_owned_and_labelled() {
    for workload in workloads() {
        for manifest in standing(&workload, ["visio-1"]) {
            match manifest.kind {
                Kind::Service => drop(typed::<Service>(&manifest)),
                Kind::NetworkPolicy => drop(typed::<NetworkPolicy>(&manifest)),
                Kind::PodDisruptionBudget => drop(typed::<PodDisruptionBudget>(&manifest)),
                Kind::Ingress => drop(typed::<Ingress>(&manifest)),
                Kind::Deployment => {
                    let deployment: Deployment = typed(&manifest);
                    let spec = deployment.spec.and_then(|spec| spec.template.spec);
                    let spec = spec.expect("set");
                    assert_restricted(&spec);
                    assert_pinned(&spec);
                }
                Kind::HttpRoute => {}
                Kind::Pod | Kind::MediaNode | Kind::Report | Kind::PolicyReport => {
                    panic!("not a standing object: {manifest:?}")
                }
            }
            let metadata = &manifest.body["metadata"];
            assert_eq!(metadata["ownerReferences"][0]["uid"], "uid-visio");
            assert_eq!(metadata["labels"]["app.kubernetes.io/managed-by"], "hemicycle");
        }
    }
}

#[test]
fn a_media_pod_is_told_what_a_ticket_must_fit() {
    let manifest = media_pod(&workload(), &pod_wish("visio-1"));
    let pod: Pod = typed(&manifest);
    let env = pod.spec.expect("set").containers.remove(0).env.expect("set");
    let told = |name: &str| env.iter().find(|variable| variable.name == name).expect("told");
    assert_eq!(told("HEMICYCLE_TICKET_KEYS").value.as_deref(), Some("a2V5"));
    assert_eq!(told("HEMICYCLE_SCOPES").value.as_deref(), Some("paris"));
    for (name, path) in
        [("HEMICYCLE_POD_UID", "metadata.uid"), ("HEMICYCLE_KUBERNETES_NODE", "spec.nodeName")]
    {
        let source = told(name).value_from.as_ref().and_then(|from| from.field_ref.as_ref());
        assert_eq!(source.expect("by the downward API").field_path, path);
    }
}

#[test]
fn a_template_is_outdated_by_what_is_in_it_and_by_nothing_else() {
    let before = template_hash(&workload());
    let mut image = workload();
    image.media.image = "localhost/hemicycle/media-node:next".into();
    assert_ne!(before, template_hash(&image));
    let keys = Workload { ticket_keys: "b3RoZXI=".into(), ..workload() };
    assert_ne!(before, template_hash(&keys), "it would refuse every ticket");
    let mut gateway = workload();
    gateway.gateway.replicas = 5;
    assert_eq!(before, template_hash(&gateway));
    let drain = Workload { drain_seconds: 7, ..workload() };
    assert_eq!(before, template_hash(&drain), "a longer patience is no roll-out");
}

#[test]
fn media_pods_are_never_evicted_and_gateways_one_at_a_time() {
    for manifest in standing(&workload(), []) {
        if manifest.kind != Kind::PodDisruptionBudget {
            continue;
        }
        let budget: PodDisruptionBudget = typed(&manifest);
        let spec = budget.spec.expect("set");
        if manifest.name.ends_with("-media-node") {
            assert_eq!(
                spec.min_available,
                Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(i32::MAX))
            );
            assert_eq!(spec.unhealthy_pod_eviction_policy, None);
        } else {
            assert!(spec.max_unavailable.is_some());
        }
    }
}

#[test]
fn media_nodes_behind_node_ports_have_ports_of_their_own() {
    let mut workload = workload();
    workload.media.exposure = Exposure::NodePort;
    workload.media.udp_port_first = 31_000;
    let told = |name: &str, protocol: &str| -> Vec<i32> {
        let pod: Pod = typed(&media_pod(&workload, &pod_wish(name)));
        let told = pod.spec.expect("a spec").containers.remove(0).ports.unwrap_or_default();
        let media = |name: &str| name.starts_with("media-") || name == "ice-tcp";
        let told = told.iter().filter(|port| port.name.as_deref().is_some_and(media));
        let told = told.filter(|port| port.protocol.as_deref() == Some(protocol));
        told.map(|port| port.container_port).collect()
    };
    let open = |name: &str, protocol: &str| -> Vec<i32> {
        let mut made = standing(&workload, [name]).into_iter();
        let made = made.find(|made| made.kind == Kind::Service && made.name.ends_with("-media"));
        let service: Service = typed(&made.expect("a Service"));
        let ports = service.spec.expect("a spec").ports.unwrap_or_default();
        let ports = ports.iter().filter(|port| port.protocol.as_deref() == Some(protocol));
        ports.filter_map(|port| port.node_port).collect()
    };
    for (name, udp) in [("visio-1", [31_002, 31_003]), ("visio-2", [31_004, 31_005])] {
        assert_eq!((told(name, "UDP"), open(name, "UDP")), (udp.to_vec(), udp.to_vec()));
        assert_eq!((told(name, "TCP"), open(name, "TCP")), (vec![udp[0]], vec![udp[0]]));
    }
    // The range holds 884 of them: the next one begins anew, where the first is long gone.
    assert_eq!(told("visio-885", "UDP"), told("visio-1", "UDP"));
}
