//! Plans carried out on a simulated cluster with faults, one seed a run; and plans of arbitrary
//! worlds, by property.
//!
//! What is claimed: every plan is sound by the independent audit; no living media node with a room
//! is ever deleted, not even by a plan that was made from an old picture of the cluster; and once
//! the faults end the fleet comes to rest at the size that is needed, on Kubernetes nodes of the
//! scope.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use operator_core::{
    MediaNodeName, Plan, Policy, RoomKey, Step, Timestamp, World, audit,
    capacity::Busy,
    evidence::Level,
    plan,
    policy::{CapacityPolicy, OnLoss, Paused, SovereigntyPolicy},
    provider_id::Platform,
    report::MediaNodeState,
    world::{
        CredentialsSeen, Deleting, DesiredState, DrainRequested, GatewaySeen, KubernetesNodeSeen,
        MediaNodeSeen, PlacerSeen, Pod, PodPhase, PodSeen, QualificationState, Ready, ReportSeen,
        ScopeSeen,
    },
};
use proptest::prelude::*;

const LABEL: &str = "snc.scope.node-restriction.kubernetes.io/qualified";
const MACHINES: u64 = 8;
const DOORS: u32 = 2;
const STEP_MS: u64 = 1_000;

/// Busy with packets alone.
fn shards(shards: f64) -> Busy {
    Busy { shards, process: 0.0 }
}

struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// The process in a media pod.
struct Process {
    starts_at: Timestamp,
    alive: bool,
    state: MediaNodeState,
    rooms: BTreeMap<RoomKey, u32>,
    sequence: u64,
    mute_until: Timestamp,
}

