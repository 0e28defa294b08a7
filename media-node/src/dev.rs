//! What only `--dev` offers: a generated key, tokens for the asking, the meeting page.
//!
//! Invariant: none of this answers outside `--dev`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, Request};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use livekit_contract::grants::{Claims, VideoGrant};
use rand::Rng;
use serde::{Deserialize, Serialize};
use tower::ServiceExt;
use tower_http::services::{ServeDir, ServeFile};

use crate::keys::unix_seconds;
use crate::node::Node;

/// The dev server's API key, as LiveKit's.
pub const KEY: &str = "devkey";
/// How long a dev token is valid, in seconds: a working day.
const TOKEN_SECONDS: u64 = 8 * 3600;

/// A fresh secret of 32 random bytes in hexadecimal.
pub fn secret() -> String {
    let mut bytes = [0_u8; 32];
    rand::rng().fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The page's directory, if the page has been built.
pub fn page_directory(configured: Option<PathBuf>) -> Option<PathBuf> {
    configured.filter(|directory| directory.join("index.html").is_file())
}

/// What the dev server says about itself at the start. A secret that somebody else chose is not
/// shown.
pub fn greeting(signal: SocketAddr, secret: Option<&str>, with_page: bool) -> String {
    let host = match signal.ip() {
        ip if ip.is_unspecified() => IpAddr::from([127, 0, 0, 1]),
        ip => ip,
    };
    let at = SocketAddr::new(host, signal.port());
    let link = if with_page {
        format!("http://{at}/?room=demo")
    } else {
        format!("http://{at}/dev/token?room=demo&identity=you (the meeting page is not built)")
    };
    let keys = match secret {
        Some(secret) => format!("key:    {KEY}\nsecret: {secret}\n"),
        None => "key:    those of keys_file\n".to_owned(),
    };
    format!("url:    ws://{at}\n{keys}join:   {link}\n")
}

#[derive(Deserialize)]
struct TokenQuery {
    room: String,
    #[serde(default)]
    identity: String,
    #[serde(default)]
    name: String,
}

#[derive(Serialize)]
struct TokenAnswer {
    url: String,
    token: String,
}

/// `/dev/token` and the page's files.
pub async fn answer(node: &Arc<Node>, request: Request) -> Response {
    if request.uri().path() == "/dev/token" {
        return token(node, &request);
    }
    let Some(directory) = &node.config.page_directory else {
        return (StatusCode::NOT_FOUND, "404 page not found\n").into_response();
    };
    let page = ServeFile::new(directory.join("index.html"));
    let files = ServeDir::new(directory).fallback(page);
    match files.oneshot(request).await {
        Ok(response) => response.into_response(),
        Err(never) => match never {},
    }
}

fn token(node: &Node, request: &Request) -> Response {
    let Ok(Query(query)) = Query::<TokenQuery>::try_from_uri(request.uri()) else {
        return (StatusCode::BAD_REQUEST, "give room, and identity or name").into_response();
    };
    let identity = match query.identity.as_str() {
        "" => format!("guest-{:08x}", rand::rng().random::<u32>()),
        given => given.to_owned(),
    };
    let video = VideoGrant {
        room_admin: true,
        room_list: true,
        room_create: true,
        can_update_own_metadata: Some(true),
        ..VideoGrant::join(&query.room)
    };
    let claims = Claims {
        name: if query.name.is_empty() { identity.clone() } else { query.name },
        identity,
        expires_at_unix_s: unix_seconds() + TOKEN_SECONDS,
        video: Some(video),
        ..Claims::default()
    };
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let own = node.config.signal_address.to_string();
    let url = format!("ws://{}", host.unwrap_or(&own));
    match node.keys.sign(&claims) {
        Some(token) => Json(TokenAnswer { url, token }).into_response(),
        None => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greeting_names_an_address_a_browser_can_open() {
        let text = greeting("0.0.0.0:7880".parse().unwrap(), Some("s3cret"), true);
        assert!(text.contains("ws://127.0.0.1:7880\n"), "{text}");
        assert!(text.contains("\nkey:    devkey\nsecret: s3cret\n"), "{text}");
        assert!(text.contains("join:   http://127.0.0.1:7880/?room=demo"), "{text}");
        assert_eq!(secret().len(), 64);
        assert_ne!(secret(), secret());
    }
}
