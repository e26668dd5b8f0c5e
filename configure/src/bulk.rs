//! `revoke` of many tokens: of a volume, an account, a list, or an age. admin
//! revokes a page at a time; the pages are asked for until there is no more.

use std::collections::BTreeSet;
use std::io::Read;
use std::time::{Duration, Instant};

use clap::Args;
use flexfs_auth::token::TokenKind;
use flexfs_common::ids::TokenId;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use serde::Serialize;

use crate::cut::{Cut, Meta, Wait, count};
use crate::output::{View, clean};
use crate::run::Session;
use crate::token::TokenView;
use crate::values;

/// Bytes of a file of ids: some 100,000 of them.
const IDS_FILE_MAX_LEN: u64 = 4 * 1024 * 1024;
/// Ids in one request: as many as admin revokes in one.
const IDS_PER_REQUEST: usize = 1000;
/// Ids that a sentence names.
const NAMED: usize = 5;

/// `revoke` without the kind of one token
#[derive(Args, Debug, Default)]
pub(crate) struct Arguments {
    /// Many: the tokens of this volume, by name or id (--accountID: of this account)
    #[arg(long = "volumeID", value_name = "NAME|ID")]
    volume: Option<String>,
    /// Many: those whose ids stand in this file, one a line (`-` = standard input; # comments)
    #[arg(long = "idsFile", value_name = "F|-")]
    ids_file: Option<String>,
    /// Many: only those made before this time (a span counts back from now)
    #[arg(long = "createdBefore", value_name = "T", value_parser = values::past)]
    created_before: Option<v1::Timestamp>,
    /// Many: only tokens of this kind: account, volume or meta (default: account and volume)
    #[arg(long = "kind", value_name = "KIND", value_parser = values::kind)]
    kind: Option<TokenKind>,
    /// Many: yes, all of them
    #[arg(long = "all")]
    all: bool,
    /// Many: say what would be revoked, and revoke nothing
    #[arg(long = "dryRun")]
    dry_run: bool,
    /// Many: why, for the audit log
    #[arg(long = "reason", value_name = "S")]
    reason: Option<String>,
    #[command(flatten)]
    wait: Wait,
}

/// What became of them.
#[derive(Serialize, Debug, Default)]
#[serde(rename_all = "camelCase")]
struct Outcome {
    items: Vec<TokenView>,
    kept: Vec<String>,
    revision: u64,
    sessions_cut: u32,
    metas: Vec<Meta>,
    /// Of a list: ids that are no tokens which could be revoked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

impl Arguments {
    /// Is anything here that only the revocation of many has?
    pub(crate) fn is_given(&self) -> bool {
        self.volume.is_some()
            || self.ids_file.is_some()
            || self.created_before.is_some()
            || self.kind.is_some()
            || self.all
            || self.dry_run
            || self.reason.is_some()
            || self.wait.is_wanted()
    }

