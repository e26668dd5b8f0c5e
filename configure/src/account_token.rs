//! Account tokens: making one. The rest is in `token.rs`.

use clap::{Args, builder::PossibleValuesParser};
use flexfs_auth::token::TokenKind;
use flexfs_common::Result;
use flexfs_proto::v1;

use crate::run::Session;
use crate::token::{HandedOut, TokenView, import_or_generate};
use crate::values;

/// Roles that can be given; `system` tokens come from admin's own commands.
const ROLES: [&str; 7] =
    ["owner", "operator", "viewer", "auditor", "provisioner", "metrics", "system"];

/// `create account-token`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs create account-token --role operator \
                  --volumes projects --expires 90d > operator.token")]
pub(crate) struct Create {
    /// What it may do
    #[arg(long = "role", value_parser = PossibleValuesParser::new(ROLES))]
    role: String,
    /// Only these volumes (names or ids)
    #[arg(long = "volumes", value_delimiter = ',', value_name = "A,B")]
    volumes: Vec<String>,
    /// Only from these networks
    #[arg(long = "cidr", value_delimiter = ',', value_name = "NET")]
    cidrs: Vec<String>,
    /// When it ends: RFC 3339, or a span from now
    #[arg(long = "expires", value_name = "T", value_parser = values::instant)]
    expires: Option<v1::Timestamp>,
    /// When it begins to work
    #[arg(long = "notBefore", value_name = "T", value_parser = values::instant)]
    not_before: Option<v1::Timestamp>,
    /// For people
    #[arg(long = "notes", default_value = "", value_name = "S")]
    notes: String,
}

/// `create account-token`
pub(crate) fn create(session: &Session, arguments: Create) -> Result<()> {
    let token = import_or_generate(session.imported_token_file(), TokenKind::Account)?;
    let request = v1::CreateAccountTokenRequest {
        token: Some(token.to_wire()),
        account_id: session.globals.account(),
        role: arguments.role,
        volumes: arguments.volumes,
        cidrs: arguments.cidrs,
        expires_at: arguments.expires,
        not_before: arguments.not_before,
        notes: arguments.notes,
        ..v1::CreateAccountTokenRequest::default()
    };
    let reply =
        session.ask(|mut admin| async move { admin.create_account_token(request).await })?;
    let view = TokenView::from(reply);
    session.output.handed_out(&view, &token, &HandedOut::new(&view, &token))
}
