//! `rotation status` and `rotation finish`: who still needs an earlier secret
//! of a token, and their end.

use std::collections::BTreeSet;

use clap::Args;
use flexfs_auth::token::TokenKind;
use flexfs_common::{Code, Error, Kind, Result};
use flexfs_proto::v1;
use serde::Serialize;

use crate::client::present;
use crate::cut::{Cut, Wait, count};
use crate::output::{Column, View, clean, column, wide};
use crate::run::Session;
use crate::token::{self, TokenView};
use crate::values;
use crate::view::{cell, short, text, time};

/// Which token.
#[derive(Args, Debug)]
struct Which {
    /// The token's id or a unique prefix of it
    #[arg(value_name = "ID")]
    id: String,
    /// Only a token of this kind: account, volume or meta
    #[arg(long = "kind", value_name = "KIND", value_parser = values::kind)]
    kind: Option<TokenKind>,
}

/// `rotation status`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs rotation status 0b6f8a52 -o json")]
pub(crate) struct Status {
    #[command(flatten)]
    which: Which,
}

/// `rotation finish`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs rotation finish 0b6f8a52 --wait")]
pub(crate) struct Finish {
    #[command(flatten)]
    which: Which,
    /// Also while earlier secrets are in use: their sessions are cut
    #[arg(long = "force")]
    force: bool,
    #[command(flatten)]
    wait: Wait,
}

/// A token's rotation.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct RotationView {
    id: String,
    kind: String,
    #[serde(skip)]
    target: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotated_at: Option<String>,
    secrets: Vec<SecretView>,
}

/// One of its secrets.
#[derive(Serialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
struct SecretView {
    id: String,
    last4: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retired_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
    uses: u64,
    hosts: Vec<HostView>,
}

/// A host that uses it.
#[derive(Serialize, Debug, Clone)]
#[serde(rename_all = "camelCase")]
struct HostView {
    #[serde(skip_serializing_if = "Option::is_none")]
    host_name: Option<String>,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
    uses: u64,
    sessions: u32,
}

impl HostView {
    /// As it calls itself, else its address.
    fn name(&self) -> &str {
        self.host_name.as_deref().unwrap_or(&self.address)
    }
}

/// A line of the table: a secret, with one of its hosts if it has any.
#[derive(Serialize, Debug)]
struct Row<'a> {
    secret: &'a SecretView,
    host: Option<&'a HostView>,
}

impl From<v1::Secret> for SecretView {
    fn from(secret: v1::Secret) -> SecretView {
        let host = |host: v1::SecretUse| HostView {
            host_name: text(host.host_name),
            address: host.address,
            last_used_at: time(host.last_used_at.as_ref()),
            uses: host.uses,
            sessions: host.sessions,
        };
        SecretView {
            id: secret.id,
            last4: secret.last4,
            state: secret.state,
            created_at: time(secret.created_at.as_ref()),
            expires_at: time(secret.expires_at.as_ref()),
            retired_at: time(secret.retired_at.as_ref()),
            last_used_at: time(secret.last_used_at.as_ref()),
            uses: secret.uses,
            hosts: secret.hosts.into_iter().map(host).collect(),
        }
    }
}

impl RotationView {
    fn of(rotation: v1::Rotation) -> Result<RotationView> {
        let token = present(rotation.token)?;
        let rotated_at = time(token.rotated_at.as_ref());
        let (id, kind, state) = (token.id.clone(), token.kind.clone(), token.state.clone());
        let target = TokenView::from(token).target();
        let secrets = rotation.secrets.into_iter().map(SecretView::from).collect();
        Ok(RotationView { id, kind, target, state, rotated_at, secrets })
    }

    /// The earlier secrets that are still accepted.
    fn earlier(&self) -> impl Iterator<Item = &SecretView> {
        let earlier = self.secrets.split_last().map_or(&[][..], |(_newest, earlier)| earlier);
        earlier.iter().filter(|secret| secret.state != "ended")
    }

    /// Hosts that have used one of them.
    fn users(&self) -> Vec<String> {
        let hosts = self.earlier().flat_map(|secret| &secret.hosts);
        let names: BTreeSet<_> = hosts.map(|host| clean(host.name())).collect();
        names.into_iter().collect()
    }

    fn rows(&self) -> Vec<Row<'_>> {
        let mut rows = Vec::new();
        for secret in &self.secrets {
            if secret.hosts.is_empty() {
                rows.push(Row { secret, host: None });
            }
            rows.extend(secret.hosts.iter().map(|host| Row { secret, host: Some(host) }));
        }
        rows
    }

    /// What is to be done next.
    fn remark(&self) -> String {
        let (earlier, users) = (self.earlier().count(), self.users());
        if earlier == 0 {
            return "only the newest secret is accepted".to_owned();
        }
        let finish = format!("`configure.flexfs rotation finish {}`", self.id);
        match users.as_slice() {
            [] => format!("no host has used an earlier secret: {finish} ends them"),
            users => format!(
                "earlier secrets were used by {}: give them the new token, then {finish}",
                users.join(", ")
            ),
        }
    }
}

impl View for RotationView {
    const COLUMNS: &'static [Column] = &[
        column("ID"),
        column("KIND"),
        column("FOR"),
        column("STATE"),
        column("ROTATED"),
        column("EARLIER"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.id.clone(),
            self.kind.clone(),
            self.target.clone(),
            self.state.clone(),
            short(self.rotated_at.as_deref()),
            format!("{} still accepted", self.earlier().count()),
        ]
    }

    fn id(&self) -> &str {
        &self.id
    }
}

