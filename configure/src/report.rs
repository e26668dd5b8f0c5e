//! `report tokens`: one line per token, for people, programs or a
//! spreadsheet.

use clap::Args;
use flexfs_common::{Code, Error, Result, clock, wire};
use flexfs_proto::v1;
use serde::Serialize;

use crate::inventory::Inventory;
use crate::output::{Column, Output, View, clean, column, wide};
use crate::run::Session;
use crate::token::TokenView;
use crate::view::{cell, short, text, time};

/// `report tokens`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs report tokens --csv > tokens.csv\n  \
                  configure.flexfs report tokens --accountID research -o wide")]
pub(crate) struct Arguments {
    /// As CSV (RFC 4180), for spreadsheets
    #[arg(long = "csv")]
    csv: bool,
}

/// A token, as a report has it.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Row {
    kind: String,
    id: String,
    #[serde(rename = "accountID", skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    /// Volume and path, role, or meta store.
    scope: String,
    state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_days: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rotated_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_host: Option<String>,
    uses: u64,
    overdue: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<String>,
}

impl Row {
    fn of(token: v1::Token, now: jiff::Timestamp) -> Row {
        let created = token.created_at.and_then(|at| wire::timestamp_from_wire(&at).ok());
        let host = match token.last_used_host.as_str() {
            "" => token.last_used_from.clone(),
            name => name.to_owned(),
        };
        Row {
            kind: token.kind.clone(),
            id: token.id.clone(),
            account_id: text(token.account_id.clone()),
            state: token.state.clone(),
            created_at: time(token.created_at.as_ref()),
            age_days: created.map(|at| now.duration_since(at).as_hours() / 24),
            rotated_at: time(token.rotated_at.as_ref()),
            expires_at: time(token.expires_at.as_ref()),
            last_used_at: time(token.last_used_at.as_ref()),
            last_used_host: text(host),
            uses: token.uses,
            overdue: token.overdue,
            notes: text(token.notes.clone()),
            scope: TokenView::from(token).target(),
        }
    }

    fn age(&self) -> String {
        self.age_days.map(|days| days.to_string()).unwrap_or_default()
    }

    /// In the order of [`HEADINGS`].
    fn fields(&self) -> [String; 14] {
        [
            self.kind.clone(),
            self.id.clone(),
            cell(self.account_id.as_ref()),
            self.scope.clone(),
            self.state.clone(),
            cell(self.created_at.as_ref()),
            self.age(),
            cell(self.rotated_at.as_ref()),
            cell(self.expires_at.as_ref()),
            cell(self.last_used_at.as_ref()),
            cell(self.last_used_host.as_ref()),
            self.uses.to_string(),
            self.overdue.to_string(),
            cell(self.notes.as_ref()),
        ]
    }
}

/// The first line of the CSV: the keys of the JSON.
const HEADINGS: [&str; 14] = [
    "kind",
    "id",
    "accountID",
    "scope",
    "state",
    "createdAt",
    "ageDays",
    "rotatedAt",
    "expiresAt",
    "lastUsedAt",
    "lastUsedHost",
    "uses",
    "overdue",
    "notes",
];

impl View for Row {
    const COLUMNS: &'static [Column] = &[
        column("KIND"),
        column("ID"),
        column("SCOPE"),
        column("STATE"),
        column("AGEDAYS"),
        column("ROTATED"),
        column("EXPIRES"),
        column("LASTUSED"),
        column("HOST"),
        column("USES"),
        column("OVERDUE"),
        wide("CREATED"),
        wide("ACCOUNT"),
        wide("NOTES"),
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.kind.clone(),
            self.id.clone(),
            self.scope.clone(),
            self.state.clone(),
            self.age(),
            short(self.rotated_at.as_deref()),
            short(self.expires_at.as_deref()),
            short(self.last_used_at.as_deref()),
            cell(self.last_used_host.as_ref()),
            self.uses.to_string(),
            if self.overdue { "yes".to_owned() } else { "no".to_owned() },
            short(self.created_at.as_deref()),
            cell(self.account_id.as_ref()),
            cell(self.notes.as_ref()),
        ]
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// `report tokens`
pub(crate) fn tokens(session: &Session, arguments: &Arguments) -> Result<()> {
    if arguments.csv && session.globals.output.is_some() {
        let message = "--csv and -o exclude each other";
        return Err(Error::new(Code::ArgumentInvalid, message));
    }
    let inventory = Inventory::take(session, "")?;
    let hidden = inventory.hidden_kinds();
    let now = clock::wall_now();
    let rows: Vec<_> = inventory.tokens.into_iter().map(|token| Row::of(token, now)).collect();
    match arguments.csv {
        true => Output::raw(csv(&rows).as_bytes())?,
        false => session.output.list(&rows, "")?,
    }
    if let Some(kinds) = hidden {
        session.output.remark(&format!("tokens not shown to the token in use: {kinds}"));
    }
    Ok(())
}

