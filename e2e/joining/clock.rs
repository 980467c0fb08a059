//! A member whose clock is wrong.

use k8s_openapi::jiff::Timestamp;

use super::*;

/// How far off it is.
const HOUR: i64 = 3600;

/// The agent whose clock is an hour ahead, and then behind, joins in as any other: nothing compares
/// the clocks of two machines.
pub(super) async fn a_clock_an_hour_off_changes_nothing(federation: &Federation) {
    let api = jobs(federation).await;
    federation.members["south"].agent().process.kill().await.unwrap();
    for (name, seconds) in [("south-ahead", HOUR), ("south-behind", -HOUR)] {
        let environment = [
            format!("LD_PRELOAD={}", faketime()),
            format!("FAKETIME={seconds:+}"),
            // What is measured goes on at the right speed; only what the clock shows is wrong.
            "FAKETIME_DONT_FAKE_MONOTONIC=1".into(),
        ];
        let agent = federation.add_agent("south", name, &environment).unwrap();
        eventually("south beats by its own clock", SOON, async || {
            let beat = last_beat(federation, "south").await.ok_or("never")?;
            let beat: Timestamp = beat.parse().unwrap();
            let off = beat.duration_since(Timestamp::now()).as_secs() - seconds;
            if off.abs() < HOUR / 2 { Ok(()) } else { Err(format!("{off} s from there")) }
        })
        .await;
        connected(federation, "south").await;
        let only = json!({ "placement": { "clusterAffinity": { "clusterNames": ["south"] } } });
        create(&api, job_with(name, 1, "1s", only)).await;
        job_in(&api, name, &[Phase::Succeeded], SOON).await;
        agent.process.kill().await.unwrap();
    }
    restarted(federation, "south").await;
    connected(federation, "south").await;
}

/// The library that shows a program another time.
fn faketime() -> String {
    let folders = std::fs::read_dir("/usr/lib").unwrap();
    let files = folders.map(|folder| folder.unwrap().path().join("faketime/libfaketime.so.1"));
    let found = files.into_iter().find(|file| file.exists());
    found.expect("make e2e installs Debian's faketime").display().to_string()
}
