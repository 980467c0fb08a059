//! Attempts that members hold and that have no lease here: the hub's store is older than they are.
//!
//! Invariant: of one index the highest epoch is taken up again, and nothing that the record knows to
//! be over; a member is told of everything else that it is to end.
//!
//! Numbers that the record had forgotten are not counted again: the hub has another incarnation by
//! then, so that what it issues is another epoch, and what a member tells later is still unknown.

use std::collections::BTreeMap;

use super::record::{Allocation, Lease, Record, Terms};
use super::{Advance, SUPERSEDED, Step};
use crate::engine::model::Epoch;

/// What becomes of one orphan.
enum Fate {
    /// It is the current attempt: back on record with it.
    Current,
    /// Attempts before it must go first.
    After(Vec<Epoch>),
    /// It is over.
    Over,
}

/// Takes orphans back into the record, the highest epoch first, or rejects them.
pub(super) fn adopt(
    terms: &Terms,
    next: &mut Advance,
    (leases, orphans): (&BTreeMap<Epoch, Lease>, &[Allocation]),
    now: i64,
) {
    let mut orphans: Vec<_> = orphans.iter().collect();
    orphans.sort_by(|a, b| (b.epoch, &b.pool).cmp(&(a.epoch, &a.pool)));
    for orphan in orphans {
        let record = &mut next.record;
        // What has a lease answers for itself, and what is on record is about to get one.
        if record.holds(orphan.epoch) || leases.contains_key(&orphan.epoch) {
            continue;
        }
        match fate(terms, record, orphan) {
            Fate::Current => {
                let ended = orphan.indexes.intersection(&record.completed);
                record.allocations.push(Allocation { ended, at: now, ..orphan.clone() });
                next.steps.push(Step::Create(orphan.epoch));
            }
            Fate::After(before) => {
                let living = before
                    .iter()
                    .filter(|epoch| leases.get(epoch).is_some_and(|lease| !lease.withdrawn));
                next.steps.extend(living.map(|epoch| Step::Withdraw(*epoch, SUPERSEDED)));
            }
            Fate::Over => next.steps.push(Step::Reject(Box::new(orphan.clone()))),
        }
    }
}

