//! Reconciles MeetingClusters while this replica leads: fetch → validate → plan → build → apply →
//! status. This page is the whole story; each step has a file. Invariant: one meeting cluster is
//! never reconciled twice at the same time, and a bad one never stops the others.

mod account;
pub mod addresses;
pub mod build;
pub mod context;
pub mod credentials;
pub mod due;
pub mod error;
pub mod failure;
pub mod fetch;
mod findings;
pub mod objects;
pub mod scopes;
pub mod seen;
pub mod status;
pub mod steps;
pub mod tell;
pub mod validate;
mod wake;
pub mod workload;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use hemicycle_crds::MeetingCluster;
use jiff::Timestamp as Time;
use kube::{
    ResourceExt,
    core::DeserializeGuard,
    runtime::controller::{self, Action},
};
use operator_core::{
    conditions,
    ids::Timestamp,
    placement::{Admission, Settings},
    plan::{self, PlanReport},
    policy::Policy,
    sovereignty::{self, Footing, ScopeGate},
    step::Plan,
    world::{
        Deleting, DesiredState, GatewayRollout, MediaNodeSeen, RefusalSeen, ReportSeen, World,
    },
};

use self::{
    build::manifest::Kind,
    context::{Context, REFUSALS_MAX},
    error::ReconcileError,
    fetch::Observed,
    workload::{Exposure, MEDIA_NODE, Workload},
};
use crate::{
    admission::{Keeper, attested::Entry},
    evidence::Asking,
    fleet::{Known, Target, TicketTerms},
    pki::{Authority, Role, store},
};

/// Time to the next look when nothing wakes us: how soon growing load is seen.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How often certificates are looked at, in seconds.
const CERTIFICATES_EVERY_SECONDS: i64 = 60;
/// How long a refusal of the API server stays in the conditions, in milliseconds.
const REFUSAL_SHOWN_MS: u64 = 60_000;

type Guarded = DeserializeGuard<MeetingCluster>;

/// Runs the controller until dropped.
pub async fn run(context: Arc<Context>) {
    let keeper = Keeper {
        client: context.client.clone(),
        recorder: context.recorder.clone(),
        metrics: context.metrics.clone(),
    };
    let leads = || context.still_leading().is_ok();
    let meeting_clusters = &context.watches.meeting_clusters;
    let admission = context.admission.run(&keeper, meeting_clusters, leads);
    let policies = account::policies(context.clone());
    let asking = Asking {
        client: context.client.clone(),
        namespace: context.config.namespace.clone(),
        watches: context.watches.clone(),
        book: context.book.clone(),
        metrics: context.metrics.clone(),
        clock: context.clock,
    };
    let scopes = scopes::run(context.clone());
    tokio::join!(asking.run(), control(context.clone()), scopes, policies, admission);
}

async fn control(context: Arc<Context>) {
    let told = context.clone();
    let _term = told.metrics.queue.term();
    wake::controller(&context)
        .run(reconcile, on_error, context)
        .for_each(|done| {
            if let Err(controller::Error::ObjectNotFound(gone)) = &done {
                let namespace = gone.namespace.as_deref().unwrap_or_default();
                told.forget(&format!("{namespace}/{}", gone.name));
            }
            if let Err(error) = &done {
                let error = error as &dyn std::error::Error;
                tracing::debug!(error, "a reconcile did not end well");
            }
            std::future::ready(())
        })
        .await;
}

async fn reconcile(guard: Arc<Guarded>, context: Arc<Context>) -> Result<Action, ReconcileError> {
    let begun = Instant::now();
    let tenant = fetch::tenant_of(&*guard);
    let look = context.metrics.queue.begin(&tenant);
    let outcome = match &guard.0 {
        Ok(cluster) => reconcile_one(&context, cluster).await,
        Err(invalid) => tell::undecodable(&context, &invalid.metadata, &invalid.error)
            .await
            .and(Err(ReconcileError::Undecodable(invalid.error.clone()))),
    };
    drop(look);
    if outcome.as_ref().is_ok_and(|action| *action != Action::await_change()) {
        context.metrics.queue.again(&tenant, Instant::now() + LOOK_EVERY);
    }
    let word = if outcome.is_ok() { "ok" } else { "error" };
    context.metrics.reconciles.with_label_values(&[word]).inc();
    context.metrics.reconcile_duration.observe(begun.elapsed().as_secs_f64());
    outcome
}

