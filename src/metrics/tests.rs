mod shown;

use super::*;

#[test]
fn names_say_what_and_in_which_unit() {
    for line in catalogue() {
        let Described { name, help, labels, .. } = line;
        assert!(name.starts_with("idlewild_"), "{name}");
        assert!(!help.trim().is_empty() && help.trim().ends_with('.'), "{name}: {help}");
        let forbidden = ["job", "user", "namespace", "pod", "lease", "uid", "image", "node"];
        assert!(labels.iter().all(|label| !forbidden.contains(label)), "{name}: {labels:?}");
    }
    let mut names: Vec<_> = catalogue().iter().map(|line| line.name).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup();
    assert_eq!(names.len(), all, "each name once, so that one Prometheus can hold hub and agents");
}

#[test]
fn what_others_may_choose_freely_becomes_few_labels() {
    assert_eq!(bounded("OwnerReclaimed"), "OwnerReclaimed");
    assert_eq!(bounded("whatever a member says"), "Other");
    assert_eq!(bounded_version("1.2.3-rc.1+5"), "1.2.3-rc.1+5");
    for strange in ["", "v1\n", "latest", "1.0 ", "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0"] {
        assert_eq!(bounded_version(strange), "other", "{strange:?}");
    }
    let codes: std::collections::BTreeSet<_> = (0..=u16::MAX).map(bounded_code).collect();
    assert_eq!(codes.len(), 21);
    assert_eq!((bounded_code(404), bounded_code(418), bounded_code(599)), ("404", "4xx", "5xx"));
}

#[test]
fn a_snapshot_shows_its_last_picture_and_nothing_else() {
    let process = Process::new("hub");
    let hub = Hub::new(&process.registry);
    let picture = |reasons: &[(&str, i64)]| {
        reasons.iter().map(|(reason, jobs)| (labelled(&[reason]), *jobs)).collect()
    };
    let shown = || {
        let families = process.registry.gather();
        let found = families.iter().find(|family| family.name() == "idlewild_waiting_jobs");
        let series = found.map(prometheus::proto::MetricFamily::get_metric).unwrap_or_default();
        series.iter().map(|one| one.get_label()[0].value().to_owned()).collect::<Vec<_>>()
    };
    hub.waiting_jobs.show(picture(&[("NoPoolFits", 1), ("WaitingForQuota", 2)]));
    assert_eq!(shown(), ["NoPoolFits", "WaitingForQuota"]);
    hub.waiting_jobs.show(picture(&[("WaitingForQuota", 1)]));
    assert_eq!(shown(), ["WaitingForQuota"]);
}
