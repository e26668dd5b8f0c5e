//! The plain way through every operation.

use flexfs_common::Code;
use flexfs_proto::v1;
use flexfs_proto::v1::FileKind;
use flexfs_proto::v1::op::Body;

use super::fixture::{make, on_each_engine};

const O_RDWR: u32 = 2;

#[test]
fn a_new_volume_has_an_empty_root() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let attr = client.getattr(&client.root).unwrap();
        assert_eq!((attr.kind, attr.mode, attr.nlink), (FileKind::Directory as i32, 0o755, 2));
        assert_eq!((attr.uid, attr.gid), (0, 0));
        assert_eq!(client.names(&client.root).unwrap(), Vec::<String>::new());
        fixture.verify();
    });
}

#[test]
fn names_are_made_found_listed_and_removed() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let dir = client.mkdir(&client.root, "d").unwrap();
        let file = client.create(&dir.handle, "f").unwrap();
        assert_eq!(client.lookup(&dir.handle, "f").unwrap().attr, file.attr);
        assert_eq!(client.create(&dir.handle, "f").unwrap_err(), Code::FsExists);
        assert_eq!(client.lookup(&dir.handle, "g").unwrap_err(), Code::FsNotFound);
        let parent = client.getattr(&client.root).unwrap();
        assert_eq!(parent.nlink, 3);
        assert!(parent.change > 1 && parent.mtime == dir.attr.unwrap().btime);
        assert_eq!(client.rmdir(&client.root, "d").unwrap_err(), Code::FsNotEmpty);
        assert_eq!(client.unlink(&client.root, "d").unwrap_err(), Code::FsIsDirectory);
        assert_eq!(client.rmdir(&dir.handle, "f").unwrap_err(), Code::FsNotDirectory);
        client.symlink(&dir.handle, "s", "../else/where").unwrap();
        assert_eq!(client.names(&dir.handle).unwrap(), ["f", "s"]);
        fixture.verify();
        client.unlink(&dir.handle, "f").unwrap();
        client.unlink(&dir.handle, "s").unwrap();
        assert_eq!(client.getattr(&file.handle).unwrap_err(), Code::FsStale);
        client.rmdir(&client.root, "d").unwrap();
        assert_eq!(client.getattr(&dir.handle).unwrap_err(), Code::FsStale);
        assert_eq!(client.getattr(&client.root).unwrap().nlink, 2);
        assert_eq!(fixture.verify().inodes, 1);
    });
}

#[test]
fn a_large_directory_is_read_in_pages_while_it_changes() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        for i in 0..500 {
            client.create(&client.root, &format!("file-{i:03}")).unwrap();
        }
        let mut seen = Vec::new();
        let mut cookie = 0;
        loop {
            let handle = client.root.clone();
            let op = v1::ReadDir { handle, cookie, max_bytes: 2000, plus: true };
            let page = client.page(op).unwrap();
            for entry in &page.entries {
                let attr = client.getattr(&entry.handle).unwrap();
                assert_eq!(Some(&attr), entry.attr.as_ref());
                let name = String::from_utf8(entry.name.clone()).unwrap();
                // Removed names are not shown again, new ones may be.
                client.unlink(&client.root, &name).unwrap();
                client.create(&client.root, &format!("new-{name}")).unwrap();
                cookie = entry.cookie;
                if !name.starts_with("new-") {
                    seen.push(name);
                }
            }
            if page.end || seen.len() > 500 {
                break;
            }
        }
        seen.sort();
        let expected: Vec<_> = (0..500).map(|i| format!("file-{i:03}")).collect();
        assert_eq!(seen, expected, "each old name exactly once");
        fixture.verify();
    });
}