/// Brings one meeting cluster one step nearer to what is wanted.
///
/// # Errors
/// The first read or write that fails.
pub async fn reconcile_one(
    context: &Context,
    cluster: &MeetingCluster,
) -> Result<Action, ReconcileError> {
    let tenant = fetch::tenant_of(cluster);
    if cluster.metadata.deletion_timestamp.is_some() {
        // Everything has an owner: the garbage collector takes it along.
        context.forget(&tenant);
        return Ok(Action::await_change());
    }
    context.acquaint(&tenant, cluster.uid());
    if context.remember(&tenant, |memory| memory.ending) {
        return Ok(Action::await_change());
    }
    let now = context.now();
    let observed = fetch::observe(context, cluster).await?;
    let ticket_key = context.signing.ticket().public_key();
    let (workload, policy) = match validate::validate(cluster, &context.config, ticket_key) {
        Ok(valid) => valid,
        Err(error) => {
            tell::invalid(context, cluster, &error, now).await?;
            return Ok(Action::await_change());
        }
    };
    let at = seen::timestamp(now);
    let world = fetch::world(context, cluster, &observed, &workload, &policy, at);
    let (plan, mut report) = plan::plan(&world, &policy, at);
    tracing::debug!(tenant, scale = ?report.scale, steps = ?plan.steps, "planned");
    context.remember(&tenant, |memory| {
        memory.scale = report.scale_memory.clone();
        memory.violations = Some(report.violations.clone());
    });

    show_fleet(context, &policy, &observed, &world, &report);
    let look = Look { observed: &observed, world: &world, plan: &plan, report: &report };
    account::stand(context, &tenant, &look);
    let applied = apply(context, cluster, &workload, &look).await;
    if namespace_ends(context, &tenant, &applied) {
        return Ok(Action::await_change());
    }
    account::tell(context, &workload, &look, applied.is_ok());
    if applied.is_err() {
        // Numbers that were not given are given next time: a refusal that lasts must not count on
        // and so write a new status, which would wake us at once instead of after the pause.
        report.ordinal_high_water = world.ordinal_high_water;
    }
    let world = afterwards(context, &tenant, world, &applied, at);
    let told = conditions(&world, &policy, &report);
    let account = tell::Account {
        cluster,
        workload: &workload,
        observed: &observed,
        world: &world,
        policy: &policy,
        report: &report,
        carried_out: applied.is_ok(),
        now,
    };
    tell::everybody(context, &account, &told).await?;
    applied?;
    recovered(context, &tenant);
    Ok(Action::requeue(LOOK_EVERY))
}

/// Forgets failures that are over.
fn recovered(context: &Context, tenant: &str) {
    let failures = context.remember(tenant, |memory| {
        memory.failure.clear();
        std::mem::take(&mut memory.failures)
    });
    if failures > 0 {
        tracing::info!(tenant, failures, "reconciled again");
    }
}

/// Whether the namespace is on its way out, which is then waited for.
fn namespace_ends(context: &Context, tenant: &str, applied: &Applied) -> bool {
    let ends = applied.as_ref().is_err_and(failure::namespace_ends);
    if ends {
        tracing::info!(tenant, "the namespace is being deleted: waiting for the end of both");
        context.remember(tenant, |memory| memory.ending = true);
    }
    ends
}

/// The world as it is told, once what was to be written was.
fn afterwards(
    context: &Context,
    tenant: &str,
    mut world: World,
    applied: &Applied,
    now: Timestamp,
) -> World {
    world.refusals = keep_refusals(context, tenant, applied, now);
    if let (Some(gateway), Ok(written)) = (&mut world.gateway, applied)
        && written.contains(&Kind::Deployment)
    {
        // What was seen of it is older than what is wanted of it.
        gateway.rollout = GatewayRollout::Going { updated: 0 };
    }
    world
}

/// The kinds of the standing objects that were written.
type Applied = Result<BTreeSet<Kind>, ReconcileError>;

