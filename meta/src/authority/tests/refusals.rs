//! What is remembered of a refusal, and what a refusal takes away.

use super::*;

fn code(outcome: Result<v1::OpenSessionReply>) -> Option<Code> {
    outcome.err().map(|error| error.code())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_other_volumes_are_refused_from_memory() {
    let (bench, admin) = Bench::with_admin().await;
    let (token, _) = volume_token(&admin);
    open(&bench, &token).await.unwrap();
    for n in 0..20 {
        let other = format!("other{n}\n");
        let refused = open_volume(&bench, &token, &other).await.unwrap_err();
        assert_eq!(refused.code(), Code::CredsMismatch);
        let expected = format!("the token is for the volume `home`, not for `other{n}\\n`");
        assert_eq!(refused.message(), expected);
    }
    // By its id, in any case, it is the same volume.
    let id = bench.served.volume.settings().id.to_string().to_uppercase();
    open_volume(&bench, &token, &id).await.unwrap();
    open(&bench, &token).await.unwrap();
    assert_eq!(admin.validated(), 1, "nobody was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_volume_takes_no_good_verdict_away() {
    let (bench, admin) = Bench::beside_admin().await;
    let (token, _) = volume_token(&admin);
    open(&bench, &token).await.unwrap();
    // The feed is not live: admin is asked.
    let outcome = open_volume(&bench, &token, "other").await;
    assert_eq!((code(outcome), admin.validated()), (Some(Code::CredsMismatch), 2));
    let key = bench.service.verdicts.key(&token, "127.0.0.1".parse().unwrap());
    assert!(bench.service.verdicts.get(&key).is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_change_of_account_or_volume_undoes_is_over_at_once() {
    let (bench, admin) = Bench::with_admin().await;
    let (token, _) = volume_token(&admin);
    admin.change(&token, |secret| secret.refused = Some(Code::AccountSuspended));
    assert_eq!(code(open(&bench, &token).await), Some(Code::AccountSuspended));
    admin.change(&token, |secret| secret.refused = None);
    admin.apply(FeedKind::AccountChanged, None).await;
    assert_eq!(code(open_volume(&bench, &token, "work").await), Some(Code::CredsMismatch));
    admin.change_volume(|volume| volume.name = "work".into());
    admin.apply(FeedKind::VolumeChanged, None).await;
    open_volume(&bench, &token, "work").await.unwrap();
}
