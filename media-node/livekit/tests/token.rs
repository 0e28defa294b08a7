//! Tokens as SDKs mint them, and as attackers do.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use livekit_contract::grants::{Claims, VideoGrant};
use livekit_contract::keys_file;
use livekit_contract::proto::TrackSource;
use livekit_contract::token::{
    ApiKey, KEYS_MAX, KeyError, KeyRing, LEEWAY_S, Strength, TOKEN_BYTES_MAX, TokenError,
    from_request, mint, verify,
};
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: u64 = 1_790_000_000;
const SECRET: &str = "an-unguessable-secret-of-48-bytes-for-these-tests";

fn ring() -> KeyRing {
    let old = ApiKey::new("API-old", "another-unguessable-secret-that-is-rotated-out");
    KeyRing::new([ApiKey::new("API1", SECRET), old], Strength::Strict).expect("strong keys")
}

fn signed(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::new(algorithm), claims, &key).expect("signs")
}

fn hs256(claims: &Value) -> String {
    signed(Algorithm::HS256, SECRET, claims)
}

fn plain() -> Value {
    json!({"iss": "API1", "sub": "anna", "exp": NOW + 600,
           "video": {"room": "r", "roomJoin": true}})
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = plain();
    claims[key] = value;
    claims
}

#[test]
fn a_visio_guest_is_let_in() {
    let token = hs256(&json!({
        "iss": "API1", "sub": "2f3c", "nbf": NOW, "exp": NOW + 600, "name": "Invité",
        "attributes": {"color": "#123456", "room_role": null, "is_authenticated": "false"},
        "metadata": null,
        "video": {"room": "0b6a", "roomJoin": true, "roomAdmin": false, "canPublish": true,
                  "canUpdateOwnMetadata": false, "canSubscribe": true,
                  "canPublishSources": ["camera", "microphone"]},
    }));
    let claims = verify(&ring(), &token, NOW).expect("genuine");
    assert_eq!(claims.identity, "2f3c");
    assert_eq!(claims.room_to_join(), Some("0b6a"));
    assert_eq!(claims.attributes.len(), 2, "null is absent: {:?}", claims.attributes);
    let video = claims.video.as_ref().expect("video grant");
    assert!(video.can_publish_source(TrackSource::Camera));
    assert!(!video.can_publish_source(TrackSource::ScreenShare));
    assert!(!claims.may_administer("0b6a"));
    let shown = format!("{claims:?}");
    assert!(!shown.contains("Invité") && !shown.contains("2f3c") && !shown.contains("0b6a"));
}

#[test]
fn absent_permissions_mean_what_livekit_means() {
    let grant = VideoGrant::join("r");
    assert!(grant.can_publish() && grant.can_subscribe() && grant.can_publish_data());
    assert!(grant.can_publish_source(TrackSource::ScreenShareAudio));
    assert!(!grant.can_update_own_metadata() && !grant.can_subscribe_metrics());
    let mute = VideoGrant { can_publish: Some(false), ..grant };
    assert!(!mute.can_publish_data(), "data follows publishing when unset");
    let mut changed = VideoGrant::default();
    changed.apply_permission(&mute.permission());
    assert_eq!(changed.permission(), mute.permission());
}

#[test]
fn every_grant_survives_minting() {
    let config = livekit_contract::proto::RoomConfiguration {
        max_participants: 12,
        metadata: "{}".to_owned(),
        ..Default::default()
    };
    let claims = Claims {
        identity: "anna".to_owned(),
        expires_at_unix_s: NOW + 600,
        issued_at_unix_s: Some(NOW),
        not_before_unix_s: Some(NOW),
        kind: "agent".to_owned(),
        sha256: "abc=".to_owned(),
        room_preset: "large".to_owned(),
        room_config: Some(config),
        sip: Some(livekit_contract::grants::SipGrant { admin: true, call: false }),
        attributes: [("color".to_owned(), "red".to_owned())].into(),
        video: Some(VideoGrant {
            room_create: true,
            room_list: true,
            room_record: true,
            room_admin: true,
            can_publish: Some(false),
            can_publish_sources: vec!["camera".to_owned()],
            can_update_own_metadata: Some(true),
            ingress_admin: true,
            hidden: true,
            recorder: true,
            agent: true,
            can_subscribe_metrics: Some(true),
            can_manage_agent_session: Some(true),
            destination_room: "other".to_owned(),
            ..VideoGrant::join("r")
        }),
        ..Claims::default()
    };
    let ring = ring();
    let key = ring.first().expect("a key");
    let token = mint(key, &claims).expect("signs");
    let read = verify(&ring, &token, NOW).expect("genuine");
    assert_eq!(read, Claims { issuer: "API1".to_owned(), ..claims });
}

