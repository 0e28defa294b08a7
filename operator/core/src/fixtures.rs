//! A small fleet for unit tests, and ways to reach into it. Compiled for tests only.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    capacity::Busy,
    evidence::Level,
    fleet::{self, Standing},
    ids::{MediaNodeName, RoomKey, Timestamp},
    policy::{CapacityPolicy, OnLoss, Paused, Policy, SovereigntyPolicy},
    provider_id::Platform,
    report::MediaNodeState,
    world::{
        CredentialsSeen, Deleting, DesiredState, DrainRequested, GatewaySeen, KubernetesNodeSeen,
        MediaNodeSeen, PlacerSeen, Pod, PodPhase, PodSeen, QualificationState, Ready, ReportSeen,
        ScopeSeen, World,
    },
};

pub(crate) const NOW: Timestamp = Timestamp(1_800_000_000_000);
pub(crate) const LABEL: &str = "demo.scope.node-restriction.kubernetes.io/qualified";

/// A meeting cluster `demo` with `count` serving, empty media nodes, each on its Kubernetes node.
pub(crate) fn fleet(count: u32) -> (World, Policy) {
    let mut world = World {
        kubernetes_nodes: Some(BTreeMap::new()),
        scopes: Some(BTreeMap::new()),
        credentials: CredentialsSeen::Good,
        gateway: Some(GatewaySeen {
            replicas_wanted: 2,
            replicas_ready: 2,
            ..GatewaySeen::default()
        }),
        placer: PlacerSeen::Placing,
        ..World::default()
    };
    let scope = ScopeSeen {
        expires: NOW.plus_ms(86_400_000),
        state: QualificationState::Qualified,
        label_key: LABEL.into(),
        label_value: "true".into(),
        platform: Platform::Generic,
        regions: BTreeSet::from(["eu-1".into()]),
        subregions: BTreeSet::new(),
        accounts: BTreeSet::new(),
    };
    world.scopes.as_mut().unwrap().insert("snc".into(), scope);
    for index in 0..count {
        kubernetes_node(&mut world, &format!("k{index}"));
        add(&mut world, index);
    }
    (world, policy())
}

pub(crate) fn policy() -> Policy {
    Policy {
        name: "demo".into(),
        tenant: "meetings/demo".into(),
        capacity: CapacityPolicy {
            nodes_min: 1,
            nodes_max: 10,
            participants_per_node_max: 100,
            headroom_percent: 25,
            target_fill_percent: 80,
        },
        sovereignty: SovereigntyPolicy {
            scopes: vec!["snc".into()],
            minimum_evidence: Level::E0,
            on_loss: OnLoss::Drain,
            acknowledgements: vec![],
        },
        drain_deadline_ms: 600_000,
        template_hash: "t1".into(),
        paused: Paused::No,
    }
}

/// Adds a serving media node `demo-<index>` on `k<index>`.
pub(crate) fn add(world: &mut World, index: u32) {
    let pod = Pod {
        uid: format!("pod-{index}").into(),
        resource_version: "1".into(),
        created: Timestamp(NOW.0 - 3_600_000),
        deleting: Deleting::No,
        phase: PodPhase::Running,
        ready: Ready::Yes,
        kubernetes_node: Some(format!("k{index}").into()),
        trouble: None,
    };
    let report = ReportSeen {
        received: NOW,
        incarnation: "i".into(),
        sequence: 1,
        state: MediaNodeState::Serving,
        participants: 0,
        busy: Busy::default(),
        clock_skew_ms: 0,
        ticket_expires: Timestamp(0),
        rooms: BTreeMap::new(),
        claims_in_flight: 0,
    };
    let seen = MediaNodeSeen {
        uid: format!("uid-{index}").into(),
        resource_version: "1".into(),
        deleting: Deleting::No,
        desired: DesiredState::Serving,
        drain_cause: None,
        desired_since: None,
        drain_requested: DrainRequested::No,
        template_hash: "t1".into(),
        pod: PodSeen::Present(pod),
        report: Some(report),
    };
    world.media_nodes.insert(format!("demo-{index}").into(), seen);
}

/// Adds a gateway's pod that answers on Kubernetes node `under`.
pub(crate) fn gateway_pod(world: &mut World, name: &str, under: &str) {
    let PodSeen::Present(like) = world.media_nodes.values().next().unwrap().pod.clone() else {
        panic!("a media node that runs");
    };
    let pod = Pod { kubernetes_node: Some(under.into()), ..like };
    world.gateway.as_mut().unwrap().pods.insert(name.into(), pod);
}

pub(crate) fn media_node<'a>(world: &'a mut World, name: &str) -> &'a mut MediaNodeSeen {
    world.media_nodes.get_mut(&MediaNodeName::from(name)).unwrap()
}

pub(crate) fn pod<'a>(world: &'a mut World, name: &str) -> &'a mut Pod {
    match &mut media_node(world, name).pod {
        PodSeen::Present(pod) => pod,
        other => panic!("{name} has no pod: {other:?}"),
    }
}

pub(crate) fn report<'a>(world: &'a mut World, name: &str) -> &'a mut ReportSeen {
    media_node(world, name).report.as_mut().unwrap()
}

pub(crate) fn scope(world: &mut World) -> &mut ScopeSeen {
    world.scopes.as_mut().unwrap().get_mut(&"snc".into()).unwrap()
}

/// The Kubernetes node of that name, made in scope if it is not there.
pub(crate) fn kubernetes_node<'a>(world: &'a mut World, name: &str) -> &'a mut KubernetesNodeSeen {
    let made = || KubernetesNodeSeen {
        labels: BTreeMap::from([(LABEL.into(), "true".into())]),
        ready: true,
        unschedulable: false,
        zone: "z1".into(),
        ..KubernetesNodeSeen::default()
    };
    world.kubernetes_nodes.as_mut().unwrap().entry(name.into()).or_insert_with(made)
}

/// Puts a room of `participants` on a media node.
pub(crate) fn room(world: &mut World, on: &str, name: &str, participants: u32) {
    let report = report(world, on);
    report.rooms.insert(RoomKey::new("meetings/demo", name), participants);
    report.participants += participants;
}

/// Lets every media node that ever reported report anew at `at`.
pub(crate) fn refresh(world: &mut World, at: Timestamp) {
    for report in world.media_nodes.values_mut().filter_map(|seen| seen.report.as_mut()) {
        report.received = at;
        report.sequence += 1;
    }
}

/// Puts a media node into a drain that began at `since` and that it has heard of.
pub(crate) fn draining(world: &mut World, name: &str, since: Timestamp) {
    let seen = media_node(world, name);
    seen.desired = DesiredState::Draining;
    seen.drain_cause = Some(crate::world::DrainCause::ScaleDown);
    seen.desired_since = Some(since);
    report(world, name).state = MediaNodeState::Draining;
    let standing = fleet::standing(world, &world.media_nodes[&MediaNodeName::from(name)], NOW);
    assert_eq!(standing, Standing::Emptying);
}
