//! `admin.flexfs recover`: beside a running admin and without one. It needs
//! the files of the server (pepper, database), so it is for their owner.

use flexfs_auth::verifier::Pepper;
use flexfs_common::Result;
use flexfs_common::home::Home;

use super::{DatabaseArgs, runtime};
use crate::bootstrap;
use crate::config::Settings;
use crate::output;
use crate::store::Store;
use crate::verify::Verify;

pub(super) fn run(args: DatabaseArgs) -> Result<()> {
    let settings = Settings::resolve(Home::from_env()?, args.given())?;
    let home = settings.home;
    let pepper = Pepper::load(&home.path("admin/pepper"))?;
    runtime()?.block_on(async {
        let store = Store::open(&settings.db).await?;
        let verify = Verify::new(store.clone(), pepper, settings.argon2)?;
        let id = bootstrap::recover(&home, &store, &verify).await?;
        store.close().await;
        output::line(&format!(
            "new system token {id} in {}",
            bootstrap::token_path(&home).display()
        ));
        Ok(())
    })
}
