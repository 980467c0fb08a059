//! Whom a member believes to be its hub.

use super::*;

/// The hub announces a new CA beside the old one, and changes its certificate while north is down.
pub(super) async fn the_hub_changes_its_ca(federation: &Federation, front: &Front) {
    let hub = &federation.hub.cluster;
    let next = Authority::new("hub-2").unwrap();
    let overlap = format!("{}{}", hub.authority().pem(), next.pem());
    std::fs::write(hub.directory().join("ca.crt"), &overlap).unwrap();
    hub.controller_manager.restart().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(hub.admin.clone(), "member-north");
    eventually("the cluster publishes both", SOON, async || {
        let map = maps.get("kube-root-ca.crt").await.map_err(|error| error.to_string())?;
        let both = map.data.is_some_and(|data| data["ca.crt"].contains(next.pem().trim()));
        if both { Ok(()) } else { Err("the old one alone".into()) }
    })
    .await;
    restarted(federation, "north").await;
    eventually("north follows", SOON, async || {
        let status = grant(federation, "north").await.status.unwrap();
        let followed = status.followed_ca.map(|it| it.bundle.contains(next.pem().trim()));
        if followed == Some(true) { Ok(()) } else { Err(format!("{followed:?}")) }
    })
    .await;
    federation.members["north"].agent().process.kill().await.unwrap();
    front.show(&next.server("hub", &["127.0.0.1"]).unwrap());
    let before = last_beat(federation, "north").await;
    restarted(federation, "north").await;
    eventually("north is back by itself", SOON, async || {
        let now = last_beat(federation, "north").await;
        if now > before { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
    connected(federation, "north").await;
    // One that nobody announced is not believed until the owner pins it.
    let third = Authority::new("hub-3").unwrap();
    front.show(&third.server("hub", &["127.0.0.1"]).unwrap());
    let message = says(federation, "north", "Connected", "UntrustedHub").await;
    assert!(message.contains("put its certificate into spec.ca"), "{message}");
    let pin = Patch::Merge(json!({ "spec": { "ca": third.pem() } }));
    let owner = federation.members["north"].cluster.client_for(OWNER).await.unwrap();
    let api: Api<HubGrant> = Api::namespaced(owner, SYSTEM_NAMESPACE);
    api.patch(GRANT, &PatchParams::default(), &pin).await.unwrap();
    connected(federation, "north").await;
}

pub(super) async fn last_beat(federation: &Federation, member: &str) -> Option<String> {
    let namespace = format!("member-{member}");
    let api: Api<Lease> = Api::namespaced(federation.hub.cluster.admin.clone(), &namespace);
    api.get("member").await.unwrap().spec?.renew_time.map(|time| time.0.to_string())
}

/// Certificates of six who are not the hub: each is named, and none hears a word.
pub(super) async fn impostors_hear_no_token(federation: &Federation) {
    let hub = &federation.hub.cluster;
    let (pinned, namesake, public) =
        (Issuer::new("south's pin"), Issuer::new("south's pin"), Issuer::new("a public CA"));
    let (now, host) = ((2020, 2060), "127.0.0.1");
    let file = hub.directory().join("pin.crt");
    std::fs::write(&file, pinned.pem()).unwrap();
    let front = Front::start(hub, &public.server(host, now)).await;
    let path = file.display().to_string();
    let own = ["south", "--address", &front.address, "--ca-file", &path];
    invited(federation, &own).await;
    for (what, pair, words) in [
        ("of another CA", public.server(host, now), "spec.ca"),
        ("of another CA of the same name", namesake.server(host, now), "spec.ca"),
        ("of the CA of its API server", hub.authority().server("x", &[host]).unwrap(), "spec.ca"),
        ("for another name", pinned.server("hub.example.org", now), "--address"),
        ("expired", pinned.server(host, (2000, 2001)), "clock is ahead"),
        ("not valid yet", pinned.server(host, (2090, 2091)), "clock is behind"),
    ] {
        front.show(&pair);
        let api = grants(federation, "south");
        eventually(&format!("a certificate {what} is named"), SOON, async || {
            let status = api.get(GRANT).await.unwrap().status.unwrap_or_default();
            let found = conditions::find(&status.conditions, "Connected").ok_or("none")?;
            let named = found.reason == "UntrustedHub" && found.message.contains(words);
            if named { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }
    assert_eq!(front.heard(), 0, "not even a token was sent");
    front.show(&pinned.server(host, now));
    says(federation, "south", "Connected", "WaitingForAcceptance").await;
    assert!(front.heard() > 0, "the right one is spoken to");
    let print = print_of(&grant(federation, "south").await);
    accepted(federation, "south", &print).await;
    connected(federation, "south").await;
    let followed = grant(federation, "south").await.status.unwrap().followed_ca;
    assert_eq!(followed, None, "the cluster's CA is not that of the address");
}
