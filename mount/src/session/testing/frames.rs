//! The operations connection of the server.

use std::sync::Arc;

use flexfs_common::frame::{self, FrameKind, FrameReader};
use flexfs_common::ids::SessionId;
use flexfs_common::tls::Stream;
use flexfs_common::{Code, Error, wire};
use flexfs_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::super::connect::{Key, proof};
use super::{LoopbackMeta, ops};

pub(super) async fn serve(server: Arc<LoopbackMeta>, mut stream: Stream, preface: bool) {
    if preface {
        let mut first = [0; 8];
        stream.read_exact(&mut first).await.unwrap();
    }
    let exporter = stream.exporter().unwrap();
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = FrameReader::new(reader, FrameKind::Client);
    let mut nonce = vec![0; 32];
    getrandom::fill(&mut nonce).unwrap();
    let challenge = v1::Challenge { nonce: nonce.clone(), protocol_version: 1 };
    send(&mut writer, &v1::ServerFrame { challenge: Some(challenge), ..Default::default() }).await;
    let Ok(Some(v1::ClientFrame { resume: Some(resume), .. })) = reader.next().await else {
        return;
    };
    let key = Key::new(server.key);
    let id = SessionId::from_bytes(resume.session_id.try_into().unwrap());
    let good = server.world.lock().slots.contains_key(&id)
        && resume.proof == proof(&key, id, &nonce, &exporter);
    let refusal = if good { server.world.lock().refuse_with } else { Some(Code::SessionProof) };
    if let Some(code) = refusal {
        let refused = Some(wire::error_to_detail(&Error::bare(code)));
        send(&mut writer, &v1::ServerFrame { refused, ..Default::default() }).await;
        return;
    }
    send(&mut writer, &resumed(&server, id)).await;
    let (out, mut outgoing) = mpsc::channel::<v1::ServerFrame>(64);
    let (mut told, mut broken) = (server.told.subscribe(), server.broken.subscribe());
    broken.mark_unchanged();
    let writing = async {
        loop {
            let frame = tokio::select! {
                Some(frame) = outgoing.recv() => frame,
                Ok(frame) = told.recv() => frame,
                else => return,
            };
            send(&mut writer, &frame).await;
        }
    };
    let reading = async {
        let mut paused = server.paused.subscribe();
        loop {
            if paused.wait_for(|paused| !paused).await.is_err() {
                return;
            }
            let Ok(Some(frame)) = reader.next::<v1::ClientFrame>().await else { return };
            if paused.wait_for(|paused| !paused).await.is_err() {
                return;
            }
            if !take(&server, id, frame, &out).await {
                return;
            }
        }
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
        _ = broken.changed() => {}
    }
}

fn resumed(server: &LoopbackMeta, id: SessionId) -> v1::ServerFrame {
    let mut world = server.world.lock();
    world.generation += 1;
    let slots = (0..server.sizes.slot_count)
        .map(|slot| world.slots[&id].get(&slot).map_or(0, |(sequence, _)| *sequence))
        .collect();
    let resumed = v1::Resumed {
        generation: world.generation,
        lease_millis: server.sizes.lease_millis,
        slot_sequences: slots,
        now: Some(now()),
        lock_losses: 0,
    };
    v1::ServerFrame { resumed: Some(resumed), ..Default::default() }
}

fn now() -> v1::Timestamp {
    wire::timestamp_to_wire(flexfs_common::clock::wall_now())
}

/// Carries out a frame; false: the connection breaks, nothing is answered.
async fn take(
    server: &Arc<LoopbackMeta>,
    id: SessionId,
    frame: v1::ClientFrame,
    out: &mpsc::Sender<v1::ServerFrame>,
) -> bool {
    if let Some(heartbeat) = frame.heartbeat {
        let ack = v1::HeartbeatAck {
            number: heartbeat.number,
            lease_millis: server.sizes.lease_millis,
            now: Some(now()),
            lock_losses: 0,
        };
        let frame = v1::ServerFrame { heartbeat_ack: Some(ack), ..Default::default() };
        if out.send(frame).await.is_err() {
            return false;
        }
    }
    if let Some(offer) = frame.reauthenticate {
        let refused = reauthenticate(server, &offer).err().map(|e| wire::error_to_detail(&e));
        if std::mem::take(&mut server.world.lock().lose_offer_answer) {
            return false;
        }
        let number = offer.number;
        let answer = v1::Reauthenticated { number, refused, token_millis: 0 };
        let frame = v1::ServerFrame { reauthenticated: Some(answer), ..Default::default() };
        if out.send(frame).await.is_err() {
            return false;
        }
    }
    {
        let mut world = server.world.lock();
        world.recalls_done.extend(frame.recalls_done);
        world.cut_acknowledged |= frame.cut_done;
        world.goodbyes += usize::from(frame.goodbye);
        world.cancelled.extend(frame.cancel_request_ids);
    }
    server.unlocked.notify_waiters();
    let mut replies = Vec::new();
    for op in frame.ops {
        match ops::carry_out(server, id, &op) {
            ops::Carried::Answered(reply) => replies.push(*reply),
            ops::Carried::Waits => {
                let (server, out) = (Arc::clone(server), out.clone());
                tokio::spawn(async move {
                    let reply = ops::wait_for_lock(&server, id, &op).await;
                    let frame = v1::ServerFrame { replies: vec![reply], ..Default::default() };
                    // The connection may be gone.
                    let _ = out.send(frame).await;
                });
            }
            ops::Carried::Broken => return false,
        }
    }
    if replies.is_empty() {
        return true;
    }
    out.send(v1::ServerFrame { replies, ..Default::default() }).await.is_ok()
}

fn reauthenticate(server: &LoopbackMeta, offer: &v1::Reauthenticate) -> Result<(), Error> {
    let text = offer.token.as_ref().unwrap().value.clone();
    let mut world = server.world.lock();
    world.offered.push(text.clone());
    if let Some(code) = world.offer_failures.pop() {
        return Err(code.into());
    }
    if world.secrets.contains(&text) { Ok(()) } else { Err(Code::TokenUnknown.into()) }
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), frame: &v1::ServerFrame) {
    let mut bytes = bytes::BytesMut::new();
    frame::encode(FrameKind::Server, frame, &mut bytes).unwrap();
    // A client that has gone does not hear it.
    let _ = writer.write_all(&bytes).await;
    let _ = writer.flush().await;
}
