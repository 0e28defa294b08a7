//! The vectors of RFC 3711 and RFC 7714, and both ends of each suite against one another.

use super::*;

const GCM_TEXT: &str = "47616c6c696120657374206f6d6e69732064697669736120696e207061727465\
    732074726573";
const GCM_SALT: &str = "517569642070726f2071756f";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let (pairs, _) = digits.as_chunks::<2>();
    pairs
        .iter()
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn array<const N: usize>(hex: &str) -> [u8; N] {
    bytes(hex).try_into().unwrap()
}

fn gcm(key: &str) -> Cipher {
    let key = bytes(key);
    let algorithm = if key.len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
    let key = LessSafeKey::new(UnboundKey::new(algorithm, &key).unwrap());
    Cipher::Gcm { key, salt: array(GCM_SALT) }
}

fn srtp(key: &str, rtcp_index: u32) -> Srtp {
    let (rtp, rtcp, peer) = (gcm(key), gcm(key), gcm(key));
    Srtp { rtp, rtcp, rtcp_index, peer, replay: Replay::default() }
}

const KEY_128: &str = "000102030405060708090a0b0c0d0e0f";
const KEY_256: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// RFC 3711 appendix B.3.
#[test]
fn session_keys_are_derived_as_the_standard_has_it() {
    let (key, salt) =
        (bytes("e1f97a0d3e018be0d64fa32c06de4139"), bytes("0ec675ad498afeebb6960b3aabe6"));
    let master = Master { profile: SrtpProfile::AES128_CM_SHA1_80, key: &key, salt: &salt };
    assert_eq!(master.derive::<16>(RTP_KEY).unwrap(), array("c61e7a93744f39ee10734afe3ff7a087"));
    assert_eq!(master.derive::<14>(RTP_SALT).unwrap(), array("30cbbc08863d8c85d49db34a9ae1"));
    let mac = "cebe321f6ff7716b6fd4ab49af256a156d38baa4";
    assert_eq!(master.derive::<20>(RTP_MAC).unwrap(), array(mac));
}

/// RFC 3711 appendix B.2: SSRC, rollover counter and sequence number are zero.
#[test]
fn the_counter_begins_as_the_standard_has_it() {
    let salt = array("f0f1f2f3f4f5f6f7f8f9fafbfcfd");
    assert_eq!(counter(salt, 0, 0), array("f0f1f2f3f4f5f6f7f8f9fafbfcfd0000"));
    let key = UnboundCipherKey::new(&AES_128, &bytes("2b7e151628aed2a6abf7158809cf4f3c"));
    let key = EncryptingKey::ctr(key.unwrap()).unwrap();
    let mut stream = [0; 32];
    count(&key, counter(salt, 0, 0), &mut stream).unwrap();
    assert_eq!(stream, array("e03ead0935c95e80e166b16dd92b4eb4d23513162b02d0f72a43a2fe4a5f97ab"));
}

/// RFC 7714 §16.1.1 and §16.2.1.
#[test]
fn rtp_is_sealed_as_the_standard_has_it() {
    let header = "8040f17b8041f8d35501a0b2";
    let sealed = [
        (
            KEY_128,
            "f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833\
             899d7f27beb16a9152cf765ee4390cce",
        ),
        (
            KEY_256,
            "32b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b\
             7aa3db36dfffd6b0f9bb7878d7a76c13",
        ),
    ];
    for (key, text) in sealed {
        let mut packet = bytes(header);
        packet.extend(bytes(GCM_TEXT));
        srtp(key, 0).seal_rtp(&mut packet, 12, 0x5501_a0b2, 0xf17b).unwrap();
        assert_eq!(packet, [bytes(header), bytes(text)].concat());
    }
}

/// RFC 7714 §17.1 and §17.2, sealed and opened: their index is 0x5d4.
#[test]
fn rtcp_is_sealed_and_opened_as_the_standard_has_it() {
    let report = bytes(
        "81c8000d4d6172734e5450314e545032525450200000042a0000e9304c756e61deadbeefdeadbeef\
         deadbeefdeadbeefdeadbeef",
    );
    let sealed = [
        (
            KEY_128,
            "81c8000d4d61727363e94885dcdab67ca727d7662f6b7e997ff5c0f76c06f32dc676a5f1730d6fda\
             4ce09b4686303ded0bb9275bc84aa45896cf4d2fc5abf87245d9eade800005d4",
        ),
        (
            KEY_256,
            "81c8000d4d617273d50ae4d1f5ce5d304ba297e47d470c282c3ece5dbffe0a50a2eaa5c1110555be\
             8415f658c61de0476f1b6fad1d1eb30c4446839f57ff6f6cb26ac3be800005d4",
        ),
    ];
    for (key, due) in sealed {
        let mut end = srtp(key, 0x5d4);
        let mut packet = report.clone();
        end.seal_rtcp(&mut packet).unwrap();
        assert_eq!(packet, bytes(due));
        assert_eq!(end.open_rtcp(&packet).unwrap(), report);
    }
}

fn of_suites() -> Vec<(Srtp, Srtp)> {
    let suites = [
        SrtpProfile::AES128_CM_SHA1_80,
        SrtpProfile::AEAD_AES_128_GCM,
        SrtpProfile::AEAD_AES_256_GCM,
    ];
    let material: Vec<u8> = (0..88).collect();
    let pair = |profile| {
        let end = |client| Srtp::new(&Keys::new(profile, &material, client)).unwrap();
        (end(false), end(true))
    };
    suites.map(pair).into()
}

#[test]
fn rtcp_is_opened_once_and_only_unharmed() {
    let report = bytes("81c9000700000001000000020000000300000004000000050000000600000007");
    for (mut ours, mut peer) in of_suites() {
        let mut sealed = Vec::new();
        for _ in 0..3 {
            let mut packet = report.clone();
            peer.seal_rtcp(&mut packet).unwrap();
            sealed.push(packet);
        }
        assert_ne!(sealed[0], sealed[1]);
        for at in [1, 0, 2] {
            assert_eq!(ours.open_rtcp(&sealed[at]).unwrap(), report);
            assert_eq!(ours.open_rtcp(&sealed[at]), Err(SrtpError::Replayed));
        }
        let mut last = report.clone();
        peer.seal_rtcp(&mut last).unwrap();
        for at in 0..last.len() {
            let mut harmed = last.clone();
            harmed[at] ^= 0x80;
            assert!(ours.open_rtcp(&harmed).is_err(), "byte {at}");
        }
        for length in 0..last.len() {
            assert!(ours.open_rtcp(&last[..length]).is_err(), "{length} bytes");
        }
        assert_eq!(ours.open_rtcp(&last).unwrap(), report, "what was forged marks nothing");
        let mut own = report.clone();
        ours.seal_rtcp(&mut own).unwrap();
        assert!(ours.open_rtcp(&own).is_err(), "our own keys are not the peer's");
    }
}

#[test]
fn indexes_end_instead_of_beginning_anew() {
    let mut srtp = srtp(KEY_128, ENCRYPTED - 1);
    let mut packet = bytes("80c8000100000001");
    srtp.seal_rtcp(&mut packet).unwrap();
    assert_eq!(srtp.seal_rtcp(&mut packet), Err(SrtpError::IndexesUsedUp));
}

#[test]
fn keys_that_are_too_short_are_refused() {
    for profile in [SrtpProfile::AES128_CM_SHA1_80, SrtpProfile::AEAD_AES_256_GCM] {
        let short = Keys::new(profile, &[7; 55], false);
        assert_eq!(Srtp::new(&short).err(), Some(SrtpError::KeysTooShort));
    }
}
