//! A host that is killed while processes hold a pool: what the pool holds is what they hold.

use std::time::Duration;

use serde_json::Value;
use windlass::Timestamp;

use super::kit::{Project, Started};

const DATE: &str = "2026-11-03";
const SOON: Duration = Duration::from_secs(1);

fn run(project: &Project, pipeline: &str) -> Started {
    project.start(&["run", pipeline, "--date", DATE, "--json"])
}

fn time(event: &Value) -> Timestamp {
    event["time"].as_str().unwrap().parse().unwrap()
}

/// Returns the pipelines whose processes are alive, once they hold all of the pool and the third waits.
fn who_holds<'a>(project: &Project, names: &[&'a str]) -> Vec<&'a str> {
    let full = "waits for licence in pool room: asks 1, 2 of 2 in use";
    let is_alive = |name: &str| {
        let has_run = project.root.join(format!("{name}.pid")).exists();
        has_run && project.is_alive(name)
    };
    loop {
        let alive: Vec<&str> = names.iter().copied().filter(|n| is_alive(n)).collect();
        let waits = names.iter().filter(|name| !alive.contains(name));
        let explained = waits.map(|name| project.run(&["explain", name]).expect(0).out);
        let explained: Vec<String> = explained.collect();
        assert!(alive.len() <= 2, "{alive:?} hold more than there is");
        if alive.len() == 2 && explained[0].contains(full) {
            return alive;
        }
    }
}

#[test]
fn a_pool_of_a_killed_host_holds_what_processes_hold_and_is_free_when_they_end() {
    let project = Project::empty();
    let path = "environments/dev.yaml";
    let environment = std::fs::read_to_string(project.root.join(path)).unwrap();
    let pools = "pools: { room: { licence: 2 } }\n";
    project.write(path, &format!("{environment}{pools}"));
    let names = ["left", "right", "queued"];
    for name in names {
        let more = ", pool: room, resources: { licence: 1 }";
        project.pipeline(name, &project.gated(name, "", more));
    }
    project.pipeline(
        "next",
        "  - { name: all, run: { command: [\"true\"] }, pool: room, resources: { licence: 2 } }\n",
    );
    let mut host = run(&project, "left");
    host.event("attempt_started", Some("left"));
    let mut right = run(&project, "right");
    right.event("attempt_started", Some("right"));
    let mut queued = run(&project, "queued");
    queued.event("step_ready", Some("queued"));
    // The others don't see that there is no host, until there is the next one.
    for guest in [&right, &queued] {
        guest.signal("STOP");
    }
    host.kill();
    let mut left = run(&project, "left");
    while left.event("attempt_started", Some("left"))["attempt"] != 2 {}
    for guest in [&right, &queued] {
        guest.signal("CONT");
    }

    // What ran is lost and wants room again, as what was queued does.
    let hold = who_holds(&project, &names);
    let mut next = run(&project, "next");
    next.event("step_ready", Some("all"));
    for name in names {
        project.run(&["cancel", name]).expect(0);
    }
    let ended = [left, right, queued].map(|mut run| time(&run.event("run_ended", None)));
    let began = time(&next.event("attempt_launched", Some("all")));
    let took = began.since(ended.into_iter().max().unwrap());
    assert!(took < SOON, "{took:?}");
    assert_eq!(next.code(), 0);
    assert!(hold.iter().all(|name| !project.is_alive(name)));
}
