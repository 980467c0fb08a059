use super::*;
use crate::engine::notation::request;
use Refusal::*;

#[track_caller]
fn check(refusals: &[(Refusal, u32)], asked: &str, words: &str, reason: WaitReason) {
    let refusals = refusals.iter().copied().collect();
    assert_eq!(explain(&refusals, &request(asked)), words);
    assert_eq!(WaitReason::of(&refusals), reason);
}

#[test]
fn the_largest_number_comes_first() {
    check(
        &[(OutsideResidency, 5), (TooFewFreeGpus, 9)],
        "gpus=8 size=4 in=EU",
        "0/14 pools fit: 9 too few free GPUs per node (need 8 on 4 nodes), 5 outside EU",
        WaitReason::WaitingForCapacity,
    );
    check(
        &[(NeverFits, 1), (Tainted, 1)],
        "gpus=8",
        "0/2 pools fit: 1 with a taint that placement.clusterTolerations lacks, \
         1 too small even when idle (need 8 on 1 node)",
        WaitReason::NoPoolFits,
    );
    check(&[], "", "no member lends a pool yet", WaitReason::NoPoolFits);
}

#[test]
fn names_what_was_asked_for() {
    let asked = "models=H100~80,A100 in=EU,NO,CH,UK,US";
    check(
        &[(NoMatchingModel, 3)],
        asked,
        "0/3 pools fit: 3 without H100 of 80 GiB or A100",
        WaitReason::NoMatchingModel,
    );
    check(
        &[(OutsideResidency, 1)],
        asked,
        "0/1 pools fit: 1 outside CH, EU, NO or 2 more",
        WaitReason::ResidencyUnsatisfied,
    );
}

#[test]
fn the_reason_is_what_all_pools_share() {
    let reason = |refusals: &[Refusal]| {
        WaitReason::of(&refusals.iter().map(|why| (*why, 1)).collect()).as_str()
    };
    assert_eq!(reason(&[NotInAffinity, Tainted]), "AffinityUnsatisfied");
    assert_eq!(reason(&[OutsideResidency]), "ResidencyUnsatisfied");
    assert_eq!(reason(&[OutsideResidency, NoMatchingModel]), "NoPoolFits");
    assert_eq!(reason(&[NeverFits]), "NoPoolFits");
    for passing in [
        Cordoned,
        Silent,
        NotReady,
        Refused,
        TooManyUnanswered,
        TooLittleCpuOrMemory,
        TooFewFreeGpus,
    ] {
        assert_eq!(reason(&[NotInAffinity, passing]), "WaitingForCapacity");
    }
}

#[test]
fn memory_is_said_in_the_largest_whole_unit() {
    for (bytes, words) in [(1 << 40, "1 TiB"), (3 << 29, "1536 MiB"), (7, "7 B"), (0, "0 B")] {
        assert_eq!(memory(bytes), words);
    }
}