#[test]
fn every_key_of_the_ring_opens_and_no_other() {
    let old = "another-unguessable-secret-that-is-rotated-out";
    let token = signed(Algorithm::HS256, old, &with("iss", json!("API-old")));
    assert!(verify(&ring(), &token, NOW).is_ok());
    let crossed = signed(Algorithm::HS256, old, &plain());
    assert_eq!(verify(&ring(), &crossed, NOW), Err(TokenError::Signature));
    let unknown = hs256(&with("iss", json!("API2")));
    assert_eq!(verify(&ring(), &unknown, NOW), Err(TokenError::UnknownKey));
    let nameless = hs256(&with("iss", Value::Null));
    assert!(verify(&ring(), &nameless, NOW).is_err());
}

#[test]
fn only_hs256_is_believed() {
    for algorithm in [Algorithm::HS384, Algorithm::HS512] {
        let token = signed(algorithm, SECRET, &plain());
        assert_eq!(verify(&ring(), &token, NOW), Err(TokenError::Algorithm));
    }
    let body = URL_SAFE_NO_PAD.encode(plain().to_string());
    for alg in ["none", "None", "NONE", "RS256", "ES256", "EdDSA", "", "hs256"] {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg, "typ": "JWT"}).to_string());
        for signature in ["", "AAAA"] {
            let token = format!("{header}.{body}.{signature}");
            assert!(verify(&ring(), &token, NOW).is_err(), "alg {alg:?} was believed");
        }
    }
    let header =
        URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": "../../dev/null"}).to_string());
    assert!(verify(&ring(), &format!("{header}.{body}."), NOW).is_err());
}

#[test]
fn expiry_is_required_numeric_and_checked() {
    let mut none = plain();
    none.as_object_mut().expect("object").remove("exp");
    assert_eq!(verify(&ring(), &hs256(&none), NOW), Err(TokenError::NoExpiry));
    for wrong in
        [json!("99999999999"), json!(null), json!(true), json!([1]), json!(-1), json!(1e300)]
    {
        let refused = verify(&ring(), &hs256(&with("exp", wrong.clone())), NOW);
        assert_eq!(refused, Err(TokenError::Claims), "exp {wrong} was believed");
    }
    assert_eq!(verify(&ring(), &hs256(&with("exp", json!(0))), NOW), Err(TokenError::NoExpiry));
    let whole = hs256(&with("exp", json!(NOW)));
    assert!(verify(&ring(), &whole, NOW + LEEWAY_S - 1).is_ok());
    assert_eq!(verify(&ring(), &whole, NOW + LEEWAY_S), Err(TokenError::Expired));
    let fraction = hs256(&with("exp", json!(1_790_000_600.25)));
    assert!(verify(&ring(), &fraction, NOW).is_ok(), "NumericDate may be a fraction");
}

#[test]
fn not_before_is_numeric_and_checked() {
    let early = hs256(&with("nbf", json!(NOW + LEEWAY_S + 1)));
    assert_eq!(verify(&ring(), &early, NOW), Err(TokenError::NotYetValid));
    assert!(verify(&ring(), &early, NOW + 1).is_ok());
    for wrong in [json!("0"), json!("99999999999"), json!({})] {
        let refused = verify(&ring(), &hs256(&with("nbf", wrong.clone())), NOW);
        assert_eq!(refused, Err(TokenError::Claims), "nbf {wrong} was believed");
    }
}

#[test]
fn wrong_types_are_refused_wherever_they_are() {
    for (key, wrong) in [
        ("sub", json!(7)),
        ("name", json!(["a"])),
        ("metadata", json!({})),
        ("attributes", json!({"a": 1})),
        ("attributes", json!("a")),
        ("video", json!("all")),
        ("video", json!({"roomJoin": "true"})),
        ("video", json!({"roomAdmin": 1})),
        ("video", json!({"canPublish": "yes"})),
        ("video", json!({"canPublishSources": "camera"})),
        ("sip", json!({"admin": "true"})),
    ] {
        let refused = verify(&ring(), &hs256(&with(key, wrong.clone())), NOW);
        assert_eq!(refused, Err(TokenError::Claims), "{key} = {wrong} was believed");
    }
    let doubled = r#"{"iss":"API1","sub":"a","exp":1,"exp":1790000600}"#;
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(doubled));
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
    let token = format!("{message}.{}", signature.expect("signs"));
    assert_eq!(verify(&ring(), &token, NOW), Err(TokenError::Claims), "two exp claims");
}

#[test]
fn an_old_token_id_stands_in_for_the_identity() {
    let mut claims = with("jti", json!("anna"));
    claims.as_object_mut().expect("object").remove("sub");
    assert_eq!(verify(&ring(), &hs256(&claims), NOW).expect("genuine").identity, "anna");
}

#[test]
fn length_is_bounded_before_parsing() {
    let long = "a".repeat(TOKEN_BYTES_MAX + 1);
    assert_eq!(verify(&ring(), &long, NOW), Err(TokenError::TooLong));
    let genuine = hs256(&with("metadata", json!("x".repeat(TOKEN_BYTES_MAX))));
    assert_eq!(verify(&ring(), &genuine, NOW), Err(TokenError::TooLong));
}

