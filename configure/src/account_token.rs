//! Account tokens: making one. The rest is in `token.rs`.

use clap::{Args, builder::PossibleValuesParser};
use flexfs_auth::token::TokenKind;
use flexfs_common::Result;
use flexfs_proto::v1;

use crate::run::Session;
use crate::token::{hand_out, mint, to_wire_if};
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
    /// Ends when it is unused for so long
    #[arg(long = "idle", value_name = "SPAN", value_parser = values::idle)]
    idle: Option<u64>,
    /// When it begins to work
    #[arg(long = "notBefore", value_name = "T", value_parser = values::instant)]
    not_before: Option<v1::Timestamp>,
    /// Print a one-time code instead, which can be traded for the token until then
    #[arg(long = "claim", value_name = "T", value_parser = values::instant)]
    pub(crate) claim: Option<v1::Timestamp>,
    /// For people
    #[arg(long = "notes", default_value = "", value_name = "S")]
    notes: String,
}

/// `create account-token`
pub(crate) fn create(session: &Session, arguments: Create) -> Result<()> {
    let is_claim = arguments.claim.is_some();
    let secret = mint(session, TokenKind::Account, is_claim)?;
    let request = v1::CreateAccountTokenRequest {
        token: to_wire_if(&secret, !is_claim),
        account_id: session.globals.account(),
        role: arguments.role,
        volumes: arguments.volumes,
        cidrs: arguments.cidrs,
        expires_at: arguments.expires,
        not_before: arguments.not_before,
        notes: arguments.notes,
        idle_seconds: arguments.idle.unwrap_or_default(),
        claim: to_wire_if(&secret, is_claim),
        claim_expires_at: arguments.claim,
    };
    let reply = session
        .change(request, async |mut admin, request| admin.create_account_token(request).await)?;
    hand_out(session, reply, &secret)
}
