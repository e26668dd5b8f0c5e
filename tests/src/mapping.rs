//! A program that has a page of a file mapped.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// It tells the first byte of the page each time it is asked. In C, because a
/// mapping is unsafe in Rust; its compiler is what building flexfs needs anyway.
const SOURCE: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
int main(int argc, char **argv) {
    int fd = open(argv[1], O_RDONLY);
    volatile unsigned char *page = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (fd < 0 || page == MAP_FAILED) return 2;
    while (getchar() != EOF) {
        printf("%d\n", page[0]);
        fflush(stdout);
    }
    return 0;
}
"#;

/// The program running. It ends when this is dropped.
#[derive(Debug)]
pub struct Mapping {
    asks: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    child: Child,
}

impl Mapping {
    /// Compiles the program into a directory.
    ///
    /// # Panics
    /// When the compiler fails.
    #[must_use]
    pub fn compiled(dir: &Path) -> PathBuf {
        let (program, source) = (dir.join("mapping"), dir.join("mapping.c"));
        fs::write(&source, SOURCE).expect("its source is written");
        let compiled = Command::new("cc").arg(&source).arg("-o").arg(&program).status();
        assert!(compiled.expect("cc runs").success(), "{} does not compile", source.display());
        program
    }

    /// Maps the first page of a file, of which nothing is read before
    /// [`Mapping::byte`].
    ///
    /// # Panics
    /// When the program does not start.
    #[must_use]
    pub fn new(program: &Path, file: &Path) -> Mapping {
        let mut command = Command::new(program);
        command.arg(file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        Mapping { asks: child.stdin.take(), answers, child }
    }

    /// The first byte, as the mapping shows it now.
    ///
    /// # Panics
    /// When the program has ended: the file cannot be mapped, or read.
    pub fn byte(&mut self) -> u8 {
        self.asks.as_mut().expect("open").write_all(b"\n").expect("it listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("it answers");
        line.trim().parse().expect("a number")
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        drop(self.asks.take());
        // A failure was seen in its answers.
        let _ = self.child.wait();
    }
}