struct Sim {
    seed: u64,
    dice: Dice,
    now: Timestamp,
    world: World,
    policy: Policy,
    processes: BTreeMap<MediaNodeName, Process>,
    /// Pictures of the past: the planner may be handed an old one.
    past: VecDeque<World>,
    objects: u64,
    rooms: u64,
    faults: bool,
    plans: u64,
    deleted: u64,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut world = World {
            kubernetes_nodes: Some(BTreeMap::new()),
            scopes: Some(BTreeMap::new()),
            credentials: CredentialsSeen::Good,
            placer: PlacerSeen::Placing,
            gateway: Some(GatewaySeen { replicas_wanted: DOORS, ..GatewaySeen::default() }),
            ..World::default()
        };
        let now = Timestamp(1_800_000_000_000);
        for index in 0..MACHINES {
            let machine = KubernetesNodeSeen {
                labels: BTreeMap::from([(LABEL.into(), "true".into())]),
                ready: true,
                unschedulable: false,
                zone: "z".into(),
                ..KubernetesNodeSeen::default()
            };
            let machines = world.kubernetes_nodes.as_mut().unwrap();
            machines.insert(format!("k{index}").into(), machine);
        }
        let scope = ScopeSeen {
            expires: now.plus_ms(u64::from(u32::MAX) * 1_000),
            state: QualificationState::Qualified,
            label_key: LABEL.into(),
            label_value: "true".into(),
            platform: Platform::Generic,
            regions: BTreeSet::from(["eu-1".into()]),
            subregions: BTreeSet::new(),
            accounts: BTreeSet::new(),
        };
        world.scopes.as_mut().unwrap().insert("snc".into(), scope);
        let policy = Policy {
            name: "demo".into(),
            tenant: "meetings/demo".into(),
            capacity: CapacityPolicy {
                nodes_min: 1,
                nodes_max: 5,
                participants_per_node_max: 50,
                headroom_percent: 25,
                target_fill_percent: 80,
            },
            sovereignty: SovereigntyPolicy {
                scopes: vec!["snc".into()],
                minimum_evidence: Level::E0,
                on_loss: OnLoss::Drain,
                acknowledgements: vec![],
            },
            drain_deadline_ms: 60_000,
            template_hash: "t0".into(),
            paused: Paused::No,
        };
        Self {
            seed,
            dice: Dice(seed),
            now,
            world,
            policy,
            processes: BTreeMap::new(),
            past: VecDeque::new(),
            objects: 0,
            rooms: 0,
            faults: true,
            plans: 0,
            deleted: 0,
        }
    }

    fn object(&mut self) -> String {
        self.objects += 1;
        self.objects.to_string()
    }

    fn step(&mut self) {
        self.now = self.now.plus_ms(STEP_MS);
        self.live();
        self.reconcile();
        self.check_truth();
    }

    /// Kubelets, media nodes and people do what they do.
    fn live(&mut self) {
        let now = self.now;
        let names: Vec<MediaNodeName> = self.world.media_nodes.keys().cloned().collect();
        for name in names {
            self.bind(&name);
            let seen = self.world.media_nodes.get_mut(&name).unwrap();
            let Some(process) = self.processes.get_mut(&name) else { continue };
            let PodSeen::Present(pod) = &mut seen.pod else { continue };
            if pod.phase == PodPhase::Pending && now >= process.starts_at {
                pod.phase = PodPhase::Running;
                pod.ready = Ready::Yes;
                process.alive = true;
            }
            if !process.alive {
                continue;
            }
            process.state = match seen.desired {
                DesiredState::Serving => MediaNodeState::Serving,
                DesiredState::Draining | DesiredState::Retired => MediaNodeState::Draining,
            };
            if now >= process.mute_until {
                process.sequence += 1;
                seen.report = Some(ReportSeen {
                    received: now,
                    incarnation: pod.uid.as_str().into(),
                    sequence: process.sequence,
                    state: process.state,
                    participants: process.rooms.values().sum(),
                    busy: shards(f64::from(process.rooms.values().sum::<u32>()) / 60.0),
                    clock_skew_ms: 0,
                    ticket_expires: Timestamp(0),
                    rooms: process.rooms.clone(),
                    claims_in_flight: 0,
                });
            }
            let ended = self.dice.below(8);
            process.rooms.retain(|room, _| u64::from(room.fingerprint()) % 64 != ended);
        }
        self.doors();
        self.people();
    }

    /// The gateway's Deployment and the scheduler: two pods, bound in scope only.
    fn doors(&mut self) {
        let machines = self.world.kubernetes_nodes.iter().flatten();
        let mut open = machines.filter(|(_, machine)| {
            machine.ready && !machine.unschedulable && machine.labels.contains_key(LABEL)
        });
        let open = open.next().map(|(name, _)| name.clone());
        let number = self.object();
        let now = self.now;
        let pods = &mut self.world.gateway.as_mut().unwrap().pods;
        if let Some(machine) = open.filter(|_| pods.len() < DOORS as usize) {
            let pod = Pod {
                uid: number.as_str().into(),
                resource_version: number.as_str().into(),
                created: now,
                deleting: Deleting::No,
                phase: PodPhase::Running,
                ready: Ready::Yes,
                kubernetes_node: Some(machine),
                trouble: None,
            };
            pods.insert(format!("door-{number}").into(), pod);
        }
    }

    /// The machine under a gateway leaves the scope, and no gateway stays there.
    fn check_doors(&mut self) {
        let pods = |world: &World| world.gateway.as_ref().unwrap().pods.clone();
        assert_eq!(pods(&self.world).len(), DOORS as usize, "seed {}", self.seed);
        let left = pods(&self.world).into_values().find_map(|pod| pod.kubernetes_node).unwrap();
        let machines = self.world.kubernetes_nodes.as_mut().unwrap();
        machines.get_mut(&left).unwrap().labels.clear();
        for _ in 0..10 {
            self.step();
        }
        let there = |pod: &Pod| pod.kubernetes_node.as_ref() == Some(&left);
        assert_eq!(pods(&self.world).len(), DOORS as usize, "seed {}", self.seed);
        assert!(!pods(&self.world).values().any(there), "seed {}: {left}", self.seed);
    }

    /// The scheduler: one media pod on a machine, in scope only.
    fn bind(&mut self, name: &MediaNodeName) {
        let machines = self.world.kubernetes_nodes.clone().unwrap_or_default();
        let taken: Vec<_> = self
            .world
            .media_nodes
            .values()
            .filter_map(|seen| match &seen.pod {
                PodSeen::Present(pod) if !matches!(pod.phase, PodPhase::Terminated { .. }) => {
                    pod.kubernetes_node.clone()
                }
                _ => None,
            })
            .collect();
        let free = machines.iter().find(|(machine, seen)| {
            seen.ready
                && !seen.unschedulable
                && seen.labels.contains_key(LABEL)
                && !taken.contains(machine)
        });
        let now = self.now;
        let Some(seen) = self.world.media_nodes.get_mut(name) else { return };
        let PodSeen::Present(pod) = &mut seen.pod else { return };
        if pod.kubernetes_node.is_some() {
            return;
        }
        match free {
            Some((machine, _)) => {
                pod.kubernetes_node = Some(machine.clone());
                pod.phase = PodPhase::Pending;
                let process = Process {
                    starts_at: now.plus_ms(2_000 + self.dice.below(6_000)),
                    alive: false,
                    state: MediaNodeState::Serving,
                    rooms: BTreeMap::new(),
                    sequence: 0,
                    mute_until: Timestamp(0),
                };
                self.processes.insert(name.clone(), process);
            }
            None if pod.phase == PodPhase::Pending => {
                pod.phase = PodPhase::Unschedulable { since: now };
            }
            None => {}
        }
    }

    fn people(&mut self) {
        let wave = if (self.now.0 / 300_000).is_multiple_of(2) { 3 } else { 1 };
        for _ in 0..self.dice.below(wave) {
            self.rooms += 1;
            let room = RoomKey::new("meetings/demo", format!("r{}", self.rooms));
            let size = 1 + self.dice.below(9) as u32;
            let open = self.processes.values_mut().filter(|process| {
                process.alive
                    && process.state == MediaNodeState::Serving
                    && process.rooms.values().sum::<u32>() < 45
            });
            match open.min_by_key(|process| process.rooms.len()) {
                Some(process) => {
                    process.rooms.insert(room, size);
                    self.world.demand.rooms_refused = 0;
                }
                None => self.world.demand.rooms_refused = 1,
            }
        }
        if !self.faults {
            self.world.demand.rooms_refused = 0;
        }
    }

    fn reconcile(&mut self) {
        self.past.push_back(self.world.clone());
        if self.past.len() > 6 {
            self.past.pop_front();
        }
        let old = if self.faults && self.dice.one_in(4) { self.dice.below(6) as usize } else { 0 };
        let at = self.past.len().saturating_sub(1 + old);
        let picture = self.past[at].clone();
        let (made, report) = plan(&picture, &self.policy, self.now);
        assert_eq!(made, plan(&picture, &self.policy, self.now).0, "seed {}", self.seed);
        let problems = audit::plan(&picture, &self.policy, &made, self.now);
        assert_eq!(problems, [], "seed {}: {made:#?}", self.seed);
        self.plans += 1;
        self.world.scale_memory = report.scale_memory;
        self.world.ordinal_high_water =
            self.world.ordinal_high_water.max(report.ordinal_high_water);
        self.apply(made);
    }

    /// The API server: takes a step only if its preconditions hold now.
    fn apply(&mut self, plan: Plan) {
        for step in plan.steps {
            match step {
                Step::CreateMediaNode { name } => {
                    if !self.world.media_nodes.contains_key(&name) {
                        let seen = self.new_media_node();
                        self.world.media_nodes.insert(name, seen);
                    }
                }
                Step::CreatePod { media_node, media_node_uid } => {
                    self.create_pod(&media_node, media_node_uid.as_str());
                }
                Step::SetDesiredState { name, uid, resource_version, state, cause, since } => {
                    let version = self.object();
                    let Some(seen) = self.world.media_nodes.get_mut(&name) else { continue };
                    if seen.uid == uid && seen.resource_version == resource_version {
                        seen.resource_version = version.into();
                        seen.desired = state;
                        seen.drain_cause = cause;
                        seen.desired_since = Some(since);
                    }
                }
                Step::SendHome { media_node, room } => {
                    if let Some(process) = self.processes.get_mut(&media_node) {
                        process.rooms.remove(&room);
                    }
                }
                Step::MoveGateway { pod, uid, resource_version } => {
                    let as_seen = |s: &Pod| s.uid == uid && s.resource_version == resource_version;
                    let pods = &mut self.world.gateway.as_mut().unwrap().pods;
                    if pods.get(&pod).is_some_and(as_seen) {
                        pods.remove(&pod);
                    }
                }
                Step::DeleteMediaNode { name, uid, resource_version, .. } => {
                    let seen = self.world.media_nodes.get(&name);
                    let as_seen =
                        |s: &MediaNodeSeen| s.uid == uid && s.resource_version == resource_version;
                    if seen.is_some_and(as_seen) {
                        self.delete(&name);
                    }
                }
            }
        }
    }

    fn delete(&mut self, name: &MediaNodeName) {
        if let Some(process) = self.processes.remove(name) {
            assert!(
                !process.alive || process.rooms.is_empty(),
                "seed {}: {name} is deleted with {} rooms",
                self.seed,
                process.rooms.len()
            );
        }
        self.world.media_nodes.remove(name);
        self.deleted += 1;
    }

    fn new_media_node(&mut self) -> MediaNodeSeen {
        MediaNodeSeen {
            uid: self.object().into(),
            resource_version: self.object().into(),
            deleting: Deleting::No,
            desired: DesiredState::Serving,
            drain_cause: None,
            desired_since: None,
            drain_requested: DrainRequested::No,
            template_hash: String::new(),
            pod: PodSeen::NeverCreated,
            report: None,
        }
    }

    fn create_pod(&mut self, name: &MediaNodeName, uid: &str) {
        let pod = Pod {
            uid: self.object().into(),
            resource_version: self.object().into(),
            created: self.now,
            deleting: Deleting::No,
            phase: PodPhase::Pending,
            ready: Ready::No,
            kubernetes_node: None,
            trouble: None,
        };
        let hash = self.policy.template_hash.clone();
        if let Some(seen) = self.world.media_nodes.get_mut(name)
            && seen.uid.as_str() == uid
            && seen.pod == PodSeen::NeverCreated
        {
            seen.pod = PodSeen::Present(pod);
            seen.template_hash = hash;
        }
    }

    /// Something breaks, or somebody does something.
    fn disturb(&mut self) {
        let machine = format!("k{}", self.dice.below(MACHINES)).as_str().into();
        let count = self.world.media_nodes.len() as u64;
        let victim = (count > 0).then(|| self.dice.below(count) as usize);
        let victim = victim.and_then(|at| self.world.media_nodes.keys().nth(at).cloned());
        let machines = self.world.kubernetes_nodes.as_mut().unwrap();
        let Some(seen) = machines.get_mut(&machine) else { return };
        match self.dice.below(200) {
            0 => seen.unschedulable = !seen.unschedulable,
            1 => match seen.labels.remove(LABEL) {
                Some(_) => {}
                None => drop(seen.labels.insert(LABEL.into(), "true".into())),
            },
            2 => self.lose_machine(&machine),
            3 | 4 => self.kill(victim),
            5 | 6 => {
                if let Some(process) = victim.and_then(|name| self.processes.get_mut(&name)) {
                    process.mute_until = self.now.plus_ms(1_000 * (1 + self.dice.below(60)));
                }
            }
            7 => self.policy.template_hash = format!("t{}", self.dice.below(3)),
            8 => self.policy.capacity.nodes_min = 1 + self.dice.below(4) as u32,
            9 => {
                let scope = self.world.scopes.as_mut().unwrap().get_mut(&"snc".into()).unwrap();
                scope.state = if self.dice.one_in(2) {
                    QualificationState::Suspended
                } else {
                    QualificationState::Qualified
                };
            }
            10 => {
                self.policy.paused = if self.dice.one_in(3) { Paused::Yes } else { Paused::No };
            }
            11 => self.world.scale_memory = operator_core::autoscale::ScaleMemory::default(),
            _ => {}
        }
    }

    /// A pod's process dies and the kubelet says so.
    fn kill(&mut self, victim: Option<MediaNodeName>) {
        let Some(name) = victim else { return };
        let now = self.now;
        let gone = self.dice.one_in(2);
        let Some(process) = self.processes.get_mut(&name) else { return };
        process.alive = false;
        process.rooms.clear();
        if let Some(seen) = self.world.media_nodes.get_mut(&name) {
            match &mut seen.pod {
                pod @ PodSeen::Present(_) if gone => *pod = PodSeen::Gone,
                PodSeen::Present(pod) => pod.phase = PodPhase::Terminated { at: now },
                _ => {}
            }
        }
    }

    /// A machine stops answering; the rooms on it go on for those who still reach it.
    fn lose_machine(&mut self, machine: &operator_core::KubernetesNodeName) {
        let until = self.now.plus_ms(120_000);
        for (name, seen) in &mut self.world.media_nodes {
            if let PodSeen::Present(pod) = &mut seen.pod
                && pod.kubernetes_node.as_ref() == Some(machine)
                && let Some(process) = self.processes.get_mut(name)
            {
                pod.ready = Ready::No;
                process.mute_until = until;
            }
        }
        let machines = self.world.kubernetes_nodes.as_mut().unwrap();
        machines.get_mut(machine).unwrap().ready = false;
    }

    /// Machines come back after a while.
    fn heal_machines(&mut self) {
        for machine in self.world.kubernetes_nodes.as_mut().unwrap().values_mut() {
            machine.ready = true;
        }
        for (name, seen) in &mut self.world.media_nodes {
            if let PodSeen::Present(pod) = &mut seen.pod
                && self.processes.get(name).is_some_and(|process| process.alive)
            {
                pod.ready = Ready::Yes;
            }
        }
    }

    fn check_truth(&self) {
        for (name, process) in &self.processes {
            assert!(
                process.rooms.is_empty() || self.world.media_nodes.contains_key(name),
                "seed {}: {name} has rooms and no resource",
                self.seed
            );
        }
    }

    fn run(&mut self, steps: u64) {
        for at in 0..steps {
            self.disturb();
            self.step();
            if at % 180 == 179 {
                self.heal_machines();
            }
        }
        self.settle();
    }

    /// The faults end; the fleet must come to rest where it should be.
    fn settle(&mut self) {
        self.faults = false;
        self.heal_machines();
        self.policy.paused = Paused::No;
        self.policy.template_hash = "t9".into();
        self.policy.capacity.nodes_min = 2;
        self.world.scopes.as_mut().unwrap().get_mut(&"snc".into()).unwrap().state =
            QualificationState::Qualified;
        for machine in self.world.kubernetes_nodes.as_mut().unwrap().values_mut() {
            machine.unschedulable = false;
            machine.labels.insert(LABEL.into(), "true".into());
        }
        for _ in 0..1_500 {
            self.step();
        }
        let (_, report) = plan(&self.world, &self.policy, self.now);
        for (name, seen) in &self.world.media_nodes {
            assert_eq!(seen.template_hash, "t9", "seed {}: {name} {seen:#?}", self.seed);
        }
        assert!(
            report.scale.serving >= report.scale.wish && report.scale.serving >= 2,
            "seed {}: {report:#?}",
            self.seed
        );
        assert!(self.world.media_nodes.len() <= 8, "seed {}: {report:#?}", self.seed);
        self.check_doors();
    }
}

