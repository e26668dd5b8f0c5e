//! What mounts may keep without asking, and how it is taken back.

use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flexfs_common::Code;
use flexfs_proto::v1;
use flexfs_proto::v1::op::Body;
use flexfs_proto::v1::{FileKind, reply};

use super::fixture::{self, Client, Fixture, answer, lookup, make, on_each_engine, rename};
use crate::volume::Execution;

/// One for all: an operation that waits keeps to the clock it began on.
pub(super) fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> = LazyLock::new(fixture::runtime);
    &RUNTIME
}

fn keeper(fixture: &Fixture) -> Client {
    fixture.keeper("/", v1::Flags::default())
}

/// The recalls that wait for a client's connection.
pub(super) fn recalled(client: &Client) -> Vec<v1::Recall> {
    let Some(queue) = client.volume.recalls(client.id) else { return Vec::new() };
    let generation = client.generation.load(Ordering::Relaxed);
    runtime().block_on(async {
        let mut recalls = Vec::new();
        while let Ok(recall) =
            tokio::time::timeout(Duration::from_millis(20), queue.next(generation)).await
        {
            recalls.push(recall);
        }
        recalls
    })
}

/// The client has carried these recalls out.
pub(super) fn give_up(client: &Client, ids: &[u64]) {
    client.volume.recalls(client.id).unwrap().answered(ids);
}

/// Starts an operation that has to wait for recalls.
pub(super) fn begin(client: &Client, body: Body) -> impl Future<Output = v1::Reply> + Send + use<> {
    let op = client.op(body);
    match client.execute(vec![op]).pop().unwrap() {
        Execution::Pending(future) => future,
        Execution::Done(reply) => panic!("answered before what it recalls was given up: {reply:?}"),
    }
}

pub(super) fn is_answered(future: &mut (impl Future<Output = v1::Reply> + Unpin)) -> bool {
    let short = Duration::from_millis(30);
    runtime().block_on(async { tokio::time::timeout(short, future).await.is_ok() })
}

/// The operation waits for `holder`, which is told exactly this.
pub(super) fn waits_for(holder: &Client, by: &Client, body: Body) -> (v1::Recall, v1::Reply) {
    let mut answer = Box::pin(begin(by, body));
    let mut recalls = recalled(holder);
    assert_eq!(recalls.len(), 1, "{recalls:?}");
    let recall = recalls.remove(0);
    assert!(!is_answered(&mut answer), "before it was given up");
    give_up(holder, &[recall.id]);
    let reply = runtime().block_on(answer);
    (recall, reply)
}

pub(super) fn chmod(handle: &[u8], mode: u32) -> Body {
    Body::SetAttr(v1::SetAttr { handle: handle.to_vec(), mode: Some(mode), ..Default::default() })
}

fn file(parent: &[u8], name: &str) -> Body {
    make(parent, name, FileKind::Regular, 0o644)
}

fn attr(entry: &v1::Entry) -> v1::Attr {
    entry.attr.unwrap()
}

#[test]
fn attributes_are_kept_by_many_and_recalled_before_a_change_returns() {
    on_each_engine(|fixture| {
        let (one, two) = (keeper(fixture), keeper(fixture));
        let made = one.create(&one.root, "f").unwrap();
        let seen = two.lookup(&two.root, "f").unwrap();
        assert!(attr(&made).cache_millis > 0 && attr(&seen).cache_millis > 0);
        let (recall, reply) = waits_for(&two, &one, chmod(&made.handle, 0o600));
        assert_eq!((recall.inos, recall.all), (vec![attr(&made).ino], false));
        let Ok(reply::Result::Attr(own)) = answer(reply) else { panic!("attributes") };
        assert!(own.cache_millis > 0, "whoever changed it keeps it");
        assert_eq!(one.chmod(&made.handle, 0o640).unwrap().mode, 0o640, "nobody else has it");
        assert!(recalled(&one).is_empty(), "one's own changes recall nothing from oneself");
        let again = two.getattr(&seen.handle).unwrap();
        assert_eq!((again.mode, again.cache_millis), (0o640, 0), "not while it changes so often");
    });
}

