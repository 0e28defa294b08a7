//! Signs a request to Outscale's API: `OSC4-HMAC-SHA256`, which is Amazon's Signature Version 4
//! with other words.
//!
//! Pure. Signs what it is given: the caller sends exactly that. Source: Outscale's user guide, and
//! `curl --aws-sigv4 osc:osc:REGION:api`, which signs the same three headers.

use std::fmt::Write as _;

use aws_lc_rs::{
    digest,
    hmac::{self, HMAC_SHA256, Key, Tag},
};
use jiff::Timestamp;

use super::provider_api::Private;

/// The one media type that is sent.
pub(super) const CONTENT_TYPE: &str = "application/json";
/// Name of the header that carries the time.
pub(super) const DATE_HEADER: &str = "x-osc-date";

const ALGORITHM: &str = "OSC4-HMAC-SHA256";
const SIGNED_HEADERS: &str = "content-type;host;x-osc-date";
const SERVICE: &str = "api";
const TERMINATOR: &str = "osc4_request";

/// What is signed of a `POST` request.
pub(super) struct Signed<'a> {
    /// The `Host` header: with its port, if the request's address names one.
    pub(super) host: &'a str,
    /// The path, which has no query.
    pub(super) path: &'a str,
    /// When, as in the header [`DATE_HEADER`].
    pub(super) date: &'a str,
    /// The body.
    pub(super) body: &'a [u8],
}

/// The time as the header [`DATE_HEADER`] carries it, such as `20261128T090000Z`.
pub(super) fn date(now: Timestamp) -> String {
    now.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// The `Authorization` header.
pub(super) fn authorization(
    request: &Signed<'_>,
    access_key: &str,
    secret_key: &Private,
    region: &str,
) -> String {
    let Signed { host, path, date, body } = request;
    let day = date.split('T').next().unwrap_or_default();
    let body = hex(digest::digest(&digest::SHA256, body).as_ref());
    let canonical = format!(
        "POST\n{path}\n\ncontent-type:{CONTENT_TYPE}\nhost:{host}\n{DATE_HEADER}:{date}\n\n\
         {SIGNED_HEADERS}\n{body}"
    );
    let scope = format!("{day}/{region}/{SERVICE}/{TERMINATOR}");
    let canonical = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let text = format!("{ALGORITHM}\n{date}\n{scope}\n{canonical}");
    let first = mac(format!("OSC4{}", secret_key.expose()).as_bytes(), day);
    let key = [region, SERVICE, TERMINATOR].iter().fold(first, |key, word| mac(key.as_ref(), word));
    let signature = hex(mac(key.as_ref(), &text).as_ref());
    format!(
        "{ALGORITHM} Credential={access_key}/{scope}, SignedHeaders={SIGNED_HEADERS}, \
         Signature={signature}"
    )
}

fn mac(key: &[u8], text: &str) -> Tag {
    hmac::sign(&Key::new(HMAC_SHA256, key), text.as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What curl 7.88.1 sent for these words with `--aws-sigv4 osc:osc:eu-west-2:api`.
    const BY_CURL: &str = "OSC4-HMAC-SHA256 \
        Credential=AKEXAMPLE0000000000A/20261128/eu-west-2/api/osc4_request, \
        SignedHeaders=content-type;host;x-osc-date, \
        Signature=c775683b6f2af8cde4aeeeb30f3b3bb3fad1a68c51e22be93f498d8dcb1124c0";

    #[test]
    fn a_request_is_signed_as_curl_signs_it() {
        let date = date("2026-11-28T14:07:18Z".parse().unwrap());
        let request = Signed {
            host: "127.0.0.1:18731",
            path: "/api/v1/ReadVms",
            date: &date,
            body: br#"{"Filters":{"VmIds":["i-12345678"]},"ResultsPerPage":1}"#,
        };
        let secret_key = Private::new("sk-example-0123456789".into());
        let signed = authorization(&request, "AKEXAMPLE0000000000A", &secret_key, "eu-west-2");
        assert_eq!(signed, BY_CURL);
    }
}
