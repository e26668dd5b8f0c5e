//! Flags of volumes, tokens and mounts, and the one table that merges them
//! (P3): restrictions add up, umask by OR, ACLs and xattrs are the volume's
//! alone, pins that disagree refuse the session.

use flexfs_proto::v1;

use crate::{Code, Error, Result};

/// Restrictions, each spelled as in `--flags`.
pub const NAMES: [&str; 7] =
    ["ro", "noExec", "noSUID", "noDev", "noATime", "rootSquash", "allSquash"];
/// Restrictions that only a volume has.
pub const VOLUME_NAMES: [&str; 2] = ["noACL", "noXAttr"];

/// Whose flags they are: volumes have more of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A volume.
    Volume,
    /// A volume token or a mount.
    Token,
}

/// Parses `--flags` names into the message.
///
/// # Errors
/// `ARGUMENT_INVALID`, naming the word and what is allowed.
pub fn parse<'a>(owner: Owner, names: impl IntoIterator<Item = &'a str>) -> Result<v1::Flags> {
    let mut flags = v1::Flags::default();
    for name in names {
        let field = match (name, owner) {
            ("ro", _) => &mut flags.ro,
            ("noExec", _) => &mut flags.no_exec,
            ("noSUID", _) => &mut flags.no_suid,
            ("noDev", _) => &mut flags.no_dev,
            ("noATime", _) => &mut flags.no_atime,
            ("rootSquash", _) => &mut flags.root_squash,
            ("allSquash", _) => &mut flags.all_squash,
            ("noACL", Owner::Volume) => &mut flags.no_acl,
            ("noXAttr", Owner::Volume) => &mut flags.no_xattr,
            _ => {
                let mut allowed = NAMES.to_vec();
                if owner == Owner::Volume {
                    allowed.extend(VOLUME_NAMES);
                }
                return Err(Error::new(
                    Code::ArgumentInvalid,
                    format!(
                        "`{}` is not a flag; flags are {}",
                        name.escape_debug(),
                        allowed.join(" ")
                    ),
                ));
            }
        };
        *field = true;
    }
    Ok(flags)
}

/// The names of the restrictions that are set, in the order of [`NAMES`].
#[must_use]
pub fn names(flags: &v1::Flags) -> Vec<&'static str> {
    [
        (flags.ro, "ro"),
        (flags.no_exec, "noExec"),
        (flags.no_suid, "noSUID"),
        (flags.no_dev, "noDev"),
        (flags.no_atime, "noATime"),
        (flags.root_squash, "rootSquash"),
        (flags.all_squash, "allSquash"),
        (flags.no_acl, "noACL"),
        (flags.no_xattr, "noXAttr"),
    ]
    .into_iter()
    .filter_map(|(set, name)| set.then_some(name))
    .collect()
}

/// Does meta act for the very ids that the client's kernel sees? Not under
/// squashing or pins: the kernel's own checks would be wrong then.
#[must_use]
pub fn identity_is_true(flags: &v1::Flags) -> bool {
    !(flags.root_squash || flags.all_squash || flags.uid.is_some() || flags.gid.is_some())
}

/// Volume ∪ token ∪ client.
///
/// # Errors
/// `FLAG_CONFLICT` when two of them pin different identities.
pub fn merge(volume: &v1::Flags, token: &v1::Flags, client: &v1::Flags) -> Result<v1::Flags> {
    let any = |field: fn(&v1::Flags) -> bool| field(volume) || field(token) || field(client);
    Ok(v1::Flags {
        ro: any(|f| f.ro),
        no_exec: any(|f| f.no_exec),
        no_suid: any(|f| f.no_suid),
        no_dev: any(|f| f.no_dev),
        no_atime: any(|f| f.no_atime),
        root_squash: any(|f| f.root_squash),
        all_squash: any(|f| f.all_squash),
        // What a client or token says of these changes nothing.
        no_acl: volume.no_acl,
        no_xattr: volume.no_xattr,
        append_only: any(|f| f.append_only),
        uid: pin("uid", [volume.uid, token.uid, client.uid])?,
        gid: pin("gid", [volume.gid, token.gid, client.gid])?,
        umask: (volume.umask | token.umask | client.umask) & 0o777,
        squash_uid: pin("squash uid", [volume.squash_uid, token.squash_uid, client.squash_uid])?,
        squash_gid: pin("squash gid", [volume.squash_gid, token.squash_gid, client.squash_gid])?,
    })
}

fn pin(what: &str, candidates: [Option<u32>; 3]) -> Result<Option<u32>> {
    let mut pinned = None;
    for candidate in candidates.into_iter().flatten() {
        match pinned {
            None => pinned = Some(candidate),
            Some(first) if first == candidate => {}
            Some(first) => {
                return Err(Error::new(
                    Code::FlagConflict,
                    format!("the {what} is pinned to both {first} and {candidate}"),
                ));
            }
        }
    }
    Ok(pinned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restrictions_add_up_and_none_is_removed() {
        let volume = parse(Owner::Volume, ["noExec", "noXAttr"]).unwrap();
        let token = v1::Flags { umask: 0o022, ..parse(Owner::Token, ["ro"]).unwrap() };
        let client = v1::Flags { umask: 0o007, no_acl: true, ..v1::Flags::default() };
        let merged = merge(&volume, &token, &client).unwrap();
        assert_eq!(names(&merged), ["ro", "noExec", "noXAttr"]);
        assert_eq!(merged.umask, 0o027);
    }

    #[test]
    fn pins_agree_or_refuse() {
        let one = v1::Flags { uid: Some(1000), ..v1::Flags::default() };
        let two = v1::Flags { uid: Some(1001), ..v1::Flags::default() };
        let none = v1::Flags::default();
        assert_eq!(merge(&none, &one, &one).unwrap().uid, Some(1000));
        assert_eq!(merge(&none, &one, &two).unwrap_err().code(), Code::FlagConflict);
    }

    #[test]
    fn unknown_flags_are_named() {
        assert!(parse(Owner::Token, ["noACL"]).unwrap_err().message().contains("noACL"));
        assert!(parse(Owner::Volume, ["nosuid"]).is_err());
    }
}
