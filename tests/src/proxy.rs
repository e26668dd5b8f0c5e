//! A link between two programs that a test can break or make slow: a TCP proxy
//! in the test's own process.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use crate::ports::free_address;

/// Ways of a connection, as its client sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From client to server.
    Out,
    /// From server to client.
    Back,
    /// Both.
    Both,
}

/// What becomes of connections that are made from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum New {
    #[default]
    Forward,
    /// Taken, and nothing comes through.
    Swallow,
    /// Closed at once.
    Refuse,
}

/// A limit of what all connections of a link carry together, one way or the other.
#[derive(Debug, Default)]
struct Pace {
    bytes_per_second: Option<u64>,
    /// When what was let through has gone.
    free_at: Option<Instant>,
}

impl Pace {
    /// How long these bytes take, behind those before them.
    fn takes(&mut self, bytes: usize) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let now = Instant::now();
        let from = self.free_at.map_or(now, |at| at.max(now));
        let nanos = bytes as u64 * 1_000_000_000 / rate.max(1);
        let gone = from + Duration::from_nanos(nanos);
        self.free_at = Some(gone);
        gone - now
    }
}

#[derive(Debug)]
struct Pair {
    pace: Arc<Mutex<Pace>>,
    client: TcpStream,
    server: TcpStream,
    silent_out: AtomicBool,
    silent_back: AtomicBool,
}

impl Pair {
    fn close(&self) {
        for stream in [&self.client, &self.server] {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn is_silent(&self) -> bool {
        self.silent_out.load(Ordering::SeqCst) || self.silent_back.load(Ordering::SeqCst)
    }

    fn silence(&self, way: Way) {
        if way != Way::Back {
            self.silent_out.store(true, Ordering::SeqCst);
        }
        if way != Way::Out {
            self.silent_back.store(true, Ordering::SeqCst);
        }
    }
}

#[derive(Debug, Default)]
struct State {
    new: New,
    pairs: Vec<Arc<Pair>>,
}

impl State {
    fn close(&mut self, which: impl Fn(&Pair) -> bool) {
        self.pairs.retain(|pair| {
            let closed = which(pair);
            if closed {
                pair.close();
            }
            !closed
        });
    }
}

#[derive(Debug)]
struct Shared {
    target: SocketAddrV4,
    /// Where its connections seem to come from.
    source: Ipv4Addr,
    over: AtomicBool,
    pace: Arc<Mutex<Pace>>,
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&socket, &SocketAddrV4::new(self.source, 0))?;
        connect(&socket, &self.target)?;
        Ok(TcpStream::from(socket))
    }

    /// In one with what is decided of new connections: none slips through.
    fn take(&self, client: TcpStream) -> Option<Arc<Pair>> {
        let mut state = self.state();
        if state.new == New::Refuse {
            return None;
        }
        // A server that is not there: the client's connection ends, too.
        let server = self.connect().ok()?;
        // The link adds no delay of its own.
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let swallowed = state.new == New::Swallow;
        let pair = Arc::new(Pair {
            pace: Arc::clone(&self.pace),
            client,
            server,
            silent_out: AtomicBool::new(swallowed),
            silent_back: AtomicBool::new(swallowed),
        });
        state.pairs.push(Arc::clone(&pair));
        Some(pair)
    }
}

