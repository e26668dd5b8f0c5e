//! Who used which secret, and when: gathered in memory, written now and then,
//! never a write per request.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use flexfs_common::Result;
use flexfs_common::ids::{SecretId, TokenId};
use jiff::Timestamp;
use parking_lot::Mutex;

use super::{Showing, Verified};
use crate::store::Store;
use crate::store::secrets::{self, Uses};

/// Entries gathered between two writes; what comes beyond is not noted.
const GATHERED_MAX: usize = 65_536;
/// Entries of one transaction: the writer is not held for long.
const ROWS_PER_WRITE: usize = 1000;
/// Bytes of a host's name that are kept (RFC 1035 section 2.3.4).
const HOST_MAX_LEN: usize = 255;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    token: TokenId,
    secret: SecretId,
    host: Arc<str>,
    from: Option<IpAddr>,
}

#[derive(Debug, Default)]
struct Gathered {
    uses: HashMap<Key, (Timestamp, u64)>,
    // The last use of tokens that end when unused, until it is written.
    idle: HashMap<TokenId, Timestamp>,
    // Somebody wants to know soon: a rotation is under way.
    urgent: bool,
}

#[derive(Debug, Default)]
pub(super) struct UsedLately {
    gathered: Mutex<Gathered>,
    /// One at a time: what a second one finds gone is not yet written.
    flushing: tokio::sync::Mutex<()>,
}

impl UsedLately {
    pub(super) fn note(&self, verified: &Verified, showing: &Showing<'_>, at: Timestamp) {
        let Some(secret) = verified.secret_id else { return };
        let token = &verified.standing.token;
        let key =
            Key { token: token.id, secret, host: host_name(showing.host), from: showing.from };
        // Old secrets are those that a rotation waits for.
        let old = verified.standing.secrets.last().is_some_and(|newest| newest.id != secret);
        let mut gathered = self.gathered.lock();
        // First: what a life hangs on is never left out.
        if token.idle_seconds > 0 {
            gathered.idle.insert(token.id, at);
        }
        if gathered.uses.len() >= GATHERED_MAX && !gathered.uses.contains_key(&key) {
            gathered.urgent = true;
            return;
        }
        let (last, count) = gathered.uses.entry(key).or_insert((at, 0));
        *last = at.max(*last);
        *count += 1;
        gathered.urgent |= old;
    }

    /// The last use of a token that ends when unused, as far as it is not
    /// yet written.
    pub(super) fn last(&self, token: TokenId) -> Option<Timestamp> {
        self.gathered.lock().idle.get(&token).copied()
    }

    /// Is there something that should not wait?
    pub(super) fn is_urgent(&self) -> bool {
        self.gathered.lock().urgent
    }

    /// Writes what was gathered; what could not be written is tried again.
    pub(super) async fn flush(&self, store: &Store) -> Result<()> {
        let _turn = self.flushing.lock().await;
        let (mut uses, idle) = {
            let mut gathered = self.gathered.lock();
            gathered.urgent = false;
            let idle = gathered.idle.clone();
            (std::mem::take(&mut gathered.uses).into_iter().collect::<Vec<_>>(), idle)
        };
        let idle = written_with(&uses, idle);
        while !uses.is_empty() {
            let part = uses.len().saturating_sub(ROWS_PER_WRITE);
            if let Err(error) = write(store, uses.get(part..).unwrap_or_default()).await {
                self.put_back(uses);
                return Err(error);
            }
            uses.truncate(part);
        }
        let mut gathered = self.gathered.lock();
        gathered.idle.retain(|token, at| idle.get(token).is_none_or(|written| *at > *written));
        Ok(())
    }

    fn put_back(&self, uses: Vec<(Key, (Timestamp, u64))>) {
        let mut gathered = self.gathered.lock();
        for (key, (at, count)) in uses {
            if gathered.uses.len() >= GATHERED_MAX {
                return;
            }
            let (last, sum) = gathered.uses.entry(key).or_insert((at, 0));
            *last = at.max(*last);
            *sum += count;
        }
    }
}

/// The uses of idle tokens that are among those to be written; others, which
/// came beyond the bound, stay in memory.
fn written_with(
    uses: &[(Key, (Timestamp, u64))],
    idle: HashMap<TokenId, Timestamp>,
) -> HashMap<TokenId, Timestamp> {
    let tokens: HashSet<_> = uses.iter().map(|(key, _)| key.token).collect();
    idle.into_iter().filter(|(token, _)| tokens.contains(token)).collect()
}

async fn write(store: &Store, uses: &[(Key, (Timestamp, u64))]) -> Result<()> {
    let mut tx = store.begin().await?;
    for (key, (at, count)) in uses {
        let uses = Uses {
            token: key.token,
            secret: key.secret,
            host: &key.host,
            from: key.from,
            at: *at,
            count: *count,
        };
        secrets::note_uses(tx.sql(), &uses).await?;
    }
    tx.commit_quietly().await
}

/// What a host says of itself, harmless in listings.
pub(crate) fn host_name(text: &str) -> Arc<str> {
    let clean = |c: &char| !c.is_control();
    if text.len() <= HOST_MAX_LEN && text.chars().all(|c| clean(&c)) {
        return text.into();
    }
    let mut out = String::new();
    for c in text.chars().filter(clean) {
        if out.len() + c.len_utf8() > HOST_MAX_LEN {
            break;
        }
        out.push(c);
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts_are_bounded_and_harmless() {
        assert_eq!(&*host_name("build-7"), "build-7");
        assert_eq!(&*host_name("a\u{1b}[2Jb\n"), "a[2Jb");
        assert_eq!(host_name(&"é".repeat(1000)).len(), 254);
    }
}
