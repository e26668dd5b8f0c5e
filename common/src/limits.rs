//! Every bound of the system, with its unit and reason. What an operator may
//! change is a setting of its program and starts from here.

use std::time::Duration;

/// Bytes of one name (POSIX NAME_MAX on Linux).
pub const NAME_MAX_LEN: usize = 255;
/// Bytes of a path or link target (Linux PATH_MAX).
pub const PATH_MAX_LEN: usize = 4096;
/// Components of a token's scope: each costs a lookup at session open.
pub const SCOPE_MAX_DEPTH: usize = 64;
/// Characters of a volume's name or a store's id.
pub const STORE_NAME_MAX_LEN: usize = 63;
/// Bytes of notes on a token or volume.
pub const NOTES_MAX_LEN: usize = 1024;
/// Bytes of an xattr's name (Linux XATTR_NAME_MAX).
pub const XATTR_NAME_MAX_LEN: usize = 255;
/// Bytes of an xattr's value (Linux XATTR_SIZE_MAX).
pub const XATTR_VALUE_MAX_LEN: usize = 65_536;
/// Entries of an access control list: what fits the page in which Linux's FUSE
/// passes one.
pub const ACL_ENTRIES_MAX: usize = 511;
/// Bytes of all xattr names of an inode (Linux XATTR_LIST_MAX).
pub const XATTR_LIST_MAX_LEN: usize = 65_536;
/// Hard links to one inode (ext4's 65,000; enough for every known tool).
pub const LINK_MAX: u32 = 65_000;
/// Largest file in bytes (2^60; below i64::MAX with room for arithmetic).
pub const FILE_SIZE_MAX: u64 = 1 << 60;
/// Supplementary groups of a caller that reach meta.
pub const GROUPS_MAX: usize = 1024;

/// Contents up to this many bytes lie in the metadata.
pub const INLINE_MAX: u32 = 8 * 1024;
/// Default size of a block in bytes.
pub const BLOCK_SIZE_DEFAULT: u32 = 4 * 1024 * 1024;
/// Smallest block in bytes.
pub const BLOCK_SIZE_MIN: u32 = 256 * 1024;
/// Largest block in bytes.
pub const BLOCK_SIZE_MAX: u32 = 8 * 1024 * 1024;
/// Plain bytes of one frame of an object: what a small read fetches.
pub const FRAME_SIZE: u32 = 64 * 1024;

/// Largest payload of one frame between mount and meta, in bytes.
pub const OPS_FRAME_MAX_LEN: u32 = 1024 * 1024;
/// Operations in flight on one connection.
pub const OPS_IN_FLIGHT_MAX: u32 = 1024;
/// Operations in one frame.
pub const OPS_PER_FRAME_MAX: usize = 256;
/// Mutation slots of a session: how many mutations can be unacknowledged.
pub const SLOT_COUNT: u32 = 64;
/// Frames that a server queues for a slow connection before it drops it.
pub const OPS_SEND_QUEUE: usize = 1024;
/// Bytes of one page of a directory, at most.
pub const DIR_PAGE_MAX_LEN: u32 = 256 * 1024;
/// Extents in one reply.
pub const EXTENTS_PER_REPLY: usize = 512;
/// Extents in one commit.
pub const EXTENTS_PER_COMMIT: usize = 512;
/// Objects minted by one request.
pub const MINT_MAX: u32 = 128;
/// Objects minted and neither committed nor overdue, per session.
pub const MINTED_PER_SESSION_MAX: usize = 1024;
/// Opens of one session.
pub const OPENS_PER_SESSION_MAX: usize = 1 << 20;
/// Byte-range locks on one inode.
pub const LOCKS_PER_INODE_MAX: usize = 4096;