/// The proxy. Dropping it closes everything.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Forwards to `target` (`host:port`) whatever connects to its address.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(target: &str) -> Proxy {
        Proxy::start_as(Ipv4Addr::LOCALHOST, target)
    }

    /// As [`Proxy::start`]; to the target its connections come from another
    /// loopback address, as those of another machine do.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start_as(source: Ipv4Addr, target: &str) -> Proxy {
        let address = free_address();
        let listener = TcpListener::bind(&address).expect("a free address");
        let (target, over) = (target.parse().expect("host:port"), AtomicBool::new(false));
        let (pace, state) = (Arc::default(), Mutex::default());
        let shared = Arc::new(Shared { target, source, over, pace, state });
        let accepting = Arc::clone(&shared);
        let listener = std::thread::spawn(move || accept(&listener, &accepting));
        Proxy { address, shared, listener: Some(listener) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Connections that are open now stay open, and nothing comes through
    /// that way any more, for ever: not even their end. Later ones work.
    pub fn silence(&self, way: Way) {
        self.shared.state().pairs.iter().for_each(|pair| pair.silence(way));
    }

    /// A black hole: as [`Proxy::silence`], and later connections are taken
    /// and then hear nothing either.
    pub fn swallow(&self) {
        let mut state = self.shared.state();
        state.new = New::Swallow;
        state.pairs.iter().for_each(|pair| pair.silence(Way::Both));
    }

    /// From now on all connections together carry so many bytes a second, one
    /// way or the other: a simulated thin line. `None`: as many as come.
    pub fn throttle(&self, bytes_per_second: Option<u64>) {
        let mut pace = self.shared.pace.lock().unwrap_or_else(PoisonError::into_inner);
        *pace = Pace { bytes_per_second, free_at: None };
    }

    /// As if nobody listened: everything is closed, and later connections at
    /// once.
    pub fn refuse(&self) {
        let mut state = self.shared.state();
        state.new = New::Refuse;
        state.close(|_| true);
    }

    /// Later connections work, and what was silent is closed.
    pub fn restore(&self) {
        let mut state = self.shared.state();
        state.new = New::Forward;
        state.close(Pair::is_silent);
    }

    /// Connections that were made and that the proxy has not closed.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.state().pairs.len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.refuse();
        // Wakes it.
        let _ = TcpStream::connect(&self.address);
        if let Some(listener) = self.listener.take() {
            // It never panics; and if, the test is over.
            let _ = listener.join();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming() {
        if shared.over.load(Ordering::SeqCst) {
            return;
        }
        let Ok(client) = client else { continue };
        let Some(pair) = shared.take(client) else { continue };
        let out = Arc::clone(&pair);
        std::thread::spawn(move || copy(&out, &out.client, &out.server, &out.silent_out));
        std::thread::spawn(move || copy(&pair, &pair.server, &pair.client, &pair.silent_back));
    }
}

/// Until one side ends: then the other is told, unless this way is silent.
fn copy(pair: &Pair, mut from: &TcpStream, mut to: &TcpStream, silent: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).unwrap_or(0);
        if silent.load(Ordering::SeqCst) {
            if read == 0 {
                return;
            }
            continue;
        }
        let takes = pair.pace.lock().unwrap_or_else(PoisonError::into_inner).takes(read);
        std::thread::sleep(takes);
        let sent = read != 0 && to.write_all(buffer.get(..read).unwrap_or_default()).is_ok();
        if !sent {
            // Bytes of the other way may still be on theirs: only this way ends.
            let _ = to.shutdown(Shutdown::Write);
            if read != 0 {
                pair.close();
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A server that says everything it hears.
    fn echo() -> String {
        let address = free_address();
        let listener = TcpListener::bind(&address).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let stream = stream.unwrap();
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    }

    fn connect(proxy: &Proxy) -> TcpStream {
        let stream = TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        stream
    }

    /// What comes back: `None` = nothing, and it is still open.
    fn say(stream: &mut TcpStream) -> Option<usize> {
        let _ = stream.write_all(b"x");
        stream.read(&mut [0; 8]).ok()
    }

    #[test]
    fn a_throttled_link_carries_so_much_and_no_more() {
        let proxy = Proxy::start(&echo());
        let mut stream = connect(&proxy);
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        proxy.throttle(Some(50_000));
        let begun = Instant::now();
        stream.write_all(&[1; 50_000]).unwrap();
        stream.read_exact(&mut [0; 50_000]).unwrap();
        assert!(begun.elapsed() > Duration::from_millis(1900), "{:?}", begun.elapsed());
        proxy.throttle(None);
        stream.write_all(&[1; 50_000]).unwrap();
        stream.read_exact(&mut [0; 50_000]).unwrap();
    }

    #[test]
    fn silence_is_for_what_is_open_and_a_black_hole_for_all() {
        let proxy = Proxy::start(&echo());
        let mut first = connect(&proxy);
        assert_eq!(say(&mut first), Some(1));
        for way in [Way::Out, Way::Back] {
            let mut stream = connect(&proxy);
            assert_eq!(say(&mut stream), Some(1));
            proxy.silence(way);
            assert_eq!(say(&mut stream), None, "{way:?}");
        }
        assert_eq!(say(&mut connect(&proxy)), Some(1), "a later one works");
        proxy.swallow();
        assert_eq!(say(&mut connect(&proxy)), None);
        proxy.restore();
        assert_eq!(say(&mut connect(&proxy)), Some(1));
        proxy.refuse();
        let closed = say(&mut connect(&proxy));
        assert!(closed.is_none() || closed == Some(0), "{closed:?}");
        assert_eq!(proxy.connections(), 0);
    }
}
