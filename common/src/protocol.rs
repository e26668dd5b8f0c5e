//! Versions and features of the protocol between mount and meta.

/// The newest protocol version this build speaks.
pub const VERSION: u32 = 1;
/// The oldest protocol version this build speaks.
pub const VERSION_MIN: u32 = 1;
/// Features this build knows; a session has those that both sides know.
pub const FEATURES: &[&str] =
    &[RECALL, REAUTHENTICATE, WRITE_RIGHTS, ACL, MAKE_RIGHTS, NAMELESS, WHITEOUT, ACCESS_TIMES];
/// The mount answers recalls: without, it is granted nothing to keep.
pub const RECALL: &str = "recall";
/// A live session can be moved to another secret of its token.
pub const REAUTHENTICATE: &str = "reauthenticate";
/// The mount buffers writes only under a right that meta has granted it.
pub const WRITE_RIGHTS: &str = "write-rights";
/// The mount makes files in directories to which it has the right, and tells
/// meta later.
pub const MAKE_RIGHTS: &str = "make-rights";
/// Meta makes files without a name (O_TMPFILE of open(2)) and gives them one.
pub const NAMELESS: &str = "nameless";
/// Meta leaves a whiteout where a rename is to (RENAME_WHITEOUT of rename(2)).
pub const WHITEOUT: &str = "whiteout";
/// Reading moves access times: the mount says when.
pub const ACCESS_TIMES: &str = "access-times";
/// The mount's kernel checks access control lists as well. A session has it
/// where the volume has them and the kernel knows the ids that meta acts for;
/// a mount without keeps no names of directories with a list.
pub const ACL: &str = "acl";
/// Label of the TLS exporter that binds a session's proof to its connection
/// (RFC 5705, RFC 8446 section 7.5).
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-flexfs-ops";
/// Bytes of exporter output.
pub const EXPORTER_LEN: usize = 32;
/// Domain separation of the proof.
pub const RESUME_DOMAIN: &[u8] = b"flexfs-resume-1";
