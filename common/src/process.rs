//! What every program asks of the kernel for itself, before it does anything
//! else.

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that no daemon needs more of: a soft limit beyond this costs
/// programs that it starts and that close all they could have.
const DESCRIPTORS_MAX: u64 = 1 << 20;

/// No core file of this process, and no look at its memory or environment by
/// others of the same user: both would hold secrets.
pub fn forbid_dumps() {
    // Fails only on kernels that do not know it: there is nothing better then.
    let _ = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// Raises this process's limit of descriptors as far as it may without
/// privileges, and returns what holds now: many systems begin with 1,024,
/// which a few hundred mounts use up.
pub fn raise_descriptors() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX);
    // `None` = no limit.
    let current = current.unwrap_or(DESCRIPTORS_MAX);
    if current >= wanted {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, current, "the limit of descriptors could not be raised");
            current
        }
    }
}

/// Of `wanted` connections as many as the descriptors of this process allow:
/// half of them stay for files. A server that has none left for its database
/// is worse off than one that closes a connection.
#[must_use]
pub fn connections(wanted: usize) -> usize {
    let descriptors = raise_descriptors();
    let possible = usize::try_from(descriptors / 2).unwrap_or(usize::MAX);
    if possible < wanted {
        tracing::warn!(
            descriptors,
            connections = possible,
            "few descriptors, so fewer connections: raise the hard limit (LimitNOFILE)"
        );
    }
    possible.min(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set for the process in which the limit is changed: it is the limit of
    /// a whole process, and other tests run in this one.
    const CHILD: &str = "FLEXFS_TEST_DESCRIPTORS";

    #[test]
    fn the_limit_of_descriptors_is_raised_and_half_of_it_is_for_connections() {
        if std::env::var_os(CHILD).is_some() {
            return with_few_descriptors();
        }
        let name = "process::tests::\
                    the_limit_of_descriptors_is_raised_and_half_of_it_is_for_connections";
        let before = getrlimit(Resource::Nofile);
        let mut child = std::process::Command::new("sh");
        child.args(["-c", "ulimit -S -n 256 && exec \"$@\"", "sh"]);
        child.arg(std::env::current_exe().unwrap()).args(["--exact", name]);
        let output = child.env(CHILD, "").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        // A name that is found nowhere would pass as well.
        assert!(output.status.success() && said.contains("1 passed"), "{said}");
        assert_eq!(getrlimit(Resource::Nofile), before);
    }

    fn with_few_descriptors() {
        let before = getrlimit(Resource::Nofile);
        assert_eq!(before.current, Some(256));
        let raised = raise_descriptors();
        assert_eq!(getrlimit(Resource::Nofile).current, Some(raised));
        assert_eq!(raised, before.maximum.unwrap_or(DESCRIPTORS_MAX).min(DESCRIPTORS_MAX));
        assert_eq!(connections(1), 1);
        let half = usize::try_from(raised / 2).unwrap();
        assert_eq!(connections(usize::MAX), half);
    }
}
