//! Says in a QualificationScope's status whether media may run in it, when its attestation ends and
//! what Kubernetes nodes lie in it. Pure. Invariant: a condition's time changes with its status
//! alone.

use std::collections::BTreeMap;

use hemicycle_crds::{
    Condition, QualificationScope, QualificationScopeStatus,
    qualification_scope::{Contradicted, QualificationState},
};
use jiff::Timestamp;

use super::Found;
use crate::reconcile::status::with_time;

/// Days before the end of an attestation at which its owner is told.
const NOTICE_DAYS: [i64; 3] = [90, 30, 7];
const DAY_SECONDS: i64 = 86_400;
/// Kubernetes nodes that are named with a reason: a page of a status.
const CONTRADICTED_MAX: usize = 32;

/// What a person is to be told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    pub(super) good: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

/// Seconds until the attestation ends: negative afterwards, and for a date that cannot be read.
pub(super) fn seconds_left(scope: &QualificationScope, now: Timestamp) -> i64 {
    let end = scope.spec.attestation.expires_at.parse::<Timestamp>();
    end.map_or(-1, |end| end.as_second() - now.as_second())
}

pub(super) fn status(
    scope: &QualificationScope,
    found: &Found,
    before: &QualificationScopeStatus,
    now: Timestamp,
) -> QualificationScopeStatus {
    let condition = |type_: &str, (status, reason, message): Said| {
        let fresh = Condition {
            type_: type_.into(),
            status: status.into(),
            reason: reason.into(),
            message,
            last_transition_time: String::new(),
            observed_generation: scope.metadata.generation,
        };
        with_time(&before.conditions, fresh, now)
    };
    let mut evidence: BTreeMap<String, i32> = BTreeMap::new();
    for level in found.inside.values() {
        *evidence.entry(level.as_str().to_owned()).or_default() += 1;
    }
    let contradicted = found.contradicted.iter().take(CONTRADICTED_MAX).map(|(name, reason)| {
        Contradicted { kubernetes_node: name.to_string(), reason: reason.clone() }
    });
    QualificationScopeStatus {
        conditions: vec![
            condition("Ready", ready(scope, found, now)),
            condition("Expiring", expiring(scope, now)),
        ],
        kubernetes_nodes: i32::try_from(found.inside.len()).unwrap_or(i32::MAX),
        evidence,
        contradicted: contradicted.collect(),
        observed_generation: scope.metadata.generation,
    }
}

type Said = (&'static str, &'static str, String);

fn ready(scope: &QualificationScope, found: &Found, now: Timestamp) -> Said {
    let expires = &scope.spec.attestation.expires_at;
    let invalid = |message: String| ("False", "ScopeNotValid", message);
    match (scope.spec.state, expires.parse::<Timestamp>()) {
        (QualificationState::Withdrawn, _) => {
            invalid("the qualification is withdrawn: no new room and no new pod".into())
        }
        (QualificationState::Suspended, _) => invalid(
            "the qualification is suspended: no new room and no new pod until spec.state is \
             Qualified again"
                .into(),
        ),
        (_, Err(_)) => invalid(format!(
            "spec.attestation.expiresAt ({expires}) is no RFC 3339 time: correct it"
        )),
        (_, Ok(end)) if end <= now => {
            invalid(format!("the attestation ended at {end}: renew it and spec.attestation"))
        }
        (_, Ok(_)) if found.inside.is_empty() => {
            let label = &scope.spec.node_label;
            let message = match found.contradicted.first_key_value() {
                Some((name, what)) => format!("Kubernetes node {name} is labelled, but {what}"),
                None => format!(
                    "no Kubernetes node carries {}={}: label those that lie in the scope",
                    label.key, label.value
                ),
            };
            ("False", "NoKubernetesNodeInScope", message)
        }
        (_, Ok(end)) => ("True", "AsExpected", format!("media may run in it until {end}")),
    }
}

fn expiring(scope: &QualificationScope, now: Timestamp) -> Said {
    let left = seconds_left(scope, now);
    let notice = NOTICE_DAYS.into_iter().rfind(|days| left <= days * DAY_SECONDS);
    let expires = &scope.spec.attestation.expires_at;
    match notice {
        _ if left <= 0 => ("True", "ScopeNotValid", format!("the attestation ended at {expires}")),
        Some(days) => (
            "True",
            "AttestationEndsSoon",
            format!(
                "the attestation ends within {days} days, at {expires}: renew it and \
                 spec.attestation, or meeting clusters lose this scope"
            ),
        ),
        None => ("False", "AsExpected", format!("the attestation holds until {expires}")),
    }
}

