//! Weighs the evidence that a Kubernetes node lies in a scope: its level, how long it counts, and
//! what speaks against it.
//!
//! Believes no signature and asks nobody: whoever fills [`Statements`] has verified and asked. A
//! single contradiction outweighs all that speaks for it. `topology.kubernetes.io/*` is never
//! evidence, since a kubelet may write it; it can only contradict.

use std::collections::BTreeMap;

use crate::{
    ids::{KubernetesNodeName, ScopeName, Timestamp},
    provider_id::{self, Place},
    sovereignty::{CLOCK_SKEW_MAX_MS, is_declared},
    world::{KubernetesNodeSeen, ScopeSeen},
};

/// How long what a watch showed counts: a leader without the API server goes on for so long.
pub const SEEN_FRESH_MS: u64 = 3_600_000;
/// How long an answer of a provider's API counts.
pub const ANSWER_FRESH_MS: u64 = 900_000;

const REGION_LABEL: &str = "topology.kubernetes.io/region";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// How well it is known that a Kubernetes node lies in a scope; each level needs those below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The scope's owner says so by a label that no kubelet may write.
    E0,
    /// So does the machine's `spec.providerID`.
    E1,
    /// So does somebody outside of the cluster: the provider's API or a signed declaration.
    E2,
}

impl Level {
    /// Every level, the weakest first.
    pub const ALL: [Self; 3] = [Self::E0, Self::E1, Self::E2];

    /// The word in resources, labels and tickets.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::E0 => "E0",
            Self::E1 => "E1",
            Self::E2 => "E2",
        }
    }
}

/// Where evidence comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The scope's label.
    DeclaredLabel,
    /// `spec.providerID`.
    ProviderId,
    /// The provider's API.
    ProviderApi,
    /// A declaration signed by somebody whom the scope names.
    SignedDeclaration,
}

impl Source {
    /// The word in statements and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeclaredLabel => "declaredLabel",
            Self::ProviderId => "providerId",
            Self::ProviderApi => "providerApi",
            Self::SignedDeclaration => "signedDeclaration",
        }
    }

    /// The level that it gives.
    #[must_use]
    pub fn level(self) -> Level {
        match self {
            Self::DeclaredLabel => Level::E0,
            Self::ProviderId => Level::E1,
            Self::ProviderApi | Self::SignedDeclaration => Level::E2,
        }
    }
}

/// One thing that speaks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Where it comes from.
    pub source: Source,
    /// When it was seen.
    pub observed: Timestamp,
    /// Until when it counts.
    pub valid_until: Timestamp,
    /// What was seen, in words: of machines, never of people.
    pub seen: String,
}

/// What was said about one Kubernetes node and one scope by others than the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statements {
    /// What the annotation with the signed declaration holds.
    pub declaration: Option<DeclarationSeen>,
    /// What the provider's API answered last.
    pub machine: Option<MachineSeen>,
}

/// A signed declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeclarationSeen {
    /// Its signature is that of somebody whom the scope names.
    Signed {
        /// The Kubernetes node that it speaks of.
        kubernetes_node: KubernetesNodeName,
        /// `spec.providerID` of the machine that it speaks of.
        provider_id: String,
        /// The scope that it speaks of.
        scope: ScopeName,
        /// When it was signed.
        issued: Timestamp,
        /// Until when it holds.
        expires: Timestamp,
    },
    /// It cannot be read, or nobody whom the scope names signed it.
    Refused {
        /// Why.
        reason: String,
    },
}

/// What a provider's API says of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineSeen {
    /// It is there.
    Found {
        /// Its account.
        account: String,
        /// Its region.
        region: String,
        /// Its subregion.
        subregion: String,
        /// When the API said so.
        asked: Timestamp,
    },
    /// The API knows no such machine.
    NotThere {
        /// When the API said so.
        asked: Timestamp,
    },
}

/// What all evidence comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weighed {
    /// Nobody says that it lies in the scope.
    Unclaimed,
    /// Something speaks against it.
    Contradicted(String),
    /// It lies in the scope, as far as this is known.
    Known(Standing),
}

/// How well it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The highest level of what speaks for it.
    pub level: Level,
    /// What speaks for it, the label first.
    pub evidence: Vec<Evidence>,
    /// Why it is not known better; empty at the highest level.
    pub lacking: Vec<String>,
}

impl Standing {
    /// Until when what speaks for it at `minimum` or above counts.
    #[must_use]
    pub fn valid_until(&self, minimum: Level) -> Timestamp {
        let strong = self.evidence.iter().filter(|e| e.source.level() >= minimum);
        let label = self.evidence.first().map_or(Timestamp(0), |e| e.valid_until);
        strong.map(|e| e.valid_until).max().unwrap_or(Timestamp(0)).min(label)
    }
}

/// Weighs what is known of one Kubernetes node and one scope.
#[must_use]
pub fn weigh(
    scope: (&ScopeName, &ScopeSeen),
    node: (&KubernetesNodeName, &KubernetesNodeSeen),
    now: Timestamp,
) -> Weighed {
    let ((scope_name, scope), (node_name, node)) = (scope, node);
    if !is_declared(scope, node) {
        return Weighed::Unclaimed;
    }
    let mut standing = Standing { level: Level::E0, evidence: vec![], lacking: vec![] };
    let label = format!("{}={}", scope.label_key, scope.label_value);
    standing.add(Source::DeclaredLabel, now, now.plus_ms(SEEN_FRESH_MS), label);
    let none = Statements::default();
    let Statements { declaration, machine } = node.statements.get(scope_name).unwrap_or(&none);
    let outcome = by_machine(&mut standing, scope, node, now)
        .and_then(|()| by_provider_api(&mut standing, scope, machine.as_ref(), now));
    if let Err(contradiction) = outcome {
        return Weighed::Contradicted(contradiction);
    }
    by_declaration(&mut standing, scope_name, (node_name, node), declaration.as_ref(), now);
    if standing.level == Level::E2 {
        standing.lacking.clear();
    }
    Weighed::Known(standing)
}

