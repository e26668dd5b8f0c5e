//! Bounds on what one frame of a client makes the server hold, and replies
//! packed into frames.

use flexfs_common::{Code, Error, Result, limits, wire};
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use prost::Message;

/// Bytes of replies that are made before they are sent: a client that does
/// not read must not make the server hold more than a few of these.
const REPLIES_MAX_LEN: usize = 2 * 1024 * 1024;
/// Room in a frame for everything that is not a reply.
const FRAME_SPARE: usize = 4096;

/// Checks a frame against the limits.
///
/// # Errors
/// `PROTOCOL_INVALID`.
pub fn check(frame: &v1::ClientFrame, in_flight: usize) -> Result<()> {
    let bad = |why: &str| Err(Error::new(Code::ProtocolInvalid, why.to_owned()));
    let in_flight_max = usize::try_from(limits::OPS_IN_FLIGHT_MAX).unwrap_or(usize::MAX);
    if frame.ops.len() > limits::OPS_PER_FRAME_MAX {
        return bad("too many operations in a frame");
    }
    if frame.ops.len().saturating_add(in_flight) > in_flight_max {
        return bad("too many operations in flight");
    }
    if frame.cancel_request_ids.len() > in_flight_max || frame.recalls_done.len() > in_flight_max {
        return bad("a frame's list is too long");
    }
    if frame.resume.is_some() {
        return bad("a second Resume");
    }
    Ok(())
}

/// How long the reply of an operation may be, in bytes.
fn reply_bound(op: &v1::Op) -> usize {
    let bound = match &op.body {
        Some(Body::ReadDir(read)) => read.max_bytes.min(limits::DIR_PAGE_MAX_LEN),
        Some(Body::ReadExtents(_)) => 256 * 1024,
        Some(Body::MintObjects(mint)) => mint.count.min(limits::MINT_MAX) * 512,
        Some(Body::GetXattr(_) | Body::ListXattr(_)) => 64 * 1024,
        _ => 8 * 1024,
    };
    usize::try_from(bound).unwrap_or(REPLIES_MAX_LEN)
}

/// Splits the operations of a frame, in order, so that the replies of each
/// part stay small.
#[must_use]
pub fn parts(ops: Vec<v1::Op>) -> Vec<Vec<v1::Op>> {
    let mut parts = Vec::new();
    let (mut part, mut sum) = (Vec::new(), 0);
    for op in ops {
        let bound = reply_bound(&op);
        if !part.is_empty() && sum + bound > REPLIES_MAX_LEN {
            parts.push(std::mem::take(&mut part));
            sum = 0;
        }
        sum += bound;
        part.push(op);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

/// Packs replies into as few frames as fit.
#[must_use]
pub fn pack(replies: Vec<v1::Reply>) -> Vec<v1::ServerFrame> {
    let frame_max = usize::try_from(limits::OPS_FRAME_MAX_LEN).unwrap_or(0) - FRAME_SPARE;
    let mut frames = Vec::new();
    let (mut frame, mut sum) = (v1::ServerFrame::default(), 0);
    for reply in replies {
        // Tag and length before each.
        let mut len = reply.encoded_len() + 8;
        let reply = if len > frame_max {
            let error = Error::new(Code::Internal, "the reply does not fit into a frame");
            let reply = error_reply(reply.request_id, &error);
            len = reply.encoded_len() + 8;
            reply
        } else {
            reply
        };
        if sum + len > frame_max {
            frames.push(std::mem::take(&mut frame));
            sum = 0;
        }
        sum += len;
        frame.replies.push(reply);
    }
    if !frame.replies.is_empty() {
        frames.push(frame);
    }
    frames
}

/// An operation's error as its reply.
#[must_use]
pub fn error_reply(request_id: u64, error: &Error) -> v1::Reply {
    v1::Reply { request_id, result: Some(v1::reply::Result::Error(wire::error_to_detail(error))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(body: Body) -> v1::Op {
        v1::Op { body: Some(body), ..v1::Op::default() }
    }

    #[test]
    fn big_readers_are_spread_and_keep_their_order() {
        let page = || Body::ReadDir(v1::ReadDir { max_bytes: u32::MAX, ..v1::ReadDir::default() });
        let ops: Vec<_> = (0..256).map(|n| v1::Op { request_id: n, ..op(page()) }).collect();
        let parts = parts(ops);
        assert_eq!(parts.len(), 32);
        let order: Vec<_> = parts.iter().flatten().map(|op| op.request_id).collect();
        assert_eq!(order, (0..256).collect::<Vec<_>>());
        let small = (0..256).map(|_| op(Body::GetAttr(v1::GetAttr::default()))).collect();
        assert_eq!(super::parts(small).len(), 1);
    }

    #[test]
    fn replies_never_exceed_a_frame_and_none_is_lost() {
        let value =
            |len| v1::reply::Result::BytesValue(v1::BytesValue { value: vec![7; len].into() });
        let replies: Vec<_> = [10, 900_000, 200_000, 2_000_000, 5]
            .into_iter()
            .zip(1..)
            .map(|(len, request_id)| v1::Reply { request_id, result: Some(value(len)) })
            .collect();
        let frames = pack(replies);
        let max = usize::try_from(limits::OPS_FRAME_MAX_LEN).unwrap();
        assert!(frames.iter().all(|frame| frame.encoded_len() <= max));
        let ids: Vec<_> = frames.iter().flat_map(|f| &f.replies).map(|r| r.request_id).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5]);
        let too_big = frames.iter().flat_map(|f| &f.replies).find(|r| r.request_id == 4).unwrap();
        assert!(matches!(too_big.result, Some(v1::reply::Result::Error(_))));
    }

    #[test]
    fn limits_are_kept() {
        let frame = |ops| v1::ClientFrame {
            ops: vec![v1::Op::default(); ops],
            ..v1::ClientFrame::default()
        };
        check(&frame(limits::OPS_PER_FRAME_MAX), 0).unwrap();
        check(&frame(limits::OPS_PER_FRAME_MAX + 1), 0).unwrap_err();
        let in_flight = usize::try_from(limits::OPS_IN_FLIGHT_MAX).unwrap();
        check(&frame(1), in_flight - 1).unwrap();
        check(&frame(1), in_flight).unwrap_err();
    }
}
