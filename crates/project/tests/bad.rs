//! Broken projects: each says what is wrong, where and what to do; nothing is ever written.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]

use std::path::Path;

use windlass_project::Project;

const PROJECT: &str = "name: demo\n";
const DEV: &str = "store: { sqlite: state/dev.db }\nstorage: { runs: { file: state/runs }, lake: { file: lake } }\nrun_storage: runs\n\
                   compute: { small: { process: { cpu: 2, memory: 2GiB } } }\ndefault_compute: small\npools: { train: { cpu: 4 } }\n\
                   notifiers: { log: { log: {} } }\nsecrets: { token: { env: TOKEN } }\nowners: { us: { notify: [log] } }\n";
const HEAD: &str = "name: p\nowner: us\nparameters:\n  region: { type: string, default: emea }\n";

fn write(root: &Path, file: &str, text: &[u8]) {
    let path = root.join(file);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            }
            found.push(entry.path().to_string_lossy().into_owned());
        }
    }
    found.sort();
    found
}

/// Loads a good project with one file changed, and returns what is wrong with it.
fn report(file: &str, text: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "windlass.yaml", PROJECT.as_bytes());
    write(root, "environments/dev.yaml", DEV.as_bytes());
    write(root, "models/m/run.sh", b"true\n");
    write(root, "templates/t.yaml", b"template_parameters: { what: { type: string } }\nsteps:\n  - { name: a, run: { command: [\"[[ what ]]\"] } }\n");
    write(
        root,
        "pipelines/good.yaml",
        b"name: good\nowner: us\nsteps: [{ name: a, wait: { for: 1s } }]\n",
    );
    write(root, file, text);
    let before = files(root);
    let report = match Project::load(root, None) {
        Ok(project) => panic!("the project is good: {project:?}"),
        Err(report) => report.to_string(),
    };
    assert_eq!(files(root), before, "loading writes nothing");
    report
}

/// A pipeline with these lines below its head.
fn pipeline(rest: &str) -> String {
    report("pipelines/p.yaml", format!("{HEAD}{rest}").as_bytes())
}

fn environment(from: &str, to: &str) -> String {
    assert!(DEV.contains(from), "{from}");
    report(
        "environments/dev.yaml",
        DEV.replacen(from, to, 1).as_bytes(),
    )
}

macro_rules! bad {
    ($($name:ident => $report:expr;)*) => {$(
        #[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), $report);
        }
    )*};
}

/// One step in flow style.
fn step(fields: &str) -> String {
    pipeline(&format!("steps:\n  - {{ name: a, {fields} }}\n"))
}

fn circle(steps: usize) -> String {
    let lines: String = (0..steps)
        .map(|i| {
            format!(
                "  - {{ name: s{i}, after: [s{}], run: {{ command: [x] }} }}\n",
                (i + 1) % steps
            )
        })
        .collect();
    pipeline(&format!("steps:\n{lines}"))
}

