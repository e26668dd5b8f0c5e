//! Volume tokens: making and listing them. The rest is in `token.rs`.

use clap::{Args, ValueEnum};
use flexfs_auth::token::TokenKind;
use flexfs_common::Result;
use flexfs_common::name::SubtreePath;
use flexfs_proto::v1;

use crate::run::Session;
use crate::token::{self, hand_out, mint, to_wire_if};
use crate::values;

/// `create volume-token`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs create volume-token --volumeID projects \
                  --mountPath /team-a --flags ro,noExec > team-a.token")]
pub(crate) struct Create {
    /// The volume, by name or id
    #[arg(long = "volumeID", value_name = "NAME|ID")]
    volume: String,
    /// The subtree its mounts see as their root
    #[arg(long = "mountPath", default_value = "/", value_name = "PATH")]
    mount_path: String,
    /// Restrictions
    #[arg(
        long = "flags",
        value_delimiter = ',',
        value_name = "A,B",
        value_parser = values::token_flags()
    )]
    flags: Vec<String>,
    /// Everybody acts as this user
    #[arg(long = "uid", value_name = "N")]
    uid: Option<u32>,
    /// Everybody acts as this group
    #[arg(long = "gid", value_name = "N")]
    gid: Option<u32>,
    /// Read and write, create and extend only, or read only
    #[arg(long = "rights", value_enum, default_value_t = Rights::Rw)]
    rights: Rights,
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
    /// Only from these networks
    #[arg(long = "cidr", value_delimiter = ',', value_name = "NET")]
    cidrs: Vec<String>,
    /// For people
    #[arg(long = "notes", default_value = "", value_name = "S")]
    notes: String,
}

/// `--rights`
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Rights {
    Rw,
    Append,
    Ro,
}

impl Rights {
    /// As messages have it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Rights::Rw => "rw",
            Rights::Append => "append",
            Rights::Ro => "ro",
        }
    }
}

/// `list volume-tokens`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs list volume-tokens --volumeID projects \
                  --overdue -o wide")]
pub(crate) struct List {
    #[command(flatten)]
    list: token::Listing,
    /// Only those of this volume, by name or id
    #[arg(long = "volumeID", value_name = "NAME|ID")]
    volume: Option<String>,
}

/// `create volume-token`
pub(crate) fn create(session: &Session, arguments: Create) -> Result<()> {
    let mount_path: SubtreePath = arguments.mount_path.parse()?;
    let is_claim = arguments.claim.is_some();
    let secret = mint(session, TokenKind::Volume, is_claim)?;
    let request = v1::CreateVolumeTokenRequest {
        token: to_wire_if(&secret, !is_claim),
        account_id: session.globals.account(),
        volume: arguments.volume,
        mount_path: mount_path.to_string(),
        flags: arguments.flags,
        rights: arguments.rights.name().to_owned(),
        uid: arguments.uid,
        gid: arguments.gid,
        expires_at: arguments.expires,
        not_before: arguments.not_before,
        cidrs: arguments.cidrs,
        notes: arguments.notes,
        idle_seconds: arguments.idle.unwrap_or_default(),
        claim: to_wire_if(&secret, is_claim),
        claim_expires_at: arguments.claim,
    };
    let reply = session
        .change(request, async |mut admin, request| admin.create_volume_token(request).await)?;
    hand_out(session, reply, &secret)
}

/// `list volume-tokens`
pub(crate) fn list(session: &Session, arguments: &List) -> Result<()> {
    let volume = arguments.volume.as_deref().unwrap_or_default();
    token::list(session, TokenKind::Volume, volume, &arguments.list)
}
