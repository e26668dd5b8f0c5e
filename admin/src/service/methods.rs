//! The one table of methods: which tokens each accepts, and what it does. A
//! method that is not here is refused; a test compares the table with the
//! descriptors of the services.

use flexfs_auth::policy::Action;
use flexfs_auth::token::TokenKind;

/// How a method's action follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Always the same.
    Action(Action),
    /// `AccountTokenCreate` of the role asked for.
    AccountTokenCreate,
    /// Reading tokens of the kind asked for.
    TokenRead,
    /// Changing, rotating, ending or deleting tokens of the kind asked for;
    /// the caller's own token may always be rotated and revoked.
    TokenWrite,
}

/// One method.
#[derive(Debug)]
pub struct Method {
    /// Path of its requests.
    pub path: &'static str,
    /// Kinds of tokens accepted; another one is refused before any look-up.
    pub kinds: &'static [TokenKind],
    /// What it does.
    pub rule: Rule,
}

const ANY: &[TokenKind] = &[TokenKind::Account, TokenKind::Volume, TokenKind::Meta];
const ACCOUNT: &[TokenKind] = &[TokenKind::Account];
const VOLUME: &[TokenKind] = &[TokenKind::Volume];
const META: &[TokenKind] = &[TokenKind::Meta];
const CLAIM: &[TokenKind] = &[TokenKind::Claim];

macro_rules! methods {
    ($($service:literal { $($name:literal $kinds:ident $rule:expr;)* })*) => {
        /// All methods.
        pub const METHODS: &[Method] = &[$($(Method {
            path: concat!("/flexfs.v1.", $service, "/", $name),
            kinds: $kinds,
            rule: $rule,
        },)*)*];
    };
}

methods! {
    "AdminService" {
        "WhoAmI" ANY Rule::Action(Action::WhoAmI);
        "GetStatus" ACCOUNT Rule::Action(Action::StatusRead);
        "CreateAccount" ACCOUNT Rule::Action(Action::AccountWrite);
        "GetAccount" ACCOUNT Rule::Action(Action::AccountRead);
        "ListAccounts" ACCOUNT Rule::Action(Action::AccountRead);
        "DeleteAccount" ACCOUNT Rule::Action(Action::AccountWrite);
        "UpdateAccount" ACCOUNT Rule::Action(Action::AccountUpdate);
        "DisableAccount" ACCOUNT Rule::Action(Action::AccountWrite);
        "EnableAccount" ACCOUNT Rule::Action(Action::AccountWrite);
        "CreateAccountToken" ACCOUNT Rule::AccountTokenCreate;
        "CreateVolumeToken" ACCOUNT Rule::Action(Action::VolumeTokenCreate);
        "GetToken" ACCOUNT Rule::TokenRead;
        "ListTokens" ACCOUNT Rule::TokenRead;
        "DeleteToken" ACCOUNT Rule::TokenWrite;
        "RevokeToken" ANY Rule::TokenWrite;
        "RevokeTokens" ACCOUNT Rule::TokenWrite;
        "UpdateToken" ACCOUNT Rule::TokenWrite;
        "DisableToken" ACCOUNT Rule::TokenWrite;
        "EnableToken" ACCOUNT Rule::TokenWrite;
        "RotateToken" ANY Rule::TokenWrite;
        "GetRotation" ANY Rule::TokenRead;
        "FinishRotation" ANY Rule::TokenWrite;
        "RedeemClaim" CLAIM Rule::Action(Action::ClaimRedeem);
        "CreateMetaStore" ACCOUNT Rule::Action(Action::StoreWrite);
        "GetMetaStore" ACCOUNT Rule::Action(Action::StoreRead);
        "ListMetaStores" ACCOUNT Rule::Action(Action::StoreRead);
        "DeleteMetaStore" ACCOUNT Rule::Action(Action::StoreWrite);
        "CreateBlockStore" ACCOUNT Rule::Action(Action::StoreWrite);
        "GetBlockStore" ACCOUNT Rule::Action(Action::StoreRead);
        "ListBlockStores" ACCOUNT Rule::Action(Action::StoreRead);
        "DeleteBlockStore" ACCOUNT Rule::Action(Action::StoreWrite);
        "CreateVolume" ACCOUNT Rule::Action(Action::VolumeWrite);
        "GetVolume" ACCOUNT Rule::Action(Action::VolumeRead);
        "ListVolumes" ACCOUNT Rule::Action(Action::VolumeRead);
        "DeleteVolume" ACCOUNT Rule::Action(Action::VolumeWrite);
        "UpdateVolume" ACCOUNT Rule::Action(Action::VolumeWrite);
        "ListSessions" ACCOUNT Rule::Action(Action::SessionRead);
        "DescribeMount" VOLUME Rule::Action(Action::MountDescribe);
        "DescribeServer" META Rule::Action(Action::ServerDescribe);
    }
    "AuthorityService" {
        "RegisterServer" META Rule::Action(Action::Authority);
        "ListPlacedVolumes" META Rule::Action(Action::Authority);
        "ValidateVolumeToken" META Rule::Action(Action::Authority);
        "CheckTokens" META Rule::Action(Action::Authority);
        "Watch" META Rule::Action(Action::Authority);
    }
}

/// What is asked over plain HTTP, behind the same door.
pub const ROUTES: &[Method] =
    &[Method { path: "/metrics", kinds: ACCOUNT, rule: Rule::Action(Action::MetricsRead) }];

/// The method or route of a path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Method> {
    METHODS.iter().chain(ROUTES).find(|method| method.path == path)
}
