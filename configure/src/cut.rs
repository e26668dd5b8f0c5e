//! What cuts sessions: revoke, disable, an emergency rotation, the end of a
//! rotation. The change stands when admin answers; `--wait` also waits until
//! every metadata server has cut the sessions.

use std::time::Duration;

use clap::Args;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use serde::Serialize;

use crate::values;

/// `--wait[=30s]`
#[derive(Args, Debug, Clone, Copy, Default)]
pub(crate) struct Wait {
    /// Wait until every metadata server has acknowledged it, at most so long (30s, up to 60s)
    #[arg(
        long = "wait",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "30s",
        value_name = "SPAN",
        value_parser = values::wait
    )]
    wait: Option<Duration>,
}

impl Wait {
    /// How long; zero = not at all.
    pub(crate) fn span(self) -> Duration {
        self.wait.unwrap_or_default()
    }

    /// As messages have it.
    pub(crate) fn millis(self) -> u32 {
        values::millis(self.span())
    }

    /// Was it asked for?
    pub(crate) fn is_wanted(self) -> bool {
        self.wait.is_some()
    }
}

/// What became of a cut.
#[derive(Serialize, Debug, Default)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cut {
    /// What was ended.
    pub(crate) id: String,
    /// The revision of the change.
    pub(crate) revision: u64,
    /// Mounts that were disconnected.
    pub(crate) sessions_cut: u32,
    /// The servers' parts in it.
    pub(crate) metas: Vec<Meta>,
}

/// One metadata server's part in it.
#[derive(Serialize, Debug)]
pub(crate) struct Meta {
    id: String,
    acknowledged: bool,
    millis: u32,
}

impl From<v1::RevokeMeta> for Meta {
    fn from(meta: v1::RevokeMeta) -> Meta {
        Meta { id: meta.id, acknowledged: meta.acknowledged, millis: meta.millis }
    }
}

impl From<v1::RevokeReply> for Cut {
    fn from(reply: v1::RevokeReply) -> Cut {
        Cut {
            id: reply.id,
            revision: reply.revision,
            sessions_cut: reply.sessions_cut,
            metas: reply.metas.into_iter().map(Meta::from).collect(),
        }
    }
}

impl Cut {
    /// For people: what was disconnected.
    pub(crate) fn disconnected(&self) -> String {
        let servers = self.metas.iter().filter(|meta| meta.acknowledged).count();
        format!(
            "{} on {} disconnected",
            count(usize::try_from(self.sessions_cut).unwrap_or(usize::MAX), "mount"),
            count(servers, "server")
        )
    }

    /// The servers that have not answered, as an error.
    ///
    /// # Errors
    /// `REVOKE_LAGGARDS`; `what` has been done all the same.
    pub(crate) fn laggards(&self, what: &str) -> Result<()> {
        let names: Vec<_> = self
            .metas
            .iter()
            .filter(|meta| !meta.acknowledged)
            .map(|meta| crate::output::clean(&meta.id))
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        let message = format!("{what} stands; not acknowledged by {}", names.join(", "));
        Err(Error::new(Code::RevokeLaggards, message))
    }

    /// Adds what became of a further part of the same change.
    pub(crate) fn add(&mut self, more: Cut) {
        self.revision = self.revision.max(more.revision);
        self.sessions_cut = self.sessions_cut.saturating_add(more.sessions_cut);
        for meta in more.metas {
            match self.metas.iter_mut().find(|known| known.id == meta.id) {
                Some(known) => {
                    known.acknowledged &= meta.acknowledged;
                    known.millis = known.millis.max(meta.millis);
                }
                None => self.metas.push(meta),
            }
        }
    }
}

/// `1 mount`, `2 mounts`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("{number} {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(acknowledged: &[bool]) -> Cut {
        let metas = acknowledged
            .iter()
            .enumerate()
            .map(|(i, acknowledged)| v1::RevokeMeta {
                id: format!("m{i}"),
                acknowledged: *acknowledged,
                millis: 5,
            })
            .collect();
        Cut::from(v1::RevokeReply { id: "t".into(), revision: 9, sessions_cut: 3, metas })
    }

    #[test]
    fn the_sentence_and_the_object_are_those_of_the_contract() {
        assert_eq!(cut(&[true, true]).disconnected(), "3 mounts on 2 servers disconnected");
        assert_eq!(
            serde_json::to_string(&cut(&[true])).unwrap(),
            r#"{"id":"t","revision":9,"sessionsCut":3,"metas":[{"id":"m0","acknowledged":true,"millis":5}]}"#
        );
        let one = Cut { sessions_cut: 1, ..cut(&[true]) };
        assert_eq!(one.disconnected(), "1 mount on 1 server disconnected");
    }

    #[test]
    fn laggards_are_named() {
        assert!(cut(&[true]).laggards("x").is_ok());
        assert!(cut(&[]).laggards("x").is_ok());
        let error = cut(&[true, false, false]).laggards("the revocation").unwrap_err();
        assert_eq!(error.code(), Code::RevokeLaggards);
        assert_eq!(error.message(), "the revocation stands; not acknowledged by m1, m2");
    }

    #[test]
    fn parts_add_up_and_a_laggard_of_any_part_is_one() {
        let mut sum = Cut::default();
        sum.add(cut(&[true, false]));
        sum.add(Cut { revision: 12, ..cut(&[true, true]) });
        assert_eq!((sum.revision, sum.sessions_cut, sum.metas.len()), (12, 6, 2));
        assert!(sum.laggards("x").unwrap_err().message().ends_with("by m1"));
    }
}