#[test]
fn the_names_of_a_directory_are_kept_by_one_mount() {
    on_each_engine(|fixture| {
        let (one, two) = (keeper(fixture), keeper(fixture));
        let dir = one.mkdir(&one.root, "d").unwrap();
        let made = one.create(&dir.handle, "f").unwrap();
        assert!(made.name_cache_millis > 0);
        let theirs = two.walk("d/f").unwrap();
        assert_eq!(theirs.name_cache_millis, 0, "one has the names");
        let absent = lookup(&dir.handle, "new");
        assert!(
            matches!(one.call(absent.clone()), Ok(reply::Result::Absent(a)) if a.cache_millis > 0)
        );
        let dir_of_two = two.walk("d").unwrap().handle;
        assert_eq!(two.lookup(&dir_of_two, "new").unwrap_err(), Code::FsNotFound);
        let (recall, _) = waits_for(&one, &two, file(&dir_of_two, "new"));
        assert_eq!(recall.name_inos, [attr(&dir).ino]);
        assert_eq!(recall.inos, [attr(&dir).ino], "its times changed too");
        assert!(
            matches!(one.call(absent), Ok(reply::Result::Entry(e)) if e.name_cache_millis == 0)
        );
    });
}

/// A new directory is empty: with the right to its names its maker knows that
/// nothing is in it, until somebody else puts something there.
#[test]
fn who_makes_a_directory_may_keep_its_names() {
    on_each_engine(|fixture| {
        let (one, two) = (keeper(fixture), keeper(fixture));
        let dir = one.mkdir(&one.root, "d").unwrap();
        assert!(dir.own_names_cache_millis > 0);
        let file = one.create(&dir.handle, "f").unwrap();
        assert_eq!(file.own_names_cache_millis, 0, "not a directory");
        let dir_of_two = two.walk("d").unwrap().handle;
        let (recall, _) = waits_for(&one, &two, self::file(&dir_of_two, "new"));
        assert_eq!(recall.name_inos, [attr(&dir).ino]);
        // Under a directory whose names another has, and to a mount whose
        // kernel does not decide as meta does, nothing is granted.
        let flags = v1::Flags { root_squash: true, ..v1::Flags::default() };
        let squashed = fixture.keeper("/", flags);
        let handle = dir_of_two;
        let open = v1::SetAttr { handle, mode: Some(0o777), ..v1::SetAttr::default() };
        two.call(Body::SetAttr(open)).unwrap();
        let theirs = squashed.mkdir(&squashed.walk("d").unwrap().handle, "s").unwrap();
        assert_eq!(theirs.own_names_cache_millis, 0);
    });
}

#[test]
fn a_page_of_a_directory_lets_its_entries_be_kept() {
    on_each_engine(|fixture| {
        let (one, two) = (keeper(fixture), keeper(fixture));
        for name in ["a", "b"] {
            one.create(&one.root, name).unwrap();
        }
        let page = |plus| {
            let op = v1::ReadDir { handle: one.root.clone(), cookie: 0, max_bytes: 4096, plus };
            one.page(op).unwrap()
        };
        assert_eq!(page(false).name_cache_millis, 0);
        let page = page(true);
        assert!(page.name_cache_millis > 0);
        assert!(page.entries.iter().all(|e| e.attr.unwrap().cache_millis > 0));
        let (recall, _) = waits_for(&one, &two, rename((&two.root, "a"), (&two.root, "b")));
        let mut inos = recall.inos;
        inos.sort_unstable();
        let mut all: Vec<u64> = page.entries.iter().map(|entry| entry.ino).collect();
        all.sort_unstable();
        assert_eq!(inos, all, "what moved, and what was replaced");
    });
}

