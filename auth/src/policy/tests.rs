use std::fmt::Write;

use flexfs_common::ids::TokenId;

use super::*;

const OWN: AccountId = AccountId::from_bytes([1; 16]);
const OTHER: AccountId = AccountId::from_bytes([2; 16]);
const MINE: VolumeId = VolumeId::from_bytes([3; 16]);
const SIBLING: VolumeId = VolumeId::from_bytes([4; 16]);
const FOREIGN: VolumeId = VolumeId::from_bytes([5; 16]);

fn account(role: Role, volumes: &[VolumeId]) -> Principal {
    Principal::Account {
        token_id: TokenId::from_bytes([9; 16]),
        account_id: OWN,
        role,
        volumes: volumes.to_vec(),
    }
}

fn principals() -> Vec<(String, Principal)> {
    let mut all: Vec<_> =
        Role::ALL.into_iter().map(|role| (role.name().to_owned(), account(role, &[]))).collect();
    all.extend(
        Role::ALL
            .into_iter()
            .map(|role| (format!("{}/limited", role.name()), account(role, &[MINE]))),
    );
    let token_id = TokenId::from_bytes([9; 16]);
    all.push((
        "volume".to_owned(),
        Principal::Volume { token_id, account_id: OWN, volume_id: MINE },
    ));
    all.push(("meta".to_owned(), Principal::Meta { token_id, meta_store: "m1".parse().unwrap() }));
    all.push(("claim".to_owned(), Principal::Claim { token_id }));
    all
}

fn actions() -> Vec<Action> {
    let mut all = vec![
        Action::WhoAmI,
        Action::StatusRead,
        Action::MetricsRead,
        Action::AccountWrite,
        Action::AccountUpdate,
        Action::AccountRead,
        Action::AccountTokenWrite,
        Action::AccountTokenRead,
        Action::VolumeTokenCreate,
        Action::VolumeTokenWrite,
        Action::VolumeTokenRead,
        Action::VolumeWrite,
        Action::VolumeRead,
        Action::StoreWrite,
        Action::StoreRead,
        Action::MetaTokenRead,
        Action::MetaTokenWrite,
        Action::MountDescribe,
        Action::ServerDescribe,
        Action::Authority,
        Action::SessionRead,
        Action::SelfRevoke,
        Action::SelfRotate,
        Action::ClaimRedeem,
    ];
    all.extend(Role::ALL.map(Action::AccountTokenCreate));
    all
}

const RESOURCES: [(&str, Resource); 6] = [
    ("installation", Resource::Installation),
    ("account", Resource::Account(OWN)),
    ("volume", Resource::Volume(OWN, MINE)),
    ("sibling", Resource::Volume(OWN, SIBLING)),
    ("otherAccount", Resource::Account(OTHER)),
    ("otherVolume", Resource::Volume(OTHER, FOREIGN)),
];

fn outcome(principal: &Principal, action: Action, resource: Resource) -> &'static str {
    match authorize(principal, action, resource) {
        Ok(permit) => {
            assert_eq!((permit.action(), permit.resource()), (action, resource));
            "yes"
        }
        Err(error) => match error.code() {
            Code::TokenWrongKind => "kind",
            Code::RoleForbidden => "role",
            Code::ScopeMissing => "scope",
            other => panic!("{other} is not an answer of authorize"),
        },
    }
}

/// Every decision, as text: a change of the policy is a change of that file,
/// to be read line by line. On purpose: `UPDATE_GOLDEN=1 cargo test`.
#[test]
fn every_decision_is_in_the_golden_file() {
    let mut text = String::from("# action, principal:");
    for (name, _) in RESOURCES {
        write!(text, " {name}").unwrap();
    }
    text.push('\n');
    for action in actions() {
        writeln!(text, "\n{action:?}").unwrap();
        for (name, principal) in principals() {
            let answers = RESOURCES
                .map(|(_, resource)| format!("{:5}", outcome(&principal, action, resource)));
            writeln!(text, "  {name:20} {}", answers.join(" ").trim_end()).unwrap();
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/policy/golden.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    for (line, (is, was)) in text.lines().zip(golden.lines()).enumerate() {
        assert_eq!(is, was, "line {}", line + 1);
    }
    assert_eq!(text.len(), golden.len());
}

#[test]
fn covers_means_a_superset_of_what_is_allowed() {
    for stronger in Role::ALL {
        for weaker in Role::ALL.into_iter().filter(|weaker| stronger.covers(*weaker)) {
            for limit in [&[][..], &[MINE][..]] {
                for action in actions() {
                    for (name, resource) in RESOURCES {
                        let weak = outcome(&account(weaker, limit), action, resource);
                        let strong = outcome(&account(stronger, limit), action, resource);
                        assert!(
                            weak != "yes" || strong == "yes",
                            "{weaker:?} may {action:?} on {name}, {stronger:?} may not"
                        );
                    }
                }
            }
        }
    }
}

/// No chain of mints leads to a right that the first token did not have.
#[test]
fn nobody_mints_a_stronger_token() {
    for minter in Role::ALL {
        for minted in Role::ALL {
            for (own_limit, new_limit) in [
                (&[][..], &[][..]),
                (&[], &[MINE]),
                (&[MINE], &[MINE]),
                (&[MINE], &[]),
                (&[MINE], &[MINE, SIBLING]),
                (&[MINE], &[SIBLING]),
            ] {
                let allowed =
                    authorize_mint(&account(minter, own_limit), minted, OWN, new_limit).is_ok();
                let weaker = minter.covers(minted)
                    && (own_limit.is_empty()
                        || (!new_limit.is_empty()
                            && new_limit.iter().all(|v| own_limit.contains(v))));
                assert!(!allowed || weaker, "{minter:?} {own_limit:?} {minted:?} {new_limit:?}");
            }
        }
    }
    assert!(authorize_mint(&account(Role::Owner, &[MINE]), Role::Viewer, OWN, &[MINE]).is_ok());
    assert!(authorize_mint(&account(Role::Owner, &[]), Role::Owner, OWN, &[]).is_ok());
    assert!(authorize_mint(&account(Role::System, &[]), Role::Owner, OTHER, &[]).is_ok());
    let error = authorize_mint(&account(Role::Owner, &[]), Role::Viewer, OTHER, &[]).unwrap_err();
    assert_eq!(error.code(), Code::ScopeMissing);
}

#[test]
fn another_account_is_out_of_sight_for_everything() {
    for (name, principal) in principals() {
        if name.starts_with("system") {
            continue;
        }
        for action in actions() {
            for resource in [Resource::Account(OTHER), Resource::Volume(OTHER, FOREIGN)] {
                assert_ne!(outcome(&principal, action, resource), "yes", "{name} {action:?}");
                // A volume of the own number in another account is not it.
                let disguised = Resource::Volume(OTHER, MINE);
                assert_ne!(outcome(&principal, action, disguised), "yes", "{name} {action:?}");
            }
        }
    }
}
