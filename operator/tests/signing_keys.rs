//! The operator's signing keys are made once and are the same for every replica. Harm if it fails:
//! two leaders sign with two keys, and media nodes refuse the tickets of one of them.

#[allow(dead_code, reason = "each test file includes it and uses a part")]
mod api_server;

use api_server::{ApiServer, Cut};
use operator::pki::signing::{SECRET, SigningError, SigningKeys, ensure};
use serde_json::json;

const SECRETS: &str = "api/v1/namespaces/hemicycle-system/secrets";
const NAMESPACE: &str = "hemicycle-system";

#[tokio::test]
async fn keys_are_made_once_and_read_from_then_on() {
    let server = ApiServer::default();
    let made = ensure(&server.client(), NAMESPACE).await.expect("made");
    let read = ensure(&server.client(), NAMESPACE).await.expect("read");
    assert_eq!(made.ticket().public_key(), read.ticket().public_key());
    let hash = |keys: &SigningKeys| keys.rooms().hash("ministry/visio", "council");
    assert_eq!(hash(&made), hash(&read));
    assert_eq!(server.writes(), [format!("POST {SECRETS}/")]);
    let secret = server.get(SECRETS, SECRET).expect("kept");
    let names: Vec<&String> = secret["data"].as_object().expect("data").keys().collect();
    assert_eq!(names, ["proof", "rooms", "ticket"]);
}

#[tokio::test]
async fn of_two_replicas_that_make_them_at_once_one_does() {
    let server = ApiServer::default();
    let (one, two) = (server.client(), server.client());
    let (first, second) = tokio::join!(ensure(&one, NAMESPACE), ensure(&two, NAMESPACE));
    let (first, second) = (first.expect("keys"), second.expect("keys"));
    assert_eq!(first.ticket().public_key(), second.ticket().public_key());
    assert_eq!(server.writes().len(), 1, "a Secret that exists is not overwritten");
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_keys() {
    let server = ApiServer::default();
    server.cut(1, Cut::After);
    let lost = ensure(&server.client(), NAMESPACE).await.expect_err("the answer was cut");
    assert!(matches!(lost, SigningError::Api(_)), "{lost}");
    server.revive();
    ensure(&server.client(), NAMESPACE).await.expect("read");
    assert_eq!(server.writes().len(), 1);
}

#[tokio::test]
async fn what_somebody_else_put_there_is_named_and_left_alone() {
    let server = ApiServer::default();
    server.put(SECRETS, json!({"metadata": {"name": SECRET}, "data": {"ticket": "bm9uZQ=="}}));
    let error = ensure(&server.client(), NAMESPACE).await.expect_err("no key");
    assert!(error.to_string().contains("`ticket`"), "{error}");
    assert_eq!(server.writes().len(), 0);
}