#[test]
fn fleets_survive_faults_and_old_pictures_and_come_to_rest() {
    let (mut plans, mut deleted) = (0, 0);
    for seed in 0..25 {
        let mut sim = Sim::new(seed);
        sim.run(2_000);
        plans += sim.plans;
        deleted += sim.deleted;
    }
    println!("{plans} plans, {deleted} media nodes deleted");
    assert!(plans > 80_000 && deleted > 500, "{plans} plans, {deleted} deleted");
}

fn any_pod() -> impl Strategy<Value = PodSeen> {
    let phase = prop_oneof![
        Just(PodPhase::Pending),
        Just(PodPhase::Running),
        (0..200_000u64).prop_map(|at| PodPhase::Terminated { at: Timestamp(at) }),
        (0..200_000u64).prop_map(|at| PodPhase::Unschedulable { since: Timestamp(at) }),
    ];
    let present = (phase, 0..5u8, any::<bool>(), any::<bool>(), 0..200_000u64).prop_map(
        |(phase, machine, ready, deleting, created)| {
            PodSeen::Present(Pod {
                uid: "p".into(),
                resource_version: "1".into(),
                created: Timestamp(created),
                deleting: if deleting { Deleting::Yes } else { Deleting::No },
                phase,
                ready: if ready { Ready::Yes } else { Ready::No },
                kubernetes_node: (machine < 4).then(|| format!("k{machine}").into()),
                trouble: None,
            })
        },
    );
    prop_oneof![1 => Just(PodSeen::NeverCreated), 1 => Just(PodSeen::Gone), 6 => present]
}

