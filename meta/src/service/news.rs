//! What admin is to be told of live sessions over the feed's back channel:
//! everything after a subscription, and then what changes.

use std::collections::HashMap;
use std::time::Duration;

use flexfs_common::ids::SessionId;
use flexfs_common::wire;
use flexfs_proto::v1;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Service;

/// Changes remembered one by one (some 40 bytes each); beyond that everything
/// is told anew.
const CHANGES_MAX: usize = 16_384;
/// Sessions in one report: admin takes so many.
const PER_REPORT: usize = 500;
/// Changes wait this long for others to go with them.
const GATHER: Duration = Duration::from_millis(200);

/// The latest that happened to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Opened, or it lives from another secret.
    Opened,
    /// It has ended.
    Closed,
}

#[derive(Debug, Default)]
struct Inner {
    changes: HashMap<SessionId, Change>,
    /// Too much has happened: what there is has to be told anew.
    all: bool,
    /// Since when there is something to tell.
    since: Option<Instant>,
}

/// Changes that are not told yet.
#[derive(Debug, Default)]
pub struct News {
    inner: Mutex<Inner>,
    wake: Notify,
}

impl News {
    /// Something happened to a session.
    pub fn note(&self, session: SessionId, change: Change) {
        {
            let mut inner = self.inner.lock();
            if !inner.all {
                inner.changes.insert(session, change);
                if inner.changes.len() > CHANGES_MAX {
                    inner.all = true;
                    inner.changes = HashMap::new();
                }
            }
            inner.since.get_or_insert_with(Instant::now);
        }
        self.wake.notify_waiters();
    }

    /// Ends when there is something to tell and others had time to join it.
    /// Cancel-safe: the time counts from the first change.
    pub async fn gathered(&self) {
        loop {
            let mut woken = std::pin::pin!(self.wake.notified());
            woken.as_mut().enable();
            let since = self.inner.lock().since;
            match since {
                Some(since) => return tokio::time::sleep_until(since + GATHER).await,
                None => woken.await,
            }
        }
    }

    /// What is to be told now: the changes, or `None` for everything.
    fn take(&self) -> Option<HashMap<SessionId, Change>> {
        let inner = std::mem::take(&mut *self.inner.lock());
        (!inner.all).then_some(inner.changes)
    }
}

impl Service {
    /// Reports of every live session, for a new subscription.
    #[must_use]
    pub fn report_all(&self) -> Vec<v1::SessionReport> {
        // Before the look: what changes from here on is told again.
        let _ = self.sessions.news.take();
        let live: Vec<_> =
            self.sessions.all().iter().filter_map(|entry| self.live_session(entry.id)).collect();
        let mut reports = split(live, Vec::new());
        // None is a report, too.
        if reports.is_empty() {
            reports.push(v1::SessionReport::default());
        }
        mark_all(&mut reports);
        reports
    }

    /// Reports of what has changed.
    #[must_use]
    pub fn report_changes(&self) -> Vec<v1::SessionReport> {
        let Some(changes) = self.sessions.news.take() else { return self.report_all() };
        let (mut opened, mut closed) = (Vec::new(), Vec::new());
        for (session, change) in changes {
            let live = match change {
                // One that has ended since is told so by its own change.
                Change::Opened => match self.live_session(session) {
                    Some(live) => Some(live),
                    None => continue,
                },
                Change::Closed => None,
            };
            match live {
                Some(live) => opened.push(live),
                None => closed.push(session.as_bytes().to_vec()),
            }
        }
        split(opened, closed)
    }

    fn live_session(&self, id: SessionId) -> Option<v1::LiveSession> {
        let volume = &self.sessions.get(id)?.volume;
        let info = volume.session_info(id).ok()?;
        Some(v1::LiveSession {
            session_id: id.as_bytes().to_vec(),
            token_id: info.token_id.to_string(),
            secret_id: info.secret_id.to_string(),
            volume_id: volume.settings().id.to_string(),
            mount_path: info.scope.to_string(),
            host_name: info.host_name,
            dir: info.dir,
            peer_address: info.peer,
            opened_at: Some(wire::timestamp_to_wire(info.opened_at)),
        })
    }
}

