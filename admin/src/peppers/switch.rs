//! `recover --newPepper` and `--dropPepper`. The caller holds the lock of the
//! run file for a switch, so that no server of this home runs meanwhile.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flexfs_auth::verifier::Pepper;
use flexfs_common::home::Home;
use flexfs_common::ids::AccountId;
use flexfs_common::{Code, Error, Result, clock};

use super::{Files, Have, Peppers, is_id};
use crate::audit::{Entry, OK, Who};
use crate::bootstrap;
use crate::store::peppers::{self as stored, Known};
use crate::store::{Store, Tx};

/// An admin that ended is heard of no longer after this.
const SILENT: Duration = Duration::from_secs(4);
/// How often it is listened for.
const LISTEN: Duration = Duration::from_millis(100);

/// What a switch did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switched {
    /// The new one.
    pub new: String,
    /// The one before it, if it was there.
    pub kept: Option<String>,
    /// Those that live secrets lie under and that are not here.
    pub lost: BTreeSet<String>,
}

/// A change of the pepper, step by step: each leaves what the next start can
/// live with, whether or not the next step comes.
pub struct Switch {
    files: Files,
    account: AccountId,
    old: Option<Pepper>,
    new: Pepper,
    lost: BTreeSet<String>,
}

impl std::fmt::Debug for Switch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Switch({})", self.new.id())
    }
}

impl Switch {
    /// Looks at what there is; changes nothing but to finish an earlier switch.
    ///
    /// # Errors
    /// `DAEMON_RUNNING` while another admin works on the database,
    /// `CONFIG_INVALID` when it was never started or a pepper's file is damaged,
    /// `CREDS_INSECURE`, `DATABASE_FAILED`.
    pub async fn prepare(home: &Home, store: &Store) -> Result<Switch> {
        let account = bootstrap::system_account(store).await?;
        alone(store).await?;
        let files = Files::of(home);
        let known = stored::current(store.reader().as_mut()).await?;
        if let Some(known) = &known {
            match files.settle(known) {
                Ok(_) => {}
                // That is what this is for.
                Err(e) if e.code() == Code::PepperMismatch => {}
                Err(e) => return Err(e),
            }
        }
        let old = files.current()?;
        let mut here: BTreeSet<String> = files.earlier()?.into_keys().collect();
        here.extend(old.as_ref().map(|pepper| pepper.id().to_owned()));
        let now = clock::wall_now();
        let live = stored::live_under_others(store.reader().as_mut(), "", now).await?;
        let mut needed: BTreeSet<String> = live.into_iter().map(|(id, _)| id).collect();
        needed.extend(known.map(|known| known.id));
        let lost: BTreeSet<String> =
            needed.iter().filter(|id| is_id(id) && !here.contains(*id)).cloned().collect();
        let new = loop {
            let new = Pepper::generate()?;
            // Ids are short; two of one name could not be told apart.
            if !here.contains(new.id()) && !needed.contains(new.id()) {
                break new;
            }
        };
        Ok(Switch { files, account, old, new, lost })
    }

    /// Keeps the old one, or marks what is lost.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn keep_old(&self) -> Result<()> {
        if let Some(old) = &self.old {
            self.files.keep(old)?;
        }
        self.lost.iter().try_for_each(|id| self.files.mark_lost(id))
    }

    /// Writes the new one where it does not yet count.
    ///
    /// # Errors
    /// `CONFIG_INVALID`.
    pub fn stage(&self) -> Result<()> {
        self.files.stage(&self.new)
    }

    /// From here on it counts.
    ///
    /// # Errors
    /// `DATABASE_FAILED`: whether it counts, the next start tells.
    pub async fn commit(&self, store: &Store) -> Result<()> {
        let mut tx = store.begin().await?;
        stored::set(tx.sql(), &Known::of(&self.new, clock::wall_now())).await?;
        let mut detail = match &self.old {
            Some(old) => format!("{} is kept", old.id()),
            None => String::new(),
        };
        for id in &self.lost {
            detail.push_str(if detail.is_empty() { "" } else { "; " });
            detail.push_str(&format!("{id} is lost"));
        }
        record(tx, self.account, ("pepper.new", self.new.id()), detail).await
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// `CONFIG_INVALID`; the next start does it.
    pub fn finish(&self) -> Result<()> {
        self.files.promote()
    }

    /// All steps.
    ///
    /// # Errors
    /// Those of each.
    pub async fn run(self, store: &Store) -> Result<Switched> {
        self.keep_old()?;
        self.stage()?;
        self.commit(store).await?;
        self.finish()?;
        Ok(Switched {
            new: self.new.id().to_owned(),
            kept: self.old.map(|old| old.id().to_owned()),
            lost: self.lost,
        })
    }
}

/// No other admin works on the database: it would make tags under the old
/// pepper, and call those under the new one unknown.
async fn alone(store: &Store) -> Result<()> {
    let until = Instant::now() + SILENT;
    while store.other_admins().await? > 0 {
        if Instant::now() >= until {
            return Err(Error::new(
                Code::DaemonRunning,
                "another admin works on this database: stop all of them",
            ));
        }
        tokio::time::sleep(LISTEN).await;
    }
    Ok(())
}

/// Removes an earlier pepper, or the mark of a lost one, that no live secret
/// needs. May be done beside a running server.
///
/// # Errors
/// `PEPPER_IN_USE`, `ARGUMENT_INVALID` when there is none of this id, those of
/// [`Peppers::open`].
pub async fn drop_pepper(home: &Home, store: &Store, id: &str) -> Result<()> {
    let account = bootstrap::system_account(store).await?;
    let peppers = Peppers::open(home, store).await?;
    match peppers.have(id) {
        Have::Earlier | Have::Lost => {}
        Have::Current => {
            return Err(Error::new(
                Code::PepperInUse,
                format!("{id} is the current pepper: `--newPepper` first"),
            ));
        }
        Have::Nothing => {
            return Err(Error::new(Code::ArgumentInvalid, format!("there is no pepper {id} here")));
        }
    }
    let mut tx = store.begin().await?;
    let uses = peppers.uses(tx.sql()).await?;
    if let Some(used) = uses.iter().find(|used| used.id == id && used.live > 0) {
        return Err(Error::new(
            Code::PepperInUse,
            format!("{} live secrets still lie under the pepper {id}", used.live),
        ));
    }
    record(tx, account, ("pepper.drop", id), String::new()).await?;
    // After the record: if this fails, running it again repeats both.
    Files::of(home).forget(id)
}

async fn record(
    tx: Tx,
    account: AccountId,
    (action, target): (&'static str, &str),
    detail: String,
) -> Result<()> {
    let entry = Entry {
        who: Who::Recover,
        account: Some(account),
        action,
        target: target.to_owned(),
        source: None,
        outcome: OK,
        detail,
        request: None,
    };
    tx.commit(entry, &[]).await.map(drop)
}
