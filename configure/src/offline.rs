//! Commands that contact no server: generate, inspect, explain, version.

use clap::{Args, ValueEnum};
use flexfs_auth::reference;
use flexfs_auth::token::{Token, TokenKind};
use flexfs_common::{Code, Error, Result, cli, exit, http};
use serde::Serialize;

use crate::PROGRAM;
use crate::output::{Column, View, column};
use crate::run::Session;

/// `generate token`
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  configure.flexfs generate token --kind volume > team.token\n  \
                  configure.flexfs create volume-token --volumeID projects --tokenFile team.token"
)]
pub(crate) struct Generate {
    /// What it is for
    #[arg(long = "kind", value_enum)]
    kind: Kind,
}

/// `--kind`
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Account,
    Volume,
    Meta,
}

/// `inspect token`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs inspect token - < team.token")]
pub(crate) struct Inspect {
    /// `-` for standard input (the default), a file, or a reference; never the token itself
    #[arg(value_name = "-|FILE")]
    from: Option<String>,
}

/// A token as far as its text tells. It may be unknown to every server.
#[derive(Serialize, Debug)]
struct TokenText {
    id: String,
    kind: &'static str,
    last4: String,
    checksum: &'static str,
}

impl TokenText {
    fn of(token: &Token) -> TokenText {
        TokenText {
            id: token.id().to_string(),
            kind: token.kind().name(),
            last4: token.last4().to_owned(),
            checksum: "ok",
        }
    }
}

impl View for TokenText {
    const COLUMNS: &'static [Column] =
        &[column("ID"), column("KIND"), column("LAST4"), column("CHECKSUM")];

    fn cells(&self) -> Vec<String> {
        vec![self.id.clone(), self.kind.to_owned(), self.last4.clone(), self.checksum.to_owned()]
    }

    fn id(&self) -> &str {
        &self.id
    }
}

/// `{"id", "token"}`
#[derive(Serialize)]
struct Generated<'a> {
    id: &'a str,
    token: &'a str,
}

/// `generate token`
pub(crate) fn generate(session: &Session, arguments: &Generate) -> Result<()> {
    let token = Token::generate(match arguments.kind {
        Kind::Account => TokenKind::Account,
        Kind::Volume => TokenKind::Volume,
        Kind::Meta => TokenKind::Meta,
    })?;
    let text = TokenText::of(&token);
    let json = Generated { id: &text.id, token: token.reveal() };
    session.output.handed_out(&text, &token, &json)
}

/// `inspect token`
pub(crate) fn inspect(session: &Session, arguments: &Inspect) -> Result<()> {
    let text = match (&arguments.from, &session.globals.token_file) {
        (Some(from), _) | (None, Some(from)) => reference::read_secret_argument(from)?,
        (None, None) => reference::ask_for_secret("token: ")?,
    };
    session.output.one(&TokenText::of(&Token::parse(&text)?))
}

/// An error code, explained.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct CodeView {
    code: &'static str,
    sentence: &'static str,
    hint: &'static str,
    exit_code: u8,
    http_status: u16,
}

impl View for CodeView {
    const COLUMNS: &'static [Column] = &[
        column("CODE"),
        column("MEANING"),
        Column { heading: "CHECK FIRST", wide: true },
        Column { heading: "EXIT CODE", wide: true },
        Column { heading: "HTTP STATUS", wide: true },
    ];

    fn cells(&self) -> Vec<String> {
        vec![
            self.code.to_owned(),
            self.sentence.to_owned(),
            self.hint.to_owned(),
            self.exit_code.to_string(),
            self.http_status.to_string(),
        ]
    }

    fn id(&self) -> &str {
        self.code
    }
}

impl From<Code> for CodeView {
    fn from(code: Code) -> CodeView {
        CodeView {
            code: code.name(),
            sentence: code.sentence(),
            hint: code.hint(),
            exit_code: exit::exit_code(code),
            http_status: http::http_status(code).as_u16(),
        }
    }
}

/// `explain`
pub(crate) fn explain(session: &Session, code: Option<&str>) -> Result<()> {
    let Some(text) = code else {
        let all: Vec<_> = Code::ALL.iter().copied().map(CodeView::from).collect();
        return session.output.list(&all, "");
    };
    session.output.one(&CodeView::from(find_code(text)?))
}

/// In any case, with `-` or `_`, also within `error[…]`.
fn find_code(text: &str) -> Result<Code> {
    let word = text.trim_start_matches("error").trim_matches(['[', ']', ':', ' ']);
    let name = word.to_ascii_uppercase().replace('-', "_");
    Code::from_name(&name).ok_or_else(|| {
        let near: Vec<_> = Code::ALL
            .iter()
            .map(|code| code.name())
            .filter(|known| {
                !name.is_empty()
                    && name.split('_').any(|part| part.len() > 2 && known.contains(part))
            })
            .take(8)
            .collect();
        let near = if near.is_empty() {
            "`configure.flexfs explain` lists all".to_owned()
        } else {
            format!("near it: {}", near.join(", "))
        };
        Error::new(
            Code::ArgumentInvalid,
            format!("there is no code `{}`; {near}", word.escape_debug()),
        )
    })
}

/// The version of this program.
#[derive(Serialize, Debug)]
struct Version {
    version: &'static str,
}

/// `version`
pub(crate) fn version(session: &Session) -> Result<()> {
    let version = Version { version: env!("CARGO_PKG_VERSION") };
    session.output.text(&cli::version_line(PROGRAM), &version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_as_people_paste_them() {
        for text in ["TOKEN_REVOKED", "token-revoked", "error[TOKEN_REVOKED]:"] {
            assert_eq!(find_code(text).unwrap(), Code::TokenRevoked, "{text}");
        }
        let error = find_code("TOKEN_GONE").unwrap_err();
        assert!(error.message().contains("TOKEN_"), "{}", error.message());
        assert!(find_code("").is_err());
    }

    #[test]
    fn a_token_is_described_without_its_secret() {
        let token = Token::generate(TokenKind::Meta).unwrap();
        let shown = serde_json::to_string(&TokenText::of(&token)).unwrap();
        assert!(shown.contains(&token.id().to_string()) && shown.contains("\"meta\""));
        assert!(!shown.contains(&token.reveal()[28..]));
    }
}