/// RFC 4180: a line of headings, fields with commas or quotes in quotes, lines
/// that end with CR LF.
fn csv(rows: &[Row]) -> String {
    let mut out = HEADINGS.join(",");
    out.push_str("\r\n");
    for row in rows {
        let fields: Vec<_> = row.fields().iter().map(|field| quoted(field)).collect();
        out.push_str(&fields.join(","));
        out.push_str("\r\n");
    }
    out
}

/// A text that a spreadsheet would take for a formula gets an apostrophe in
/// front; control characters are spelled out, so there is no line break.
fn quoted(field: &str) -> String {
    let mut text = clean(field);
    if field.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) {
        text.insert(0, '\'');
    }
    if text.contains([',', '"']) {
        text = format!("\"{}\"", text.replace('"', "\"\""));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(notes: &str) -> Row {
        let at = |seconds| Some(v1::Timestamp { seconds, nanos: 0 });
        let token = v1::Token {
            id: "i".into(),
            kind: "volume".into(),
            account_id: "a".into(),
            volume_name: "projects".into(),
            mount_path: "/a,b".into(),
            state: "active".into(),
            created_at: at(0),
            last_used_at: at(90),
            last_used_from: "10.0.0.1".into(),
            uses: 3,
            overdue: true,
            notes: notes.into(),
            ..v1::Token::default()
        };
        Row::of(token, jiff::Timestamp::from_second(3 * 86_400 + 5).unwrap())
    }

    #[test]
    fn the_csv_is_that_of_the_rfc() {
        let text = csv(&[row("say \"hi\""), row("")]);
        let lines: Vec<_> = text.split("\r\n").collect();
        assert_eq!(lines.len(), 4);
        assert!(lines[0].starts_with("kind,id,accountID,scope,state"));
        assert_eq!(
            lines[1],
            "volume,i,a,\"projects:/a,b\",active,1970-01-01T00:00:00Z,3,,,\
             1970-01-01T00:01:30Z,10.0.0.1,3,true,\"say \"\"hi\"\"\""
        );
        assert!(lines[2].ends_with(",true,"));
        assert_eq!(lines[3], "");
    }

    #[test]
    fn a_formula_is_only_text() {
        assert_eq!(quoted("=HYPERLINK(1)"), "'=HYPERLINK(1)");
        assert_eq!(quoted("+1"), "'+1");
        assert_eq!(quoted("-1,2"), "\"'-1,2\"");
        assert_eq!(quoted("@x"), "'@x");
        assert_eq!(quoted("\t=1"), "'\\t=1");
        assert_eq!(quoted("a=b"), "a=b");
        assert_eq!(quoted("two\nlines"), "two\\nlines");
    }

    #[test]
    fn a_row_has_its_age_and_the_address_of_a_host_without_a_name() {
        let row = row("n");
        assert_eq!(row.cells().len(), Row::COLUMNS.len());
        let json = serde_json::to_value(&row).unwrap();
        assert_eq!((&json["ageDays"], &json["lastUsedHost"]), (&3.into(), &"10.0.0.1".into()));
        assert_eq!((&json["scope"], &json["overdue"]), (&"projects:/a,b".into(), &true.into()));
        let keys = json.as_object().unwrap();
        assert!(keys.keys().all(|key| HEADINGS.contains(&key.as_str())), "{keys:?}");
    }
}