fn fate(terms: &Terms, record: &Record, orphan: &Allocation) -> Fate {
    let left = orphan.indexes.minus(&record.completed);
    let known = orphan.epoch.attempt < record.next_attempt
        || record.attempts.iter().any(|attempt| attempt.epoch == orphan.epoch);
    if known || terms.stopped.is_some() || record.verdict.is_some() || left.is_empty() {
        return Fate::Over;
    }
    let rivals =
        record.allocations.iter().filter(|held| !held.live().intersection(&left).is_empty());
    let (before, after): (Vec<_>, Vec<_>) =
        rivals.map(|held| held.epoch).partition(|epoch| *epoch < orphan.epoch);
    if !after.is_empty() {
        return Fate::Over;
    }
    if before.is_empty() { Fate::Current } else { Fate::After(before) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::indexes::Indexes;
    use crate::engine::lifecycle::{Attempt, Seen, Stage, Standing, Verdict, advance};

    fn epoch(text: &str) -> Epoch {
        let (incarnation, attempt) = text.split_once('.').unwrap();
        Epoch { incarnation: incarnation.parse().unwrap(), attempt: attempt.parse().unwrap() }
    }

    /// `1.4 0-3`: epoch and indexes.
    fn allocation(text: &str) -> Allocation {
        let (number, indexes) = text.split_once(' ').unwrap();
        Allocation {
            epoch: epoch(number),
            indexes: Indexes::parse(indexes).unwrap(),
            deadline_seconds: 600,
            ..Allocation::default()
        }
    }

    fn record(next_attempt: u32, allocations: &[&str], completed: &str) -> Record {
        Record {
            next_attempt,
            allocations: allocations.iter().map(|text| allocation(text)).collect(),
            completed: Indexes::parse(completed).unwrap_or_default(),
            ..Record::default()
        }
    }

    fn held(text: &str) -> (Epoch, Lease) {
        let epoch = allocation(text).epoch;
        (epoch, Lease { epoch, stage: Stage::Held, ..Lease::default() })
    }

    /// Advances a job of four replicas whose allocations all have leases.
    #[track_caller]
    fn check(
        terms: &Terms,
        record: &Record,
        orphans: &[&str],
        want: (&[&str], &[Step]),
    ) -> Advance {
        let leases: Vec<_> = record.allocations.iter().map(|one| one.epoch).collect();
        let leases = leases
            .into_iter()
            .map(|epoch| (epoch, Lease { epoch, stage: Stage::Held, ..Lease::default() }));
        let leases: BTreeMap<_, _> = leases.collect();
        let orphans: Vec<_> = orphans.iter().map(|text| allocation(text)).collect();
        let seen = Seen { leases: &leases, orphans: &orphans };
        let next = advance(terms, record, seen, |_| Standing::Live, 7);
        let live = |held: &Allocation| {
            format!("{}.{} {}", held.epoch.incarnation, held.epoch.attempt, held.live())
        };
        let found: Vec<_> = next.record.allocations.iter().map(live).collect();
        assert_eq!(
            (found, &next.steps[..]),
            (want.0.iter().map(|&one| one.into()).collect(), want.1)
        );
        let again = advance(terms, &next.record, seen, |_| Standing::Live, 7);
        assert_eq!(again.record, next.record, "a second run changes nothing");
        next
    }

    fn terms() -> Terms {
        Terms { completions: 4, parallelism: 4, ..Terms::default() }
    }

    fn reject(text: &str) -> Step {
        Step::Reject(Box::new(allocation(text)))
    }

    #[test]
    fn what_is_newer_than_the_record_is_taken_back_and_not_placed_again() {
        let next = check(
            &terms(),
            &record(4, &[], ""),
            &["1.5 0-3"],
            (&["1.5 0-3"], &[Step::Create(epoch("1.5"))]),
        );
        assert!(next.wanted.is_empty());
        assert_eq!((next.record.next_attempt, next.record.allocations[0].at), (4, 7));
        let next = check(
            &terms(),
            &record(4, &[], ""),
            &["1.5 0"],
            (&["1.5 0"], &[Step::Create(epoch("1.5"))]),
        );
        assert_eq!(next.wanted.to_string(), "1-3", "the rest is placed");
    }

    #[test]
    fn what_the_record_knows_to_be_over_is_rejected() {
        check(&terms(), &record(6, &[], ""), &["1.5 0"], (&[], &[reject("1.5 0")]));
        check(&terms(), &record(4, &[], "0-1"), &["1.5 0-1"], (&[], &[reject("1.5 0-1")]));
        let stopped = Terms { stopped: Some("Suspended"), ..terms() };
        check(&stopped, &record(4, &[], ""), &["1.5 0"], (&[], &[reject("1.5 0")]));
        let mut folded = record(4, &[], "");
        folded.attempts.push(Attempt { epoch: epoch("1.5"), ..Attempt::default() });
        check(&terms(), &folded, &["1.5 0"], (&[], &[reject("1.5 0")]));
        let mut doomed = record(4, &[], "");
        doomed.verdict = Some(Verdict::default());
        check(&terms(), &doomed, &["1.5 0"], (&[], &[reject("1.5 0")]));
    }

    #[test]
    fn of_what_completed_meanwhile_only_the_rest_is_live() {
        check(
            &terms(),
            &record(4, &[], "0"),
            &["1.5 0-1"],
            (&["1.5 1"], &[Step::Create(epoch("1.5"))]),
        );
    }

    #[test]
    fn of_one_index_the_highest_epoch_is_current() {
        check(
            &terms(),
            &record(4, &[], ""),
            &["1.5 0-1", "1.7 1", "1.6 2"],
            (
                &["1.7 1", "1.6 2"],
                &[Step::Create(epoch("1.7")), Step::Create(epoch("1.6")), reject("1.5 0-1")],
            ),
        );
        // An attempt on record goes before the later one takes its place.
        let before = record(4, &["1.3 0"], "");
        let next = check(
            &terms(),
            &before,
            &["1.5 0"],
            (&["1.3 0"], &[Step::Withdraw(epoch("1.3"), SUPERSEDED)]),
        );
        assert_eq!((next.record.next_attempt, next.wanted.to_string()), (4, "1-3".into()));
        let (number, mut gone) = held("1.3 0");
        (gone.stage, gone.withdrawn) = (Stage::Released, true);
        let leases = [(number, gone)].into();
        let orphans = [allocation("1.5 0")];
        let seen = Seen { leases: &leases, orphans: &orphans };
        let next = advance(&terms(), &next.record, seen, |_| Standing::Live, 7);
        assert_eq!(next.record.live().to_string(), "0", "in the same breath");
        assert_eq!(next.record.allocations[0].epoch, epoch("1.5"));
    }

    #[test]
    fn the_lease_of_a_forgotten_number_is_removed_when_what_it_said_is_on_record() {
        let leases = |stage, withdrawn| -> BTreeMap<_, _> {
            let (epoch, lease) = held("1.5 0");
            [(epoch, Lease { stage, withdrawn, resumes: true, ..lease })].into()
        };
        let advance = |record: &Record, leases| {
            let seen = Seen { leases: &leases, orphans: &[] };
            advance(&terms(), record, seen, |_| Standing::Live, 7)
        };
        let adopted = record(4, &["1.5 0"], "");
        assert!(advance(&adopted, leases(Stage::Held, false)).steps.is_empty());
        let next = advance(&adopted, leases(Stage::Released, false));
        assert_eq!((next.record.attempts.len(), next.steps), (1, vec![Step::Remove(epoch("1.5"))]));
        // A rejected one has its time to go.
        assert!(advance(&record(4, &[], ""), leases(Stage::Held, true)).steps.is_empty());
        let next = advance(&record(4, &[], ""), leases(Stage::Released, true));
        assert_eq!((next.record.attempts.len(), next.steps), (0, vec![Step::Remove(epoch("1.5"))]));
    }

    #[test]
    fn what_has_a_lease_is_no_orphan_whatever_a_picture_says() {
        check(&terms(), &record(6, &["1.5 0"], ""), &["1.5 0"], (&["1.5 0"], &[]));
        let leases = [held("1.5 0")].into();
        let orphans = [allocation("1.5 0")];
        let seen = Seen { leases: &leases, orphans: &orphans };
        let next = advance(&terms(), &record(6, &[], ""), seen, |_| Standing::Live, 7);
        assert_eq!(next.steps, [Step::Withdraw(epoch("1.5"), SUPERSEDED)]);
    }
}
