//! What is read of a media TCP connection before anything is known about its sender: frames
//! (RFC 4571) and the user name of a STUN binding request.
//!
//! Decides nothing about connections. Invariant: no bytes make it panic or take more memory than
//! the caller allows; what it hands out was in what it read.

use tokio::io::{AsyncRead, AsyncReadExt};

/// One frame: a length of two bytes, then that many (RFC 4571 §2).
pub(super) async fn read_frame(
    reader: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> std::io::Result<Vec<u8>> {
    let length = usize::from(reader.read_u16().await?);
    if length > bytes_max {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "frame too long"));
    }
    let mut frame = vec![0; length];
    reader.read_exact(&mut frame).await?;
    Ok(frame)
}

/// A frame with its length before it; nothing when it has no RFC 4571 form.
pub(super) fn framed(contents: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(contents.len()).ok()?;
    let mut bytes = Vec::with_capacity(contents.len() + 2);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(contents);
    Some(bytes)
}

/// Our ufrag in a STUN binding request: USERNAME is `ours:theirs` (RFC 8445 §7.2.2).
pub(super) fn local_ufrag(message: &[u8]) -> Option<&str> {
    const HEADER: usize = 20;
    const USERNAME: u16 = 0x0006;
    const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
    if message.get(..2)? != [0, 1] || message.get(4..8)? != COOKIE {
        return None;
    }
    let mut rest = message.get(HEADER..)?;
    loop {
        let kind = u16::from_be_bytes([*rest.first()?, *rest.get(1)?]);
        let length = usize::from(u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]));
        let value = rest.get(4..4 + length)?;
        if kind == USERNAME {
            let (ours, _) = std::str::from_utf8(value).ok()?.split_once(':')?;
            return Some(ours);
        }
        rest = rest.get(4 + length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(username: &str) -> Vec<u8> {
        let mut message = vec![0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
        message.extend_from_slice(&[7; 12]);
        message.extend_from_slice(&[0x80, 0x22, 0, 3, b'x', b'y', b'z', 0]);
        message.extend_from_slice(&[0, 6, 0, username.len() as u8]);
        message.extend_from_slice(username.as_bytes());
        message
    }

    #[test]
    fn the_ufrag_is_found_behind_other_attributes() {
        assert_eq!(local_ufrag(&binding("03abcd:theirs")), Some("03abcd"));
        assert_eq!(local_ufrag(&binding("no colon")), None);
    }

    #[test]
    fn every_cut_of_a_message_is_harmless() {
        let whole = binding("03abcd:theirs");
        for length in 0..whole.len() {
            assert_eq!(local_ufrag(&whole[..length]), None, "cut at {length}");
        }
        assert_eq!(local_ufrag(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), None);
    }

    #[test]
    fn no_noise_makes_the_parser_fail() {
        use rand::{Rng, SeedableRng};
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        for _ in 0..50_000 {
            let mut message = binding("03abcd:theirs");
            for _ in 0..random.random_range(1..8) {
                let at = random.random_range(0..message.len());
                message[at] = random.random();
            }
            message.truncate(random.random_range(0..=message.len()));
            let _ = local_ufrag(&message);
        }
    }

    #[tokio::test]
    async fn frames_survive_any_split_and_long_ones_are_refused() {
        let mut bytes = framed(b"first").unwrap();
        bytes.extend(framed(b"").unwrap());
        bytes.extend(framed(&[9; 3_000]).unwrap());
        let mut reader = bytes.as_slice();
        assert_eq!(read_frame(&mut reader, 1_500).await.unwrap(), b"first");
        assert_eq!(read_frame(&mut reader, 1_500).await.unwrap(), b"");
        assert!(read_frame(&mut reader, 1_500).await.is_err());
        assert!(read_frame(&mut b"\0\x05ab".as_slice(), 1_500).await.is_err(), "broken off");
        assert_eq!(framed(&vec![0; 70_000]), None);
    }
}
