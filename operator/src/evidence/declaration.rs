//! Reads the signed declaration on a Kubernetes node, as far as the keys of a scope vouch for it.
//!
//! Whether it speaks of this machine and holds now is weighed by the core. Invariant: nothing of a
//! declaration is believed that no key of the scope signed.

use hemicycle_proof::{PublicKey, declaration::Declaration};
use operator_core::{
    evidence::DeclarationSeen,
    ids::{KubernetesNodeName, ScopeName, Timestamp},
};

/// Longest declaration that is looked at, in bytes: ten times one with the longest names.
const DECLARATION_BYTES_MAX: usize = 16 * 1024;

/// What `line` is worth to a scope that names these keys.
pub(super) fn read(line: &str, keys: &[String]) -> DeclarationSeen {
    match opened(line, keys) {
        Ok(declaration) => DeclarationSeen::Signed {
            kubernetes_node: KubernetesNodeName::new(declaration.kubernetes_node.as_str()),
            provider_id: declaration.provider_id.as_str().to_owned(),
            scope: ScopeName::new(declaration.scope.as_str()),
            issued: Timestamp(declaration.issued_at.unix_ms()),
            expires: Timestamp(declaration.expires_at.unix_ms()),
        },
        Err(reason) => DeclarationSeen::Refused { reason },
    }
}

fn opened(line: &str, keys: &[String]) -> Result<Declaration, String> {
    if line.len() > DECLARATION_BYTES_MAX {
        return Err(format!("it is longer than {DECLARATION_BYTES_MAX} bytes"));
    }
    let keys: Vec<PublicKey> = keys.iter().filter_map(|key| PublicKey::parse(key).ok()).collect();
    if keys.is_empty() {
        return Err("spec.declarationKeys of the scope holds no Ed25519 key".into());
    }
    let opened = Declaration::open(line, &keys).map_err(|error| error.to_string())?;
    Ok(opened.0)
}

#[cfg(test)]
mod tests {
    use hemicycle_proof::{Moment, SigningKey, Text};

    use super::*;

    #[test]
    fn a_declaration_counts_for_the_scope_whose_key_signed_it() {
        let (key, other) = (SigningKey::generate().unwrap(), SigningKey::generate().unwrap());
        let text = |text: &str| Text::new(text).unwrap();
        let line = Declaration {
            kubernetes_node: text("n1"),
            provider_id: text("aws:///eu-west-2a/i-0a1b2c3d"),
            scope: text("gold"),
            issued_at: Moment::from_unix_ms(1_000),
            expires_at: Moment::from_unix_ms(2_000),
        };
        let line = line.sign(&key).unwrap().to_line();
        let keys = |key: &SigningKey| vec!["not a key".into(), key.public_key().to_base64()];
        let signed = read(&line, &keys(&key));
        let DeclarationSeen::Signed { kubernetes_node, issued, expires, .. } = signed else {
            panic!("{signed:?}");
        };
        assert_eq!(kubernetes_node, "n1".into());
        assert_eq!((issued, expires), (Timestamp(1_000), Timestamp(2_000)));
        let long = " ".repeat(DECLARATION_BYTES_MAX) + &line;
        for (line, keys) in [
            (&*line, keys(&other)),
            (&*line, vec![]),
            (&*long, keys(&key)),
            ("{}", keys(&key)),
            (&line.replace("\"sig\":\"", "\"sig\":\"A"), keys(&key)),
        ] {
            assert!(matches!(read(line, &keys), DeclarationSeen::Refused { .. }), "{line}");
        }
    }
}