#[test]
fn who_does_not_know_recalls_or_is_squashed_is_granted_nothing() {
    on_each_engine(|fixture| {
        let (plain, keeper) = (fixture.client(), keeper(fixture));
        let made = plain.create(&plain.root, "f").unwrap();
        assert_eq!((attr(&made).cache_millis, made.name_cache_millis), (0, 0));
        assert_eq!(plain.lookup(&plain.root, "x").unwrap_err(), Code::FsNotFound);
        let flags = v1::Flags { root_squash: true, ..v1::Flags::default() };
        let squashed = fixture.keeper("/", flags);
        let seen = squashed.lookup(&squashed.root, "f").unwrap();
        assert_eq!(seen.name_cache_millis, 0, "its kernel checks with other ids");
        assert!(attr(&seen).cache_millis > 0);
        assert!(keeper.lookup(&keeper.root, "f").unwrap().name_cache_millis > 0);
    });
}

#[test]
fn the_end_of_a_session_ends_its_rights() {
    on_each_engine(|fixture| {
        let (one, two) = (keeper(fixture), keeper(fixture));
        let made = one.create(&one.root, "f").unwrap();
        two.lookup(&two.root, "f").unwrap();
        let mut change = Box::pin(begin(&one, chmod(&made.handle, 0o600)));
        assert!(!is_answered(&mut change));
        fixture.volume.end_session(two.id).unwrap();
        assert!(is_answered(&mut change));
        let three = keeper(fixture);
        let made = one.create(&one.root, "g").unwrap();
        assert!(attr(&three.lookup(&three.root, "g").unwrap()).cache_millis > 0);
        fixture.volume.end_session(three.id).unwrap();
        let op = one.op(chmod(&made.handle, 0o600));
        let made = one.execute(vec![op]).pop().unwrap();
        assert!(matches!(made, Execution::Done(_)), "nobody is there to be told");
    });
}

#[test]
fn a_recall_under_way_holds_up_every_change_and_grants_nothing_anew() {
    on_each_engine(|fixture| {
        let (one, two, three) = (keeper(fixture), keeper(fixture), keeper(fixture));
        let made = one.create(&one.root, "f").unwrap();
        two.lookup(&two.root, "f").unwrap();
        let handle = three.lookup(&three.root, "f").unwrap().handle;
        let first = begin(&one, chmod(&made.handle, 0o600));
        let to_two = recalled(&two);
        let to_three = recalled(&three);
        assert_eq!((to_two.len(), to_three.len()), (1, 1));
        let mut second = Box::pin(begin(&three, chmod(&handle, 0o640)));
        assert!(recalled(&two).is_empty(), "it is recalled already");
        assert_eq!(two.lookup(&two.root, "f").unwrap().attr.unwrap().cache_millis, 0);
        assert!(!is_answered(&mut second));
        give_up(&two, &[to_two[0].id]);
        give_up(&three, &[to_three[0].id]);
        // The first one was recalled by the second's change.
        let to_one = recalled(&one);
        give_up(&one, &to_one.iter().map(|r| r.id).collect::<Vec<_>>());
        runtime().block_on(async { (first.await, second.await) });
    });
}

#[test]
fn after_a_restart_everything_counts_as_kept_until_it_is_given_up() {
    on_each_engine(|fixture| {
        let (one, two) = (keeper(fixture), keeper(fixture));
        let made = one.create(&one.root, "f").unwrap();
        two.lookup(&two.root, "f").unwrap();
        let again = fixture.reopen();
        let attach = |client: &Client| {
            let client = client.at(&again);
            let generation = again.volume.attach(client.id).unwrap().generation;
            client.generation.store(generation, Ordering::Relaxed);
            client
        };
        let one = attach(&one);
        let mut change = Box::pin(begin(&one, chmod(&made.handle, 0o600)));
        assert!(!is_answered(&mut change), "the other may not even have come back");
        let two = attach(&two);
        let recalls = recalled(&two);
        assert!(matches!(&recalls[..], [recall] if recall.all), "{recalls:?}");
        give_up(&two, &[recalls[0].id]);
        assert!(is_answered(&mut change));
    });
}

