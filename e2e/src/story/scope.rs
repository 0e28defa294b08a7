//! A scope of a story's own: a label on some Kubernetes nodes, as its owner would set it. Cluster
//! scoped, so the namespace does not take it along. Invariant: object and labels go with the value.

use std::process::Command;

use anyhow::{Result, ensure};
use serde_json::json;

use super::Story;
use crate::install;

/// A declared scope.
#[derive(Debug)]
pub struct Scope<'a> {
    story: &'a Story,
    name: String,
}

/// An attestation that outlasts every story.
const FAR: &str = "2099-12-31T00:00:00Z";

impl<'a> Scope<'a> {
    /// Declares a scope of the Kubernetes nodes `nodes`, named after the story.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn declare(story: &'a Story, nodes: &[u8]) -> Result<Self> {
        Self::declare_in(story, nodes, "eu-example-1")
    }

    /// The same, of another region than the bed's.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn declare_in(story: &'a Story, nodes: &[u8], region: &str) -> Result<Self> {
        let scope = Self { story, name: story.namespace().to_owned() };
        let object = json!({
            "apiVersion": "hemicycle.dev/v1alpha1",
            "kind": "QualificationScope",
            "metadata": {"name": scope.name},
            "spec": {
                "provider": "Example Cloud",
                "service": "Example IaaS",
                "regions": [region],
                "referential": "SecNumCloud 3.2",
                "attestation": {"id": "EXAMPLE-0002", "expiresAt": FAR},
                "nodeLabel": {"key": scope.label()},
            },
        });
        install::apply_text(story.bed(), "scope", &object.to_string())?;
        for n in nodes {
            scope.label_node(*n, true)?;
        }
        story.say(&format!("scope {} holds Kubernetes nodes {nodes:?}", scope.name));
        Ok(scope)
    }

    /// Labels Kubernetes node `n` as lying in it, or takes the label away.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn label_node(&self, n: u8, inside: bool) -> Result<()> {
        let sign = if inside { "=true" } else { "-" };
        let label = format!("{}{sign}", self.label());
        let line = ["label", "--overwrite", "node", &format!("n{n}"), &label];
        install::kubectl(self.story.bed(), &line)?;
        Ok(())
    }

    /// Corrects the region that it covers.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn cover(&self, region: &str) -> Result<()> {
        self.story.say(&format!("the scope's spec.regions becomes [{region}]"));
        self.story.patch(&self.object(), &json!({"spec": {"regions": [region]}}))
    }

    /// Its name, as a meeting cluster's `spec.sovereignty`.
    #[must_use]
    pub fn chosen(&self) -> serde_json::Value {
        json!({"scopeRefs": [{"name": self.name}], "minimumEvidence": "E0"})
    }

    /// Withdraws it, or takes that back.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn withdraw(&self, withdrawn: bool) -> Result<()> {
        let state = if withdrawn { "Withdrawn" } else { "Qualified" };
        self.story.say(&format!("the scope's spec.state becomes {state}"));
        self.story.patch(&self.object(), &json!({"spec": {"state": state}}))
    }

    /// Lets its attestation end `seconds` from now.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn expire_in(&self, seconds: u64) -> Result<()> {
        let when = format!("{seconds} seconds");
        let output = Command::new("date").args(["-u", "-d", &when, "+%Y-%m-%dT%H:%M:%SZ"]).output();
        let output = output?;
        ensure!(output.status.success(), "date does not know when {when} from now is");
        self.attest_until(String::from_utf8_lossy(&output.stdout).trim())
    }

    /// Renews its attestation for longer than any story.
    ///
    /// # Errors
    /// If the API server refuses.
    pub fn renew(&self) -> Result<()> {
        self.attest_until(FAR)
    }

    fn attest_until(&self, when: &str) -> Result<()> {
        self.story.say(&format!("the scope's attestation ends at {when}"));
        self.story.patch(&self.object(), &json!({"spec": {"attestation": {"expiresAt": when}}}))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Kind and name, as kubectl takes them.
    #[must_use]
    pub fn object(&self) -> String {
        format!("qualificationscope/{}", self.name)
    }

    /// The key of the label by which its owner declares Kubernetes nodes to lie in it.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{}.scope.node-restriction.kubernetes.io/qualified", self.name)
    }
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        let bed = self.story.bed();
        // The story's own end is what is judged; the next one declares its scope anew.
        let _ = install::kubectl(bed, &["delete", &self.object(), "--ignore-not-found"]);
        let _ = install::kubectl(bed, &["label", "nodes", "--all", &format!("{}-", self.label())]);
    }
}
