use clap::CommandFactory;
use flexfs_common::cli;

use super::*;

fn parsed(words: &str) -> Cli {
    try_parse(words).unwrap_or_else(|_| panic!("{words}"))
}

fn try_parse(words: &str) -> Result<Cli, std::process::ExitCode> {
    cli::parse(std::iter::once("configure.flexfs").chain(words.split(' ')))
}

fn commands(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    let path = format!("{path} {}", command.get_name());
    found.push((path.trim().to_owned(), command.clone()));
    for inner in command.get_subcommands() {
        commands(inner, &path, found);
    }
}

#[test]
fn the_tree_is_sound_and_every_command_has_an_example() {
    let command = cli::with_kebab_aliases(Cli::command());
    command.clone().debug_assert();
    let mut found = Vec::new();
    commands(&command, "", &mut found);
    assert!(found.len() > 75, "{}", found.len());
    for (path, each) in found {
        let example = each.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(example.contains("Example:\n  configure.flexfs "), "{path}: {example}");
    }
}

/// The commands of docs/cli.md, in both spellings of nouns and flags.
#[test]
fn the_contract_parses() {
    for words in [
        "init creds --adminAddr a:1 --tokenFile - --caFingerprint sha256:00 --profile p",
        "init creds --admin-addr a:1 --token-file f --ca-fingerprint x --force",
        "config show",
        "whoami",
        "status -o json",
        "explain TOKEN_REVOKED",
        "create account --name n --email e@x",
        "create account-token --accountID A --role owner --volumes a,b --cidr 10.0.0.0/8 --expires 9d",
        "create volume v --metaStoreID m --blockStoreID b --accountID A --blockSize 4MiB \
         --compression zstd --encryption --retention 7d --maxBlocks 1 --maxInodes 2 --flags ro,noACL \
         --notes x --noToken",
        "create volume v --meta-store-id m --block-store-id b --no-token --max-inodes 5",
        "create volume-token --volumeID v --mountPath /a --flags ro,noExec --uid 1 --gid 2 \
         --rights append --expires 8s --notBefore 1m --cidr ::/0 --tokenFile - --notes n",
        "create volume-token --volume-id v --mount-path /a --not-before 1m",
        "create meta-store m --address h:1",
        "create block-store b --kind dir --path /x",
        "create block-store b --kind s3 --bucket x --prefix p --region r --address u --credentials c",
        "show account x",
        "show meta-token x",
        "show block-store x -o yaml",
        "list accounts",
        "list account",
        "list account-tokens --limit 5 --page x",
        "list volumes --state active",
        "list volume-tokens --volumeID v --accountID a",
        "list volume-token",
        "list meta-tokens",
        "list meta-store -o wide",
        "list block-stores -o id",
        "delete volume v",
        "delete account-token x",
        "revoke account-token x --reason r",
        "revoke volume-token x --wait",
        "revoke volume-token x --wait=5s",
        "revoke meta-token x",
        "generate token --kind meta",
        "inspect token -",
        "inspect token",
        "completions zsh",
        "man /tmp",
        "version",
        "--profile p list volumes",
    ] {
        let words: Vec<_> = words.split_whitespace().collect();
        parsed(&words.join(" "));
    }
}

/// Those of a token's life.
#[test]
fn the_contract_of_a_tokens_life_parses() {
    for words in [
        "revoke --volumeID v --all --dryRun",
        "revoke --accountID a --all --createdBefore 30d --kind account --reason r --wait=5s",
        "revoke --ids-file - --all --wait",
        "revoke --accountID a volume-token x",
        "rotate volume-token x --overlap 2h --tokenFile -",
        "rotate account-token x --emergency --wait=5s -o json",
        "rotate meta-token x",
        "rotation status x --kind volume -o json",
        "rotation finish x --force --wait",
        "disable account x --reason r --wait",
        "disable volume-token x",
        "enable account x",
        "enable meta-token x",
        "update account x --name n --email e --maxTokenAge 90d",
        "update account x --max-token-age none",
        "update account-token x --notes n --expires never --notBefore none --idle 7d --cidr none \
         --volumes all",
        "update volume-token x --flags ro,noExec --rights ro --expires 9d --cidr 10.0.0.0/8,::/0",
        "update volume-token x --flags none",
        "update volume x --notes n --flags noACL --maxBlocks 0 --maxInodes 5 --retention 7d",
        "update meta-token x --idle none",
        "create volume-token --volumeID v --idle 7d --claim 1h",
        "create account-token --role viewer --idle 7d --claim 1h --notBefore 1m",
        "list volume-tokens --expiringWithin 14d --unusedSince 30d --overdue \
         --createdBy 0b6f8a52-3f0d-4d0e-9a55-1c2d3e4f5a6b --state active",
        "list account-tokens --expiring-within 14d",
        "list meta-tokens --unused-since 2026-01-01T00:00:00Z",
        "list sessions --volumeID v --limit 5 --page p",
        "report tokens --csv --accountID a",
        "doctor -o json",
        "delete volume v --requestID 0b6f8a52-3f0d-4d0e-9a55-1c2d3e4f5a6b",
        "delete volume v --request-id 0b6f8a52-3f0d-4d0e-9a55-1c2d3e4f5a6b",
    ] {
        let words: Vec<_> = words.split_whitespace().collect();
        parsed(&words.join(" "));
    }
}

#[test]
fn what_is_no_command_line() {
    for words in [
        "create block-store b --kind dir",
        "create block-store b --kind dir --path /x --bucket y",
        "create account-token --role root",
        "create volume v --metaStoreID m",
        "create volume-token --volumeID v --rights all",
        "revoke volume-token",
        "revoke --kind claim --volumeID v --all",
        "revoke --volumeID v --createdBefore soon --all",
        "rotate volume-token",
        "rotate volume-token x --overlap 1h --emergency",
        "rotate volume-token x --overlap 91d",
        "rotate volume x",
        "rotation status",
        "rotation status x --kind claim",
        "disable volume x",
        "enable account",
        "update volume-token x --flags noACL",
        "update volume-token x --expires yesterday",
        "update volume-token x --idle 5s",
        "update account-token x --volumes a,,b",
        "update block-store x",
        "create volume-token --volumeID v --idle 1s",
        "list volume-tokens --createdBy 0b6f",
        "list volumes --overdue",
        "delete volume v --requestID x",
        "report volumes",
        "list volumes --limit 0",
        "list everything",
        "show volume",
        "whoami --credsFile f --profile p",
        "generate token --kind claim",
        "whoami -o xml",
        "revoke volume-token x --wait=0s",
        "revoke volume-token x --wait=61s",
        "create volume-token --volumeID v --flags ro,noACL",
        "create volume-token --volumeID v --expires yesterday",
        "create volume v --metaStoreID m --blockStoreID b --blockSize 5%",
        "create volume v --metaStoreID m --blockStoreID b --retention 1y",
    ] {
        assert!(try_parse(words).is_err(), "{words}");
    }
}

#[test]
fn wait_takes_its_value_only_with_an_equals_sign() {
    let wait = |words: &str| format!("{:?}", parsed(words).command);
    assert!(wait("revoke volume-token x").contains("wait: None"));
    assert!(wait("revoke volume-token x --wait").contains("wait: Some(30s)"));
    assert!(wait("revoke volume-token --wait x").contains("id: \"x\""));
    assert!(wait("revoke volume-token x --wait=5s").contains("wait: Some(5s)"));
}