/// What was seen and decided.
struct Look<'a> {
    observed: &'a Observed,
    world: &'a World,
    plan: &'a Plan,
    report: &'a PlanReport,
}

/// Everything that is written but the statuses.
async fn apply(
    context: &Context,
    cluster: &MeetingCluster,
    workload: &Workload,
    look: &Look<'_>,
) -> Applied {
    let Look { observed, world, plan, report } = look;
    context.still_leading()?;
    attest(context, workload, &report.gate).await?;
    let authority = authority(context, workload).await?;
    if cluster.spec.paused {
        return Ok(BTreeSet::new());
    }
    certificates(context, workload, &authority, world).await?;
    context.still_leading()?;
    let media_nodes = observed.media_nodes.keys().map(String::as_str);
    let standing = build::standing(workload, media_nodes);
    let written = objects::apply(context, workload, &standing).await?;
    steps::carry_out(context, workload, &authority, plan).await?;
    addresses::write(context, workload, observed).await?;
    Ok(written)
}

/// Tells the API server where media pods may run, before any is made and whatever is paused. Where
/// nobody could look, what it was told last stands.
async fn attest(
    context: &Context,
    workload: &Workload,
    gate: &ScopeGate,
) -> Result<(), ReconcileError> {
    let kubernetes_nodes: Vec<String> = match gate {
        ScopeGate::Unknown | ScopeGate::Open { kubernetes_nodes: None, .. } => return Ok(()),
        ScopeGate::Closed(_) => vec![],
        ScopeGate::Open { kubernetes_nodes: Some(nodes), .. } => {
            nodes.keys().map(ToString::to_string).collect()
        }
    };
    let entry = Entry {
        namespace: &workload.namespace,
        meeting_cluster: &workload.name,
        kubernetes_nodes: &kubernetes_nodes,
        host_network: workload.media.exposure == Exposure::HostNetwork,
    };
    context.admission.attest(&context.client, &entry, context.now()).await?;
    Ok(())
}

async fn authority(context: &Context, workload: &Workload) -> Result<Authority, ReconcileError> {
    let place = store::Place {
        namespace: &workload.namespace,
        name: store::authority_name(&workload.name),
        owner: workload.owner.clone(),
        labels: workload.labels("internal-ca"),
    };
    let now = context.now();
    let tenant = workload.tenant();
    let authority = store::ensure_authority(&context.client, &place, &tenant, now).await?;
    context.trust.put(&workload.namespace, &workload.name, &authority, now)?;
    Ok(authority)
}

/// Renews leaves that are due, once in a while: each costs a read.
async fn certificates(
    context: &Context,
    workload: &Workload,
    authority: &Authority,
    world: &World,
) -> Result<(), ReconcileError> {
    let (now, tenant) = (context.now(), workload.tenant());
    let checked = context.remember(&tenant, |memory| memory.certificates_checked);
    let due = |at: Time| now.as_second() - at.as_second() >= CERTIFICATES_EVERY_SECONDS;
    if !checked.is_none_or(due) {
        return Ok(());
    }
    let place = |name: String, owner, component| store::Place {
        namespace: &workload.namespace,
        name,
        owner,
        labels: workload.labels(component),
    };
    let dns_name = |role: Role<'_>| role.dns_name(&workload.namespace, &workload.name);
    let gateway =
        place(build::gateway::tls_secret(workload), workload.owner.clone(), workload::GATEWAY);
    let client = &context.client;
    store::ensure_leaf(client, &gateway, authority, &dns_name(Role::Gateway), now).await?;
    for (name, seen) in &world.media_nodes {
        if seen.deleting == Deleting::Yes {
            continue;
        }
        let owner = steps::media_node_owner(name, &seen.uid);
        let leaf = place(build::media_pod::tls_secret(name.as_str()), owner, MEDIA_NODE);
        let role = Role::MediaNode(name.as_str());
        store::ensure_leaf(client, &leaf, authority, &dns_name(role), now).await?;
    }
    context.remember(&tenant, |memory| memory.certificates_checked = Some(now));
    Ok(())
}

