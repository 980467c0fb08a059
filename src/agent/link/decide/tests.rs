use k8s_openapi::jiff::SignedDuration;
use serde_json::json;

use super::*;
use crate::api::gpulease::{Adoption, EndedGroup, GuestLeaseStatus};

const NOW: i64 = 1_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn terms() -> Terms {
    Terms {
        grant: "hub".into(),
        hub_id: "hub".into(),
        highest: 2,
        missing: Duration::ZERO,
        remembered: REMEMBERED,
        now: now(),
    }
}

fn phase_of(text: &str) -> LeasePhase {
    serde_json::from_value(json!(text)).unwrap()
}

fn withdrawal(reason: &str) -> Withdrawal {
    Withdrawal { reason: reason.into(), grace_seconds: 5 }
}

/// The adoption of what expired at this second.
fn adoption(second: &str) -> Adoption {
    let at = Timestamp::from_second(second.parse().unwrap()).unwrap();
    Adoption { expired_at: Some(Time(at)) }
}

/// A lease in short notation: `generation=2 phase=Accepted withdrawn=Suspended`; `-` is none.
fn lease(text: &str) -> Option<GpuLease> {
    if text == "-" {
        return None;
    }
    let mut lease: GpuLease = serde_json::from_value(json!({
        "apiVersion": "idlewild.dev/v1alpha1", "kind": "GpuLease",
        "metadata": {"name": "u-2-7", "uid": "lease", "generation": 1},
        "spec": {
            "hubId": "hub", "job": {"namespace": "a", "name": "j", "uid": "u", "generation": 1},
            "pool": "lab", "epoch": {"incarnation": 2, "attempt": 7}, "indexes": "0-3",
            "size": 1, "gpu": {"count": 1, "model": "A100"}, "graceSeconds": 30,
            "activeDeadlineSeconds": 60, "digest": "", "template": {"spec": {}},
        },
    }))
    .unwrap();
    let mut status = GpuLeaseStatus::default();
    let mut wrong = false;
    for part in text.split_whitespace() {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match key {
            "new" => {}
            "generation" => lease.metadata.generation = value.parse().ok(),
            "phase" => status.phase = Some(phase_of(value)),
            "withdrawn" => lease.spec.withdrawn = Some(withdrawal(value)),
            "resumes" => lease.spec.adopted = Some(Adoption::default()),
            "adopted" => lease.spec.adopted = Some(adoption(value)),
            "hub" => lease.spec.hub_id = value.into(),
            "incarnation" => lease.spec.epoch.incarnation = value.parse().unwrap(),
            "tampered" => wrong = true,
            other => panic!("{other}?"),
        }
    }
    lease.spec.digest = digest(&lease.spec);
    if wrong {
        lease.spec.template = json!({"spec": {"hostNetwork": true}}).into();
    }
    if status.phase.is_some() {
        status.observed_generation = Some(1);
        status.serial = Some(9);
        lease.status = Some(status);
    }
    Some(lease)
}

/// A guest in short notation: `phase=Reserved confirmed`; `-` is none.
fn guest(text: &str) -> Option<GuestLease> {
    (text != "-").then(|| {
        let mut guest = propose(&lease("new").unwrap());
        let mut status = GuestLeaseStatus::default();
        for part in text.split_whitespace() {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match key {
                "new" => {}
                "phase" => status.phase = Some(phase_of(value)),
                "confirmed" => guest.spec.confirmed = true,
                "forgotten" => guest.spec.forgotten = true,
                "withdrawn" => guest.spec.withdrawn = Some(withdrawal(value)),
                "adopted" => guest.spec.adopted = Some(adoption(value)),
                "expired" => status.expired_at = adoption(value).expired_at,
                "grant" => guest.spec.grant = value.into(),
                "other" => guest.spec.lease_uid = "other".into(),
                "attempt" => guest.spec.epoch.attempt = value.parse().unwrap(),
                "incarnation" => guest.spec.epoch.incarnation = value.parse().unwrap(),
                "pool" => guest.spec.pool = value.into(),
                "indexes" => guest.spec.indexes = value.into(),
                "ago" => {
                    let ago = SignedDuration::from_secs(value.parse().unwrap());
                    status.end_time = Some(Time(now() - ago));
                }
                other => panic!("{other}?"),
            }
        }
        if let Some(phase) = status.phase {
            status.serial = Some(9);
            status.refusal = (phase == LeasePhase::Refused)
                .then(|| LeaseRefusal { reason: "NotEnoughFree".into(), message: "no".into() });
            guest.status = Some(status);
        }
        guest
    })
}

