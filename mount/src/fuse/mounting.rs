//! mount(2), umount2(2), and fusermount3 where the user may not.
//!
//! With `default_permissions` where the kernel sees the ids that meta acts
//! for: it checks what it answers from its caches, and meta checks again what
//! it is asked. Under squashing or pins meta alone decides
//! (docs/adr/0012-permissions-are-metas.md).

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flexfs_common::{Code, Error, Result, flags};
use flexfs_proto::v1;
use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use crate::mount_table::{self, FS_TYPE, MountEntry};

/// The helper of the fuse3 package.
const FUSERMOUNT: &str = "fusermount3";
/// How far the kernel reads ahead of a sequential reader, in KiB: a few
/// blocks, so that a block is fetched while the one before is being read.
const READ_AHEAD_KIB: &str = "4096";

/// What to mount, and how.
#[derive(Debug, Clone)]
pub struct MountSettings {
    /// Shown as the source.
    pub volume: String,
    /// Absolute.
    pub dir: PathBuf,
    /// In force (meta's answer).
    pub flags: v1::Flags,
    /// Only the user who mounts may use it.
    pub owner_only: bool,
}

/// A mounted file system. Not unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    dir: PathBuf,
    /// `major:minor`, to know it again.
    device: Option<String>,
    /// Held while it is changed: what lies below is not touched when it is
    /// gone.
    turn: Mutex<()>,
}

/// What became of a remount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remounted {
    /// The kernel has all of it.
    InForce,
    /// All but read-only: files are open for writing.
    Busy,
}

impl Mounted {
    /// Mounts, and gives the connection's device.
    ///
    /// # Errors
    /// `MOUNT_INVALID`, with the reason.
    pub fn mount(settings: &MountSettings) -> Result<(Mounted, OwnedFd)> {
        let device = if rustix::process::geteuid().is_root() {
            mount_directly(settings)?
        } else {
            mount_by_helper(settings)?
        };
        let entry = mount_table::mounted_at(&settings.dir)?.filter(|e| e.kind == FS_TYPE);
        let mounted = Mounted {
            dir: settings.dir.clone(),
            device: entry.map(|entry| entry.device),
            turn: Mutex::new(()),
        };
        mounted.set_read_ahead();
        Ok((mounted, device))
    }

    /// Where.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Is it still there, on top?
    #[must_use]
    pub fn is_mounted(&self) -> bool {
        let top = mount_table::mounted_at(&self.dir).ok().flatten();
        top.is_some_and(|entry| Some(&entry.device) == self.device.as_ref())
    }

    /// Unmounts; a directory in use is detached, and vanishes when the last
    /// user leaves. Nothing happens when it is not mounted any more.
    ///
    /// # Errors
    /// `MOUNT_INVALID` with the system's reason.
    pub fn unmount(&self) -> Result<()> {
        let _turn = self.turn.lock();
        if !self.is_mounted() {
            return Ok(());
        }
        match rustix::mount::unmount(&self.dir, UnmountFlags::empty()) {
            Ok(()) => Ok(()),
            Err(_) => detach(&self.dir),
        }
    }

    /// Puts flags into force on the live mount.
    ///
    /// # Errors
    /// `MOUNT_INVALID` with the system's reason; only root may.
    pub fn remount(&self, flags: &v1::Flags) -> Result<Remounted> {
        let why = "the kernel does not take the new flags; mount again";
        let _turn = self.turn.lock();
        let root = self.hold()?;
        // By descriptor: whoever unmounts now does not make us change what
        // lies below.
        let place = Path::new("/proc/self/fd").join(root.as_raw_fd().to_string());
        let remount = |flags| rustix::mount::mount_remount(&place, flags, c"");
        let wanted = remount_flags(flags);
        match remount(wanted) {
            Ok(()) => Ok(Remounted::InForce),
            Err(Errno::BUSY) if flags.ro => remount(wanted - MountFlags::RDONLY)
                .map(|()| Remounted::Busy)
                .map_err(|e| failed(&self.dir, why).caused_by(e)),
            Err(e) => Err(failed(&self.dir, why).caused_by(e)),
        }
    }

    /// Its root, without asking the daemon, which is us.
    fn hold(&self) -> Result<OwnedFd> {
        let gone = || failed(&self.dir, "is not mounted any more");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root =
            rustix::fs::open(&self.dir, flags, Mode::empty()).map_err(|e| gone().caused_by(e))?;
        let cached = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let found = rustix::fs::statx(&root, "", cached, StatxFlags::empty())
            .map_err(|e| gone().caused_by(e))?;
        let device = format!("{}:{}", found.stx_dev_major, found.stx_dev_minor);
        if self.device.as_ref() == Some(&device) { Ok(root) } else { Err(gone()) }
    }

    /// Needs root, and is only about speed.
    fn set_read_ahead(&self) {
        let Some(device) = &self.device else { return };
        let knob = format!("/sys/class/bdi/{device}/read_ahead_kb");
        if let Err(error) = std::fs::write(&knob, READ_AHEAD_KIB) {
            tracing::debug!("{knob}: {error}");
        }
    }
}