#[test]
fn a_repeated_change_waits_as_its_first_sending_did() {
    on_each_engine(|fixture| {
        let (one, two) = (keeper(fixture), keeper(fixture));
        let made = one.create(&one.root, "f").unwrap();
        two.lookup(&two.root, "f").unwrap();
        let op = one.op(chmod(&made.handle, 0o600));
        let pending = |execution| match execution {
            Execution::Pending(future) => future,
            Execution::Done(reply) => panic!("answered too early: {reply:?}"),
        };
        drop(pending(one.execute(vec![op.clone()]).pop().unwrap()));
        let again = pending(one.execute(vec![op]).pop().unwrap());
        let recalls = recalled(&two);
        give_up(&two, &[recalls[0].id]);
        let Ok(reply::Result::Attr(attr)) = answer(runtime().block_on(again)) else {
            panic!("attributes")
        };
        assert_eq!((attr.mode, attr.cache_millis), (0o600, 0), "an old answer is not to be kept");
    });
}

#[test]
fn what_leaves_a_scope_is_recalled_with_everything_below_it() {
    on_each_engine(|fixture| {
        let owner = fixture.client();
        let team = owner.mkdir(&owner.root, "team").unwrap();
        let sub = owner.mkdir(&team.handle, "sub").unwrap();
        owner.create(&sub.handle, "f").unwrap();
        let scoped = fixture.keeper("/team", v1::Flags::default());
        scoped.walk("sub/f").unwrap();
        let out = rename((&team.handle, "sub"), (&owner.root, "sub"));
        let mut moved = Box::pin(begin(&owner, out));
        let recalls = recalled(&scoped);
        let (all, some): (Vec<_>, Vec<_>) = recalls.iter().partition(|recall| recall.all);
        assert_eq!(all.len(), 1, "{recalls:?}");
        let some: Vec<u64> = some.iter().map(|recall| recall.id).collect();
        give_up(&scoped, &some);
        assert!(!is_answered(&mut moved), "what lies below is still kept");
        give_up(&scoped, &[all[0].id]);
        assert!(is_answered(&mut moved));
    });
}

/// One frame with changes of two directories: each answer waits for its own.
#[test]
fn an_operation_does_not_wait_for_what_another_of_its_frame_recalls() {
    on_each_engine(|fixture| {
        let (one, two) = (keeper(fixture), keeper(fixture));
        let mine = one.mkdir(&one.root, "mine").unwrap();
        let theirs = two.mkdir(&two.root, "theirs").unwrap();
        two.create(&theirs.handle, "f").unwrap();
        let theirs = one.walk("theirs").unwrap();
        let ops = vec![one.op(file(&theirs.handle, "x")), one.op(file(&mine.handle, "y"))];
        let mut done = one.execute(ops);
        assert!(matches!(done.pop(), Some(Execution::Done(_))), "its own directory");
        assert!(matches!(done.pop(), Some(Execution::Pending(_))), "the other's");
    });
}

#[test]
fn while_a_recall_is_unanswered_nothing_is_granted() {
    on_each_engine(|fixture| {
        let (one, two) = (keeper(fixture), keeper(fixture));
        let made = one.create(&one.root, "f").unwrap();
        two.lookup(&two.root, "f").unwrap();
        drop(begin(&one, chmod(&made.handle, 0o600)));
        let unanswered = recalled(&two);
        assert_eq!(unanswered.len(), 1);
        let late = || two.getattr(&two.root).unwrap().cache_millis == 0;
        wait_until(late);
        give_up(&two, &[unanswered[0].id]);
        assert!(two.getattr(&two.root).unwrap().cache_millis > 0, "late, but in time");
    });
}

/// Waits for a state, with a limit.
fn wait_until(is_so: impl Fn() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(5);
    while !is_so() {
        assert!(std::time::Instant::now() < until, "it did not come about");
        std::thread::yield_now();
    }
}

#[test]
fn changed_flags_end_what_was_granted_under_the_old_ones() {
    on_each_engine(|fixture| {
        let one = keeper(fixture);
        one.create(&one.root, "f").unwrap();
        let mut settings = fixture.volume.settings();
        fixture.volume.update_settings(settings.clone()).unwrap();
        assert!(recalled(&one).is_empty(), "nothing changed for it");
        settings.flags.root_squash = true;
        fixture.volume.update_settings(settings).unwrap();
        assert!(matches!(&recalled(&one)[..], [recall] if recall.all));
    });
}
