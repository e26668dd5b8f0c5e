//! Real data: files, trees, checksums.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::process::{Run, repository};

/// Runs a shell script with `$1`, `$2`, … as arguments; it must succeed.
#[track_caller]
pub fn sh(script: &str, arguments: &[&Path]) -> String {
    try_sh(script, arguments, Duration::from_secs(1200)).ok().to_owned()
}

/// Runs a shell script with `$1`, `$2`, … as arguments.
#[must_use]
pub fn try_sh(script: &str, arguments: &[&Path], limit: Duration) -> Run {
    let mut command = Command::new("sh");
    // Nothing of the machine's git configuration, and no questions.
    let git = repository().join("tests/gitconfig");
    command.env("GIT_CONFIG_GLOBAL", git).env("GIT_CONFIG_SYSTEM", "/dev/null");
    command.env("GIT_TERMINAL_PROMPT", "0").current_dir("/");
    Run::of(command.args(["-euc", script, "sh"]).args(arguments), limit)
}

/// SHA-256 of a file, in hex.
#[track_caller]
pub fn sha256(path: &Path) -> String {
    sh("sha256sum < \"$1\"", &[path]).split(' ').next().expect("a sum").to_owned()
}

/// Bytes that look random and are the same for the same seed (xorshift64*):
/// neither compressible nor repeating.
#[derive(Debug)]
pub struct Noise(u64);

impl Noise {
    /// A stream of its own per seed.
    #[must_use]
    pub fn new(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next_number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.next_number().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// A tree like sources: `count` files in about a tenth as many directories,
/// mostly small, some of several hundred KiB, with links and odd names.
///
/// # Panics
/// When it cannot be written.
pub fn make_tree(root: &Path, count: u32) {
    let mut noise = Noise::new(7);
    let mut directories = vec![root.to_owned()];
    fs::create_dir_all(root).expect("the root");
    for number in 0..count {
        if number % 10 == 0 {
            let index = usize::try_from(noise.next_number()).expect("64 bits");
            let parent = directories[index % directories.len()].clone();
            if parent.components().count() < 16 {
                let name = parent.join(format!("d{number}"));
                fs::create_dir(&name).expect("a directory");
                directories.push(name);
            }
        }
        let index = usize::try_from(noise.next_number()).expect("64 bits");
        let path = directories[index % directories.len()].join(match number % 97 {
            0 => format!("ä ö {number}\n'quoted'"),
            _ => format!("f{number}.c"),
        });
        let len = match noise.next_number() % 100 {
            0 => 300_000,
            1..=4 => 40_000,
            5 => 0,
            rest => usize::try_from(rest).expect("small") * 100,
        };
        let mut file = fs::File::create(path).expect("a file");
        // Half text, half noise.
        file.write_all("let words = like(sources);\n".repeat(len / 54).as_bytes()).expect("text");
        file.write_all(&noise.bytes(len / 2)).expect("noise");
    }
    std::os::unix::fs::symlink("d0/none", root.join("dangling")).expect("a link");
    fs::hard_link(root.join("dangling"), root.join("dangling2")).expect("a hard link");
}
