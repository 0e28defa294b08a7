//! What the owner is told of where media run. Derived; decides nothing.

use super::{Condition, ConditionKind, Reason, Status, condition};
use crate::{plan::PlanReport, policy::Policy, sovereignty::ScopeGate, world::World};

/// Reasons why Kubernetes nodes are not taken that are told at once: the status lists all.
const TOLD_MAX: usize = 3;

/// Whether media run where they may, and nowhere else.
pub(super) fn verified(world: &World, policy: &Policy, report: &PlanReport) -> Condition {
    let kind = ConditionKind::SovereigntyVerified;
    if let Some(message) = &world.admission_trouble {
        return condition(kind, Status::False, Reason::PoliciesTampered, message.clone());
    }
    if let Some(message) = violations(report) {
        return condition(kind, Status::False, Reason::ViolationsOpen, message);
    }
    if let Some(message) = no_place(report) {
        return condition(kind, Status::False, Reason::NoKubernetesNodeInScope, message);
    }
    match &report.gate {
        ScopeGate::Closed(loss) => {
            condition(kind, Status::False, Reason::ScopeNotValid, loss.describe())
        }
        ScopeGate::Unknown | ScopeGate::Open { kubernetes_nodes: None, .. } => {
            let message = "QualificationScopes or Kubernetes nodes could not be listed, or a \
                           provider's API has not been heard yet";
            condition(kind, Status::Unknown, Reason::ScopeUnknown, message)
        }
        ScopeGate::Open { kubernetes_nodes: Some(nodes), .. } => {
            let scopes: Vec<&str> =
                policy.sovereignty.scopes.iter().map(crate::ids::ScopeName::as_str).collect();
            let message = format!(
                "media run on Kubernetes nodes of {} alone, {} of them, by evidence of {} or \
                 better",
                scopes.join(", "),
                nodes.len(),
                policy.sovereignty.minimum_evidence.as_str()
            );
            condition(kind, Status::True, Reason::AsExpected, message)
        }
    }
}

/// What a person has to look at, if anything.
pub(super) fn trouble(world: &World, report: &PlanReport) -> Option<(Reason, String)> {
    if let Some(message) = &world.admission_trouble {
        return Some((Reason::PoliciesTampered, message.clone()));
    }
    if let Some(message) = violations(report) {
        return Some((Reason::ViolationsOpen, message));
    }
    no_place(report).map(|message| (Reason::NoKubernetesNodeInScope, message))
}

/// That media may run on no Kubernetes node although a scope holds, and why: the scheduler, which
/// sees labels alone, cannot tell.
pub(super) fn no_place(report: &PlanReport) -> Option<String> {
    match &report.gate {
        ScopeGate::Open { kubernetes_nodes: Some(nodes), refused } if nodes.is_empty() => {
            Some(nowhere(refused))
        }
        _ => None,
    }
}

fn violations(report: &PlanReport) -> Option<String> {
    let mut open = report.violations_open();
    let first = open.next()?;
    let more = open.count();
    let others = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    Some(format!(
        "pod {} runs where no scope reaches{others}: {}; remedy: {}; or answer for violation {} in \
         spec.sovereignty.acknowledgements",
        first.pod, first.message, first.remedy, first.id
    ))
}

type Refused =
    std::collections::BTreeMap<crate::ids::KubernetesNodeName, crate::sovereignty::NodeLoss>;

fn nowhere(refused: &Refused) -> String {
    if refused.is_empty() {
        return "no Kubernetes node carries the scope's label: label one, or correct \
                spec.nodeLabel of the QualificationScope"
            .into();
    }
    let told: Vec<String> = refused
        .iter()
        .take(TOLD_MAX)
        .map(|(name, loss)| format!("{name}: {}; {}", loss.describe(), loss.remedy()))
        .collect();
    format!("media may run on no Kubernetes node: {}", told.join("; "))
}