#[test]
fn a_file_is_written_overwritten_and_truncated() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap();
        let open = client.open(&file.handle, O_RDWR).unwrap().open_id;
        let attr = client.write(&file.handle, open, 0, 1000).unwrap();
        assert_eq!((attr.size, attr.blocks), (1000, 2));
        client.write(&file.handle, open, 5000, 1000).unwrap();
        assert_eq!(client.spans(&file.handle), [(0, 1000, 0), (5000, 1000, 0)]);
        // In the middle of the first, and over the edge of the second.
        client.write(&file.handle, open, 100, 200).unwrap();
        client.write(&file.handle, open, 4500, 700).unwrap();
        let spans = [(0, 100, 0), (100, 200, 0), (300, 700, 300), (4500, 700, 0), (5200, 800, 200)];
        assert_eq!(client.spans(&file.handle), spans);
        fixture.verify();
        // Replaced as a whole: both objects of the first span are condemned.
        client.write(&file.handle, open, 0, 4600).unwrap();
        let attr = client.getattr(&file.handle).unwrap();
        assert_eq!((attr.size, attr.blocks), (6000, 6000_u64.div_ceil(512)));
        client.truncate(&file.handle, 4650).unwrap();
        assert_eq!(client.spans(&file.handle), [(0, 4600, 0), (4600, 50, 100)]);
        client.truncate(&file.handle, 10_000).unwrap();
        assert_eq!(client.extents(&file.handle).unwrap().size, 10_000);
        fixture.verify();
        client.volume.tick().unwrap();
        let kept = fixture.blocks.objects.lock().len();
        assert_eq!(kept, 2, "what nothing names is deleted, what is in use is kept");
        fixture.verify();
        client.unlink(&client.root, "f").unwrap();
        assert_eq!(client.spans(&file.handle).len(), 2, "still open");
        fixture.verify();
        client.release(&file.handle, open).unwrap();
        assert_eq!(client.getattr(&file.handle).unwrap_err(), Code::FsStale);
        client.volume.tick().unwrap();
        assert!(fixture.blocks.objects.lock().is_empty());
        assert_eq!(fixture.verify().inodes, 1);
    });
}

#[test]
fn small_contents_lie_inline_until_they_grow() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let file = client.create(&client.root, "f").unwrap();
        let open = client.open(&file.handle, O_RDWR).unwrap().open_id;
        assert_eq!(client.write_inline(&file.handle, open, b"hello").unwrap().size, 5);
        let map = client.extents(&file.handle).unwrap();
        assert_eq!((map.inline_data.as_deref(), map.size), (Some(&b"hello"[..]), 5));
        client.truncate(&file.handle, 10_000).unwrap();
        client.truncate(&file.handle, 3).unwrap();
        client.truncate(&file.handle, 8).unwrap();
        let map = client.extents(&file.handle).unwrap();
        assert_eq!((map.inline_data.as_deref(), map.size), (Some(&b"hel"[..]), 8));
        fixture.verify();
        let stale = v1::CommitData {
            handle: file.handle.clone(),
            open_id: open,
            inline_data: Some(b"lost".to_vec().into()),
            base_change: file.attr.unwrap().change,
            ..Default::default()
        };
        assert_eq!(client.commit(stale).unwrap_err(), Code::FsBusy);
        let too_long = vec![0; 8193];
        let refused = client.write_inline(&file.handle, open, &too_long).unwrap_err();
        assert_eq!(refused, Code::FsTooBig);
        // Extents replace inline contents only when they cover them.
        let change = client.getattr(&file.handle).unwrap().change;
        for (offset, length, good) in [(3, 100, false), (0, 2, false), (0, 100, true)] {
            let object = client.upload(1, length).unwrap().pop().unwrap();
            let result = client.commit(v1::CommitData {
                handle: file.handle.clone(),
                open_id: open,
                extents: vec![super::fixture::extent(object, offset, length)],
                stored_lengths: vec![length],
                base_change: change,
                ..Default::default()
            });
            assert_eq!(result.is_ok(), good, "{offset} {length}: {result:?}");
        }
        assert_eq!(client.spans(&file.handle), [(0, 100, 0)]);
        assert_eq!(client.write_inline(&file.handle, open, b"x").unwrap_err(), Code::FsInvalid);
        fixture.verify();
    });
}

#[test]
fn a_frame_is_one_commit_and_each_operation_for_itself() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let before = fixture.engine.head();
        let answers = client.frame(vec![
            make(&client.root, "a", FileKind::Regular, 0o644),
            make(&client.root, "a", FileKind::Regular, 0o644),
            super::fixture::lookup(&client.root, "a"),
            make(&client.root, "b", FileKind::Directory, 0o755),
            Body::GetAttr(v1::GetAttr { handle: client.root.clone() }),
        ]);
        assert_eq!(fixture.engine.head().0, before.0 + 1);
        assert!(answers[0].is_ok());
        assert_eq!(answers[1], Err(Code::FsExists));
        assert!(answers[2].is_ok(), "a lookup sees what stands before it in the frame");
        assert!(answers[3].is_ok() && answers[4].is_ok());
        assert_eq!(client.names(&client.root).unwrap(), ["a", "b"]);
        fixture.verify();
    });
}

#[test]
fn sync_is_answered_when_the_engine_has_synced() {
    on_each_engine(|fixture| {
        let client = fixture.client();
        let answers = client.frame(vec![
            make(&client.root, "a", FileKind::Regular, 0o644),
            Body::Sync(v1::Sync {}),
        ]);
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    });
}