/// Takes away a mount of ours whose daemon is dead, if one lies at `dir`.
/// True when there was one.
///
/// # Errors
/// `MOUNT_INVALID` when it cannot be taken away.
pub fn detach_dead(dir: &Path) -> Result<bool> {
    let ours = |entry: &MountEntry| entry.kind == FS_TYPE;
    if !mount_table::mounted_at(dir)?.as_ref().is_some_and(ours) {
        return Ok(false);
    }
    // The second in the moment in which the daemon dies.
    if !matches!(rustix::fs::statfs(dir), Err(Errno::NOTCONN | Errno::CONNABORTED)) {
        return Ok(false);
    }
    detach(dir).map(|()| true)
}

/// Does somebody use the mount at `dir`? Changes nothing: MNT_EXPIRE only
/// marks one that is not in use (umount2(2)). False where the caller may not ask.
#[must_use]
pub fn is_busy(dir: &Path) -> bool {
    rustix::mount::unmount(dir, UnmountFlags::EXPIRE) == Err(Errno::BUSY)
}

/// umount(8) with `-l`, or with `-f`: nothing is waited for. The daemon still
/// sends what was written.
///
/// # Errors
/// `MOUNT_INVALID` when it cannot be taken away.
pub fn unmount_now(dir: &Path, force: bool) -> Result<()> {
    if force && rustix::mount::unmount(dir, UnmountFlags::FORCE).is_ok() {
        return Ok(());
    }
    detach(dir)
}

fn detach(dir: &Path) -> Result<()> {
    if rustix::mount::unmount(dir, UnmountFlags::DETACH).is_ok() {
        return Ok(());
    }
    let output = Command::new(FUSERMOUNT)
        .args(["-u", "-z", "--"])
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| failed(dir, "cannot be unmounted").caused_by(e))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(failed(dir, &format!("cannot be unmounted: {}", why.trim())))
}

fn failed(dir: &Path, why: &str) -> Error {
    Error::new(Code::MountInvalid, format!("{}: {why}", dir.display()))
}

fn mount_flags(flags: &v1::Flags) -> MountFlags {
    [
        (flags.ro, MountFlags::RDONLY),
        (flags.no_exec, MountFlags::NOEXEC),
        (flags.no_suid, MountFlags::NOSUID),
        (flags.no_dev, MountFlags::NODEV),
        (flags.no_atime, MountFlags::NOATIME),
    ]
    .into_iter()
    .filter_map(|(set, flag)| set.then_some(flag))
    .fold(MountFlags::empty(), MountFlags::union)
}

/// Also says what is not wanted any more where the kernel would keep it: it
/// takes no word about access times for the old one.
fn remount_flags(flags: &v1::Flags) -> MountFlags {
    let times = if flags.no_atime { MountFlags::empty() } else { MountFlags::RELATIME };
    mount_flags(flags) | times
}

fn mount_directly(settings: &MountSettings) -> Result<OwnedFd> {
    let dir = &settings.dir;
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(|e| failed(dir, "/dev/fuse cannot be opened (modprobe fuse?)").caused_by(e))?;
    let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
    let allow_other = if settings.owner_only { "" } else { ",allow_other" };
    let checks = if flags::identity_is_true(&settings.flags) { ",default_permissions" } else { "" };
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}{allow_other}{checks}",
        device.as_raw_fd(),
        user.as_raw(),
        group.as_raw(),
    );
    let data = CString::new(data).map_err(|e| failed(dir, "mount options").caused_by(e))?;
    rustix::mount::mount(
        settings.volume.as_str(),
        dir,
        FS_TYPE,
        mount_flags(&settings.flags),
        Some(data.as_c_str()),
    )
    .map_err(|e| failed(dir, "the system refuses to mount here").caused_by(e))?;
    Ok(device.into())
}

/// fusermount3 mounts and sends the device's descriptor over the socket that
/// `_FUSE_COMMFD` names.
fn mount_by_helper(settings: &MountSettings) -> Result<OwnedFd> {
    let dir = &settings.dir;
    let no_helper = |e: std::io::Error| {
        failed(dir, "only root may mount without fusermount3 (package fuse3)").caused_by(e)
    };
    let (ours, theirs) = UnixStream::pair().map_err(no_helper)?;
    // The helper inherits its end.
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty())
        .map_err(|e| no_helper(e.into()))?;
    let mut helper = Command::new(FUSERMOUNT)
        .arg("-o")
        .arg(helper_options(settings))
        .arg("--")
        .arg(dir)
        .env("_FUSE_COMMFD", theirs.as_raw_fd().to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(no_helper)?;
    drop(theirs);
    let device = receive_device(&ours);
    let mut why = String::new();
    if let Some(mut pipe) = helper.stderr.take() {
        // Only for the message.
        let _ = pipe.read_to_string(&mut why);
    }
    let _ = helper.wait();
    device.ok_or_else(|| {
        let hint = if why.contains("user_allow_other") { "; or give --ownerOnly" } else { "" };
        failed(dir, &format!("{}{hint}", why.trim()))
    })
}

