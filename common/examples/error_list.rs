//! Prints docs/errors.md (`cargo xtask errors` writes it).
#![allow(clippy::print_stdout, reason = "its whole purpose")]

use flexfs_common::{Code, exit, http, status};

fn main() {
    println!("# Error codes\n");
    println!(
        "Made from `common/src/error.rs` by `cargo xtask errors`; do not edit.\n\n\
         One code everywhere: in gRPC status details, in frames, in REST bodies and on stderr \
         (`error[CODE]: sentence`, then `hint: what to check first`). gRPC status, HTTP status \
         and exit code follow from it. The errno of a failed system call is chosen in one file \
         of the mount, `mount/src/errno.rs`.\n"
    );
    println!("| code | kind | gRPC | HTTP | exit | sentence | check first |");
    println!("|---|---|---|---|---|---|---|");
    for code in Code::ALL {
        println!(
            "| `{}` | {:?} | {:?} | {} | {} | {} | {} |",
            code.name(),
            code.kind(),
            status::grpc_code(*code),
            http::http_status(*code).as_u16(),
            exit::exit_code(*code),
            cell(code.sentence()),
            cell(code.hint()),
        );
    }
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
