//! How a connection proves its session: the HMAC of the session's key over a
//! fresh nonce and this very TLS connection (ops.proto, Resume).

use std::sync::Arc;

use aws_lc_rs::hmac;
use flexfs_common::frame::FrameReader;
use flexfs_common::ids::SessionId;
use flexfs_common::{Code, Error, Result, clock, limits, protocol, wire};
use flexfs_proto::v1;
use tokio::io::{AsyncRead, AsyncWrite};

use super::outgoing::Outgoing;
use crate::identity::random_key;
use crate::service::sessions::{Link, SessionEntry};
use crate::service::{Service, block};

/// A connection that has proven its session.
#[derive(Debug)]
pub struct Attached {
    /// The session.
    pub entry: Arc<SessionEntry>,
    /// This connection of it.
    pub link: Arc<Link>,
}

/// Challenge, Resume, Resumed.
///
/// # Errors
/// `PROTOCOL_INVALID`, `PROTOCOL_VERSION`, `SESSION_PROOF`, and the session's
/// own end.
pub async fn greet<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    service: &Arc<Service>,
    reader: &mut FrameReader<R>,
    outgoing: &mut Outgoing<W>,
    exporter: &[u8; protocol::EXPORTER_LEN],
) -> Result<Attached> {
    let nonce = random_key()?;
    let challenge = v1::Challenge { nonce: nonce.to_vec(), protocol_version: protocol::VERSION };
    let frame = v1::ServerFrame { challenge: Some(challenge), ..v1::ServerFrame::default() };
    outgoing.send(&frame).await?;
    let frame: v1::ClientFrame = reader
        .next()
        .await?
        .ok_or_else(|| Error::new(Code::ProtocolInvalid, "closed before Resume"))?;
    let resume = frame
        .resume
        .ok_or_else(|| Error::new(Code::ProtocolInvalid, "a connection begins with Resume"))?;
    if !(protocol::VERSION_MIN..=protocol::VERSION).contains(&resume.protocol_version) {
        return Err(Error::bare(Code::ProtocolVersion));
    }
    let id: [u8; 16] = resume
        .session_id
        .as_slice()
        .try_into()
        .map_err(|_| Error::new(Code::ProtocolInvalid, "a session id is 16 bytes"))?;
    let id = SessionId::from_bytes(id);
    let (entry, key) = block(|| service.find_session(id))?;
    if !proof_is_right(&key, id, &nonce, exporter, &resume.proof) {
        return Err(Error::bare(Code::SessionProof));
    }
    let (attached, resumed) = block(|| attach(entry))?;
    let frame = v1::ServerFrame { resumed: Some(resumed), ..v1::ServerFrame::default() };
    if let Err(error) = outgoing.send(&frame).await {
        attached.entry.disconnect(&attached.link);
        return Err(error);
    }
    Ok(attached)
}

fn attach(entry: Arc<SessionEntry>) -> Result<(Attached, v1::Resumed)> {
    let attachment = entry.volume.attach(entry.id)?;
    let link = entry.connect(attachment.generation)?;
    // A cut looks for the connection after it has ended the session: so
    // either it finds the link, or we find the session ended.
    let lock_losses = entry
        .volume
        .renew(entry.id, attachment.generation)
        .inspect_err(|_| entry.disconnect(&link))?;
    entry.mark_renewed();
    let resumed = v1::Resumed {
        generation: attachment.generation,
        lease_millis: lease_millis(),
        slot_sequences: attachment.slot_sequences,
        now: Some(wire::timestamp_to_wire(clock::wall_now())),
        lock_losses,
    };
    Ok((Attached { entry, link }, resumed))
}

/// The lease in milliseconds. It is given also while admin is away beyond the
/// grace: everything a client may keep is recalled then and nothing granted,
/// so it learns at every operation that its token has to be confirmed; without
/// a lease it would wait for us instead, as if we were gone.
#[must_use]
pub fn lease_millis() -> u32 {
    u32::try_from(limits::LEASE.as_millis()).unwrap_or(0)
}

/// HMAC-SHA-256(key, domain || session id || nonce || exporter), compared in
/// constant time.
fn proof_is_right(
    key: &[u8; 32],
    session: SessionId,
    nonce: &[u8; 32],
    exporter: &[u8; protocol::EXPORTER_LEN],
    proof: &[u8],
) -> bool {
    let input =
        [protocol::RESUME_DOMAIN, session.as_bytes().as_slice(), nonce.as_slice(), exporter]
            .concat();
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), &input, proof).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(key: &[u8; 32], session: SessionId, nonce: &[u8; 32], exporter: &[u8; 32]) -> Vec<u8> {
        let mut input = b"flexfs-resume-1".to_vec();
        input.extend_from_slice(session.as_bytes());
        input.extend_from_slice(nonce);
        input.extend_from_slice(exporter);
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &input).as_ref().to_vec()
    }

    #[test]
    fn a_proof_holds_for_one_key_session_nonce_and_connection() {
        let session = SessionId::from_bytes([1; 16]);
        let (key, nonce, exporter) = ([2; 32], [3; 32], [4; 32]);
        let good = proof(&key, session, &nonce, &exporter);
        assert!(proof_is_right(&key, session, &nonce, &exporter, &good));
        // Another key, a replay to a later nonce, another TLS connection,
        // another session.
        assert!(!proof_is_right(&[9; 32], session, &nonce, &exporter, &good));
        assert!(!proof_is_right(&key, session, &[9; 32], &exporter, &good));
        assert!(!proof_is_right(&key, session, &nonce, &[9; 32], &good));
        let other = SessionId::from_bytes([9; 16]);
        assert!(!proof_is_right(&key, other, &nonce, &exporter, &good));
        assert!(!proof_is_right(&key, session, &nonce, &exporter, &good[..31]));
        assert!(!proof_is_right(&key, session, &nonce, &exporter, &[]));
    }
}
