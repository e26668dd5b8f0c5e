//! `config show`: every setting, its source, and no secret. What is wrong
//! with a setting is shown in its place: this command is for looking.

use flexfs_common::tls::{Fingerprint, certificate_from_pem};
use flexfs_common::{Error, Result};
use serde::Serialize;

use crate::output::{Column, View, column};
use crate::run::Session;
use crate::settings::{Place, Settings, Sourced};

/// One setting.
#[derive(Serialize, Debug)]
struct Setting {
    name: &'static str,
    value: String,
    source: String,
}

impl View for Setting {
    const COLUMNS: &'static [Column] = &[column("SETTING"), column("VALUE"), column("SOURCE")];

    fn cells(&self) -> Vec<String> {
        vec![self.name.to_owned(), self.value.clone(), self.source.clone()]
    }

    fn id(&self) -> &str {
        self.name
    }
}

fn wrong(name: &'static str, error: &Error) -> Setting {
    let value = format!("error[{}]: {}", error.code(), error.with_causes());
    Setting { name, value, source: String::new() }
}

/// `config show`
pub(crate) fn show(session: &Session) -> Result<()> {
    let settings = Settings::new(&session.globals)?;
    let is_set = std::env::var_os("FLEXFS_HOME").is_some_and(|home| !home.is_empty());
    let mut items = vec![Setting {
        name: "home",
        value: settings.home.path("").display().to_string().trim_end_matches('/').to_owned(),
        source: if is_set { "FLEXFS_HOME" } else { "default" }.to_owned(),
    }];
    match settings.profile() {
        Ok(Some(Sourced { value, source })) => {
            items.push(Setting { name: "profile", value, source });
        }
        Ok(None) => items.push(Setting {
            name: "profile",
            value: "none".to_owned(),
            source: "default".to_owned(),
        }),
        Err(error) => items.push(wrong("profile", &error)),
    }
    match settings.place() {
        Ok(place) => items.extend(of_place(session, &settings, &place)),
        Err(error) => items.push(wrong("adminAddr", &error)),
    }
    if let Some(account) = &session.globals.account_id {
        let (value, source) = (account.clone(), "--accountID".to_owned());
        items.push(Setting { name: "accountID", value, source });
    }
    session.output.list(&items, "")
}

fn of_place(session: &Session, settings: &Settings<'_>, place: &Place) -> Vec<Setting> {
    let Sourced { value, source } = place.admin_addr.clone();
    let plain = value.starts_with("http://");
    let address = Setting { name: "adminAddr", value, source };
    let trust = match &place.ca_cert {
        _ if plain => Setting {
            name: "trust",
            value: "none: no TLS".to_owned(),
            source: address.source.clone(),
        },
        Some(ca) => match certificate_from_pem(&ca.value).and_then(|der| Fingerprint::of(&der)) {
            Ok(fingerprint) => {
                Setting { name: "trust", value: fingerprint.to_string(), source: ca.source.clone() }
            }
            Err(error) => wrong("trust", &error),
        },
        None => Setting {
            name: "trust",
            value: "the operating system's authorities".to_owned(),
            source: "default".to_owned(),
        },
    };
    let token = match settings.token(place, session.acting_token_file()) {
        Ok(token) => Setting {
            name: "token",
            value: format!(
                "{}… id {} last4 {}",
                token.value.kind().prefix(),
                token.value.id(),
                token.value.last4()
            ),
            source: token.source,
        },
        Err(error) => wrong("token", &error),
    };
    vec![address, trust, token]
}
