//! The public door and the scope: gateways hear who meets whom, and run where media may run.
//!
//! Decides which pod of the gateway must go because its Kubernetes node left the scope; where a new
//! one comes is the scheduler's to say, by the affinity of its template. Invariants: unless the
//! owner wants an end at once, the last gateway that answers stays until another does; not being
//! able to look moves nothing, nor does what has no better place to go.

use crate::{
    draft::{Draft, View},
    ids::PodName,
    plan::WaitingOn,
    policy::OnLoss,
    sovereignty::{self, Footing, ScopeGate},
    step::Step,
    world::{Deleting, GatewaySeen, Pod, Ready},
};

/// Moves gateways that run where no scope reaches, one at a time.
pub(crate) fn plan_door(view: &View<'_>, draft: &mut Draft) {
    let Some(gateway) = &view.world.gateway else { return };
    let ScopeGate::Open { kubernetes_nodes: Some(attested), .. } = view.gate else { return };
    if attested.is_empty() {
        return;
    }
    let astray = gateway.pods.iter().filter(|(_, pod)| {
        pod.deleting == Deleting::No
            && sovereignty::pod_footing(view.gate, pod) == Footing::OutOfScope
    });
    for (name, pod) in astray {
        let at_once = view.policy.sovereignty.on_loss == OnLoss::Terminate;
        if !at_once && pod.ready == Ready::Yes && !may_be_missed(gateway, name) {
            return draft.hold(format!("move gateway pod {name}"), WaitingOn::GatewayReady);
        }
        let (uid, resource_version) = (pod.uid.clone(), pod.resource_version.clone());
        let step = Step::MoveGateway { pod: name.clone(), uid, resource_version };
        let left = pod.kubernetes_node.as_ref().map(ToString::to_string).unwrap_or_default();
        draft.act(step, format!("gateway pod {name} leaves Kubernetes node {left}"));
        if !at_once {
            return;
        }
    }
}

/// Whether people find another gateway, or the owner has but one.
fn may_be_missed(gateway: &GatewaySeen, name: &PodName) -> bool {
    let answers = |(other, pod): (&PodName, &Pod)| {
        other != name && pod.deleting == Deleting::No && pod.ready == Ready::Yes
    };
    gateway.replicas_wanted <= 1 || gateway.pods.iter().any(answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        fixtures::{self, NOW},
        plan::plan,
        policy::Policy,
        world::World,
    };

    fn moved(world: &World, policy: &Policy) -> Vec<String> {
        let (plan, _) = plan(world, policy, NOW);
        let moved = plan.steps.into_iter().filter_map(|step| match step {
            Step::MoveGateway { pod, .. } => Some(pod.to_string()),
            _ => None,
        });
        moved.collect()
    }

    /// Two gateways on k0 and k1, of which `left` have left the scope.
    fn doors(left: &[&str]) -> (World, Policy) {
        let (mut world, policy) = fixtures::fleet(3);
        for (name, under) in [("door-a", "k0"), ("door-b", "k1")] {
            fixtures::gateway_pod(&mut world, name, under);
        }
        for name in left {
            fixtures::kubernetes_node(&mut world, name).labels.clear();
        }
        (world, policy)
    }

    #[test]
    fn a_gateway_leaves_a_kubernetes_node_that_left_the_scope() {
        let (world, policy) = doors(&[]);
        assert!(moved(&world, &policy).is_empty());
        let (world, policy) = doors(&["k1"]);
        assert_eq!(moved(&world, &policy), ["door-b"]);
    }

    #[test]
    fn one_goes_at_a_time_and_the_last_that_answers_stays() {
        let (mut world, policy) = doors(&["k0", "k1"]);
        assert_eq!(moved(&world, &policy), ["door-a"]);
        let gateway = world.gateway.as_mut().unwrap();
        gateway.pods.get_mut(&"door-a".into()).unwrap().deleting = Deleting::Yes;
        assert!(moved(&world, &policy).is_empty());
        let (_, report) = plan(&world, &policy, NOW);
        assert!(report.held().any(|(_, held)| held.on == WaitingOn::GatewayReady));
        fixtures::gateway_pod(&mut world, "door-c", "k2");
        assert_eq!(moved(&world, &policy), ["door-b"]);
    }

    #[test]
    fn all_go_at_once_where_the_owner_wants_an_end() {
        let (world, mut policy) = doors(&["k0", "k1"]);
        policy.sovereignty.on_loss = OnLoss::Terminate;
        assert_eq!(moved(&world, &policy), ["door-a", "door-b"]);
    }

    #[test]
    fn without_a_better_place_or_without_sight_none_moves() {
        let (mut world, policy) = doors(&[]);
        fixtures::scope(&mut world).expires = NOW;
        assert!(moved(&world, &policy).is_empty());
        let (world, policy) = doors(&["k0", "k1", "k2"]);
        assert!(moved(&world, &policy).is_empty());
        let (mut world, policy) = doors(&["k0", "k1"]);
        world.kubernetes_nodes = None;
        assert!(moved(&world, &policy).is_empty());
    }
}
