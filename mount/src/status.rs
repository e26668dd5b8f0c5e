//! What a mount says of itself (docs/cli.md: `mount.flexfs status`).

use std::path::Path;

use flexfs_common::flags;
use serde::{Deserialize, Serialize};

use crate::fs::FileSystem;
use crate::session::SessionState;

/// One mount; field names are those of `-o json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountStatus {
    /// As given to `start`.
    pub volume: String,
    /// Where it is mounted.
    pub dir: String,
    /// The daemon.
    pub pid: u32,
    /// Public id of the token.
    #[serde(rename = "tokenID")]
    pub token_id: String,
    /// The token's scope in the volume.
    pub mount_path: String,
    /// In force: volume ∪ token ∪ client.
    pub flags: Vec<String>,
    /// The session at meta.
    #[serde(rename = "sessionID")]
    pub session_id: String,
    /// `live`, `reconnecting`, or `cut`.
    pub state: String,
    /// What is left of the lease.
    pub lease_millis: u64,
    /// Written and not yet at the servers.
    pub dirty_bytes: u64,
    /// Of the read cache.
    pub cache_bytes: u64,
}

impl MountStatus {
    /// Now.
    #[must_use]
    pub fn of(fs: &FileSystem, volume: &str, dir: &Path) -> MountStatus {
        let (session, usage) = (fs.session(), fs.data().usage());
        let (opened, in_force) = (session.opened(), session.flags());
        let mut names: Vec<String> =
            flags::names(&in_force).into_iter().map(str::to_owned).collect();
        if in_force.append_only {
            names.push("append".to_owned());
        }
        MountStatus {
            volume: volume.to_owned(),
            dir: dir.display().to_string(),
            pid: std::process::id(),
            token_id: opened.token_id.clone(),
            mount_path: opened.mount_path.clone(),
            flags: names,
            session_id: session.id().to_string(),
            state: state_word(&session.state()).to_owned(),
            lease_millis: u64::try_from(session.lease_left().as_millis()).unwrap_or(u64::MAX),
            dirty_bytes: usage.dirty_bytes,
            cache_bytes: usage.cache_bytes,
        }
    }
}

fn state_word(state: &SessionState) -> &'static str {
    match state {
        SessionState::Live => "live",
        SessionState::Reconnecting => "reconnecting",
        SessionState::Cut(_) => "cut",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_the_contract() {
        let status = MountStatus {
            volume: "v".into(),
            dir: "/m".into(),
            pid: 1,
            token_id: "t".into(),
            mount_path: "/".into(),
            flags: vec!["ro".into()],
            session_id: "s".into(),
            state: state_word(&SessionState::Live).into(),
            lease_millis: 10,
            dirty_bytes: 0,
            cache_bytes: 0,
        };
        assert_eq!(
            serde_json::to_string(&status).unwrap(),
            "{\"volume\":\"v\",\"dir\":\"/m\",\"pid\":1,\"tokenID\":\"t\",\"mountPath\":\"/\",\
             \"flags\":[\"ro\"],\"sessionID\":\"s\",\"state\":\"live\",\"leaseMillis\":10,\
             \"dirtyBytes\":0,\"cacheBytes\":0}"
        );
    }
}