#[test]
fn errors_read_as_livekit_writes_them() {
    assert_eq!(TokenError::UnknownKey.to_string(), "invalid API key");
    assert_eq!(TokenError::Malformed.to_string(), "invalid authorization token");
    assert!(TokenError::Expired.to_string().starts_with("invalid authorization token: "));
    assert_eq!(TokenError::PermissionDenied.to_string(), "permissions denied");
    assert_eq!(TokenError::Expired.http_status(), 401);
}

#[test]
fn the_header_wins_over_the_query() {
    assert_eq!(from_request(Some("Bearer a"), Some("b")), Ok("a"));
    assert_eq!(from_request(None, Some("b")), Ok("b"));
    assert_eq!(from_request(Some(""), Some("b")), Ok("b"));
    assert_eq!(from_request(Some("Basic a"), Some("b")), Err(TokenError::NotBearer));
    assert_eq!(from_request(None, None), Err(TokenError::PermissionDenied));
    assert_eq!(from_request(Some("Bearer "), None), Err(TokenError::PermissionDenied));
}

#[test]
fn weak_keys_are_refused_outside_dev() {
    let long_of_one = "a".repeat(40);
    for weak in ["secret", "devkey", "", "short-of-thirty-two-bytes-by-1!", long_of_one.as_str()] {
        let key = ApiKey::new("API1", weak);
        let refused = KeyRing::new([key], Strength::Strict);
        assert_eq!(refused, Err(KeyError::Weak("API1".to_owned())), "{weak:?} was accepted");
    }
    assert!(KeyRing::new([ApiKey::new("devkey", "secret")], Strength::Dev).is_ok());
    assert_eq!(KeyRing::new([], Strength::Dev), Err(KeyError::None));
    let same = || ApiKey::new("API1", SECRET);
    let doubled = KeyRing::new([same(), same()], Strength::Strict);
    assert_eq!(doubled, Err(KeyError::Duplicate("API1".to_owned())));
    let many = (0..=KEYS_MAX).map(|index| ApiKey::new(format!("API{index}"), SECRET));
    assert_eq!(KeyRing::new(many, Strength::Strict), Err(KeyError::TooMany(KEYS_MAX + 1)));
    assert!(!format!("{:?}", ring()).contains(SECRET));
}

#[test]
fn the_keys_file_is_a_map_and_its_errors_hide_secrets() {
    let text = format!("API1: {SECRET}\n\"API2\": \"{SECRET}\"\n");
    let ring = keys_file::parse(&text, Strength::Strict).expect("two keys");
    assert_eq!(ring.iter().map(ApiKey::id).collect::<Vec<_>>(), ["API1", "API2"]);
    for wrong in [
        format!("- {SECRET}\n"),
        format!("API1: [{SECRET}]\n"),
        format!("API1: {SECRET}\nAPI1: {SECRET}\n"),
        format!("API1: \"{SECRET}\n"),
        format!("API1: {SECRET}: {SECRET}\n"),
    ] {
        let error = keys_file::parse(&wrong, Strength::Strict).expect_err("refused");
        assert!(!format!("{error} {error:?}").contains(SECRET), "secret in {error}");
    }
    assert!(keys_file::parse("", Strength::Strict).is_err());
    assert!(keys_file::parse("devkey: secret\n", Strength::Strict).is_err());
    assert!(keys_file::parse("devkey: secret\n", Strength::Dev).is_ok());
    assert!(keys_file::parse(&"#".repeat(70_000), Strength::Strict).is_err());
}

proptest! {
    /// No text, however close to a token, is believed or makes the parser fail otherwise.
    #[test]
    fn noise_is_never_believed(noise in ".{0,200}", head in "[A-Za-z0-9_-]{0,40}",
                               body in "[A-Za-z0-9_-]{0,80}", tail in "[A-Za-z0-9_-]{0,50}") {
        prop_assert!(verify(&ring(), &noise, NOW).is_err());
        let token = format!("{head}.{body}.{tail}");
        prop_assert!(verify(&ring(), &token, NOW).is_err());
    }

    /// Changing any one character of a genuine token, or cutting it, spoils it. The last
    /// character is left alone: its low bits are padding.
    #[test]
    fn a_changed_token_is_refused(at in any::<prop::sample::Index>(), new in "[A-Za-z0-9_.-]") {
        let token = hs256(&plain());
        let at = at.index(token.len() - 1);
        let mut changed = token.clone();
        changed.replace_range(at..=at, &new);
        prop_assume!(changed != token);
        prop_assert!(verify(&ring(), &changed, NOW).is_err());
        prop_assert!(verify(&ring(), &token[..at], NOW).is_err());
    }

    /// Whatever JSON is signed with a key of ours, verification ends with an answer.
    #[test]
    fn signed_noise_ends_with_an_answer(key in "(exp|nbf|iat|sub|video|attributes|roomConfig)",
                                        value in "[-0-9\\[\\]{}\":a-z,.]{0,30}") {
        let value: Value = serde_json::from_str(&value).unwrap_or(Value::String(value));
        if let Ok(claims) = verify(&ring(), &hs256(&with(&key, value)), NOW) {
            prop_assert!(claims.expires_at_unix_s + LEEWAY_S > NOW);
        }
    }
}