    /// Nothing is revoked by an incomplete line.
    fn check(&self, has_account: bool) -> Result<()> {
        let bad = |why: &str| Err(Error::new(Code::ArgumentInvalid, why.to_owned()));
        if self.volume.is_none() && self.ids_file.is_none() && !has_account {
            return bad(
                "revoke what? One token: account-token, volume-token or meta-token ID; many: \
                 --volumeID V, --accountID A or --idsFile F, with --all",
            );
        }
        if !self.all && !self.dry_run {
            return bad("many tokens are revoked with --all only; --dryRun shows which");
        }
        Ok(())
    }
}

/// `revoke` without the kind of one token
pub(crate) fn revoke(session: &Session, arguments: &Arguments) -> Result<()> {
    arguments.check(session.globals.account_id.is_some())?;
    let ids = match &arguments.ids_file {
        Some(file) => parse_ids(&read(file)?)?,
        None => Vec::new(),
    };
    let mut outcome = Outcome::default();
    let mut cut = Cut::default();
    let asked = all_pages(session, arguments, &ids, (&mut outcome, &mut cut));
    let nothing_done = outcome.items.is_empty() && outcome.kept.is_empty();
    if asked.is_err() && nothing_done {
        return asked;
    }
    // What was revoked before something failed is told all the same; what is
    // not known to be missing is not called so.
    if asked.is_ok() {
        outcome.missing = missing(&ids, &outcome);
    }
    (outcome.revision, outcome.sessions_cut) = (cut.revision, cut.sessions_cut);
    let late = match arguments.wait.is_wanted() {
        true => cut.laggards("the revocation"),
        false => Ok(()),
    };
    let summary = summary(&outcome, &cut, arguments);
    outcome.metas = cut.metas;
    session.output.all(&outcome.items, &outcome)?;
    session.output.remark(&summary);
    asked.and(late)
}

/// Asks for page after page, of one list of ids after the other.
fn all_pages(
    session: &Session,
    arguments: &Arguments,
    ids: &[TokenId],
    (outcome, cut): (&mut Outcome, &mut Cut),
) -> Result<()> {
    let deadline = Instant::now().checked_add(arguments.wait.span());
    let mut part = 0;
    let lists: Vec<&[TokenId]> = match ids {
        [] if arguments.ids_file.is_none() => vec![&[]],
        ids => ids.chunks(IDS_PER_REQUEST).collect(),
    };
    for list in lists {
        let mut page = String::new();
        loop {
            let wait = remaining(arguments.wait, deadline);
            let request = v1::RevokeTokensRequest {
                account_id: session.globals.account(),
                kind: arguments.kind.map(TokenKind::name).unwrap_or_default().to_owned(),
                volume: arguments.volume.clone().unwrap_or_default(),
                ids: list.iter().map(ToString::to_string).collect(),
                created_before: arguments.created_before,
                dry_run: arguments.dry_run,
                reason: arguments.reason.clone().unwrap_or_default(),
                wait_millis: values::millis(wait),
                page,
            };
            let reply = session.change_part(part, wait, request, async |mut admin, request| {
                admin.revoke_tokens(request).await
            })?;
            part += 1;
            outcome.items.extend(reply.items.into_iter().map(TokenView::from));
            outcome.kept.extend(reply.kept);
            cut.add(Cut {
                id: String::new(),
                revision: reply.revision,
                sessions_cut: reply.sessions_cut,
                metas: reply.metas.into_iter().map(Meta::from).collect(),
            });
            if reply.next_page.is_empty() {
                break;
            }
            page = reply.next_page;
        }
    }
    Ok(())
}

/// One wait for all pages; a page that comes late still asks who has cut.
fn remaining(wait: Wait, deadline: Option<Instant>) -> Duration {
    if !wait.is_wanted() {
        return Duration::ZERO;
    }
    let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
    left.unwrap_or_default().max(Duration::from_millis(1))
}

fn read(file: &str) -> Result<String> {
    let failed = |e: std::io::Error| {
        let shown = file.escape_debug();
        Error::new(Code::ArgumentInvalid, format!("--idsFile: cannot read `{shown}`")).caused_by(e)
    };
    let mut text = String::new();
    let source: Box<dyn Read> = match file {
        "-" => Box::new(std::io::stdin().lock()),
        path => Box::new(std::fs::File::open(path).map_err(failed)?),
    };
    source.take(IDS_FILE_MAX_LEN + 1).read_to_string(&mut text).map_err(failed)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > IDS_FILE_MAX_LEN {
        let message = format!("--idsFile is longer than {IDS_FILE_MAX_LEN} bytes");
        return Err(Error::new(Code::ArgumentInvalid, message));
    }
    Ok(text)
}

/// One id a line, each once. The whole file is right, or nothing is done. A
/// line is not quoted: it may be a token.
fn parse_ids(text: &str) -> Result<Vec<TokenId>> {
    let mut ids = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let word = line.split('#').next().unwrap_or_default().trim();
        if word.is_empty() {
            continue;
        }
        let id = word.parse::<TokenId>().map_err(|_| {
            let message = format!("--idsFile line {}: not the whole id of a token", index + 1);
            Error::new(Code::ArgumentInvalid, message)
        })?;
        ids.insert(id);
    }
    if ids.is_empty() {
        return Err(Error::new(Code::ArgumentInvalid, "--idsFile has no ids"));
    }
    Ok(ids.into_iter().collect())
}

/// Ids of the list that admin said nothing about.
fn missing(ids: &[TokenId], outcome: &Outcome) -> Vec<String> {
    let told = |id: &String| {
        outcome.items.iter().any(|item| item.id() == id)
            || outcome.kept.iter().any(|kept| kept.starts_with(id.as_str()))
    };
    ids.iter().map(ToString::to_string).filter(|id| !told(id)).collect()
}

/// For people.
fn summary(outcome: &Outcome, cut: &Cut, arguments: &Arguments) -> String {
    let verb = if arguments.dry_run { "would be revoked" } else { "revoked" };
    let mut text = format!("{} {verb}", count(outcome.items.len(), "token"));
    for (ids, what) in [(&outcome.kept, "kept"), (&outcome.missing, "not found or ended before")] {
        if !ids.is_empty() {
            text.push_str(&format!(", {} {what} ({})", ids.len(), few(ids)));
        }
    }
    if arguments.wait.is_wanted() && !arguments.dry_run {
        text.push_str(&format!("; {}", cut.disconnected()));
    }
    text
}

/// The first few, and how many more.
pub(crate) fn few(ids: &[String]) -> String {
    let mut text = ids.iter().take(NAMED).map(|id| clean(id)).collect::<Vec<_>>().join(", ");
    if ids.len() > NAMED {
        text.push_str(&format!(", and {} more", ids.len() - NAMED));
    }
    text
}

#[cfg(test)]
mod tests;
