//! One run of the program: what was asked for, and with whose token.

use std::cell::OnceCell;
use std::future::Future;
use std::time::Duration;

use flexfs_auth::token::Token;
use flexfs_common::Result;
use flexfs_common::tls::Peer;
use tonic::{Response, Status};
use uuid::Uuid;

use crate::args::Globals;
use crate::client::{self, Admin};
use crate::keeper::Keeper;
use crate::output::Output;
use crate::settings::{Settings, Sourced};

/// One run of the program.
pub(crate) struct Session {
    /// What every command takes.
    pub(crate) globals: Globals,
    /// How to print.
    pub(crate) output: Output,
    /// `--tokenFile` is something else than the token to act with.
    token_file_taken: bool,
    /// Of the change that this run makes.
    request_id: Uuid,
    /// Found out once: a token may come from standard input.
    access: OnceCell<Access>,
}

/// Where admin is, and the token to act with.
pub(crate) struct Access {
    /// admin.
    pub(crate) peer: Peer,
    /// The token.
    pub(crate) token: Sourced<Token>,
    /// The file that keeps the token's text, when one does.
    pub(crate) keeper: Option<Keeper>,
}

impl Session {
    /// For this command line.
    pub(crate) fn new(globals: Globals, token_file_taken: bool) -> Session {
        Session {
            output: Output::new(globals.output),
            request_id: globals.request_id.unwrap_or_else(Uuid::new_v4),
            globals,
            token_file_taken,
            access: OnceCell::new(),
        }
    }

    /// Makes one call to admin, with the token and address of the settings.
    ///
    /// # Errors
    /// Those of the settings and of the call.
    pub(crate) fn ask<T, F>(&self, call: impl FnOnce(Admin) -> F) -> Result<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let access = self.access()?;
        client::ask(&access.peer, &access.token.value, client::LIMIT, call)
    }

    /// Has admin make a change; a lost answer is asked for once more.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub(crate) fn change<R: Clone, T>(
        &self,
        request: R,
        call: impl AsyncFn(Admin, R) -> Result<Response<T>, Status>,
    ) -> Result<T> {
        self.change_part(0, Duration::ZERO, request, call)
    }

    /// As [`Session::change`]; admin itself waits so long for others first.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub(crate) fn change_waiting<R: Clone, T>(
        &self,
        wait: Duration,
        request: R,
        call: impl AsyncFn(Admin, R) -> Result<Response<T>, Status>,
    ) -> Result<T> {
        self.change_part(0, wait, request, call)
    }

    /// As [`Session::change_waiting`], for the part with this number of a
    /// change that is made in several.
    ///
    /// # Errors
    /// As [`Session::ask`].
    pub(crate) fn change_part<R: Clone, T>(
        &self,
        part: u32,
        wait: Duration,
        request: R,
        call: impl AsyncFn(Admin, R) -> Result<Response<T>, Status>,
    ) -> Result<T> {
        let access = self.access()?;
        let id = part_id(self.request_id, part);
        let who = (&access.peer, &access.token.value);
        client::change(who, client::LIMIT + wait, id, request, call)
    }

    /// Where admin is and what to say to it.
    ///
    /// # Errors
    /// Those of the settings.
    pub(crate) fn access(&self) -> Result<&Access> {
        if let Some(access) = self.access.get() {
            return Ok(access);
        }
        let settings = Settings::new(&self.globals)?;
        let place = settings.place()?;
        let explicit = self.acting_token_file();
        let mut token = settings.token(&place, explicit)?;
        let (peer, keeper) = (place.peer()?, place.keeper_of_token(explicit));
        if let Some(new) = keeper.as_ref().and_then(|keeper| keeper.resolve(&peer, &token.value)) {
            token.value = new;
        }
        Ok(self.access.get_or_init(|| Access { peer, token, keeper }))
    }

    /// `--tokenFile` where it is the token to act with.
    pub(crate) fn acting_token_file(&self) -> Option<&str> {
        self.globals.token_file.as_deref().filter(|_| !self.token_file_taken)
    }

    /// `--tokenFile` where it is the token to import.
    pub(crate) fn imported_token_file(&self) -> Option<&str> {
        self.globals.token_file.as_deref().filter(|_| self.token_file_taken)
    }
}

/// Each part of a change has an id of its own; the same run and part have the
/// same one.
fn part_id(id: Uuid, part: u32) -> Uuid {
    Uuid::from_u128(id.as_u128().wrapping_add(part.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_change_have_ids_of_their_own() {
        let id = Uuid::new_v4();
        assert_eq!(part_id(id, 0), id);
        assert_ne!(part_id(id, 1), id);
        assert_eq!(part_id(id, 1), part_id(id, 1));
        assert_ne!(part_id(Uuid::max(), 1), Uuid::max());
    }

    #[test]
    fn a_given_request_id_is_used() {
        let id = Uuid::new_v4();
        let globals = Globals { request_id: Some(id), ..Globals::default() };
        assert_eq!(Session::new(globals, false).request_id, id);
        let other = || Session::new(Globals::default(), false).request_id;
        assert_ne!(other(), other());
    }
}
