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

/// A step that notes each round in a file, and hands on how many there were.
fn counting(project: &Project, repeat: &str) -> String {
    let file = project.root.join("rounds");
    let script = "echo \"$WINDLASS_ROUND $WINDLASS_ATTEMPT\" >> \"$FILE\"; wc -l < \"$FILE\" > \"$WINDLASS_RESULT\"";
    format!(
        "  - name: poll\n    run: {{ command: [sh, -c, '{script}'], variables: {{ FILE: {file:?} }} }}\n    repeat: {{ {repeat} }}\n"
    )
}

fn rounds(project: &Project) -> String {
    std::fs::read_to_string(project.root.join("rounds")).unwrap()
}

#[test]
fn a_step_is_repeated_until_its_result_is_as_wanted() {
    let project = Project::empty();
    let repeat = "until: \"{{ result >= params.enough and round > 1 }}\", max: 9, delay: 1ms";
    let parameters = "parameters: { enough: { type: integer, default: 3 } }\n";
    let steps = counting(&project, repeat);
    project.write(
        "pipelines/poll.yaml",
        &format!("name: poll\nowner: us\n{parameters}steps:\n{steps}"),
    );
    project.run(&["run", "poll", "--date", DATE]).expect(0);
    assert_eq!(rounds(&project), "1 1\n2 2\n3 3\n");
    let status = project.run(&["status", "poll", "--json"]).expect(0).json();
    assert_eq!(status["steps"][0]["attempts"], 3);
}

#[test]
fn a_step_whose_rounds_are_used_up_says_so() {
    let project = Project::empty();
    project.pipeline(
        "poll",
        &counting(&project, "until: \"{{ result > 2 }}\", max: 2"),
    );
    let ended = project.run(&["run", "poll", "--date", DATE]).expect(1);
    let text = "`until` was false after 2 rounds, all that `repeat` allows; the last result: 2";
    assert!(
        ended.out.contains(text) || ended.err.contains(text),
        "{ended:?}"
    );
    assert_eq!(rounds(&project), "1 1\n2 2\n");
}

#[test]
fn a_host_that_is_killed_between_two_rounds_is_followed_by_one_that_makes_the_next() {
    let project = Project::empty();
    project.pipeline(
        "poll",
        &counting(&project, "until: \"{{ result == 2 }}\", max: 3, delay: 3s"),
    );
    let mut host = run(&project, "poll");
    let scheduled = host.event("round_scheduled", Some("poll"));
    let due: Timestamp = scheduled["until"].as_str().unwrap().parse().unwrap();
    let explained = project.run(&["explain", "poll"]).expect(0);
    let text = "waits for its next round: round 2 of at most 3, at ";
    assert!(explained.out.contains(text), "{}", explained.out);
    host.kill();
    let explained = project.run(&["explain", "poll"]).expect(0);
    assert!(explained.out.contains(text), "{}", explained.out);
    let mut next = run(&project, "poll");
    // What happened before is told first.
    let launched = loop {
        let launched = next.event("attempt_launched", Some("poll"));
        if launched["attempt"] == 2 {
            break launched;
        }
    };
    assert!(time(&launched) >= due, "{launched} before {due}");
    assert_eq!(next.code(), 0);
    assert_eq!(rounds(&project), "1 1\n2 2\n");
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
