//! What operators and owners see and set, on a hub and two members.

use idlewild::api::gpujob::Phase;
use idlewild::api::{GpuJob, GpuPool, GpuQueue, JoinRequest, MemberCluster, conditions};
use idlewild::sandbox::{OPERATOR, OWNER, USER, USER_NAMESPACES, get};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::harness::{SOON, eventually, job_in, jobs, shared};
use crate::jobs::settled;
use crate::work::{condition, create, job, job_with};

/// Waits until a condition of a job is false for `reason`.
async fn says(api: &Api<GpuJob>, name: &str, type_: &str, reason: &str) {
    eventually(&format!("{name}: {type_}=False/{reason}"), SOON, async || {
        let job = api.get(name).await.map_err(|error| error.to_string())?;
        let seen = condition(&job, type_).unwrap_or_default();
        if seen.0 == "False" && seen.1 == reason { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[test]
fn a_queue_limits_holds_and_drains_its_namespaces() {
    shared(async |federation| {
        settled(federation).await;
        let admin = federation.hub.cluster.admin.clone();
        let queues: Api<GpuQueue> = Api::all(admin);
        let selector =
            json!({ "matchLabels": { "kubernetes.io/metadata.name": USER_NAMESPACES[1] } });
        let queue: GpuQueue = serde_json::from_value(json!({
            "apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuQueue", "metadata": { "name": "small" },
            "spec": { "namespaceSelector": selector, "quota": [{ "gpus": 2 }] },
        }))
        .unwrap();
        queues.create(&PostParams::default(), &queue).await.unwrap();
        let client = federation.hub.cluster.client_for(USER).await.unwrap();
        let inside: Api<GpuJob> = Api::namespaced(client, USER_NAMESPACES[1]);
        let outside = jobs(federation).await;
        eventually("the hub knows the queue", SOON, async || {
            let status = queues.get("small").await.unwrap().status;
            status.map(drop).ok_or_else(|| "no status".to_owned())
        })
        .await;
        for index in 0..2 {
            create(&inside, job(&format!("in-{index}"), 1, "600s")).await;
            job_in(&inside, &format!("in-{index}"), &[Phase::Running], SOON).await;
        }
        create(&inside, job("over", 1, "600s")).await;
        says(&inside, "over", "QuotaReserved", "WaitingForQuota").await;
        create(&inside, job("far-over", 4, "600s")).await;
        says(&inside, "far-over", "QuotaReserved", "ExceedsMaxQuota").await;
        create(&outside, job_with("stranger", 1, "600s", json!({ "queueName": "small" }))).await;
        says(&outside, "stranger", "QuotaReserved", "QueueNotAllowed").await;
        let stop = Patch::Merge(json!({ "spec": { "stopPolicy": "HoldAndDrain" } }));
        queues.patch("small", &PatchParams::default(), &stop).await.unwrap();
        for index in 0..2 {
            says(&inside, &format!("in-{index}"), "QuotaReserved", "QueueHeld").await;
            eventually("it is drained", SOON, async || {
                let status = inside.get(&format!("in-{index}")).await.unwrap().status.unwrap();
                let last = status.attempts.last().map(|attempt| attempt.reason.clone());
                if last.as_deref() == Some("QueueDrained") {
                    Ok(())
                } else {
                    Err(format!("{last:?}"))
                }
            })
            .await;
        }
        for name in ["in-0", "in-1", "over", "far-over"] {
            inside.delete(name, &DeleteParams::default()).await.unwrap();
        }
        outside.delete("stranger", &DeleteParams::default()).await.unwrap();
        queues.delete("small", &DeleteParams::default()).await.unwrap();
        settled(federation).await;
    });
}

#[test]
fn priority_goes_before_age() {
    shared(async |federation| {
        settled(federation).await;
        let classes: Api<k8s_openapi::api::scheduling::v1::PriorityClass> =
            Api::all(federation.hub.cluster.admin.clone());
        let class =
            serde_json::from_value(json!({ "metadata": { "name": "urgent" }, "value": 1000 }));
        classes.create(&PostParams::default(), &class.unwrap()).await.unwrap();
        let api = jobs(federation).await;
        // Six nodes of four L40S: one job holds all, then two wait for the whole pool.
        let all = |extra: serde_json::Value| {
            let mut spec = json!({ "size": 6, "gpu": { "anyOf": [{ "model": "L40S" }] } });
            spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            spec
        };
        create(&api, job_with("holds", 4, "4s", all(json!({})))).await;
        job_in(&api, "holds", &[Phase::Running], SOON).await;
        create(&api, job_with("old", 4, "1s", all(json!({})))).await;
        says(&api, "old", "Placed", "WaitingForCapacity").await;
        create(&api, job_with("urgent", 4, "1s", all(json!({ "priorityClassName": "urgent" }))))
            .await;
        let old = job_in(&api, "old", &[Phase::Succeeded], SOON).await.status.unwrap();
        let urgent = job_in(&api, "urgent", &[Phase::Succeeded], SOON).await.status.unwrap();
        assert!(urgent.completion_time.unwrap().0 <= old.start_time.unwrap().0);
        create(&api, job_with("classless", 1, "1s", json!({ "priorityClassName": "nope" }))).await;
        says(&api, "classless", "QuotaReserved", "Misconfigured").await;
        api.delete("classless", &DeleteParams::default()).await.unwrap();
        classes.delete("urgent", &DeleteParams::default()).await.unwrap();
    });
}

#[test]
fn an_owner_pauses_a_pool_and_guests_leave() {
    shared(async |federation| {
        settled(federation).await;
        let owner = federation.members["lab-south"].cluster.client_for(OWNER).await.unwrap();
        let pools: Api<GpuPool> = Api::namespaced(owner, "idlewild-system");
        let api = jobs(federation).await;
        let model = json!({ "gpu": { "anyOf": [{ "model": "L40S" }, { "model": "A100" }] } });
        create(&api, job_with("unlucky", 1, "600s", model)).await;
        job_in(&api, "unlucky", &[Phase::Running], SOON).await;
        let pause =
            |paused: bool| Patch::Merge(json!({ "spec": { "offer": { "paused": paused } } }));
        pools.patch("l40s", &PatchParams::default(), &pause(true)).await.unwrap();
        eventually("it runs elsewhere", SOON, async || {
            let status = api.get("unlucky").await.unwrap().status.unwrap();
            let moved = status.phase == Some(Phase::Running) && status.clusters == ["uni-north"];
            if moved { Ok(()) } else { Err(format!("{:?} {:?}", status.phase, status.clusters)) }
        })
        .await;
        pools.patch("l40s", &PatchParams::default(), &pause(false)).await.unwrap();
        api.delete("unlucky", &DeleteParams::default()).await.unwrap();
        settled(federation).await;
    });
}

#[test]
fn hub_and_agents_serve_metrics_and_probes() {
    shared(async |federation| {
        let hub = [(federation.hub.controller(), "idlewild_round_seconds_count")];
        let agents =
            federation.members.values().map(|member| (member.agent(), "idlewild_lent_gpus"));
        for (service, metric) in hub.into_iter().chain(agents) {
            for (path, want) in [("/livez", "ok"), ("/readyz", "ok"), ("/metrics", metric)] {
                let (code, page) = get(&service.address, path).await.unwrap();
                assert_eq!(code, 200, "{path}");
                assert!(page.contains(want), "{path}: {page}");
            }
        }
    });
}

#[test]
fn members_show_how_they_joined_and_only_accept_accepts() {
    shared(async |federation| {
        let hub = &federation.hub.cluster;
        let members: Api<MemberCluster> = Api::all(hub.admin.clone());
        for name in federation.members.keys() {
            let status = members.get(name).await.unwrap().status.unwrap();
            for type_ in ["Invited", "Accepted", "Joined", "Ready"] {
                assert!(conditions::is_true(&status.conditions, type_), "{name}: {type_}");
            }
            assert!(status.gpus > 0 && status.pools > 0);
            let joins: Api<JoinRequest> = Api::namespaced(hub.admin.clone(), &status.namespace);
            let join = joins.get("join").await.unwrap().status.unwrap_or_default();
            assert!(conditions::is_true(&join.conditions, "Accepted"), "{name}: join request");
        }
        let patch = [
            "patch",
            "membercluster",
            "uni-north",
            "--type=merge",
            "-p",
            r#"{"spec":{"accepted":false,"fingerprint":null}}"#,
        ];
        let error = hub.kubectl(USER, &patch, "").await.unwrap_err();
        assert!(
            idlewild::cluster::chain(&error).contains("forbidden"),
            "a user has no right to it"
        );
        // The operator has the verb `accept`; a second acceptance of what is accepted says so.
        let said = federation.operate(&["accept", "uni-north", "--yes"]).await;
        let said = said.unwrap_or_else(|error| idlewild::cluster::chain(&error));
        assert!(said.contains("accepted"), "{said}");
    });
}

#[test]
fn the_right_to_make_secrets_gives_no_token_of_another_account() {
    shared(async |federation| {
        let hub = &federation.hub.cluster;
        let secret = |account: &str| {
            format!(
                "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\n\
                 metadata:\n  name: token-of-{account}\n  namespace: member-uni-north\n  \
                 annotations: {{kubernetes.io/service-account.name: {account}}}\n"
            )
        };
        // Somebody who may make Secrets there by another role than the operator's.
        let (namespace, maker) = ("member-uni-north", "maker");
        let role: Role = serde_json::from_value(json!({
            "metadata": { "name": maker },
            "rules": [{ "apiGroups": [""], "resources": ["secrets"], "verbs": ["create"] }],
        }))
        .unwrap();
        let group = "rbac.authorization.k8s.io";
        let binding: RoleBinding = serde_json::from_value(json!({
            "metadata": { "name": maker },
            "roleRef": { "apiGroup": group, "kind": "Role", "name": maker },
            "subjects": [{ "apiGroup": group, "kind": "User", "name": maker }],
        }))
        .unwrap();
        let roles: Api<Role> = Api::namespaced(hub.admin.clone(), namespace);
        let bindings: Api<RoleBinding> = Api::namespaced(hub.admin.clone(), namespace);
        roles.create(&PostParams::default(), &role).await.unwrap();
        bindings.create(&PostParams::default(), &binding).await.unwrap();
        let create = ["create", "-f", "-"];
        for (user, account, words) in [
            (maker, "agent", "serviceaccounts/token"),
            (maker, "renew", "serviceaccounts/token"),
            (OPERATOR, "agent", "only empty Secrets"),
        ] {
            let said = eventually("the role is known", SOON, async || {
                let error = hub.kubectl(user, &create, &secret(account)).await.unwrap_err();
                let said = idlewild::cluster::chain(&error);
                if said.contains("ValidatingAdmissionPolicy") { Ok(said) } else { Err(said) }
            })
            .await;
            // Two policies refuse an operator's, and either may answer first.
            let also = user == OPERATOR && said.contains("serviceaccounts/token");
            assert!(said.contains(words) || also, "{user} {account}: {said}");
        }
        bindings.delete(maker, &DeleteParams::default()).await.unwrap();
        roles.delete(maker, &DeleteParams::default()).await.unwrap();
    });
}
