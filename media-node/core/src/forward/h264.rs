//! H264 payloads (RFC 6184): where a receiver can start to decode.
//!
//! Reads NAL unit types only. Invariant: any bytes are a keyframe start or not; never a panic.

const IDR: u8 = 5;
const SPS: u8 = 7;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
/// Units of one STAP-A that are looked at; an encoder puts SPS, PPS and IDR into one.
const STAP_UNITS_MAX: usize = 16;

fn starts(unit_type: u8) -> bool {
    unit_type == IDR || unit_type == SPS
}

/// The packet begins a keyframe: it holds a sequence parameter set, or the start of an IDR
/// picture, alone, in a STAP-A or in the first FU-A fragment.
#[must_use]
pub fn is_keyframe_start(payload: &[u8]) -> bool {
    let Some(header) = payload.first() else { return false };
    match header & 0x1f {
        STAP_A => aggregate_starts(payload),
        FU_A => payload.get(1).is_some_and(|fu| fu & 0x80 != 0 && starts(fu & 0x1f)),
        unit_type => starts(unit_type),
    }
}

fn aggregate_starts(payload: &[u8]) -> bool {
    let mut rest = payload.get(1..).unwrap_or_default();
    for _ in 0..STAP_UNITS_MAX {
        let [high, low, unit, ..] = *rest else { return false };
        if starts(unit & 0x1f) {
            return true;
        }
        let next = 2 + usize::from(u16::from_be_bytes([high, low]));
        rest = rest.get(next..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::is_keyframe_start;

    #[test]
    fn keyframes_are_found_in_every_packetisation() {
        assert!(is_keyframe_start(&[0x67, 1, 2]), "SPS alone");
        assert!(is_keyframe_start(&[0x65]), "IDR alone");
        assert!(is_keyframe_start(&[0x78, 0, 1, 0x68, 0, 2, 0x67, 9]), "second unit of a STAP-A");
        assert!(is_keyframe_start(&[0x7c, 0x85]), "first fragment of an IDR");
        assert!(!is_keyframe_start(&[0x7c, 0x05]), "later fragment");
        assert!(!is_keyframe_start(&[0x41, 7]), "delta picture");
        assert!(!is_keyframe_start(&[0x78, 0xff, 0xff, 1]), "truncated STAP-A");
        assert!(!is_keyframe_start(&[]));
    }
}