fn propose(lease: &GpuLease) -> GuestLease {
    let mut spec = serde_json::to_value(&lease.spec).unwrap();
    spec["grant"] = json!("hub");
    spec["leaseName"] = json!(lease.name_any());
    spec["leaseUid"] = json!(lease.uid());
    GuestLease::new("abc-u-2-7", serde_json::from_value(spec).unwrap())
}

/// Both records, and what carrying out a step makes of them.
struct World {
    lease: Option<GpuLease>,
    guest: Option<GuestLease>,
    terms: Terms,
}

impl World {
    /// Carries out `step`; says it in a word or two.
    fn carry_out(&mut self, step: Step) -> String {
        match step {
            Step::RaiseIncarnation(to) => {
                self.terms.highest = to;
                format!("raise {to}")
            }
            Step::Propose => {
                self.guest = self.lease.as_ref().map(propose);
                "propose".into()
            }
            Step::Confirm => {
                self.guest.as_mut().unwrap().spec.confirmed = true;
                "confirm".into()
            }
            Step::Withdraw(withdrawal) => {
                let said = format!("withdraw {}", withdrawal.reason);
                self.guest.as_mut().unwrap().spec.withdrawn = Some(withdrawal);
                said
            }
            Step::Adopt(adoption) => {
                self.guest.as_mut().unwrap().spec.adopted = Some(adoption);
                "adopt".into()
            }
            Step::Report(status) => self.report(*status),
            Step::ReportMissing(status) => {
                assert!(self.guest.is_none());
                self.report(*status)
            }
            Step::Remove => {
                self.guest = None;
                "remove".into()
            }
            Step::Forget => {
                self.guest.as_mut().unwrap().spec.forgotten = true;
                "forget".into()
            }
        }
    }

    fn report(&mut self, status: GpuLeaseStatus) -> String {
        let why = status.refusal.as_ref().map(|refusal| refusal.reason.clone());
        let why = why.or_else(|| status.end_reason.clone()).unwrap_or_default();
        let said = format!("{:?} {why}", status.phase.unwrap());
        self.lease.as_mut().unwrap().status = Some(status);
        said.trim_end().to_owned()
    }

    /// Decides and acts until there is nothing to do, which is what must come next.
    fn settle(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Verdict::Act(step) = decide(self.lease.as_ref(), self.guest.as_ref(), &self.terms)
        {
            said.push(self.carry_out(step));
            assert!(said.len() < 10, "it never ends: {said:?}");
        }
        if let Some(lease) = self.lease.as_ref().filter(|lease| phase(lease).is_some()) {
            let observed = lease.status.as_ref().unwrap().observed_generation;
            assert_eq!(observed, lease.metadata.generation, "the hub waits for this: {said:?}");
        }
        said
    }
}

#[track_caller]
fn check(lease_text: &str, guest_text: &str, want: &[&str]) -> World {
    let mut world = World { lease: lease(lease_text), guest: guest(guest_text), terms: terms() };
    assert_eq!(world.settle(), want, "lease {lease_text}, guest {guest_text}");
    assert!(world.settle().is_empty(), "a second pass does nothing");
    world
}

#[test]
fn a_new_lease_is_proposed_once() {
    check("new", "-", &["propose"]);
    check("new", "new", &[]);
}

#[test]
fn what_is_no_contract_of_that_hub_is_refused_without_a_guest() {
    for (text, reason) in [
        ("withdrawn=JobDeleted generation=2", "Refused Withdrawn"),
        ("hub=other", "Refused WrongHub"),
        ("tampered", "Refused DigestMismatch"),
        ("incarnation=1", "Refused StaleEpoch"),
    ] {
        assert!(check(text, "-", &[reason]).guest.is_none());
    }
}

#[test]
fn a_new_incarnation_is_remembered_before_its_lease_is_proposed() {
    check("incarnation=3", "-", &["raise 3", "propose"]);
}

#[test]
fn a_reserved_lease_is_accepted_at_the_hub_before_it_is_confirmed_here() {
    let world = check("new", "phase=Reserved", &["Accepted", "confirm"]);
    assert_eq!(world.lease.unwrap().status.unwrap().serial, Some(9));
    check("phase=Accepted", "phase=Reserved", &["confirm"]);
}

#[test]
fn a_refusal_goes_to_the_hub_before_its_record_goes() {
    check("new", "phase=Refused", &["Refused NotEnoughFree", "remove"]);
    check("phase=Refused", "phase=Refused", &["remove"]);
    check("phase=Refused", "-", &[]);
}

#[test]
fn a_lease_withdrawn_before_it_was_accepted_never_runs() {
    for answer in ["new", "phase=Reserved", "phase=Refused"] {
        let want = ["Refused Withdrawn", "remove"];
        check("generation=2 withdrawn=Suspended", answer, &want);
    }
}

