//! `admin.flexfs recover`: the ways back in. It needs the files of the server
//! (pepper, database), so it is for their owner. Beside a running admin and
//! without one, but for `--newPepper`, which needs it stopped.

use flexfs_common::Result;
use flexfs_common::daemon::RunFile;
use flexfs_common::home::Home;

use super::{RecoverArgs, runtime};
use crate::bootstrap;
use crate::config::Settings;
use crate::output;
use crate::peppers::{Peppers, Switch, drop_pepper};
use crate::store::Store;
use crate::verify::Verify;

pub(super) fn run(args: RecoverArgs) -> Result<()> {
    let settings = Settings::resolve(Home::from_env()?, args.database.given())?;
    runtime()?.block_on(async {
        if args.new_pepper {
            new_pepper(&settings).await
        } else if let Some(id) = args.drop_pepper {
            let store = Store::open(&settings.db).await?;
            drop_pepper(&settings.home, &store, &id).await?;
            store.close().await;
            output::line(&format!(
                "the pepper {id} is gone; a running admin forgets it when it ends"
            ));
            Ok(())
        } else {
            new_token(&settings).await
        }
    })
}

async fn new_token(settings: &Settings) -> Result<()> {
    let home = &settings.home;
    let store = Store::open(&settings.db).await?;
    // Else opening the peppers would make the first one.
    bootstrap::system_account(&store).await?;
    let peppers = Peppers::open(home, &store).await?;
    let verify = Verify::new(store.clone(), peppers, settings.argon2)?;
    let id = bootstrap::recover(home, &store, &verify).await?;
    store.close().await;
    output::line(&format!("new system token {id} in {}", bootstrap::token_path(home).display()));
    Ok(())
}

async fn new_pepper(settings: &Settings) -> Result<()> {
    let home = &settings.home;
    // Held to the end: no server of this home starts meanwhile.
    let run_file = RunFile::acquire(&home.path("admin/run"))?;
    let store = Store::open(&settings.db).await?;
    let switched = Switch::prepare(home, &store).await?.run(&store).await?;
    store.close().await;
    drop(run_file);
    output::switched(&switched);
    Ok(())
}
