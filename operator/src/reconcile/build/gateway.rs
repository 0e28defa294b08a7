//! Builds the public door of a meeting cluster: Deployment, Service and, where asked for, an
//! Ingress or HTTPRoute. Pure. Invariant: the pods pass the restricted profile and hold no
//! Kubernetes credential.

use serde_json::{Value, json};

use super::{
    manifest::{Kind, Manifest},
    pinning,
};
use crate::{
    pki::Role,
    reconcile::workload::{GATEWAY, Route, Workload},
};

/// Plain public listener.
pub const PLAIN_PORT: u16 = 8080;
/// Public listener with TLS.
pub const TLS_PORT: u16 = 8443;
/// Admin listener.
pub const ADMIN_PORT: u16 = 8082;

/// Name of the gateway's Deployment and Service.
#[must_use]
pub fn name(workload: &Workload) -> String {
    name_of(&workload.name)
}

/// The same, from the meeting cluster's name.
#[must_use]
pub fn name_of(meeting_cluster: &str) -> String {
    format!("{meeting_cluster}-gateway")
}

/// Name of the Secret with the certificate that gateways show to media nodes and placer.
#[must_use]
pub fn tls_secret(workload: &Workload) -> String {
    format!("{}-gateway-tls", workload.name)
}

/// The Deployment.
#[must_use]
pub fn deployment(workload: &Workload) -> Manifest {
    let content = json!({"spec": {
        "replicas": workload.gateway.replicas,
        "selector": {"matchLabels": workload.selector(GATEWAY)},
        // One more before one less: a resume of signalling always finds a door.
        "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {
            "metadata": {"labels": workload.labels(GATEWAY)},
            "spec": pod_spec(workload),
        },
    }});
    Manifest::new(workload, Kind::Deployment, name(workload), GATEWAY, content)
}

fn pod_spec(workload: &Workload) -> Value {
    let mut volumes = vec![
        json!({"name": "keys", "secret": {"secretName": workload.credentials_secret}}),
        json!({"name": "tls", "secret": {"secretName": tls_secret(workload)}}),
    ];
    if let Some(secret) = &workload.gateway.tls_secret {
        volumes.push(json!({"name": "public-tls", "secret": {"secretName": secret}}));
    }
    let mut spec = json!({
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 30,
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        // Who meets whom passes through it.
        "affinity": pinning::affinity(workload),
        "tolerations": [pinning::toleration()],
        "topologySpreadConstraints": [{
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": workload.selector(GATEWAY)},
        }],
        "containers": [container(workload)],
        "volumes": volumes,
    });
    if let Some(spec) = spec.as_object_mut()
        && !workload.image_pull_secrets.is_empty()
    {
        spec.insert("imagePullSecrets".to_owned(), json!(workload.image_pull_secrets));
    }
    spec
}

fn container(workload: &Workload) -> Value {
    let mut mounts = vec![
        json!({"name": "keys", "mountPath": "/etc/hemicycle/keys", "readOnly": true}),
        json!({"name": "tls", "mountPath": "/etc/hemicycle/tls", "readOnly": true}),
    ];
    let tls = workload.gateway.tls_secret.is_some();
    if tls {
        let path = "/etc/hemicycle/public-tls";
        mounts.push(json!({"name": "public-tls", "mountPath": path, "readOnly": true}));
    }
    let public = if tls {
        json!({"name": "https", "containerPort": TLS_PORT, "protocol": "TCP"})
    } else {
        json!({"name": "http", "containerPort": PLAIN_PORT, "protocol": "TCP"})
    };
    json!({
        "name": "gateway",
        "image": workload.gateway.image,
        "imagePullPolicy": workload.image_pull_policy,
        "env": environment(workload),
        "ports": [
            public,
            {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
        ],
        "resources": {
            "requests": {"cpu": "100m", "memory": "64Mi"},
            "limits": {"memory": "512Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "livenessProbe": probe("/healthz", 10, 3),
        "readinessProbe": probe("/readyz", 1, 3),
        "volumeMounts": mounts,
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

fn environment(workload: &Workload) -> Vec<Value> {
    let value = |name: &str, value: String| json!({"name": name, "value": value});
    let placer = Role::Placer.dns_name(&workload.namespace, &workload.name);
    let mut all = vec![
        value("HEMICYCLE_TENANT", workload.tenant()),
        value("HEMICYCLE_PLACER_ADDRESS", workload.placer_address.clone()),
        value("HEMICYCLE_PLACER_SERVER_NAME", placer),
    ];
    if workload.route != Route::None {
        // What stands before us names the address that it saw; all would share its own otherwise.
        all.push(value("HEMICYCLE_TRUSTED_HOPS", "1".to_owned()));
    }
    let more = &workload.gateway.environment;
    all.extend(more.iter().map(|(name, text)| value(name, text.clone())));
    all
}

/// The Service.
#[must_use]
pub fn service(workload: &Workload) -> Manifest {
    let mut port = if workload.gateway.tls_secret.is_some() {
        json!({"name": "https", "port": 443, "targetPort": "https", "protocol": "TCP"})
    } else {
        json!({"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"})
    };
    if let (Some(number), Some(port)) = (workload.gateway.node_port, port.as_object_mut()) {
        port.insert("nodePort".to_owned(), json!(number));
    }
    let content = json!({"spec": {
        "type": workload.gateway.service_type,
        "selector": workload.selector(GATEWAY),
        "ports": [port],
    }});
    Manifest::new(workload, Kind::Service, name(workload), GATEWAY, content)
        .annotated(&workload.gateway.service_annotations)
}

/// The Ingress or HTTPRoute, where asked for.
#[must_use]
pub fn route(workload: &Workload) -> Option<Manifest> {
    let tls = workload.gateway.tls_secret.is_some();
    let port = if tls { 443 } else { 80 };
    match &workload.route {
        Route::None => None,
        Route::Ingress { class, tls_secret, annotations } => {
            let backend = json!({"service": {"name": name(workload), "port": {"number": port}}});
            let mut spec = json!({"rules": [{
                "host": workload.domain,
                "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]},
            }]});
            if let (Some(class), Some(spec)) = (class, spec.as_object_mut()) {
                spec.insert("ingressClassName".to_owned(), json!(class));
            }
            if let (Some(secret), Some(spec)) = (tls_secret, spec.as_object_mut()) {
                let tls = json!([{"hosts": [workload.domain], "secretName": secret}]);
                spec.insert("tls".to_owned(), tls);
            }
            let content = json!({ "spec": spec });
            let made = Manifest::new(workload, Kind::Ingress, name(workload), GATEWAY, content);
            Some(made.annotated(annotations))
        }
        Route::HttpRoute { gateway, namespace, section } => {
            let namespace = namespace.as_ref().unwrap_or(&workload.namespace);
            let mut parent = json!({"name": gateway, "namespace": namespace});
            if let (Some(section), Some(parent)) = (section, parent.as_object_mut()) {
                parent.insert("sectionName".to_owned(), json!(section));
            }
            let content = json!({"spec": {
                "hostnames": [workload.domain],
                "parentRefs": [parent],
                "rules": [{"backendRefs": [{"name": name(workload), "port": port}]}],
            }});
            Some(Manifest::new(workload, Kind::HttpRoute, name(workload), GATEWAY, content))
        }
    }
}
