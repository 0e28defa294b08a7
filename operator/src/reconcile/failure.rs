//! Says why a reconcile failed, in one line for a person: what happened, to which object, what to
//! do. Sorts out the one failure that is none: a namespace on its way out. Decides no retry.

use std::error::Error;

use kube::core::Status;

use super::error::ReconcileError;
use crate::pki::store::StoreError;

/// The API server's word for a creation in a namespace that is being deleted.
const NAMESPACE_TERMINATING: &str = "NamespaceTerminating";

/// The whole account of `error`, without the objects that carried it.
#[must_use]
pub fn told(error: &ReconcileError) -> String {
    format!("{}; {}", with_causes(error), remedy(error))
}

/// An error and its causes, in one line.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        text.push_str(": ");
        if let Some(kube::Error::Api(status)) = deeper.downcast_ref() {
            // The API server names the object; its Status repeats everything in another form.
            text.push_str(if status.message.is_empty() { &status.reason } else { &status.message });
            break;
        }
        text.push_str(&deeper.to_string());
        cause = deeper.source();
    }
    text
}

fn remedy(error: &ReconcileError) -> &'static str {
    match error.category() {
        "Refused" => "mend the quota, admission rule or permission that it names; tried again",
        "Undecodable" => "apply it again with what `kubectl explain meetingcluster` allows",
        "ForeignObject" | "Secrets" | "Trust" => "tried again until that is done",
        _ => "tried again",
    }
}

/// Whether nothing can be created because the namespace is being deleted, which takes along the
/// meeting cluster too.
#[must_use]
pub fn namespace_ends(error: &ReconcileError) -> bool {
    match error {
        ReconcileError::Write { source: kube::Error::Api(status), .. }
        | ReconcileError::Secrets(StoreError::Api { source: kube::Error::Api(status), .. }) => {
            names_the_end(status)
        }
        _ => false,
    }
}

fn names_the_end(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == NAMESPACE_TERMINATING)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(reason: &str) -> ReconcileError {
        let status: Status = serde_json::from_value(json!({
            "status": "Failure", "code": 403, "reason": "Forbidden",
            "message": "pods \"visio-3\" is forbidden: exceeded quota: small",
            "details": {"name": "visio-3", "kind": "pods", "causes": [{"reason": reason}]},
        }))
        .expect("a Status");
        let source = kube::Error::Api(Box::new(status));
        ReconcileError::Write { act: "create Pod visio-3".to_owned(), source }
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words_once() {
        let wanted = "could not create Pod visio-3: pods \"visio-3\" is forbidden: exceeded quota: \
                      small; mend the quota, admission rule or permission that it names; tried \
                      again";
        assert_eq!(told(&refused("Quota")), wanted);
        let secret = StoreError::Damaged { name: "visio-internal-ca".to_owned() };
        let told = told(&ReconcileError::Secrets(secret));
        assert!(told.contains("visio-internal-ca") && told.contains("delete it"), "{told}");
    }

    #[test]
    fn a_namespace_on_its_way_out_is_known_by_its_cause() {
        assert!(namespace_ends(&refused(NAMESPACE_TERMINATING)));
        assert!(!namespace_ends(&refused("Quota")));
        assert!(!namespace_ends(&ReconcileError::NotLeading));
    }
}