/// Shows the fleet which media nodes there are: those with a pod whose process is not known to be
/// over.
fn show_fleet(
    context: &Context,
    policy: &Policy,
    observed: &Observed,
    world: &World,
    report: &PlanReport,
) {
    let settings = Settings {
        tenant: policy.tenant.clone(),
        participants_per_node_max: policy.capacity.participants_per_node_max,
        target_fill: policy.capacity.target_fill(),
    };
    let alive = observed.pods.iter().filter(|(_, pod)| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        !matches!(phase, Some("Succeeded" | "Failed"))
    });
    let (mut known, mut targets) = (Vec::new(), Vec::new());
    for (name, pod) in alive {
        let seen = world.media_nodes.get(&name.as_str().into());
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        let zone = node.and_then(|node| {
            Some(observed.kubernetes_nodes.as_ref()?.get(&node.into())?.zone.to_string())
        });
        let clock_fits = |report: &ReportSeen| sovereignty::clock_fits(report.clock_skew_ms);
        let footed = seen.filter(|seen| {
            seen.report.as_ref().is_none_or(clock_fits)
                && sovereignty::footing(&report.gate, seen) == Footing::InScope
        });
        let admits = footed.is_some_and(|seen| {
            seen.desired == DesiredState::Serving
                && seen.deleting == Deleting::No
                && pod.metadata.deletion_timestamp.is_none()
        });
        // One that drains keeps its ticket: its rooms go on under it, as the proof will say.
        let ticket = footed.and_then(|seen| terms(report, seen, node?));
        known.push(Known {
            media_node: name.clone(),
            zone: zone.unwrap_or_default(),
            admission: if admits { Admission::Admit } else { Admission::Deny },
        });
        let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse().ok());
        if let (Some(seen), Some(ip), Some(pod_uid)) = (seen, ip, pod.uid()) {
            let desired = seen.desired;
            targets.push(Target { media_node: name.clone(), pod_uid, ip, desired, ticket });
        }
    }
    context.fleet.set_targets(settings, known, targets);
}

/// The terms of a media node's ticket, where it may carry rooms.
fn terms(report: &PlanReport, seen: &MediaNodeSeen, kubernetes_node: &str) -> Option<TicketTerms> {
    let attested = sovereignty::attested(&report.gate, seen)?;
    Some(TicketTerms {
        scope: attested.scope.to_string(),
        evidence_level: attested.level.as_str().to_owned(),
        kubernetes_node: kubernetes_node.to_owned(),
        valid_until: attested.valid_until,
    })
}

/// A plan that was carried out to its end leaves no refusal standing.
fn keep_refusals(
    context: &Context,
    tenant: &str,
    applied: &Applied,
    now: Timestamp,
) -> Vec<RefusalSeen> {
    context.remember(tenant, |memory| {
        memory
            .refusals
            .retain(|refusal| applied.is_err() && now.since_ms(refusal.at) < REFUSAL_SHOWN_MS);
        if let Some((act, message)) = applied.as_ref().err().and_then(ReconcileError::refusal) {
            memory.refusals.retain(|refusal| refusal.act != act);
            memory.refusals.push(RefusalSeen { act, message, at: now });
            let surplus = memory.refusals.len().saturating_sub(REFUSALS_MAX);
            memory.refusals.drain(..surplus);
        }
        memory.refusals.clone()
    })
}

fn on_error(guard: Arc<Guarded>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let tenant = fetch::tenant_of(&*guard);
    let (category, told) = (error.category(), failure::told(error));
    context.metrics.reconcile_errors.with_label_values(&[category]).inc();
    let (failures, anew) = context.remember(&tenant, |memory| {
        memory.failures = memory.failures.saturating_add(1);
        let anew = memory.failure != told;
        memory.failure.clone_from(&told);
        (memory.failures, anew)
    });
    // The metric counts; a person reads it once. A conflict is nobody's to mend.
    if anew && category != "Conflict" {
        tracing::warn!(category, tenant, failures, "MeetingCluster: {told}");
    } else {
        tracing::debug!(category, tenant, failures, "MeetingCluster: {told}");
    }
    let pause = error.pause(failures);
    context.metrics.queue.again(&tenant, Instant::now() + pause);
    Action::requeue(pause)
}
