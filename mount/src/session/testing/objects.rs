//! The simulated object endpoint: GET with a range, create-only PUT, URLs
//! that can be made to expire. HTTP/1.1, one request after another.

use std::sync::Arc;

use bytes::Bytes;
use flexfs_common::ids::ObjectId;
use flexfs_common::tls::Stream;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::LoopbackMeta;

struct Request {
    method: String,
    object: ObjectId,
    number: u64,
    range: Option<String>,
    body: Bytes,
}

pub(super) async fn serve(server: Arc<LoopbackMeta>, stream: Stream) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let (status, body) = answer(&server, &request);
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", body.len());
        if stream.write_all(&[head.as_bytes(), &body].concat()).await.is_err() {
            return;
        }
        if stream.flush().await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<Stream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|count| *count > 0)?;
    let mut words = line.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?);
    let (path, query) = path.split_once('?')?;
    let hex = path.strip_prefix("/objects/")?;
    let mut id = [0; 16];
    for (place, at) in id.iter_mut().zip((0..32).step_by(2)) {
        *place = u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()?;
    }
    let number = query.strip_prefix("n=")?.parse().ok()?;
    let (mut range, mut length) = (None, 0);
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        let header = header.trim_end();
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => range = Some(value.to_owned()),
            "content-length" => length = value.parse().ok()?,
            _ => {}
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { method, object: ObjectId(id), number, range, body: body.into() })
}

fn answer(server: &LoopbackMeta, request: &Request) -> (u16, Bytes) {
    let mut world = server.world.lock();
    if let Some(status) = world.http_failures.pop() {
        return (status, Bytes::new());
    }
    if request.number < world.urls_from {
        return (403, Bytes::new());
    }
    if request.method == "PUT" {
        world.puts += 1;
        if !world.minted.contains(&request.object) || world.objects.contains_key(&request.object) {
            return (409, Bytes::new());
        }
        world.objects.insert(request.object, request.body.clone());
        return (201, Bytes::new());
    }
    world.gets.push(request.range.clone());
    let Some(object) = world.objects.get(&request.object).cloned() else {
        return (404, Bytes::new());
    };
    match &request.range {
        None => (200, object),
        Some(range) => {
            let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
            let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
            (206, object.slice(from..object.len().min(to + 1)))
        }
    }
}
