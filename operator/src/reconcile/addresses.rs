//! Writes onto a media pod the addresses that it is to advertise, where they are known only once
//! the pod is bound or its load balancer is there. Chooses nothing: the exposure says where to
//! look. Invariant: an address that was written is not changed while the pod lives, for
//! participants know it.

use hemicycle_crds::ANNOTATION_ADDRESSES;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::reflector::ObjectRef,
};
use serde_json::json;

use super::{
    build::media_pod,
    context::Context,
    error::ReconcileError,
    fetch::Observed,
    objects::FIELD_MANAGER,
    workload::{AdvertisedAddress, Workload},
};

/// Writes every address that is known by now.
///
/// # Errors
/// The first read or write that fails.
pub async fn write(
    context: &Context,
    workload: &Workload,
    observed: &Observed,
) -> Result<(), ReconcileError> {
    let source = workload.media.advertised;
    if source == AdvertisedAddress::HostIp {
        return Ok(());
    }
    let waiting = observed.pods.iter().filter(|(name, pod)| {
        observed.media_nodes.contains_key(*name)
            && pod.metadata.deletion_timestamp.is_none()
            && !pod.annotations().contains_key(ANNOTATION_ADDRESSES)
    });
    for (name, pod) in waiting {
        let found = match source {
            AdvertisedAddress::HostIp => None,
            AdvertisedAddress::LoadBalancer => load_balancer(context, workload, name).await?,
            AdvertisedAddress::NodeExternalIp => node_of(context, pod).and_then(external_ips),
            AdvertisedAddress::NodeAnnotation => node_of(context, pod)
                .and_then(|node| node.annotations().get(ANNOTATION_ADDRESSES).cloned()),
        };
        if let Some(addresses) = found.filter(|addresses| !addresses.is_empty()) {
            annotate(context, workload, pod, &addresses).await?;
        }
    }
    Ok(())
}

/// What a bound pod that knows no address to advertise waits for: until then its process ends at
/// each start, and the kubelet's word for that names no cause.
#[must_use]
pub fn missing(source: AdvertisedAddress, media_node: &str, pod: &Pod) -> Option<String> {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref())?;
    if pod.annotations().contains_key(ANNOTATION_ADDRESSES) {
        return None;
    }
    match source {
        AdvertisedAddress::HostIp => None,
        AdvertisedAddress::LoadBalancer => Some(format!(
            "NoAddress: Service {} has no IP in status.loadBalancer, which the cloud's controller \
             writes",
            media_pod::service_name(media_node)
        )),
        AdvertisedAddress::NodeExternalIp => {
            Some(format!("NoAddress: Kubernetes node {node} has no ExternalIP in its status"))
        }
        AdvertisedAddress::NodeAnnotation => Some(format!(
            "NoAddress: Kubernetes node {node} has no annotation {ANNOTATION_ADDRESSES}"
        )),
    }
}

fn node_of(context: &Context, pod: &Pod) -> Option<std::sync::Arc<Node>> {
    let name = pod.spec.as_ref()?.node_name.as_ref()?;
    context.watches.kubernetes_nodes.get(&ObjectRef::new(name))
}

fn external_ips(node: std::sync::Arc<Node>) -> Option<String> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let external = addresses.iter().filter(|address| address.type_ == "ExternalIP");
    Some(external.map(|address| address.address.as_str()).collect::<Vec<_>>().join(","))
}

async fn load_balancer(
    context: &Context,
    workload: &Workload,
    media_node: &str,
) -> Result<Option<String>, ReconcileError> {
    let api: Api<Service> = Api::namespaced(context.client.clone(), &workload.namespace);
    let name = media_pod::service_name(media_node);
    let found = api.get_opt(&name).await;
    let found =
        found.map_err(|source| ReconcileError::Read { what: format!("Service {name}"), source })?;
    Ok(found.as_ref().and_then(ingress_ips))
}

fn ingress_ips(service: &Service) -> Option<String> {
    let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
    let ips = ingress.iter().filter_map(|ingress| ingress.ip.as_deref());
    Some(ips.collect::<Vec<_>>().join(","))
}

async fn annotate(
    context: &Context,
    workload: &Workload,
    pod: &Pod,
    addresses: &str,
) -> Result<(), ReconcileError> {
    context.still_leading()?;
    let name = pod.name_any();
    let patch = json!({"metadata": {
        "uid": pod.uid(),
        "resourceVersion": pod.resource_version(),
        "annotations": {ANNOTATION_ADDRESSES: addresses},
    }});
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..Default::default() };
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &workload.namespace);
    let patched = api.patch(&name, &params, &Patch::Merge(patch)).await;
    let act = format!("write the addresses of Pod {name}");
    patched.map_err(|source| ReconcileError::Write { act, source })?;
    tracing::info!(pod = name, "wrote the addresses to advertise");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_the_external_ones_and_all_of_them() {
        let node = json!({"metadata": {"name": "n1"}, "status": {"addresses": [
            {"type": "InternalIP", "address": "198.18.0.11"},
            {"type": "ExternalIP", "address": "198.18.1.1"},
            {"type": "ExternalIP", "address": "2001:db8::1"},
        ]}});
        let node: Node = serde_json::from_value(node).expect("a Node");
        let told = external_ips(std::sync::Arc::new(node));
        assert_eq!(told.as_deref(), Some("198.18.1.1,2001:db8::1"));
    }

    #[test]
    fn a_pod_without_an_address_says_whose_it_waits_for() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "visio-1"}, "spec": {"nodeName": "n1", "containers": []},
        }))
        .expect("a Pod");
        let waits = |pod: &Pod, source| missing(source, "visio-1", pod).unwrap_or_default();
        assert!(waits(&pod, AdvertisedAddress::LoadBalancer).contains("visio-1-media"));
        assert!(
            waits(&pod, AdvertisedAddress::NodeExternalIp).contains("node n1 has no ExternalIP")
        );
        assert!(waits(&pod, AdvertisedAddress::NodeAnnotation).contains(ANNOTATION_ADDRESSES));
        assert_eq!(waits(&pod, AdvertisedAddress::HostIp), "");
        pod.annotations_mut().insert(ANNOTATION_ADDRESSES.to_owned(), "198.18.1.1".into());
        assert_eq!(waits(&pod, AdvertisedAddress::LoadBalancer), "");
    }

    #[test]
    fn a_load_balancer_without_an_address_is_waited_for() {
        let service: Service =
            serde_json::from_value(json!({"status": {"loadBalancer": {}}})).expect("a Service");
        assert_eq!(ingress_ips(&service), None);
    }
}
