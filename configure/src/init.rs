//! `init creds`: admin is asked who the token is before anything is written;
//! a failure writes nothing.

use clap::Args;
use flexfs_auth::creds::{InitCreds, PreparedCreds};
use flexfs_auth::token::TokenKind;
use flexfs_common::{Code, Error, Result};
use flexfs_proto::v1;
use serde::Serialize;

use crate::client;
use crate::profile::{self, Profile, Profiles};
use crate::run::Session;
use crate::settings::{Settings, TOKEN_VARIABLE};

/// `init creds`
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  configure.flexfs init creds --adminAddr admin:7400 \
                  --tokenFile - --caFingerprint sha256:… < owner.token\n  configure.flexfs init \
                  creds --adminAddr admin:7400 --tokenFile owner.token --profile prod\n  \
                  configure.flexfs init creds --adminAddr admin:7400 --claimFile owner.claim")]
pub(crate) struct Arguments {
    /// Where admin is; http://HOST:PORT for one without TLS
    #[arg(long = "adminAddr", value_name = "HOST:PORT")]
    admin_addr: String,
    /// Whom to trust, as `admin.flexfs status` prints it (default: this home's ssl/ca, else the
    /// operating system's authorities)
    #[arg(long = "caFingerprint", value_name = "sha256:…")]
    ca_fingerprint: Option<String>,
    /// Trade this claim code for the token to keep: a file, `-` for standard input, or a reference
    #[arg(long = "claimFile", value_name = "F|-", conflicts_with = "token_file")]
    claim_file: Option<String>,
    /// Replace existing credentials
    #[arg(long = "force")]
    force: bool,
}

/// What was written.
#[derive(Serialize, Debug)]
#[serde(rename_all = "camelCase")]
struct Written {
    #[serde(rename = "tokenID")]
    token_id: String,
    #[serde(rename = "accountID")]
    account_id: String,
    account_name: String,
    role: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<String>,
}

/// `init creds`
pub(crate) fn creds(session: &Session, arguments: &Arguments) -> Result<()> {
    if arguments.claim_file.is_some() && session.globals.token_file.is_some() {
        let message = "--claimFile and --tokenFile exclude each other";
        return Err(Error::new(Code::ArgumentInvalid, message));
    }
    let settings = Settings::new(&session.globals)?;
    let profile = session.globals.profile.as_deref();
    let mut profiles = Profiles::default();
    let path = match profile {
        None => settings.creds_path(),
        Some(name) => {
            profile::check_name(name)?;
            let path = settings.profiles_path();
            profiles = Profiles::read(&path)?;
            if profiles.profiles.contains_key(name) && !arguments.force {
                let message = format!("the profile {name} exists in {}", path.display());
                return Err(Error::new(Code::CredsExist, message));
            }
            path
        }
    };
    let from_environment = format!("env:{TOKEN_VARIABLE}");
    let token_file = match session.imported_token_file() {
        None if std::env::var_os(TOKEN_VARIABLE).is_some() => Some(from_environment.as_str()),
        given => given,
    };
    let init = InitCreds {
        home: &settings.home,
        path: &path,
        admin_addr: &arguments.admin_addr,
        token_file,
        fingerprint: arguments.ca_fingerprint.as_deref(),
        kind: TokenKind::Account,
        // A profile is put into the file that may be there.
        replace: arguments.force || profile.is_some(),
    };
    let runtime = client::runtime()?;
    let prepared = runtime.block_on(async {
        match &arguments.claim_file {
            Some(claim_file) => init.prepare_claim(claim_file).await,
            None => init.prepare().await,
        }
    })?;
    let call =
        client::answer(&prepared.peer, &prepared.token, client::LIMIT, |mut admin| async move {
            admin.who_am_i(v1::WhoAmIRequest {}).await
        });
    let who = runtime.block_on(call).map_err(|error| prepared.failed(error))?;
    let kept = match profile {
        None => prepared.commit(),
        Some(name) => add_profile(profiles, name, &prepared),
    };
    kept.map_err(|error| prepared.failed(error))?;
    report(session, who, &prepared, profile)
}

/// Adds the profile; the first one becomes the active one.
fn add_profile(mut profiles: Profiles, name: &str, prepared: &PreparedCreds) -> Result<()> {
    let credentials = &prepared.credentials;
    let profile = Profile {
        admin_addr: credentials.admin_addr.clone(),
        token: credentials.token.to_string(),
        ca_cert: credentials.ca_cert.clone(),
    };
    profiles.profiles.insert(name.to_owned(), profile);
    profiles.active.get_or_insert_with(|| name.to_owned());
    profiles.write(prepared.path())?;
    prepared.settle();
    Ok(())
}

fn report(
    session: &Session,
    who: v1::WhoAmIReply,
    prepared: &PreparedCreds,
    profile: Option<&str>,
) -> Result<()> {
    let written = Written {
        token_id: who.token_id,
        account_id: who.account_id,
        account_name: who.account_name,
        role: who.role,
        path: prepared.path().display().to_string(),
        profile: profile.map(str::to_owned),
    };
    let kept = match profile {
        Some(name) => format!("profile {name} in {}", written.path),
        None => written.path.clone(),
    };
    let sentence =
        format!("account {}, role {}: kept as {kept}", written.account_name, written.role);
    session.output.done(&sentence, &written.token_id, &written)
}

#[cfg(test)]
mod tests {
    use crate::args::{Cli, Command, Init};

    fn parse(words: &str) -> Option<super::Arguments> {
        let words = std::iter::once("configure.flexfs").chain(words.split(' '));
        let cli: Cli = flexfs_common::cli::parse(words).ok()?;
        let Command::Init(Init::Creds(arguments)) = cli.command else { panic!("{cli:?}") };
        Some(arguments)
    }

    #[test]
    fn a_claim_code_stands_in_place_of_a_token() {
        for words in ["--claimFile -", "--claim-file - --profile p", "--claimFile - --force"] {
            let arguments = parse(&format!("init creds --adminAddr a:1 {words}")).unwrap();
            assert_eq!(arguments.claim_file.as_deref(), Some("-"), "{words}");
        }
        assert!(parse("init creds --adminAddr a:1 --tokenFile t --claimFile c").is_none());
    }
}