impl Standing {
    fn add(&mut self, source: Source, observed: Timestamp, valid_until: Timestamp, seen: String) {
        self.level = self.level.max(source.level());
        self.evidence.push(Evidence { source, observed, valid_until, seen });
    }
}

/// What `spec.providerID` says, against which the topology labels are held.
fn by_machine(
    standing: &mut Standing,
    scope: &ScopeSeen,
    node: &KubernetesNodeSeen,
    now: Timestamp,
) -> Result<(), String> {
    let region_label = node.labels.get(REGION_LABEL).map(String::as_str);
    if let Some(region) = region_label.filter(|region| !scope.regions.contains(*region)) {
        return Err(format!("{REGION_LABEL} is {region}, which the scope does not cover"));
    }
    let place = provider_id::place(scope.platform, &node.provider_id)?;
    let Some(place) = place else {
        let told = if node.provider_id.is_empty() { "is empty" } else { "names no place" };
        standing.lacking.push(format!("spec.providerID {told}"));
        return Ok(());
    };
    covers(scope, &place).map_err(|what| {
        format!(
            "spec.providerID {} lies in {what}, which the scope does not cover",
            node.provider_id
        )
    })?;
    for (label, told) in [(REGION_LABEL, &place.region), (ZONE_LABEL, &place.subregion)] {
        if let (Some(label_says), Some(told)) = (node.labels.get(label), told)
            && label_says != told
        {
            return Err(format!("{label} is {label_says}, but spec.providerID says {told}"));
        }
    }
    let seen = format!("spec.providerID {}", node.provider_id);
    standing.add(Source::ProviderId, now, now.plus_ms(SEEN_FRESH_MS), seen);
    Ok(())
}

/// Whether a place lies in what the scope covers; else what does not.
fn covers(scope: &ScopeSeen, place: &Place) -> Result<(), String> {
    if let Some(region) = place.region.as_ref().filter(|region| !scope.regions.contains(*region)) {
        return Err(format!("region {region}"));
    }
    let Some(subregion) = &place.subregion else { return Ok(()) };
    let listed = scope.subregions.contains(subregion);
    let of_a_region = || scope.regions.iter().any(|region| provider_id::is_of(subregion, region));
    if listed || (scope.subregions.is_empty() && of_a_region()) {
        Ok(())
    } else {
        Err(format!("subregion {subregion}"))
    }
}

/// What the provider's API says.
fn by_provider_api(
    standing: &mut Standing,
    scope: &ScopeSeen,
    machine: Option<&MachineSeen>,
    now: Timestamp,
) -> Result<(), String> {
    let (account, region, subregion, asked) = match machine {
        None => {
            standing.lacking.push("the provider's API was not heard".into());
            return Ok(());
        }
        Some(MachineSeen::NotThere { .. }) => {
            return Err("the provider's API knows no such machine".into());
        }
        Some(MachineSeen::Found { account, region, subregion, asked }) => {
            (account, region, subregion, *asked)
        }
    };
    let place = Place {
        region: Some(region.clone()),
        subregion: Some(subregion.clone()).filter(|it| !it.is_empty()),
    };
    covers(scope, &place).map_err(|what| {
        format!("the provider's API says {what}, which the scope does not cover")
    })?;
    if !scope.accounts.is_empty() && !scope.accounts.contains(account) {
        return Err(format!(
            "the provider's API says account {account}, which the scope does not cover"
        ));
    }
    let valid_until = asked.plus_ms(ANSWER_FRESH_MS);
    if valid_until <= now {
        standing.lacking.push("the provider's API has not answered for 15 minutes".into());
    } else {
        let seen = format!("the provider's API: account {account}, subregion {subregion}");
        standing.add(Source::ProviderApi, asked, valid_until, seen);
    }
    Ok(())
}

/// What a signed declaration says; it can lack weight, and contradicts nothing.
fn by_declaration(
    standing: &mut Standing,
    scope_name: &ScopeName,
    (node_name, node): (&KubernetesNodeName, &KubernetesNodeSeen),
    declaration: Option<&DeclarationSeen>,
    now: Timestamp,
) {
    let lacking = match declaration {
        None => "nobody declared it in writing".into(),
        Some(DeclarationSeen::Refused { reason }) => {
            format!("its declaration does not count: {reason}")
        }
        Some(DeclarationSeen::Signed { kubernetes_node, provider_id, scope, issued, expires }) => {
            let fits = kubernetes_node == node_name
                && *provider_id == node.provider_id
                && scope == scope_name;
            if !fits {
                "its declaration speaks of another machine or scope".into()
            } else if *expires <= now || *issued > now.plus_ms(CLOCK_SKEW_MAX_MS.unsigned_abs()) {
                "its declaration does not hold now".into()
            } else {
                let seen = format!("a signed declaration that holds until {}", expires.unix_ms());
                return standing.add(Source::SignedDeclaration, *issued, *expires, seen);
            }
        }
    };
    standing.lacking.push(lacking);
}

/// Statements by scope.
pub type ByScope = BTreeMap<ScopeName, Statements>;

#[cfg(test)]
mod tests;
