//! The published table, the bound, and what the policy makes of other traces.

use super::*;

fn trace() -> Idle {
    let trace = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/e2e/traces/helios-earth/earth_vc_compact_may2020.csv.gz"
    );
    read(&options(trace.into())).unwrap()
}

fn options(trace: PathBuf) -> Options {
    Options {
        trace,
        gpus: 8,
        hours: 8.0,
        checkpoint_minutes: 10,
        restart_minutes: 5,
        policy: Policy::Default,
        table: false,
        json: true,
    }
}

fn guests(gpus: u32, minutes: u64, checkpoint: u64) -> Guests {
    Guests { gpus, minutes, checkpoint, restart: 5 }
}

#[test]
#[allow(clippy::float_arithmetic, reason = "published figures, to three places")]
fn greedy_gives_the_published_table_and_nobody_could_finish_more() {
    let idle = trace();
    let published = [
        (0.970, 0.117, 0.985),
        (0.919, 0.369, 0.982),
        (0.797, 0.729, 0.977),
        (0.885, 0.377, 0.948),
        (0.880, 0.125, 0.896),
        (0.832, 0.386, 0.894),
        (0.718, 0.743, 0.888),
    ];
    for ((gpus, minutes), (useful, evictions, saved)) in ROWS.into_iter().zip(published) {
        let never = figures(&guests(gpus, minutes, 0), Policy::Greedy, &idle);
        let often = figures(&guests(gpus, minutes, 10), Policy::Greedy, &idle);
        let row =
            [(never.useful, useful), (never.evictions_per_start, evictions), (often.useful, saved)];
        for (found, published) in row {
            assert!((found - published).abs() < 0.0006, "{gpus} {minutes}: {found} {published}");
        }
        let bound: u64 =
            idle.iter().map(|member| most_finished(member, &guests(gpus, minutes, 0))).sum();
        assert_eq!(never.tally.finished, bound, "{gpus} {minutes}");
    }
}

#[test]
fn the_engine_halves_evictions_or_keeps_what_greedy_keeps() {
    let idle = trace();
    let never = figures(&guests(8, 480, 0), Policy::Default, &idle);
    assert!(never.evictions_per_start <= 0.5 && never.useful >= 0.695, "{never:?}");
    let often = figures(&guests(8, 480, 10), Policy::Default, &idle);
    assert!(often.evictions_per_start <= 0.7 && often.useful >= 0.888, "{often:?}");
}

#[test]
fn what_a_minute_holds_is_counted_whole() {
    // Two guests start, the owner takes 8 GPUs in the fourth minute, the other guest ends.
    let idle: Vec<u32> = vec![16, 16, 16, 8, 8, 8, 8];
    let greedy = replay(&idle, &guests(8, 5, 2), Policy::Greedy);
    let expected =
        Tally { started: 3, evicted: 1, finished: 1, useful: 5 + 2, wasted: 1, unfinished: 2 };
    assert_eq!(greedy, expected);
    assert_eq!(most_finished(&idle, &guests(8, 5, 0)), 1);
    assert_eq!(most_finished(&idle, &guests(8, 3, 0)), 3);
    assert_eq!(most_finished(&idle, &guests(8, 8, 0)), 0);
}

#[test]
fn hours_may_be_fractions_and_nonsense_is_refused() {
    for (hours, expected) in [(0.5, 30), (8.0, 480), (0.25, 15)] {
        assert_eq!(minutes(hours).unwrap(), expected);
    }
    for hours in [0.0, -1.0, f64::NAN, f64::INFINITY, 1000.0] {
        let error = minutes(hours).unwrap_err().to_string();
        assert!(error.contains("--hours"), "{error}");
    }
}

#[test]
fn a_trace_that_makes_no_sense_is_refused_with_its_line() {
    let file = std::env::temp_dir().join(format!("idlewild-harvest-{}.csv", std::process::id()));
    for (text, says) in [
        ("time,a_idle\n0,1\n", "line 1: the header lacks a_total"),
        ("time,a\n0,1\n", "line 1: the header lacks <member>_idle"),
        ("time,a_total,a_idle\n0,8,8\n1,8,9\n", "line 3: 9 idle GPUs of a total of 8"),
        ("time,a_total,a_idle\n0,8,x\n", "line 2: a_idle is \"x\""),
    ] {
        std::fs::write(&file, text).unwrap();
        let error = run(&options(file.clone())).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    std::fs::write(&file, "time,a_total,a_idle\n").unwrap();
    let nothing = run(&options(file.clone())).unwrap();
    assert_eq!(nothing.json["useful"], 0.0);
    std::fs::remove_file(&file).unwrap();
}
