//! What counts as evidence, what contradicts it, and for how long it counts.

use std::collections::BTreeSet;

use super::*;
use crate::{
    fixtures::{self, NOW},
    provider_id::Platform,
    world::World,
};

fn outscale() -> (World, ScopeName, KubernetesNodeName) {
    let (mut world, _) = fixtures::fleet(1);
    let scope = fixtures::scope(&mut world);
    scope.platform = Platform::Outscale;
    scope.regions = BTreeSet::from(["cloudgouv-eu-west-1".into()]);
    fixtures::kubernetes_node(&mut world, "k0").provider_id =
        "aws:///cloudgouv-eu-west-1a/i-1".into();
    (world, "snc".into(), "k0".into())
}

fn weighed(change: impl FnOnce(&mut World)) -> Weighed {
    let (mut world, scope, node) = outscale();
    change(&mut world);
    let scopes = world.scopes.as_ref().unwrap();
    let nodes = world.kubernetes_nodes.as_ref().unwrap();
    weigh((&scope, &scopes[&scope]), (&node, &nodes[&node]), NOW)
}

fn level(change: impl FnOnce(&mut World)) -> Level {
    match weighed(change) {
        Weighed::Known(standing) => standing.level,
        other => panic!("{other:?}"),
    }
}

fn contradiction(change: impl FnOnce(&mut World)) -> String {
    match weighed(change) {
        Weighed::Contradicted(why) => why,
        other => panic!("{other:?}"),
    }
}

fn node(world: &mut World) -> &mut KubernetesNodeSeen {
    fixtures::kubernetes_node(world, "k0")
}

fn says(world: &mut World, statements: Statements) {
    node(world).statements.insert("snc".into(), statements);
}

fn answer(account: &str, subregion: &str, asked: Timestamp) -> Statements {
    let region = subregion[..subregion.len() - 1].to_owned();
    let (account, subregion) = (account.to_owned(), subregion.to_owned());
    let machine = Some(MachineSeen::Found { account, region, subregion, asked });
    Statements { machine, declaration: None }
}

fn declaration(
    change: impl FnOnce(&mut KubernetesNodeName, &mut String, &mut Timestamp),
) -> Statements {
    let mut kubernetes_node = "k0".into();
    let mut provider_id = "aws:///cloudgouv-eu-west-1a/i-1".to_owned();
    let mut expires = NOW.plus_ms(1);
    change(&mut kubernetes_node, &mut provider_id, &mut expires);
    let (scope, issued) = ("snc".into(), Timestamp(NOW.0 - 1));
    let signed = DeclarationSeen::Signed { kubernetes_node, provider_id, scope, issued, expires };
    Statements { declaration: Some(signed), machine: None }
}

#[test]
fn without_the_label_nobody_claims_it() {
    assert_eq!(weighed(|world| node(world).labels.clear()), Weighed::Unclaimed);
    let other = |world: &mut World| {
        node(world).labels.insert(fixtures::LABEL.into(), "false".into());
    };
    assert_eq!(weighed(other), Weighed::Unclaimed);
}

#[test]
fn each_source_gives_its_level() {
    assert_eq!(level(|world| node(world).provider_id.clear()), Level::E0);
    assert_eq!(level(|_| {}), Level::E1);
    let asked = Timestamp(NOW.0 - 1_000);
    assert_eq!(level(|w| says(w, answer("a1", "cloudgouv-eu-west-1a", asked))), Level::E2);
    assert_eq!(level(|w| says(w, declaration(|_, _, _| {}))), Level::E2);
}

#[test]
fn topology_labels_are_no_evidence_and_may_contradict() {
    let label = |world: &mut World, key: &str, value: &str| {
        node(world).labels.insert(key.into(), value.into());
    };
    let alone = level(|world| {
        node(world).provider_id.clear();
        label(world, REGION_LABEL, "cloudgouv-eu-west-1");
    });
    assert_eq!(alone, Level::E0);
    let region = contradiction(|world| label(world, REGION_LABEL, "us-east-2"));
    assert!(region.contains("us-east-2"), "{region}");
    let zone = contradiction(|world| label(world, ZONE_LABEL, "cloudgouv-eu-west-1b"));
    assert!(zone.contains("spec.providerID says"), "{zone}");
}

#[test]
fn a_machine_of_another_region_contradicts_its_label() {
    let said = contradiction(|w| node(w).provider_id = "aws:///us-east-2a/i-1".into());
    assert!(said.contains("us-east-2"), "{said}");
    let said = contradiction(|world| {
        fixtures::scope(world).subregions = BTreeSet::from(["cloudgouv-eu-west-1b".into()]);
    });
    assert!(said.contains("subregion cloudgouv-eu-west-1a"), "{said}");
    contradiction(|world| node(world).provider_id = "openstack:///1".into());
}

#[test]
fn the_same_letter_in_another_account_is_another_place() {
    let in_account = |account: &'static str| {
        weighed(move |world| {
            fixtures::scope(world).accounts = BTreeSet::from(["a1".into()]);
            says(world, answer(account, "cloudgouv-eu-west-1a", NOW));
        })
    };
    assert!(matches!(in_account("a1"), Weighed::Known(it) if it.level == Level::E2));
    assert!(matches!(in_account("a2"), Weighed::Contradicted(why) if why.contains("account a2")));
}

#[test]
fn what_the_api_denies_contradicts_and_what_it_said_long_ago_counts_no_more() {
    let gone = Some(MachineSeen::NotThere { asked: NOW });
    contradiction(|w| says(w, Statements { machine: gone, declaration: None }));
    contradiction(|world| says(world, answer("a1", "us-east-2a", NOW)));
    let old = Timestamp(NOW.0 - ANSWER_FRESH_MS);
    assert_eq!(level(|w| says(w, answer("a1", "cloudgouv-eu-west-1a", old))), Level::E1);
}

#[test]
fn a_declaration_of_another_machine_or_time_counts_for_nothing() {
    assert_eq!(level(|w| says(w, declaration(|node, _, _| *node = "k1".into()))), Level::E1);
    assert_eq!(level(|w| says(w, declaration(|_, id, _| id.push('0')))), Level::E1);
    assert_eq!(level(|w| says(w, declaration(|_, _, expires| *expires = NOW))), Level::E1);
    let forged = Some(DeclarationSeen::Refused { reason: "nobody signed it".into() });
    let standing = weighed(|w| says(w, Statements { declaration: forged, machine: None }));
    let Weighed::Known(standing) = standing else { panic!("{standing:?}") };
    assert!(standing.lacking.iter().any(|why| why.contains("nobody signed it")), "{standing:?}");
}

#[test]
fn evidence_counts_as_long_as_its_shortest_part() {
    let Weighed::Known(standing) = weighed(|w| says(w, declaration(|_, _, _| {}))) else {
        panic!("known");
    };
    assert_eq!(standing.valid_until(Level::E2), NOW.plus_ms(1));
    assert_eq!(standing.valid_until(Level::E1), NOW.plus_ms(SEEN_FRESH_MS));
}