impl View for Row<'_> {
    const COLUMNS: &'static [Column] = &[
        column("LAST4"),
        column("STATE"),
        column("CREATED"),
        column("ENDS"),
        column("LASTUSED"),
        column("USES"),
        column("HOST"),
        column("ADDRESS"),
        column("HOSTLASTUSED"),
        column("HOSTUSES"),
        column("SESSIONS"),
        wide("SECRET"),
        wide("ENDED"),
    ];

    fn cells(&self) -> Vec<String> {
        let (secret, host) = (self.secret, self.host);
        let of_host = |value: fn(&HostView) -> String| host.map(value).unwrap_or_default();
        vec![
            secret.last4.clone(),
            secret.state.clone(),
            short(secret.created_at.as_deref()),
            short(secret.expires_at.as_deref()),
            short(secret.last_used_at.as_deref()),
            secret.uses.to_string(),
            of_host(|host| cell(host.host_name.as_ref())),
            of_host(|host| host.address.clone()),
            of_host(|host| short(host.last_used_at.as_deref())),
            of_host(|host| host.uses.to_string()),
            of_host(|host| host.sessions.to_string()),
            secret.id.clone(),
            short(secret.retired_at.as_deref()),
        ]
    }

    fn id(&self) -> &str {
        &self.secret.id
    }
}

/// The token that is meant, of whatever kind.
fn find(session: &Session, which: &Which) -> Result<(TokenKind, String)> {
    if let Some(kind) = which.kind {
        return Ok((kind, token::find_id(session, kind, &which.id)?));
    }
    let tries = [TokenKind::Volume, TokenKind::Account, TokenKind::Meta]
        .map(|kind| (kind, token::find_id(session, kind, &which.id)));
    one_of(&which.id, tries)
}

/// The only kind that has such a token. What one may not see is not there.
fn one_of(text: &str, tries: [(TokenKind, Result<String>); 3]) -> Result<(TokenKind, String)> {
    let mut found = Vec::new();
    for (kind, outcome) in tries {
        match outcome {
            Ok(id) => found.push((kind, id)),
            Err(error) => match error.kind() {
                // A prefix of several ids is told by its message.
                Kind::NotFound if error.message() == error.code().sentence() => {}
                Kind::Denied => {}
                Kind::NotFound if error.code() != Code::TokenNotFound => {}
                _ => return Err(error),
            },
        }
    }
    let first = found.pop().ok_or(Code::TokenNotFound)?;
    let Some((other, _)) = found.pop() else { return Ok(first) };
    let message = format!(
        "`{}` begins ids of {} and {} tokens: type more of it, or give --kind",
        text.escape_debug(),
        other.name(),
        first.0.name()
    );
    Err(Error::new(Code::TokenNotFound, message))
}

fn get(session: &Session, kind: TokenKind, id: &str) -> Result<RotationView> {
    let request = token::get_request(session, kind, id);
    RotationView::of(session.ask(|mut admin| async move { admin.get_rotation(request).await })?)
}

/// `rotation status`
pub(crate) fn status(session: &Session, arguments: &Status) -> Result<()> {
    let (kind, id) = find(session, &arguments.which)?;
    let view = get(session, kind, &id)?;
    session.output.with_table(&view, "secrets", &view.rows())?;
    session.output.remark(&view.remark());
    Ok(())
}

/// What the end of a rotation did.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Finished<'a> {
    #[serde(flatten)]
    cut: &'a Cut,
    secrets: &'a [SecretView],
}

/// `rotation finish`
pub(crate) fn finish(session: &Session, arguments: &Finish) -> Result<()> {
    let (kind, id) = find(session, &arguments.which)?;
    let wait = arguments.wait;
    let request = v1::FinishRotationRequest {
        kind: kind.name().to_owned(),
        id: id.clone(),
        account_id: session.globals.account(),
        force: arguments.force,
        wait_millis: wait.millis(),
    };
    let asked = session.change_waiting(wait.span(), request, async |mut admin, request| {
        admin.finish_rotation(request).await
    });
    let reply = match asked {
        Err(error) if error.code() == Code::RotationInUse => {
            return Err(with_hosts(error, get(session, kind, &id).ok()));
        }
        asked => asked?,
    };
    let view = RotationView::of(present(reply.rotation)?)?;
    let cut = Cut { id: id.clone(), ..reply.ended.map(Cut::from).unwrap_or_default() };
    let json = Finished { cut: &cut, secrets: &view.secrets };
    session.output.done(&sentence(&view, &cut, wait), &id, &json)?;
    if wait.is_wanted() { cut.laggards("the end of the earlier secrets") } else { Ok(()) }
}

fn sentence(view: &RotationView, cut: &Cut, wait: Wait) -> String {
    let live = view.secrets.iter().filter(|secret| secret.state != "ended").count();
    let done = format!("rotation of {} finished; {} accepted", view.id, count(live, "secret"));
    if wait.is_wanted() { format!("{done}; {}", cut.disconnected()) } else { done }
}

/// The refusal names the hosts; where it does not, they are looked up.
fn with_hosts(error: Error, view: Option<RotationView>) -> Error {
    let users = view.map(|view| view.users()).unwrap_or_default();
    if users.is_empty() || users.iter().any(|name| error.message().contains(name)) {
        return error;
    }
    Error::new(error.code(), format!("{} In use by {}", error.message(), users.join(", ")))
}

#[cfg(test)]
mod tests;