/// admin's default port.
pub const ADMIN_PORT: u16 = 7400;
/// meta's default port.
pub const META_PORT: u16 = 7410;
/// How often admin's feed says that it lives.
pub const FEED_HEARTBEAT: Duration = Duration::from_secs(2);
/// A feed silent for this long is dead.
pub const FEED_DEAD: Duration = Duration::from_secs(5);
/// How often a mount renews its lease.
pub const SESSION_HEARTBEAT: Duration = Duration::from_secs(2);
/// How long caches, locks and delegations hold without renewal.
pub const LEASE: Duration = Duration::from_secs(10);
/// What meta waits beyond a lease before it passes something on.
pub const LEASE_MARGIN: Duration = Duration::from_millis(500);
/// How long a mount may make files in a directory and tell meta later, after
/// it has made the directory: most of what a directory ever holds comes to it
/// soon, and a restarted meta need ask nobody about older ones.
pub const MAKE_RIGHT: Duration = Duration::from_secs(300);
/// What meta waits beyond that: what was made last arrives within it.
pub const MAKE_RIGHT_MARGIN: Duration = Duration::from_secs(60);
/// Numbers of inodes that a session has ahead at most.
pub const INODES_AHEAD_MAX: usize = 1024;
/// Part of a volume's free inodes that is given out ahead at once: one in so
/// many.
pub const INODES_AHEAD_PART: u64 = 100;
/// How long handles and unlinked-open files of a silent session are kept.
pub const SESSION: Duration = Duration::from_secs(3600);
/// How long a meta goes on without admin.
pub const ADMIN_GRACE: Duration = Duration::from_secs(3600);
/// Life of a signed URL.
pub const SIGNED_URL: Duration = Duration::from_secs(60);
/// From minting an object key to the commit that names it: an upload of one
/// block at 100 kB/s, with room for retries.
pub const OBJECT_COMMIT: Duration = Duration::from_secs(600);
/// How long a transfer goes on while nothing arrives anywhere in the mount, unless
/// one request may take longer: a store silent for this long is EIO.
pub const STORE_WAIT: Duration = Duration::from_secs(60);
/// A transfer at the directory store looks again at its session after this
/// many bytes.
pub const BLOCK_RECHECK_LEN: usize = 256 * 1024;
/// Dirty bytes a mount buffers.
pub const WRITE_BACK_MAX_LEN: u64 = 256 * 1024 * 1024;
/// How long a mount keeps dirty bytes.
pub const WRITE_BACK_AGE: Duration = Duration::from_secs(1);
/// Most bytes that meta keeps free on the disk of its data directory: its
/// engine may need at any time what lies in memory (64 MiB), as much again for
/// its journal, and room to merge tables.
pub const DISK_RESERVE_MAX_LEN: u64 = 256 * 1024 * 1024;
/// Fewest bytes that it keeps free: what lies in memory.
pub const DISK_RESERVE_MIN_LEN: u64 = 64 * 1024 * 1024;
/// One part in so many of the disk is kept free, within these bounds (2 %).
pub const DISK_RESERVE_PART: u64 = 50;
/// `revoke --wait` without a value.
pub const REVOKE_WAIT: Duration = Duration::from_secs(30);
/// Longest wait a client may ask for.
pub const REVOKE_WAIT_MAX: Duration = Duration::from_secs(60);
/// Time for a TLS and protocol handshake.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// Time to connect to a server.
pub const CONNECT: Duration = Duration::from_secs(5);
/// Time for one control call.
pub const CALL: Duration = Duration::from_secs(30);
/// How long `start` waits for its daemon.
pub const DAEMON_START: Duration = Duration::from_secs(60);
/// Rows of a list without --limit, and at most.
pub const LIST_DEFAULT: u32 = 100;
/// Most rows of one page.
pub const LIST_MAX: u32 = 1000;
/// Certificates that admin issues live this long.
pub const CERT_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Live secrets of one token.
pub const SECRETS_PER_TOKEN: usize = 5;
/// Entries of the success cache of verified tokens.
pub const SUCCESS_CACHE: usize = 1_000_000;
/// Entries of the failure cache.
pub const FAILURE_CACHE: usize = 4096;
/// Life of an entry of the failure cache.
pub const FAILURE_CACHE_AGE: Duration = Duration::from_secs(5);
/// Failed verifications per second from one source, and the burst.
pub const FAILURE_RATE: u32 = 10;
/// Burst of failed verifications from one source.
pub const FAILURE_BURST: u32 = 50;
/// How long earlier secrets live on after a rotation, unless told otherwise.
pub const ROTATION_OVERLAP: Duration = Duration::from_secs(24 * 3600);
/// Longest overlap of a rotation: a forgotten one must end.
pub const ROTATION_OVERLAP_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
/// A use of an old secret this recent keeps a rotation from being finished.
pub const ROTATION_USE: Duration = Duration::from_secs(60);
/// Shortest idle end of a token: uses reach all admins within half of it.
pub const IDLE_MIN: Duration = Duration::from_secs(60);
/// Longest life of a claim code.
pub const CLAIM_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often a changed credentials file is looked for.
pub const CREDS_POLL: Duration = Duration::from_secs(1);