bad! {
    cycle_of_two => circle(2);
    cycle_of_fifty => circle(50);
    step_that_waits_for_itself => circle(1);
    duplicate_step_names => pipeline("steps:\n  - { name: a, run: { command: [x] } }\n  - { name: a, run: { command: [x] } }\n");
    unknown_step => pipeline("steps:\n  - { name: train, run: { command: [x] } }\n  - { name: b, after: [trian], run: { command: [x] } }\n");
    unknown_step_in_a_map_of_conditions => pipeline("steps:\n  - { name: train, run: { command: [x] } }\n  - { name: b, after: { trian: failed }, run: { command: [x] } }\n");
    unknown_condition => pipeline("steps:\n  - { name: a, run: { command: [x] } }\n  - { name: b, after: { a: done }, run: { command: [x] } }\n");
    unknown_key_of_a_step => step("run: { command: [x] }, timeot: 5s");
    unknown_key_of_a_pipeline => pipeline("retries: 3\nsteps: [{ name: a, run: { command: [x] } }]\n");
    unknown_key_of_an_environment => environment("run_storage:", "runs_storage: x\nrun_storage:");
    missing_name => report("pipelines/p.yaml", b"steps: [{ name: a, run: { command: [x] } }]\n");
    missing_command => step("run: { code: models/m }");
    empty_command => step("run: { command: [] }");
    no_kind => step("timeout: 5s");
    two_kinds => step("run: { command: [x] }, check: \"true\"");
    no_steps => pipeline("steps: []\n");
    top_level_is_a_list => report("pipelines/p.yaml", b"- a\n- b\n");
    wrong_type_of_a_number => step("run: { command: [x] }, priority: high");
    wrong_type_of_a_list => step("run: { command: x }");
    bad_duration => step("run: { command: [x] }, timeout: 10 parsecs");
    bad_size => step("run: { command: [x] }, resources: { memory: lots }");
    negative_cpu => step("run: { command: [x] }, resources: { cpu: -1 }");
    absurd_duration => step("run: { command: [x] }, timeout: 99999999d");
    absurd_attempts => step("run: { command: [x] }, retry: { max_attempts: 1000000 }");
    no_attempts => step("run: { command: [x] }, retry: { max_attempts: 0 }");
    inverted_backoff => step("run: { command: [x] }, retry: { max_attempts: 2, backoff: { initial: 5m, max: 1s } }");
    more_cpu_than_the_target_has => step("run: { command: [x] }, resources: { cpu: 64 }");
    more_than_the_pool_has => step("run: { command: [x] }, pool: train, resources: { cpu: 1, memory: 1GiB, licence: 1 }, compute: smal");
    unknown_pool => step("run: { command: [x] }, pool: trian");
    unknown_storage => step("copy: { from: \"lak://x\" }");
    unknown_secret => step("run: { command: [x], secrets: { TOKEN: tokn } }");
    unknown_notifier => pipeline("notify: [lgo]\nsteps: [{ name: a, run: { command: [x] } }]\n");
    unknown_child => step("pipeline: { name: goood }");
    unknown_parameter => step("run: { command: [x, \"{{ params.regoin }}\"] }");
    unknown_name_in_an_expression => step("run: { command: [x, \"{{ parms.region }}\"] }");
    unknown_filter => step("run: { command: [x, \"{{ params.region | upcase }}\"] }");
    expression_without_an_end => step("run: { command: [x, \"{{ params.region \"] }");
    expression_names_a_step_that_is_no_ancestor => pipeline("steps:\n  - { name: a, run: { command: [x] } }\n  - { name: b, check: \"{{ steps.a.result.ok }}\" }\n");
    unknown_output => pipeline("steps:\n  - { name: a, run: { command: [x], outputs: [model] } }\n  - { name: b, run: { command: [x], inputs: { m: a.modle } } }\n");
    input_that_names_nothing => step("run: { command: [x], inputs: { m: data } }");
    output_named_twice => step("run: { command: [x], outputs: [o, o] }");
    variable_of_the_engine => step("run: { command: [x], variables: { WINDLASS_RUN: y } }");
    step_that_can_never_start => pipeline("steps:\n  - { name: a, run: { command: [x] } }\n  - { name: b, after: [a], run: { command: [x] } }\n  - { name: c, after: { a: failed, b: succeeded }, run: { command: [x] } }\n");
    step_behind_one_that_always_fails => pipeline("steps:\n  - { name: a, fail: no }\n  - { name: b, after: [a], run: { command: [x] } }\n");
    join_any_without_edges => step("run: { command: [x] }, join: any");
    main_step_behind_finally => pipeline("steps: [{ name: a, after: [z], run: { command: [x] } }]\nfinally: [{ name: z, run: { command: [x] } }]\n");
    map_over_a_number => step("map: { over: 5, as: i }, run: { command: [x] }");
    map_without_parallelism => step("map: { over: [1], as: i, max_parallel: 0 }, run: { command: [x] }");
    map_item_with_a_taken_name => step("map: { over: [1], as: params }, run: { command: [x] }");
    reader_that_is_no_principal => pipeline("steps:\n  - { name: a, run: { command: [x], outputs: [o] } }\n  - { name: b, publish: { from: a.o, as: d, readers: [sales] } }\n");
    code_outside_of_the_project => step("run: { command: [x], code: ../elsewhere }");
    code_at_an_absolute_path => step("run: { command: [x], code: /etc }");
    code_that_is_not_there => step("run: { command: [x], code: models/n }");
    copy_outside_of_its_storage => step("copy: { from: \"lake://../x\" }");
    delete_outside_of_its_storage => step("delete: \"lake://a/../../x\"");
    lookup_without_a_storage => step("lookup: { from: x.json }");
    store_outside_of_the_project => environment("state/dev.db", "../dev.db");
    storage_outside_of_the_project => environment("file: lake", "file: ../lake");
    storage_of_two_kinds => environment("file: lake", "file: lake, url: \"s3://x/y\"");
    run_storage_that_is_not_there => environment("run_storage: runs", "run_storage: rnus");
    default_compute_that_is_not_there => environment("default_compute: small", "default_compute: smal");
    owner_with_an_unknown_notifier => environment("notify: [log]", "notify: [lgo]");
    owner_with_a_weight_of_zero => environment("notify: [log]", "notify: [log], weight: 0");
    unknown_template => report("pipelines/p.yaml", b"name: p\ntemplate: tt\n");
    template_outside_of_the_project => report("pipelines/p.yaml", b"name: p\ntemplate: ../t\n");
    template_without_its_parameter => report("pipelines/p.yaml", b"name: p\ntemplate: t\n");
    template_with_a_wrong_parameter => report("pipelines/p.yaml", b"name: p\ntemplate: t\nwith: { what: 5 }\n");
    template_that_does_not_render => report_with_template(b"steps:\n  - { name: a, run: { command: [\"[[ nothing ]]\"] } }\n");
    approval_of_a_mapped_step => step("approve: { by: us }, map: { over: [1, 2], as: i }");
    signal_with_a_bad_name => step("wait: { signal: \"Not a name\" }");
    wait_for_two_things => step("wait: { signal: go, for: 5m }");
    approval_with_an_unknown_key => step("approve: { by: us, messgae: x }");
    repeat_without_until => step("run: { command: [x] }, repeat: { max: 3 }");
    triggers_are_not_supported => pipeline("triggers: [{ dataset: x }]\nsteps: [{ name: a, run: { command: [x] } }]\n");
    python_environment_is_not_supported => step("run: { command: [x], environment: { python: requirements.lock } }");
    anchors_are_refused => report("pipelines/p.yaml", b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n");
    duplicate_keys => step("run: { command: [x] }, timeout: 5s, timeout: 6s");
    unclosed_quote => report("pipelines/p.yaml", b"name: \"p\nowner: us\n");
    tab_as_indent => report("pipelines/p.yaml", b"name: p\nsteps:\n\t- name: a\n");
    two_documents => report("pipelines/p.yaml", b"name: p\n---\nname: q\n");
    invalid_utf8 => report("pipelines/p.yaml", b"name: p\ndescription: \xff\xfe\n");
    ten_megabytes => report("pipelines/p.yaml", &vec![b'x'; 10 << 20]);
    nested_too_deep => report("pipelines/p.yaml", format!("name: {}", "[".repeat(80)).as_bytes());
    default_of_the_wrong_type => report("pipelines/p.yaml", b"name: p\nowner: us\nparameters: { n: { type: integer, default: many } }\nsteps: [{ name: a, run: { command: [x] } }]\n");
    minimum_above_the_maximum => report("pipelines/p.yaml", b"name: p\nowner: us\nparameters: { n: { type: integer, default: 5, minimum: 9, maximum: 1 } }\nsteps: [{ name: a, run: { command: [x] } }]\n");
    many_problems_at_once => pipeline("steps:\n  - { name: a b, run: { command: [x] } }\n  - { name: c, after: [nobody], run: { command: [x] } }\n  - { name: d, timeout: soon, run: { command: [x] } }\n");
}

/// Uses a template whose text is this.
fn report_with_template(template: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "windlass.yaml", PROJECT.as_bytes());
    write(root, "environments/dev.yaml", DEV.as_bytes());
    write(root, "templates/t.yaml", template);
    write(
        root,
        "pipelines/p.yaml",
        b"name: p\nowner: us\ntemplate: t\n",
    );
    Project::load(root, None).unwrap_err().to_string()
}

#[test]
fn an_unknown_environment_names_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "windlass.yaml", PROJECT.as_bytes());
    write(folder.path(), "environments/dev.yaml", DEV.as_bytes());
    let report = Project::load(folder.path(), Some("dve"))
        .unwrap_err()
        .to_string();
    assert!(
        report.contains("there is no environment `dve`") && report.contains("did you mean `dev`?"),
        "{report}"
    );
}
