//! Acting as somebody else, which root may.

use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Runs `work` as a user and a group of these numbers, in no other group, and
/// without capabilities. On a thread of its own: the others stay who they are.
///
/// # Panics
/// When this is not root, or `work` panics.
pub fn as_user<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send) -> T {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            set_thread_groups(&[]).expect("only root can act as other users");
            set_thread_res_gid(gid, gid, gid).expect("a group");
            set_thread_res_uid(uid, uid, uid).expect("a user");
            work()
        });
        thread.join().expect("it does not panic")
    })
}
