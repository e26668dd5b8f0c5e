//! Account tokens: making one. The rest is in `token.rs`.

use clap::{Args, builder::PossibleValuesParser};
use flexfs_auth::token::TokenKind;
use flexfs_common::{Result, clock, duration, wire};
use flexfs_proto::v1;

use crate::run::Session;
use crate::token::{HandedOut, TokenView, import_or_generate};

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
    #[arg(long = "expires", value_name = "T")]
    expires: Option<String>,
    /// When it begins to work
    #[arg(long = "notBefore", value_name = "T")]
    not_before: Option<String>,
    /// For people
    #[arg(long = "notes", default_value = "", value_name = "S")]
    notes: String,
}

/// A `T` of the command line as a message field.
///
/// # Errors
/// `ARGUMENT_INVALID`.
pub(crate) fn instant(text: Option<&str>) -> Result<Option<v1::Timestamp>> {
    let parse = |text| duration::parse_time(text, clock::wall_now());
    Ok(text.map(parse).transpose()?.map(wire::timestamp_to_wire))
}

/// `create account-token`
pub(crate) fn create(session: &Session, arguments: Create) -> Result<()> {
    let expires_at = instant(arguments.expires.as_deref())?;
    let not_before = instant(arguments.not_before.as_deref())?;
    let token = import_or_generate(session.imported_token_file(), TokenKind::Account)?;
    let request = v1::CreateAccountTokenRequest {
        token: Some(token.to_wire()),
        account_id: session.globals.account(),
        role: arguments.role,
        volumes: arguments.volumes,
        cidrs: arguments.cidrs,
        expires_at,
        not_before,
        notes: arguments.notes,
    };
    let reply =
        session.ask(|mut admin| async move { admin.create_account_token(request).await })?;
    let view = TokenView::from(reply);
    session.output.handed_out(&view, &token, &HandedOut::new(&view, &token))
}