/// What changed that its owner is to be told.
pub(super) fn news(
    before: &QualificationScopeStatus,
    after: &QualificationScopeStatus,
) -> Option<News> {
    let of = |status: &QualificationScopeStatus, type_: &str| {
        status.conditions.iter().find(|it| it.type_ == type_).cloned()
    };
    let changed = |type_: &str| {
        let fresh = of(after, type_)?;
        let told = of(before, type_);
        let same = |old: &Condition| {
            // The notice in the message changes while status and reason stay.
            (&old.status, &old.reason) == (&fresh.status, &fresh.reason)
                && (type_ != "Expiring" || old.message == fresh.message)
        };
        (!told.as_ref().is_some_and(same)).then_some(fresh)
    };
    let bad_expiry = changed("Expiring").filter(|it| it.status == "True");
    let (told, good) = match bad_expiry {
        Some(expiring) => (expiring, false),
        None => {
            let ready = changed("Ready")?;
            let good = ready.status == "True";
            (ready, good)
        }
    };
    Some(News { good, reason: told.reason, message: told.message })
}

#[cfg(test)]
mod tests {
    use operator_core::evidence::Level;
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-11-23T09:00:00Z";

    fn told(spec: serde_json::Value, nodes: usize) -> QualificationScopeStatus {
        let mut whole = json!({
            "provider": "p", "service": "s", "regions": ["r"], "referential": "SecNumCloud 3.2",
            "attestation": {"id": "1", "expiresAt": "2027-06-01T00:00:00Z"},
            "nodeLabel": {"key": "a.node-restriction.kubernetes.io/b"},
        });
        if let (Some(whole), Some(spec)) = (whole.as_object_mut(), spec.as_object()) {
            whole.extend(spec.clone());
        }
        let spec = serde_json::from_value(whole).expect("a spec");
        let scope = QualificationScope::new("gold", spec);
        let inside = (0..nodes).map(|number| (format!("k{number}").into(), Level::E1)).collect();
        let found = Found { inside, contradicted: BTreeMap::new() };
        let now = NOW.parse().expect("a time");
        status(&scope, &found, &QualificationScopeStatus::default(), now)
    }

    fn said(status: &QualificationScopeStatus, index: usize) -> (&str, &str) {
        (&status.conditions[index].status, &status.conditions[index].reason)
    }

    #[test]
    fn a_scope_holds_until_it_is_withdrawn_ends_or_has_no_kubernetes_node() {
        let ready = |spec, nodes| {
            let status = told(spec, nodes);
            let (status, reason) = said(&status, 0);
            (status.to_owned(), reason.to_owned())
        };
        let is = |status: &str, reason: &str| (status.to_owned(), reason.to_owned());
        assert_eq!(ready(json!({}), 3), is("True", "AsExpected"));
        assert_eq!(ready(json!({}), 0), is("False", "NoKubernetesNodeInScope"));
        for state in ["Suspended", "Withdrawn"] {
            assert_eq!(ready(json!({"state": state}), 3), is("False", "ScopeNotValid"));
        }
        for end in ["2026-01-01T00:00:00Z", "soon"] {
            let attestation = json!({"attestation": {"id": "1", "expiresAt": end}});
            assert_eq!(ready(attestation, 3), is("False", "ScopeNotValid"));
        }
        assert_eq!(told(json!({}), 2).evidence, BTreeMap::from([("E1".to_owned(), 2)]));
    }

    #[test]
    fn the_end_is_announced_90_30_and_7_days_ahead_each_once() {
        let ends = |end: &str| told(json!({"attestation": {"id": "1", "expiresAt": end}}), 1);
        let far = ends("2027-06-01T00:00:00Z");
        assert_eq!(said(&far, 1), ("False", "AsExpected"));
        let mut before = far;
        for (end, days) in [
            ("2027-02-20T00:00:00Z", 90),
            ("2026-12-22T00:00:00Z", 30),
            ("2026-11-29T00:00:00Z", 7),
        ] {
            let after = ends(end);
            assert_eq!(said(&after, 1), ("True", "AttestationEndsSoon"));
            let news = news(&before, &after).expect("told");
            assert!(news.message.contains(&format!("within {days} days")), "{}", news.message);
            assert_eq!(super::news(&after, &after), None);
            before = after;
        }
    }
}