#[test]
fn a_lease_withdrawn_between_acceptance_and_confirmation_ends_without_having_begun() {
    let lease = "generation=2 phase=Accepted withdrawn=Suspended";
    let world = check(lease, "phase=Reserved", &["Released Suspended", "remove"]);
    let status = world.lease.unwrap().status.unwrap();
    assert_eq!(status.ended[0].indexes, "0-3");
    assert_eq!(status.ended[0].reason, "Suspended");
    assert_eq!(status.serial, Some(9));
}

#[test]
fn a_running_guest_is_told_of_a_withdrawal_and_then_the_hub_that_it_was_seen() {
    let lease = "generation=2 phase=Running withdrawn=Suspended";
    check(lease, "phase=Running confirmed", &["withdraw Suspended", "Running"]);
    check(lease, "phase=Running confirmed withdrawn=Suspended", &["Running"]);
    check(lease, "phase=Running confirmed withdrawn=Other", &["withdraw Suspended", "Running"]);
    check(lease, "phase=Released confirmed", &["Released"]);
}

#[test]
fn what_the_executor_reports_is_mirrored_and_reservation_is_called_acceptance() {
    check("phase=Accepted", "phase=Running confirmed", &["Running"]);
    check("phase=Running", "phase=Running confirmed", &[]);
    check("phase=Accepted", "phase=Reserved confirmed", &[]);
    check("phase=Running", "phase=Released confirmed", &["Released"]);
    check("phase=Refused", "phase=Running confirmed", &["Running"]);
}

#[test]
fn an_expired_guest_is_told_of_the_adoption_of_this_expiry_and_of_no_other() {
    let expired = "phase=Running confirmed expired=70";
    check("phase=Running", expired, &["Running"]);
    check("generation=2 phase=Running adopted=70", expired, &["adopt", "Running"]);
    check(
        "generation=2 phase=Running adopted=70",
        &format!("{expired} adopted=60"),
        &["adopt", "Running"],
    );
    check("generation=2 phase=Running adopted=60", expired, &["Running"]);
    let withdrawn = "generation=2 phase=Running adopted=70 withdrawn=Superseded";
    let world = check(withdrawn, expired, &["withdraw Superseded", "adopt", "Running"]);
    assert!(world.guest.unwrap().spec.withdrawn.is_some(), "what is withdrawn stays so");
    check(
        "generation=2 phase=Running adopted=70",
        "phase=Released confirmed expired=70",
        &["Released"],
    );
}

#[test]
fn an_ended_lease_still_owes_the_generation_that_was_seen() {
    check("generation=3 phase=Released withdrawn=X", "-", &["Released"]);
    check("generation=3 phase=Refused withdrawn=X", "-", &["Refused"]);
}

#[test]
fn a_guest_without_a_lease_ends_only_for_what_is_written() {
    check("-", "new", &["remove"]);
    check("-", "phase=Reserved", &["remove"]);
    let orphan = check("-", "phase=Running confirmed", &[]);
    assert!(orphan.guest.is_some());
    check("-", "phase=Released confirmed ago=10", &["forget"]);
    check("-", "phase=Released confirmed forgotten ago=10", &[]);
    check("-", "phase=Released confirmed forgotten ago=3600", &["remove"]);
    let wait = decide(None, guest("phase=Released confirmed forgotten ago=60").as_ref(), &terms());
    assert_eq!(wait, Verdict::Later(Duration::from_mins(59)));
}

#[test]
fn a_record_beyond_those_that_are_kept_goes_at_once() {
    let crowded = Terms { remembered: Duration::ZERO, ..terms() };
    let old = guest("phase=Released confirmed forgotten ago=60");
    assert_eq!(decide(None, old.as_ref(), &crowded), Verdict::Act(Step::Remove));
}

#[test]
fn a_record_that_somebody_deleted_is_an_eviction_once_its_pods_had_time_to_go() {
    let mut world = check("phase=Running", "-", &["Releasing Unknown"]);
    assert_eq!(
        decide(world.lease.as_ref(), None, &world.terms),
        Verdict::Later(Duration::from_secs(40))
    );
    world.terms.missing = Duration::from_secs(40);
    assert_eq!(world.settle(), ["Released Unknown"]);
    let status = world.lease.clone().unwrap().status.unwrap();
    assert_eq!(
        (status.ended[0].reason.as_str(), status.ended[0].indexes.as_str()),
        ("Unknown", "0-3")
    );
    assert!(world.settle().is_empty());
}

