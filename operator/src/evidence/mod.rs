//! Gathers what others than the cluster say of Kubernetes nodes: providers' APIs and signed
//! declarations. The core weighs it.
//!
//! Only the leading replica asks. Invariant: there is one way from a Kubernetes node to what is
//! known of it, [`Testimony::kubernetes_node`], for the reconcile and for the scopes' statuses.

mod asking;
mod book;
mod declaration;
mod outscale;
pub mod provider_api;
mod signature;

use std::{collections::BTreeMap, sync::Arc};

use hemicycle_crds::{ANNOTATION_DECLARATION, QualificationScope};
use k8s_openapi::api::core::v1::Node;
use kube::{ResourceExt, core::DeserializeGuard};
use operator_core::{
    evidence::{ByScope, Statements},
    ids::{KubernetesNodeName, ScopeName},
    world::KubernetesNodeSeen,
};

pub use self::{asking::Asking, book::Book};
use crate::{reconcile::seen, watches::Watches};

/// What is known of Kubernetes nodes, with the scopes as they are now.
pub struct Testimony<'a> {
    book: &'a Book,
    scopes: Vec<Arc<DeserializeGuard<QualificationScope>>>,
}

impl<'a> Testimony<'a> {
    /// Looks at the scopes in the warm copy.
    #[must_use]
    pub fn new(book: &'a Book, watches: &Watches) -> Self {
        Self { book, scopes: watches.scopes.state() }
    }

    /// A Kubernetes node, with what others say of it.
    #[must_use]
    pub fn kubernetes_node(&self, node: &Node) -> (KubernetesNodeName, KubernetesNodeSeen) {
        let name = KubernetesNodeName::new(node.name_any());
        let mut seen = seen::kubernetes_node(node);
        seen.statements = self.statements(&name, &seen.provider_id, node);
        (name, seen)
    }

    /// All of them.
    #[must_use]
    pub fn kubernetes_nodes(
        &self,
        watches: &Watches,
    ) -> BTreeMap<KubernetesNodeName, KubernetesNodeSeen> {
        watches.kubernetes_nodes.state().iter().map(|node| self.kubernetes_node(node)).collect()
    }

    fn statements(&self, name: &KubernetesNodeName, provider_id: &str, node: &Node) -> ByScope {
        let line = node.annotations().get(ANNOTATION_DECLARATION);
        let readable = self.scopes.iter().filter_map(|guard| guard.0.as_ref().ok());
        let of_scope = |scope: &QualificationScope| {
            let spec = &scope.spec;
            let key = (name.clone(), ScopeName::new(scope.name_any()));
            let statements = Statements {
                declaration: line
                    .map(|line| self.book.declaration(&key, line, &spec.declaration_keys)),
                machine: self.book.machine(&key, provider_id),
            };
            (statements != Statements::default()).then_some((key.1, statements))
        };
        readable.filter_map(of_scope).collect()
    }
}