fn helper_options(settings: &MountSettings) -> String {
    let flags = &settings.flags;
    let mut options = format!("fsname={},subtype=flexfs", settings.volume);
    let more = [
        (!settings.owner_only, "allow_other"),
        (flags::identity_is_true(&settings.flags), "default_permissions"),
        (flags.ro, "ro"),
        (flags.no_exec, "noexec"),
        (flags.no_suid, "nosuid"),
        (flags.no_dev, "nodev"),
        (flags.no_atime, "noatime"),
    ];
    for (_, option) in more.into_iter().filter(|(set, _)| *set) {
        options.push(',');
        options.push_str(option);
    }
    options
}

fn receive_device(socket: &UnixStream) -> Option<OwnedFd> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let mut parts = [IoSliceMut::new(&mut byte)];
    rustix::net::recvmsg(socket.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?;
    control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What /proc/mounts says of a directory, as far as it is about flags.
    fn shown(dir: &Path) -> Vec<String> {
        let known = ["ro", "rw", "noexec", "nosuid", "nodev", "noatime", "relatime"];
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mut lines = mounts.lines().map(|line| line.split(' ').skip(1));
        let options = lines.find_map(|mut line| (line.next() == dir.to_str()).then(|| line.nth(1)));
        let options = options.flatten().unwrap();
        options.split(',').filter(|word| known.contains(word)).map(str::to_owned).collect()
    }

    #[test]
    fn read_only_waits_for_files_that_are_open_for_writing_and_the_rest_does_not() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not tested: only root may mount");
            return;
        }
        // To the kernel's flags one file system is like another.
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().canonicalize().unwrap();
        rustix::mount::mount("none", &dir, "tmpfs", MountFlags::empty(), None).unwrap();
        let device = mount_table::mounted_at(&dir).unwrap().map(|entry| entry.device);
        let mounted = Mounted { dir: dir.clone(), device, turn: Mutex::new(()) };
        let open = std::fs::File::create(dir.join("f")).unwrap();
        let narrow = v1::Flags { ro: true, no_exec: true, ..v1::Flags::default() };
        assert_eq!(mounted.remount(&narrow).unwrap(), Remounted::Busy);
        assert_eq!(shown(&dir), ["rw", "noexec", "relatime"]);
        drop(open);
        assert_eq!(mounted.remount(&narrow).unwrap(), Remounted::InForce);
        assert_eq!(shown(&dir), ["ro", "noexec", "relatime"]);
        mounted.unmount().unwrap();
    }

    #[test]
    fn a_remount_puts_flags_into_force_and_touches_nothing_else() {
        if !rustix::process::geteuid().is_root() || std::fs::File::open("/dev/fuse").is_err() {
            eprintln!("not tested: only root may mount, and this needs /dev/fuse");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let settings = MountSettings {
            volume: "vol".into(),
            dir: place.path().canonicalize().unwrap(),
            flags: v1::Flags::default(),
            owner_only: false,
        };
        // Nobody serves it: nothing here may ask.
        let (mounted, _device) = Mounted::mount(&settings).unwrap();
        let narrow = v1::Flags { ro: true, no_exec: true, no_atime: true, ..settings.flags };
        for (flags, expected) in [
            (narrow, ["ro", "noexec", "noatime"].as_slice()),
            (
                v1::Flags { no_dev: true, no_suid: true, ..settings.flags },
                &["rw", "nosuid", "nodev", "relatime"],
            ),
            (settings.flags, &["rw", "relatime"]),
        ] {
            assert_eq!(mounted.remount(&flags).unwrap(), Remounted::InForce);
            assert_eq!(shown(mounted.dir()), expected, "{flags:?}");
        }
        mounted.unmount().unwrap();
        assert!(!mounted.is_mounted());
        // What lies below is not ours.
        assert_eq!(mounted.remount(&narrow).unwrap_err().code(), Code::MountInvalid);
    }

    #[test]
    fn flags_become_mount_flags() {
        let flags = v1::Flags { ro: true, no_dev: true, root_squash: true, ..Default::default() };
        assert_eq!(mount_flags(&flags), MountFlags::RDONLY | MountFlags::NODEV);
        assert_eq!(mount_flags(&v1::Flags::default()), MountFlags::empty());
        assert_eq!(remount_flags(&flags), mount_flags(&flags) | MountFlags::RELATIME);
        let quiet = v1::Flags { no_atime: true, ..Default::default() };
        assert_eq!(remount_flags(&quiet), MountFlags::NOATIME);
        let settings =
            MountSettings { volume: "vol".into(), dir: "/mnt".into(), flags, owner_only: false };
        assert_eq!(helper_options(&settings), "fsname=vol,subtype=flexfs,allow_other,ro,nodev");
        let settings = MountSettings { flags: v1::Flags::default(), owner_only: true, ..settings };
        assert_eq!(helper_options(&settings), "fsname=vol,subtype=flexfs,default_permissions");
    }
}
