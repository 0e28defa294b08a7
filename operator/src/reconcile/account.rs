//! Gives account of one look: on what ground each media node stands, for the proof; and the acts
//! that it led to, for the journal. Writes nothing to the API server and decides nothing.
//! Invariant: an act is told once, when it changed what held before.

use std::{collections::BTreeMap, sync::Arc};

use hemicycle_proof::journal::{Actor, EventId, ObjectKind};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use operator_core::{
    sovereignty,
    step::Step,
    violation::Violation,
    world::{CredentialsSeen, DesiredState},
};

use super::{Look, context::Context, fetch::Observed, workload::Workload};
use crate::{
    admission::{guard::Tamper, policies::Kind},
    witness::{Act, Ground, facts, ground, named, object},
};

/// Shows the witness on what ground each media node stands. One that lost it keeps the last, with
/// its violation: rooms that go on are accounted for until they end.
pub(super) fn stand(context: &Context, tenant: &str, look: &Look<'_>) {
    let Look { observed, world, report, .. } = look;
    let mut grounds = BTreeMap::new();
    for (name, pod) in &observed.pods {
        let Some(seen) = world.media_nodes.get(&name.as_str().into()) else { continue };
        let before = context.witness.last(tenant, name);
        let attested = sovereignty::attested(&report.gate, seen);
        let fresh = attested.and_then(|attested| {
            let guard = context.watches.scopes.get(&ObjectRef::new(attested.scope.as_str()))?;
            ground::facts(pod, attested, guard.0.as_ref().ok()?)
        });
        let uid = pod.uid().unwrap_or_default();
        let same = before.filter(|before| before.facts.pod_uid.as_str() == uid);
        let was = same.as_ref().map(|ground| ground.attested);
        let is = fresh.is_some();
        if is != was.unwrap_or_default() && (is || was.is_some()) {
            ticket(context, tenant, name, attested, is);
        }
        let open =
            report.violations.iter().filter(|it| it.pod.as_str() == name && it.ended.is_none());
        let violations = u32::try_from(open.count()).unwrap_or(u32::MAX);
        if let Some(facts) = fresh.or_else(|| same.map(|ground| ground.facts)) {
            grounds.insert(name.clone(), Ground { facts, attested: is, violations });
        }
    }
    context.witness.stand(tenant, grounds);
}

fn ticket(
    context: &Context,
    tenant: &str,
    name: &str,
    attested: Option<&sovereignty::Attested>,
    issued: bool,
) {
    let state =
        attested.map(|it| facts([("scope", it.scope.as_str()), ("level", it.level.as_str())]));
    context.witness.journal().tell(Act {
        id: if issued { EventId::TicketIssued } else { EventId::TicketWithheld },
        object: object(ObjectKind::MediaNode, tenant, name),
        before: BTreeMap::new(),
        after: state.unwrap_or_default(),
    });
}

/// Tells what this look changed: the steps of its plan too, if that was carried out to its end.
pub(super) fn tell(context: &Context, workload: &Workload, look: &Look<'_>, carried_out: bool) {
    let Look { observed, world, plan, report } = look;
    let tenant = &workload.tenant();
    credentials(context, tenant, &workload.credentials_secret, observed);
    violations(context, tenant, &world.violations, &report.violations);
    for step in plan.steps.iter().filter(|_| carried_out) {
        drain(context, tenant, step);
    }
}

fn violations(context: &Context, tenant: &str, before: &[Violation], after: &[Violation]) {
    for now in after {
        let known = before.iter().find(|it| it.id == now.id);
        let id = match known {
            None => EventId::ViolationOpened,
            Some(old) if old.ended.is_none() && now.ended.is_some() => EventId::ViolationClosed,
            Some(old) if old.acknowledged != now.acknowledged && now.acknowledged.is_some() => {
                EventId::ViolationAcknowledged
            }
            Some(_) => continue,
        };
        context.witness.journal().tell(Act {
            id,
            object: object(ObjectKind::Pod, tenant, now.pod.as_str()),
            before: BTreeMap::new(),
            after: facts([
                ("violation", now.id.as_str()),
                ("what", now.what.as_str()),
                ("kubernetesNode", now.kubernetes_node.as_str()),
                ("message", now.message.as_str()),
            ]),
        });
    }
}

fn drain(context: &Context, tenant: &str, step: &Step) {
    let (id, name, after) = match step {
        Step::SetDesiredState { name, state: DesiredState::Serving, .. } => {
            (EventId::DrainEnded, name, facts([("outcome", "takenBack")]))
        }
        Step::SetDesiredState { name, cause, .. } => {
            let cause = cause.map_or("Requested", |cause| cause.as_str());
            (EventId::DrainBegun, name, facts([("cause", cause)]))
        }
        Step::DeleteMediaNode { name, .. } => {
            (EventId::DrainEnded, name, facts([("outcome", "removed")]))
        }
        Step::SendHome { media_node, .. } => {
            (EventId::DrainDeadline, media_node, facts([("outcome", "roomSentHome")]))
        }
        Step::CreateMediaNode { .. } | Step::CreatePod { .. } | Step::MoveGateway { .. } => return,
    };
    let object = object(ObjectKind::MediaNode, tenant, name.as_str());
    context.witness.journal().tell(Act { id, object, before: BTreeMap::new(), after });
}

/// Tells of keys that changed, and of keys that were refused.
fn credentials(context: &Context, tenant: &str, secret: &str, observed: &Observed) {
    let (word, id) = match &observed.credentials {
        CredentialsSeen::Unknown => return,
        CredentialsSeen::Good => (
            format!("Good/{}", observed.credentials_version.as_deref().unwrap_or_default()),
            EventId::CredentialRotated,
        ),
        CredentialsSeen::Missing { .. } => ("Missing".to_owned(), EventId::CredentialRefused),
        CredentialsSeen::Weak { .. } => ("Weak".to_owned(), EventId::CredentialRefused),
    };
    let before = context.remember(tenant, |memory| {
        memory.told.insert("journal/credentials".to_owned(), word.clone())
    });
    // What a new leader finds is no change.
    if let Some(before) = before.filter(|before| *before != word) {
        context.witness.journal().tell(Act {
            id,
            object: object(ObjectKind::Secret, tenant, secret),
            before: facts([("state", before.as_str())]),
            after: facts([("state", word.as_str())]),
        });
    }
}

/// Tells of every hand on an admission policy, until dropped.
pub(super) async fn policies(context: Arc<Context>) {
    let mut state = context.admission.guard.watch();
    let mut told: Option<Tamper> = state.borrow().last_tamper.clone();
    while state.changed().await.is_ok() {
        let tamper = state.borrow_and_update().last_tamper.clone();
        if tamper == told {
            continue;
        }
        if let Some(tamper) = &tamper {
            policy(&context, tamper);
        }
        told = tamper;
    }
}

fn policy(context: &Context, tamper: &Tamper) {
    let kind = match tamper.kind {
        Kind::Policy => ObjectKind::ValidatingAdmissionPolicy,
        Kind::Binding => ObjectKind::ValidatingAdmissionPolicyBinding,
    };
    let act = |id, before: &str, after: &str| Act {
        id,
        object: named(kind, &tamper.name),
        before: facts([("state", before)]),
        after: facts([("state", after)]),
    };
    let what = tamper.what.to_string();
    let tampered = act(EventId::PolicyTampered, "intact", &what);
    context.witness.journal().tell_of(Actor::Unknown, tampered);
    context.witness.journal().tell(act(EventId::PolicyRepaired, &what, "intact"));
}
