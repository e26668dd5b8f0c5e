//! The whole flow with PostgreSQL behind admin.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking, their helpers too"
)]

use std::fs;

use flexfs_tests::Cluster;

#[test]
fn everything_works_on_postgres() {
    let mut cluster = Cluster::start_on_postgres();
    assert!(!cluster.home().join("admin/flexfs.db").exists(), "this is SQLite");
    let made = cluster.json(&["create", "account", "--name", "team"]);
    let owner = cluster.keep(&made["accountToken"]);
    let create = "create volume work --metaStoreID here --blockStoreID disk -o json";
    let words: Vec<&str> = create.split(' ').collect();
    let full = cluster.keep(&cluster.configure_as(&owner, &words).json()["volumeToken"]);
    let all = cluster.mount("work", &full);
    fs::create_dir(all.path("team-a")).unwrap();
    fs::write(all.path("team-a/f"), vec![5; 100_000]).unwrap();
    let scope = "create volume-token --volumeID work --mountPath /team-a --flags ro -o json";
    let words: Vec<&str> = scope.split(' ').collect();
    let scoped = cluster.keep(&cluster.configure_as(&owner, &words).json());
    let reader = cluster.mount("work", &scoped);
    assert_eq!(fs::read(reader.path("f")).unwrap(), vec![5; 100_000]);
    assert!(fs::write(reader.path("g"), "x").is_err());
    // admin's death loses nothing.
    cluster.kill9_admin();
    fs::write(all.path("team-a/h"), "while admin is away").unwrap();
    cluster.restart_admin();
    let revoke = ["revoke", "volume-token", &scoped.id, "--wait", "-o", "json"];
    let said = cluster.configure_as(&owner, &revoke).json();
    assert_eq!(said["sessionsCut"], 1, "{said}");
    let error = fs::read(reader.path("f")).unwrap_err().raw_os_error();
    assert_eq!(error, Some(rustix::io::Errno::KEYREVOKED.raw_os_error()));
    let list = ["list", "volume-tokens", "--volumeID", "work", "-o", "json"];
    let listed = cluster.configure_as(&owner, &list).json();
    let state = |id: &str| {
        let items = listed["items"].as_array().unwrap();
        items.iter().find(|item| item["id"] == id).unwrap()["state"].clone()
    };
    assert_eq!((state(&scoped.id), state(&full.id)), ("revoked".into(), "active".into()));
    assert_eq!(fs::read(all.path("team-a/h")).unwrap(), b"while admin is away");
    cluster.verify_clean();
}
