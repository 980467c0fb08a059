//! Tokens that nobody gave: forged, altered, and of another audience.

use super::*;

/// Tokens that look like those of the victim's agent.
pub(super) async fn forged_tokens(siege: &mut Siege, federation: &Federation, agent: &str) {
    let hub = &federation.hub.cluster;
    let mine = || vec![get(ours(VICTIM, "gpuleases")), token_of(VICTIM, "agent")];
    let right = signing_key(&hub.directory().join("sa.key"));
    let claims = claims(agent);
    let made = forge(&right, &claims);
    let works = holder(hub, Some(&made));
    send(&works, get(ours(VICTIM, "gpuleases"))).await.expect("a token made this way is good");
    let mut late = claims.clone();
    for (key, at) in [("iat", 1_700_000_000), ("nbf", 1_700_000_000), ("exp", 1_700_003_600)] {
        late[key] = json!(at);
    }
    let mut abroad = claims.clone();
    abroad["aud"] = json!(["https://another.example.org"]);
    let mut elsewhere = claims.clone();
    elsewhere["kubernetes.io"]["namespace"] = json!(NORTH);
    let mut gone = claims.clone();
    gone["kubernetes.io"]["serviceaccount"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    let wrong = rcgen::KeyPair::generate().unwrap().serialize_der();
    let (plain, _) = made.rsplit_once('.').unwrap();
    let member = &federation.members["uni-north"].cluster;
    let local =
        federation.members["uni-north"].cluster.directory().join("idlewild-agent.kubeconfig");
    let local: Value = serde_json::from_str(&std::fs::read_to_string(local).unwrap()).unwrap();
    let local = local["users"][0]["user"]["token"].as_str().unwrap();
    for (what, token) in [
        ("an expired token", forge(&right, &late)),
        ("a token for another audience", forge(&right, &abroad)),
        ("a token whose subject and namespace differ", forge(&right, &elsewhere)),
        ("a token of an account that was made anew", forge(&right, &gone)),
        ("a token signed by somebody else", forge(&wrong, &claims)),
        ("a token without its signature", format!("{plain}.")),
        ("a token of another cluster", local.to_owned()),
        ("no token at all", "nonsense".to_owned()),
    ] {
        siege.refused(what, &holder(hub, Some(&token)), &[401], mine()).await;
    }
    let abroad = holder(member, Some(agent));
    let guests = vec![get(ours("idlewild-guests", "guestleases"))];
    siege.refused("the hub's token in a member", &abroad, &[401], guests).await;
    let admin = &hub.admin;
    let mut ask = token_of(VICTIM, "agent");
    ask.2["spec"]["audiences"] = json!(["https://another.example.org"]);
    let answer = send(admin, ask).await.unwrap();
    let token = answer["status"]["token"].as_str().unwrap().to_owned();
    siege.refused("a real token for others", &holder(hub, Some(&token)), &[401], mine()).await;
}

fn signing_key(path: &Path) -> Vec<u8> {
    PrivateKeyDer::from_pem_file(path).unwrap().secret_der().to_vec()
}

fn claims(token: &str) -> Value {
    let text = token.split('.').nth(1).unwrap().replace('-', "+").replace('_', "/");
    let padded = format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4));
    let ByteString(bytes) = serde_json::from_value(json!(padded)).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn forge(key: &[u8], claims: &Value) -> String {
    let url =
        |bytes: &[u8]| encoded(bytes).trim_end_matches('=').replace('+', "-").replace('/', "_");
    let head = url(json!({ "alg": "ES256" }).to_string().as_bytes());
    let signed = format!("{head}.{}", url(claims.to_string().as_bytes()));
    let rng = SystemRandom::new();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key, &rng).unwrap();
    let signature = pair.sign(&rng, signed.as_bytes()).unwrap();
    format!("{signed}.{}", url(signature.as_ref()))
}