#[test]
fn only_indexes_that_had_not_ended_are_added() {
    let lease = lease("phase=Running").unwrap();
    let done = |indexes: &str| GpuLeaseStatus {
        ended: vec![EndedGroup { indexes: indexes.into(), ..EndedGroup::default() }],
        ..GpuLeaseStatus::default()
    };
    assert_eq!(ended_by(&lease, &done("1-2"), "X", "").unwrap().indexes, "0,3");
    assert_eq!(ended_by(&lease, &done("0-3"), "X", ""), None);
}

#[test]
fn a_lease_that_the_hub_makes_again_finds_its_guest_and_begins_nothing() {
    check("new", "other phase=Running confirmed", &["Running"]);
    check("new", "other phase=Released confirmed ago=1", &["Released"]);
    check("new resumes", "other phase=Running confirmed", &["Running"]);
    check("new resumes incarnation=1", "other incarnation=1 phase=Running confirmed", &["Running"]);
    let rejected = "new resumes withdrawn=Superseded";
    check(rejected, "other phase=Running confirmed", &["withdraw Superseded", "Running"]);
    // What only takes up again never begins.
    check("new", "other phase=Reserved", &["remove", "propose"]);
    check("new resumes", "other phase=Reserved", &["remove", "Refused NothingToAdopt"]);
    check("new resumes", "-", &["Refused NothingToAdopt"]);
}

#[test]
fn the_record_of_another_attempt_under_the_same_name_is_never_taken_for_ours() {
    for other in ["attempt=8", "pool=other", "indexes=0", "incarnation=1"] {
        let running = format!("other {other} phase=Running confirmed");
        check("new", &running, &["Refused LeaseExists"]);
        let ended = format!("other {other} phase=Released confirmed ago=1");
        check("new", &ended, &["forget", "Refused LeaseExists"]);
    }
}

#[test]
fn only_the_executors_answer_confirms_whatever_the_hub_says() {
    let world = check("phase=Accepted", "new", &[]);
    assert!(!world.guest.unwrap().spec.confirmed);
    let mut world =
        World { lease: lease("phase=Running"), guest: guest("phase=Reserved"), terms: terms() };
    assert_eq!(world.settle(), ["confirm", "Accepted"], "what the hub made up is put right");
}

#[test]
fn a_lease_accepted_at_the_hub_and_refused_here_has_ended_without_having_begun() {
    for answer in ["phase=Refused", "phase=Refused confirmed"] {
        for lease in ["phase=Accepted", "generation=2 phase=Accepted withdrawn=Suspended"] {
            let mut world =
                World { lease: self::lease(lease), guest: guest(answer), terms: terms() };
            let said = world.settle();
            assert_eq!(said[0], "Released NotEnoughFree", "{lease} {answer}: {said:?}");
            let status = world.lease.clone().unwrap().status.unwrap();
            assert_eq!((status.ended[0].indexes.as_str(), status.serial), ("0-3", Some(9)));
            assert!(world.settle().is_empty());
            world.lease = None;
            world.settle();
            assert!(world.guest.is_none(), "nothing of it stays");
        }
    }
    check("new", "phase=Refused confirmed", &["Refused NotEnoughFree"]);
    check("phase=Refused", "phase=Refused confirmed", &[]);
    check("-", "phase=Refused confirmed", &["remove"]);
}

#[test]
fn guests_of_another_grant_for_the_same_hub_are_reported_at_most() {
    for answer in ["new", "phase=Reserved", "phase=Refused", "phase=Released confirmed ago=10"] {
        check("-", &format!("{answer} grant=other"), &[]);
    }
    check("phase=Accepted", "phase=Reserved grant=other", &[]);
    check("new", "new grant=other", &[]);
    check("new", "other phase=Reserved grant=other", &["Refused LeaseExists"]);
    let lease = "generation=2 phase=Running withdrawn=Suspended";
    let world = check(lease, "phase=Released confirmed grant=other", &["Released"]);
    assert_eq!(world.guest.unwrap().spec.withdrawn, None);
}

#[test]
fn what_a_hub_writes_is_cut_to_what_can_be_stored() {
    let long = "x".repeat(5000);
    let mut lease = lease("generation=2 phase=Running").unwrap();
    lease.spec.withdrawn = Some(withdrawal(&long));
    let mut world =
        World { lease: Some(lease), guest: guest("phase=Running confirmed"), terms: terms() };
    assert_eq!(world.settle().len(), 2, "withdrawn once, observed once");
    assert_eq!(world.guest.unwrap().spec.withdrawn.unwrap().reason.len(), 64);
    let mut lease = self::lease("new").unwrap();
    lease.spec.withdrawn = Some(withdrawal(&long));
    let mut world = World { lease: Some(lease), guest: None, terms: terms() };
    world.settle();
    let refusal = world.lease.unwrap().status.unwrap().refusal.unwrap();
    assert_eq!(refusal.message.chars().count(), 1024);
}