fn any_report() -> impl Strategy<Value = Option<ReportSeen>> {
    let state = prop_oneof![
        Just(MediaNodeState::Serving),
        Just(MediaNodeState::Draining),
        Just(MediaNodeState::Stopping)
    ];
    let report = (0..200_000u64, state, 0..3u32, 0..120u32, 0..2u32).prop_map(
        |(received, state, rooms, participants, claims_in_flight)| ReportSeen {
            received: Timestamp(received),
            incarnation: "i".into(),
            sequence: 1,
            state,
            participants,
            busy: shards(f64::from(participants) / 150.0),
            clock_skew_ms: 0,
            ticket_expires: Timestamp(0),
            rooms: (0..rooms).map(|r| (RoomKey::new("meetings/demo", r.to_string()), 1)).collect(),
            claims_in_flight,
        },
    );
    proptest::option::weighted(0.8, report)
}

prop_compose! {
    fn any_media_node()(
        pod in any_pod(),
        report in any_report(),
        desired in 0..3usize,
        cause in 0..5usize,
        since in proptest::option::of(0..200_000u64),
        (deleting, requested, outdated) in (any::<bool>(), any::<bool>(), any::<bool>()),
    ) -> MediaNodeSeen {
        let desired =
            [DesiredState::Serving, DesiredState::Draining, DesiredState::Retired][desired];
        let drain_cause = operator_core::world::DrainCause::ALL[cause];
        MediaNodeSeen {
            uid: "u".into(),
            resource_version: "1".into(),
            deleting: if deleting { Deleting::Yes } else { Deleting::No },
            desired,
            drain_cause: (desired != DesiredState::Serving).then_some(drain_cause),
            desired_since: since.map(Timestamp),
            drain_requested: if requested { DrainRequested::Yes } else { DrainRequested::No },
            template_hash: if outdated { "old".into() } else { "t0".into() },
            pod,
            report,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        cases: 3_000,
        ..Default::default()
    })]

    #[test]
    fn any_world_gives_one_sound_plan(
        media_nodes in proptest::collection::vec(any_media_node(), 0..7),
        machines in proptest::option::weighted(
            0.9,
            proptest::collection::vec(any::<(bool, bool, bool)>(), 0..5),
        ),
        scope in proptest::option::weighted(0.9, any::<(bool, bool, bool)>()),
        (min, extra) in (1..4u32, 0..4u32),
        refused in 0..2u32,
    ) {
        let mut sim = Sim::new(0);
        sim.now = Timestamp(200_000);
        sim.world.kubernetes_nodes = machines.map(|machines| {
            let made = |(index, (ready, unschedulable, labelled)): (usize, (bool, bool, bool))| {
                let labels = labelled.then(|| (LABEL.to_owned(), "true".to_owned()));
                let labels = labels.into_iter().collect();
                let seen = KubernetesNodeSeen {
                    labels,
                    ready,
                    unschedulable,
                    zone: "z".into(),
                    ..KubernetesNodeSeen::default()
                };
                (format!("k{index}").into(), seen)
            };
            machines.into_iter().enumerate().map(made).collect()
        });
        match scope {
            None => sim.world.scopes = None,
            Some((there, withdrawn, expired)) => {
                let scopes = sim.world.scopes.as_mut().unwrap();
                let scope = scopes.get_mut(&"snc".into()).unwrap();
                if withdrawn {
                    scope.state = QualificationState::Withdrawn;
                }
                scope.expires = if expired { Timestamp(1) } else { scope.expires };
                if !there {
                    scopes.clear();
                }
            }
        }
        sim.policy.capacity.nodes_min = min;
        sim.policy.capacity.nodes_max = min + extra;
        sim.world.demand.rooms_refused = refused;
        for (index, media_node) in media_nodes.into_iter().enumerate() {
            sim.world.media_nodes.insert(format!("demo-{index}").into(), media_node);
        }
        let (first, first_report) = plan(&sim.world, &sim.policy, sim.now);
        let (second, second_report) = plan(&sim.world.clone(), &sim.policy.clone(), sim.now);
        prop_assert_eq!(format!("{first:?}"), format!("{second:?}"));
        prop_assert_eq!(format!("{first_report:?}"), format!("{second_report:?}"));
        let problems = audit::plan(&sim.world, &sim.policy, &first, sim.now);
        prop_assert_eq!(problems, vec![], "{:#?}", first);
        let conditions = operator_core::conditions(&sim.world, &sim.policy, &first_report);
        prop_assert_eq!(conditions.len(), 8);
    }
}
