//! The peppers of this server.
//!
//! `admin/pepper` is the one that new tags are made with; the database knows it
//! by a value that is keyed with it. `admin/pepper.d/ID` is an earlier one, kept
//! while tags lie under it. `admin/pepper.d/ID.lost` says that one is lost:
//! what lies under it may be checked by argon2id alone. These marks are files,
//! because whoever could write them into the database could then make a secret
//! that is believed without any pepper.
//!
//! A change (`switch`) is decided by the database's commit: before it the new
//! one lies in `admin/pepper.next` and counts for nothing; after it the next
//! start gives it its name, if nobody else has.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flexfs_auth::token::Token;
use flexfs_auth::verifier::{Pepper, Verifier};
use flexfs_common::home::Home;
use flexfs_common::{Code, Error, Result, clock};

use crate::store::peppers::{self as stored, Known};
use crate::store::{Sql, Store};

mod files;
mod switch;

use files::Files;
pub use switch::{Switch, Switched, drop_pepper};

/// How often a server looks whether its pepper is still the one.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// All that tags are compared with.
#[derive(Clone, Debug)]
pub struct Peppers {
    current: Pepper,
    earlier: BTreeMap<String, Pepper>,
    lost: BTreeSet<String>,
}

/// What this server has of a pepper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Have {
    /// New tags are made with it.
    Current,
    /// It is kept for the tags under it.
    Earlier,
    /// It is marked as lost.
    Lost,
    /// Nothing.
    Nothing,
}

impl Have {
    /// As it is told.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Have::Current => "current",
            Have::Earlier => "earlier",
            Have::Lost => "lost",
            Have::Nothing => "missing",
        }
    }
}

impl From<Pepper> for Peppers {
    fn from(current: Pepper) -> Peppers {
        Peppers { current, earlier: BTreeMap::new(), lost: BTreeSet::new() }
    }
}

impl Peppers {
    /// Those of this home, for this database. The first start makes one; a
    /// change that was cut short after its commit is finished.
    ///
    /// # Errors
    /// `PEPPER_MISMATCH` when the database was used with another one, or live
    /// secrets lie under one of which there is nothing here; `CREDS_INSECURE`,
    /// `CONFIG_INVALID`, `DATABASE_FAILED`.
    pub async fn open(home: &Home, store: &Store) -> Result<Peppers> {
        let files = Files::of(home);
        let known = match stored::current(store.reader().as_mut()).await? {
            Some(known) => known,
            None => adopt(&files, store).await?,
        };
        let peppers = Peppers::read(&files, files.settle(&known)?)?;
        let needed = peppers.uses(store.reader().as_mut()).await?;
        let missing = needed.iter().find(|used| used.have == Have::Nothing && is_id(&used.id));
        match missing {
            None => Ok(peppers),
            Some(used) => Err(Error::new(
                Code::PepperMismatch,
                format!(
                    "{} live secrets lie under the pepper {}, which is not in {}",
                    used.live,
                    used.id,
                    files.earlier_dir().display()
                ),
            )),
        }
    }

    fn read(files: &Files, current: Pepper) -> Result<Peppers> {
        let (mut earlier, mut lost) = (files.earlier()?, files.lost()?);
        earlier.remove(current.id());
        lost.retain(|id| id != current.id() && !earlier.contains_key(id));
        Ok(Peppers { current, earlier, lost })
    }

    /// The one for new tags.
    #[must_use]
    pub fn current(&self) -> &Pepper {
        &self.current
    }

    /// What is here of the pepper with this id?
    #[must_use]
    pub fn have(&self, id: &str) -> Have {
        if id == self.current.id() {
            Have::Current
        } else if self.earlier.contains_key(id) {
            Have::Earlier
        } else if self.lost.contains(id) {
            Have::Lost
        } else {
            Have::Nothing
        }
    }

    /// Is any marked as lost?
    #[must_use]
    pub fn is_any_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Step one, under the verifier's own pepper. The same work for one that is
    /// not here, so that the time tells nothing.
    #[must_use]
    pub fn tag_matches(&self, token: &Token, verifier: &Verifier) -> bool {
        let own = self.earlier.get(&verifier.pepper_id).unwrap_or(&self.current);
        verifier.tag_matches(token, own)
    }

    /// Ends when the database is used with another pepper: somebody changed it
    /// without knowing of this server, which must make no more tags.
    pub async fn superseded(&self, store: &Store) -> Error {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            // What cannot be read now is read the next time.
            let Ok(Some(known)) = stored::current(store.reader().as_mut()).await else { continue };
            if !known.is(&self.current) {
                return changed_to(&known);
            }
        }
    }

    /// Asked in each transaction that writes a verifier: a server that was cut
    /// off while the pepper changed adds nothing under the one it still has.
    ///
    /// # Errors
    /// `PEPPER_MISMATCH`, `DATABASE_FAILED`.
    pub async fn require_current(&self, sql: &mut dyn Sql) -> Result<()> {
        match stored::current(sql).await? {
            Some(known) if !known.is(&self.current) => Err(changed_to(&known)),
            // Without one the database was never started.
            Some(_) | None => Ok(()),
        }
    }

    /// Which peppers other than the current one are here or needed, and by how
    /// many live secrets.
    ///
    /// # Errors
    /// `DATABASE_FAILED`.
    pub async fn uses(&self, sql: &mut dyn Sql) -> Result<Vec<Used>> {
        let now = clock::wall_now();
        let live = stored::live_under_others(sql, self.current.id(), now).await?;
        let mut all: BTreeMap<String, u64> =
            self.earlier.keys().chain(&self.lost).map(|id| (id.clone(), 0)).collect();
        all.extend(live);
        Ok(all.into_iter().map(|(id, live)| Used { have: self.have(&id), id, live }).collect())
    }
}

/// A pepper that is not the current one, and what lies under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// Its id.
    pub id: String,
    /// What is here of it.
    pub have: Have,
    /// Live secrets and open claim codes under it.
    pub live: u64,
}

fn changed_to(known: &Known) -> Error {
    Error::new(
        Code::PepperMismatch,
        format!("the pepper was changed to {} while this admin ran", known.id),
    )
}

/// The first start with this database, or the first of a version that knows
/// which pepper it uses: it is the one of the file, unless secrets say no.
async fn adopt(files: &Files, store: &Store) -> Result<Known> {
    let found = files.current()?;
    let mut tx = store.begin().await?;
    // Another server may have been faster.
    if let Some(known) = stored::current(tx.sql()).await? {
        return Ok(known);
    }
    let (some, under_it) = stored::in_use(tx.sql(), found.as_ref().map_or("", Pepper::id)).await?;
    let pepper = match found {
        Some(pepper) if !some || under_it => pepper,
        None if !some => files.make_first()?,
        Some(pepper) => {
            return Err(Error::new(
                Code::PepperMismatch,
                format!("no secret in the database lies under the pepper {}", pepper.id()),
            ));
        }
        None => return Err(files.absent()),
    };
    let known = Known::of(&pepper, clock::wall_now());
    stored::set(tx.sql(), &known).await?;
    tx.commit_quietly().await?;
    Ok(known)
}

/// Is this text the id of a pepper? A damaged row names none.
fn is_id(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
