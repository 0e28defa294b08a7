//! Builds the objects of a meeting cluster from its checked wishes: value in, objects out. Knows no
//! client, reads no clock and decides nothing about the fleet. Invariant: same input, same objects.

pub mod flows;
pub mod gateway;
pub mod manifest;
pub mod media_pod;
pub mod network;
pub mod pinning;
#[cfg(test)]
pub(in crate::reconcile) mod tests;

use self::manifest::Manifest;
use super::workload::Workload;

/// Everything that stands whatever the number of media nodes: the public door, the walls around
/// media nodes, the budgets. `media_nodes` are those that get a Service of their own, if any do.
#[must_use]
pub fn standing<'a>(
    workload: &Workload,
    media_nodes: impl IntoIterator<Item = &'a str>,
) -> Vec<Manifest> {
    let mut all = vec![
        network::media_policy(workload),
        network::gateway_policy(workload),
        network::media_budget(workload),
        network::gateway_budget(workload),
        gateway::service(workload),
        gateway::deployment(workload),
    ];
    all.extend(gateway::route(workload));
    all.extend(media_nodes.into_iter().filter_map(|name| media_pod::media_service(workload, name)));
    all
}
