use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::*;

fn member(accepted: bool, leaving: bool) -> MemberCluster {
    let spec = MemberClusterSpec { accepted, ..MemberClusterSpec::default() };
    let mut member = MemberCluster::new("north", spec);
    member.metadata.deletion_timestamp = leaving.then_some(Time(Timestamp::UNIX_EPOCH));
    member
}

fn namespace(label: Option<&str>) -> Namespace {
    let mut namespace = Namespace { metadata: named("member-north"), ..Namespace::default() };
    if let Some(label) = label {
        namespace.labels_mut().insert(LABEL_MEMBER.into(), label.into());
    }
    namespace
}

#[test]
fn a_slot_is_opened_only_where_nobody_else_is() {
    let (new, accepted) = (member(false, false), member(true, false));
    let leaving = member(true, true);
    let (ours, bare, other) = (namespace(Some("north")), namespace(None), namespace(Some("south")));
    for (member, found, again, want) in [
        (None, None, false, None),
        (None, Some(&bare), false, Some("exists already")),
        (None, Some(&ours), false, Some("exists already")),
        (Some(&new), None, false, None),
        (Some(&new), Some(&ours), false, None),
        (Some(&new), Some(&other), false, Some("exists already")),
        (Some(&new), Some(&bare), false, Some("exists already")),
        (Some(&accepted), Some(&ours), false, Some("accepted already")),
        (Some(&accepted), Some(&ours), true, None),
        (Some(&leaving), Some(&ours), true, Some("is leaving")),
    ] {
        let args = Invite { name: "north".into(), again, ..Invite::default() };
        let why = objection(&args, "member-north", member, found);
        match want {
            None => assert_eq!(why, None),
            Some(want) => assert!(why.as_ref().unwrap().contains(want), "{why:?}"),
        }
    }
}

#[test]
fn the_address_is_the_one_given_else_the_charts_else_the_kubeconfigs() {
    let hub = |address: &str| HubIdentity { id: "hub".into(), address: address.into() };
    let given = |address: Option<&str>| Invite {
        address: address.map(ToOwned::to_owned),
        ..Invite::default()
    };
    let server = "https://10.0.0.1:6443/";
    let one = address(&given(Some("https://a:1")), &hub("https://b:2"), server).unwrap();
    assert_eq!(one, "https://a:1");
    assert_eq!(address(&given(None), &hub("https://b:2"), server).unwrap(), "https://b:2");
    assert_eq!(address(&given(None), &hub(""), server).unwrap(), "https://10.0.0.1:6443");
    assert!(address(&given(Some("http://a")), &hub(""), server).is_err());
}

#[test]
fn an_invitation_reads_back_as_a_secret_and_a_grant() {
    let spec = HubGrantSpec {
        hub_id: "hub.example.org".into(),
        address: "https://hub:6443".into(),
        ca: pem(&[7; 100]),
        member: "north".into(),
        namespace: "member-north".into(),
        max_gpus: None,
        priority: 0,
    };
    let text = invitation(&spec, "a.b.c");
    let documents: Vec<serde_json::Value> = serde_yaml::Deserializer::from_str(&text)
        .map(|document| serde::Deserialize::deserialize(document).unwrap())
        .collect();
    assert_eq!(documents.len(), 2, "{text}");
    assert_eq!(documents[0]["stringData"]["hub.example.org"], "a.b.c");
    let grant: HubGrant = serde_json::from_value(documents[1].clone()).unwrap();
    assert_eq!(grant.spec, spec);
    assert_eq!(grant.name_any(), "hub.example.org");
    assert!(spec.ca.lines().all(|line| line.len() <= 64));
}
