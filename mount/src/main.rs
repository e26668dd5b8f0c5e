//! `mount.flexfs`, built as `mount-flexfs`.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    flexfs_common::tls::install_provider();
    flexfs_common::process::forbid_dumps();
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    flexfs_mount::commands::run(&arguments)
}