/// Into reports that admin takes.
fn split(mut opened: Vec<v1::LiveSession>, mut closed: Vec<Vec<u8>>) -> Vec<v1::SessionReport> {
    let mut reports = Vec::new();
    while !opened.is_empty() || !closed.is_empty() {
        let rest = (
            opened.split_off(opened.len().min(PER_REPORT)),
            closed.split_off(closed.len().min(PER_REPORT)),
        );
        reports.push(v1::SessionReport { opened, closed, ..v1::SessionReport::default() });
        (opened, closed) = rest;
    }
    reports
}

/// Makes them the parts of everything: the last one completes it.
fn mark_all(reports: &mut [v1::SessionReport]) {
    let last = reports.len().saturating_sub(1);
    for (index, report) in reports.iter_mut().enumerate() {
        report.all = index == 0;
        report.more = index < last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_split_and_nothing_is_lost() {
        let opened: Vec<_> = (0..1200_u32)
            .map(|n| v1::LiveSession { dir: n.to_string(), ..v1::LiveSession::default() })
            .collect();
        let closed: Vec<_> = (0..501_u32).map(|n| n.to_be_bytes().to_vec()).collect();
        let reports = split(opened.clone(), closed.clone());
        let sizes: Vec<_> = reports.iter().map(|r| (r.opened.len(), r.closed.len())).collect();
        assert_eq!(sizes, [(500, 500), (500, 1), (200, 0)]);
        let all = |pick: fn(&v1::SessionReport) -> Vec<String>| -> Vec<String> {
            reports.iter().flat_map(pick).collect()
        };
        let dirs = all(|r| r.opened.iter().map(|s| s.dir.clone()).collect());
        assert_eq!(dirs, opened.iter().map(|s| s.dir.clone()).collect::<Vec<_>>());
        assert_eq!(reports.iter().flat_map(|r| r.closed.clone()).collect::<Vec<_>>(), closed);
        assert!(split(Vec::new(), Vec::new()).is_empty());
    }

    #[test]
    fn everything_is_begun_by_its_first_part_and_completed_by_its_last() {
        let marks = |sessions: usize| -> Vec<(bool, bool)> {
            let mut reports = split(vec![v1::LiveSession::default(); sessions], Vec::new());
            mark_all(&mut reports);
            reports.iter().map(|report| (report.all, report.more)).collect()
        };
        assert_eq!(marks(PER_REPORT), [(true, false)]);
        assert_eq!(marks(2 * PER_REPORT + 1), [(true, true), (false, true), (false, false)]);
    }

    #[tokio::test]
    async fn changes_gather_and_the_latest_of_a_session_counts() {
        let news = News::default();
        let (one, two) = (SessionId::random(), SessionId::random());
        let begun = Instant::now();
        news.note(one, Change::Opened);
        news.note(two, Change::Opened);
        news.note(one, Change::Closed);
        // Given up and begun again: the time counts from the first change.
        let _ = tokio::time::timeout(GATHER / 2, news.gathered()).await;
        assert_eq!(news.inner.lock().since.map(|at| at >= begun), Some(true));
        news.gathered().await;
        assert!(begun.elapsed() >= GATHER);
        let told = news.take().unwrap();
        assert_eq!(told, HashMap::from([(one, Change::Closed), (two, Change::Opened)]));
        let nothing = tokio::time::timeout(GATHER / 2, news.gathered()).await;
        assert!(nothing.is_err());
    }

    #[tokio::test]
    async fn beyond_the_bound_everything_is_told_anew() {
        let news = News::default();
        for _ in 0..=CHANGES_MAX {
            news.note(SessionId::random(), Change::Opened);
        }
        assert!(news.take().is_none());
        news.note(SessionId::random(), Change::Closed);
        assert_eq!(news.take().unwrap().len(), 1);
    }
}
