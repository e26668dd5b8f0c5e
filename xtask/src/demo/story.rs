//! What happens in the demo, step by step. Each step is checked: a story that
//! is not true fails.

use std::time::Instant;

use super::reader::{Reader, Seen};
use super::stage::Stage;
use crate::{Result, shell};

/// EKEYREVOKED of Linux.
const KEY_REVOKED: i32 = 128;

/// Tells the story.
pub(super) fn tell(stage: &mut Stage) -> Result {
    println!("Everything happens on this machine, below one temporary directory:");
    println!("   $ cd {}", stage.path("").display());
    println!("   $ export FLEXFS_HOME=$PWD/home PATH=$PWD/bin:$PATH; umask 077");
    let admin = stage.free_address()?;
    control_plane(stage, &admin)?;
    metadata_server(stage, &admin)?;
    volume(stage, &admin)?;
    real_files(stage)?;
    scoped_token(stage, &admin)?;
    revocation(stage)?;
    the_end(stage)
}

fn control_plane(stage: &mut Stage, admin: &str) -> Result {
    stage.step("The control plane: admin.flexfs on SQLite. Its first token lies in a file.");
    stage.shell(&format!("admin.flexfs start --bindAddr {admin}"))?;
    stage.shell(&format!(
        "configure.flexfs init creds --adminAddr {admin} --tokenFile home/admin/root.token"
    ))?;
    stage.step("An account. Its owner's token is handed out once, and kept in a file.");
    stage.shell("configure.flexfs create account --name demo > owner.token")?;
    Ok(())
}

fn metadata_server(stage: &mut Stage, admin: &str) -> Result {
    stage.step("A block store (a directory) and a metadata server, with a token of its own.");
    let meta = stage.free_address()?;
    stage.shell("mkdir blocks")?;
    stage.shell("configure.flexfs create block-store disk --kind dir --path $PWD/blocks")?;
    stage
        .shell(&format!("configure.flexfs create meta-store here --address {meta} > meta.token"))?;
    stage.shell(&format!("meta.flexfs init creds --adminAddr {admin} --tokenFile meta.token"))?;
    stage.shell(&format!("meta.flexfs start --bindAddr {meta}"))?;
    Ok(())
}

fn volume(stage: &mut Stage, admin: &str) -> Result {
    stage.step("The owner creates a volume, and with it a token for all of it; mount it twice.");
    stage.shell(
        "FLEXFS_TOKEN=file:$PWD/owner.token configure.flexfs create volume projects \
         --metaStoreID here --blockStoreID disk > full.token",
    )?;
    stage.shell(&format!(
        "mount.flexfs init creds projects --adminAddr {admin} --tokenFile full.token"
    ))?;
    stage.shell("mount.flexfs start projects all")?;
    stage.shell("mount.flexfs start projects second")?;
    stage.shell("df -h --output=source,fstype,target all second").map(drop)
}

fn real_files(stage: &mut Stage) -> Result {
    stage.step("Real files: the sources of this repository and a binary of its build.");
    let sources = shell::root();
    stage.shell("mkdir -p all/team-a/sources all/team-b && echo secret > all/team-b/plans.txt")?;
    let begun = Instant::now();
    stage.shell(&format!(
        "tar -C {} --exclude=./target --exclude=./.git -cf - . | tar -C all/team-a/sources -xf -",
        sources.display()
    ))?;
    stage.shell("cp bin/mount.flexfs all/team-a/program")?;
    let took = begun.elapsed();
    stage.shell(&format!(
        "(cd {} && find . -path ./target -prune -o -path ./.git -prune -o -type f -print0 \
         | xargs -0 sha256sum) > sums",
        sources.display()
    ))?;
    stage.step("Checksums of all of it through the second mount.");
    stage
        .shell("(cd second/team-a/sources && sha256sum --check --quiet --strict ../../../sums)")?;
    stage.shell("cmp bin/mount.flexfs second/team-a/program")?;
    stage.shell("second/team-a/program version")?;
    let count = stage.shell("wc -l < sums")?;
    let count = count.trim();
    stage.note(&format!("{count} files equal (copied in {:.1} s).", took.as_secs_f64()));
    Ok(())
}

fn scoped_token(stage: &mut Stage, admin: &str) -> Result {
    stage.step("A token for /team-a only, read-only.");
    stage.shell(
        "FLEXFS_TOKEN=file:$PWD/owner.token configure.flexfs create volume-token \
         --volumeID projects --mountPath /team-a --flags ro > team.token",
    )?;
    stage.shell(&format!(
        "mount.flexfs init creds projects --adminAddr {admin} --tokenFile team.token \
         --credsFile team.creds"
    ))?;
    stage.shell("mount.flexfs start projects team --credsFile team.creds")?;
    stage.step("It sees its subtree as / and nothing else, and the server lets it change nothing.");
    let listing = stage.shell("ls team")?;
    if listing.split_whitespace().collect::<Vec<_>>() != ["program", "sources"] {
        return Err("the scoped mount should show program and sources, no more".into());
    }
    stage.refused("cat team/team-b/plans.txt", 1)?;
    let complaint = stage.refused("touch team/new", 1)?;
    if !complaint.contains("Read-only file system") {
        return Err("a write through a ro token should fail with EROFS".into());
    }
    Ok(())
}

fn revocation(stage: &mut Stage) -> Result {
    stage.step("The token is revoked while a program reads through its mount.");
    let inspected = stage.shell("configure.flexfs inspect token - -o json < team.token")?;
    let inspected: serde_json::Value = serde_json::from_str(&inspected)?;
    let id = inspected.get("id").and_then(|id| id.as_str()).ok_or("no id in inspect token")?;
    let reader = Reader::start(&stage.path("team/program"))?;
    let begun = Instant::now();
    stage.shell(&format!(
        "FLEXFS_TOKEN=file:$PWD/owner.token configure.flexfs revoke volume-token {id} --wait"
    ))?;
    let returned = Instant::now();
    let seen = reader.finish()?;
    report_reader(stage, &seen, begun, returned)?;
    stage.refused("ls team", 2)?;
    stage.step("The token opens nothing any more; everybody else goes on.");
    let complaint = stage.refused("mount.flexfs start projects late --credsFile team.creds", 3)?;
    if !complaint.contains("TOKEN_REVOKED") {
        return Err("the refusal should be TOKEN_REVOKED".into());
    }
    stage.shell("echo still here > all/team-b/note && cat second/team-b/note").map(drop)
}

fn report_reader(stage: &Stage, seen: &Seen, begun: Instant, returned: Instant) -> Result {
    let delay = seen.first_error.duration_since(begun);
    let order = match returned.checked_duration_since(seen.first_error) {
        Some(span) => format!("{} ms before it returned", span.as_millis()),
        None => "as it returned".to_owned(),
    };
    stage.note(&format!("The reader's {} reads ended with: {}", seen.reads, seen.error));
    stage.note(&format!("{} ms after the command began, {order}.", delay.as_millis(),));
    if seen.error.raw_os_error() != Some(KEY_REVOKED) {
        return Err("the reader's error should be EKEYREVOKED".into());
    }
    if seen.last_success > returned {
        return Err("a read succeeded after revoke had returned".into());
    }
    Ok(())
}

fn the_end(stage: &mut Stage) -> Result {
    stage.step("Every invariant of the metadata holds.");
    stage.shell("meta.flexfs verify").map(drop)
}
