//! `mount.flexfs`, built as `mount-flexfs`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    flexfs_common::tls::install_provider();
    flexfs_common::process::forbid_dumps();
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<_> = arguments.collect();
    if flexfs_mount::commands::is_umount_helper(&name) {
        return flexfs_mount::commands::run_umount(&arguments);
    }
    flexfs_mount::commands::run(&arguments)
}
