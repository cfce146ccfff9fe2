use super::*;

fn messages(text: &str) -> Vec<String> {
    parse(text)
        .expect_err("an error")
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// A job with one task; `job`, `group` and `task` are added to the blocks of that name, on lines of their own.
fn with(job: &str, group: &str, task: &str) -> String {
    format!("job \"j\" {{\n{job}\ngroup \"g\" {{\n{group}\ntask \"t\" {{\ndriver = \"raw_exec\"\n{task}\n}}\n}}\n}}\n")
}

#[test]
fn a_job_file_is_read_whole() {
    let job = parse(
        r#"
        job "web" {
          name        = "the web"
          type        = "batch"
          datacenters = ["*", "east"]
          region      = "eu"
          namespace   = "team"
          priority    = 70
          meta { a = "job" }

          group "front" {
            count = 2
            restart {
              attempts = 1
              interval = "10m"
            }
            meta = { a = "group", b = 2 }

            task "init" {
              driver = "raw_exec"
              lifecycle {
                hook = "prestart"
              }
              config { command = "/bin/true" }
            }

            task "serve" {
              driver       = "holdfast"
              user         = "nobody"
              leader       = true
              kill_signal  = "SIGTERM"
              kill_timeout = "1m30s"
              config {
                command = "/bin/sh"
                args    = ["-c", <<-EOT
                  echo ${NOMAD_TASK_DIR} ${ env["HOME"] } $${X} 100% $
                    done
                  EOT
                ]
                mount { source = "/x" }
                mount { source = "/y" }
              }
              env {
                PORT = 80
                FAST = true
              }
              resources {
                cpu        = 500
                memory     = 64
                memory_max = -1
              }
              logs {
                max_files     = 3
                max_file_size = 2
                disabled      = true
              }
              restart { mode = "delay" }
            }
          }
        }"#,
    )
    .expect("a valid job");
    assert_eq!(
        (job.id.as_str(), job.name.as_str(), job.kind),
        ("web", "the web", JobType::Batch)
    );
    assert_eq!(
        (job.region.as_str(), job.namespace.as_str(), job.datacenter.as_str()),
        ("eu", "team", "east")
    );
    let group = &job.groups[0];
    assert_eq!((group.name.as_str(), group.count), ("front", 2));
    let [init, serve] = group.tasks.as_slice() else {
        panic!("two tasks")
    };
    assert_eq!(init.lifecycle, Lifecycle::Prestart { sidecar: false });
    assert_eq!(init.kill_timeout, Duration::from_secs(5));
    let of_group = Policy {
        attempts: 1,
        interval: Duration::from_secs(600),
        ..Policy::BATCH
    };
    assert_eq!(init.restart, of_group);
    assert_eq!(
        serve.restart,
        Policy {
            mode: Mode::Delay,
            ..of_group
        }
    );
    assert_eq!(
        (serve.driver.as_str(), serve.user.as_str(), serve.leader),
        ("holdfast", "nobody", true)
    );
    assert_eq!(
        (serve.kill_signal.as_str(), serve.kill_timeout),
        ("SIGTERM", Duration::from_secs(90))
    );
    assert_eq!(
        serve.resources,
        Resources {
            cpu_mhz: 500,
            memory_mib: 64,
            memory_max_mib: -1
        }
    );
    assert_eq!(
        serve.logs,
        Logs {
            max_files: 3,
            max_file_size_mib: 2,
            disabled: true
        }
    );
    let pairs =
        |map: &BTreeMap<String, String>| -> Vec<String> { map.iter().map(|(k, v)| format!("{k}={v}")).collect() };
    assert_eq!(pairs(&serve.env), ["FAST=true", "PORT=80"]);
    assert_eq!(pairs(&serve.meta), ["a=group", "b=2"]);
    let Kind::Map(config) = &serve.config.kind else {
        panic!("a map")
    };
    let Kind::List(args) = &config["args"].kind else {
        panic!("a list")
    };
    let script = "echo ${NOMAD_TASK_DIR} ${env[\"HOME\"]} ${X} 100% $\n  done\n";
    assert_eq!(args[1].kind, Kind::Text(script.to_owned()));
    let Kind::List(mounts) = &config["mount"].kind else {
        panic!("a list of blocks")
    };
    assert_eq!(mounts.len(), 2);
}

#[test]
fn defaults_are_nomads() {
    let job = parse(&with("", "", "")).expect("a valid job");
    assert_eq!((job.kind, job.name.as_str()), (JobType::Service, "j"));
    assert_eq!(
        (job.region.as_str(), job.namespace.as_str(), job.datacenter.as_str()),
        ("global", "default", "dc1")
    );
    let task = &job.groups[0].tasks[0];
    assert_eq!(job.groups[0].count, 1);
    assert_eq!(task.restart, Policy::SERVICE);
    assert_eq!(
        task.resources,
        Resources {
            cpu_mhz: 100,
            memory_mib: 300,
            memory_max_mib: 0
        }
    );
    assert_eq!(
        task.logs,
        Logs {
            max_files: 10,
            max_file_size_mib: 10,
            disabled: false
        }
    );
    assert_eq!(
        (task.kill_signal.as_str(), task.kill_timeout),
        ("", Duration::from_secs(5))
    );
    assert_eq!(task.lifecycle, Lifecycle::Main);
    assert_eq!(
        parse(&with("type = \"batch\"", "", "")).expect("a valid job").groups[0].tasks[0].restart,
        Policy::BATCH
    );
}

#[test]
fn what_only_nomad_can_honour_is_an_error_that_names_block_and_line() {
    for (text, message) in [
        (
            with("update { max_parallel = 1 }", "", ""),
            "line 2: block \"update\" in job \"j\" is something that Nomad honours and the embedded agent cannot",
        ),
        (
            with("type = \"system\"", "", ""),
            "line 1: job type \"system\" is something that Nomad honours and the embedded agent cannot",
        ),
        (
            with("", "network { mode = \"bridge\" }", ""),
            "line 4: block \"network\" in group \"g\" is something that Nomad honours and the embedded agent cannot",
        ),
        (
            with("", "", "template { data = \"x\" }"),
            "line 7: block \"template\" in task \"t\" is something that Nomad honours and the embedded agent cannot",
        ),
        (
            with("", "", "resources { cores = 2 }"),
            "line 7: attribute \"cores\" in \"resources\" of task \"t\" is something that Nomad honours and the \
             embedded agent cannot",
        ),
        (
            format!("variable \"x\" {{}}\n{}", with("", "", "")),
            "line 1: block \"variable\" in the file is something that Nomad honours and the embedded agent cannot",
        ),
    ] {
        assert_eq!(messages(&text), [message], "{text}");
    }
}

#[test]
fn what_nobody_knows_or_understands_is_an_error_with_its_line() {
    for (text, message) in [
        (
            with("tpye = \"batch\"", "", ""),
            "line 2: unknown attribute \"tpye\" in job \"j\"",
        ),
        (with("", "grop {}", ""), "line 4: unknown block \"grop\" in group \"g\""),
        (
            with("", "", "resources { mem = 1 }"),
            "line 7: unknown attribute \"mem\" in \"resources\" of task \"t\"",
        ),
        (
            with("type = \"cron\"", "", ""),
            "line 1: unknown job type \"cron\": it is service, batch or sysbatch",
        ),
        (
            with("", "", "kill_signal = \"TERM\""),
            "line 5: unknown signal \"TERM\" in attribute \"kill_signal\" of task \"t\"",
        ),
        (
            with("", "", "kill_timeout = \"5\""),
            "line 7: attribute \"kill_timeout\" in task \"t\": missing unit in duration \"5\"",
        ),
        (
            with("", "count = \"2\"", ""),
            "line 4: attribute \"count\" in group \"g\" must be a whole number, not string",
        ),
        (
            with("", "count = 1.5", ""),
            "line 4: attribute \"count\" in group \"g\" must be a whole number, not 1.5",
        ),
        (
            with("", "count = -1", ""),
            "line 4: attribute \"count\" in group \"g\" must be at least 0, not -1",
        ),
        (
            with("", "", "leader = \"yes\""),
            "line 7: attribute \"leader\" in task \"t\" must be true or false, not string",
        ),
        (
            with("", "", "user = [\"a\"]"),
            "line 7: attribute \"user\" in task \"t\" must be a string, not tuple",
        ),
        (
            with("", "", "env { A = [1] }"),
            "line 7: \"A\" in env of task \"t\" must be a string, not tuple",
        ),
        (
            with("", "", "user = upper(\"x\")"),
            "line 7: function \"upper\" is not understood by the embedded agent",
        ),
        (
            with("", "", "user = var.x"),
            "line 7: variables are understood inside texts only, as \"${NAME}\"",
        ),
        (
            with("", "", "user = \"${var.x}\""),
            "line 7: \"var.x\": job files have no input variables here",
        ),
        (
            with("", "", "user = \"${1 + 1}\""),
            "line 7: only variables such as ${NOMAD_TASK_DIR} and ${env[\"NAME\"]} are understood in texts",
        ),
        (
            with("", "", "user = true ? \"a\" : \"b\""),
            "line 7: only constants are understood here, not operations",
        ),
        (
            with("", "restart {\nmode = \"retry\"\n}", ""),
            "line 4: restart mode \"retry\" in \"restart\" of group \"g\" is neither \"fail\" nor \"delay\"",
        ),
        (
            with("", "restart {\ninterval = \"4s\"\n}", ""),
            "line 4: the interval in \"restart\" of group \"g\" is shorter than 5s",
        ),
        (
            with("", "restart {\nattempts = 0\nmode = \"delay\"\n}", ""),
            "line 4: \"restart\" of group \"g\" has no attempts and mode \"delay\", which is ambiguous",
        ),
        (
            with("", "restart {\nattempts = 10\ninterval = \"1m\"\n}", ""),
            "line 4: \"restart\" of group \"g\" restarts 10 times with a delay of 15s, which does not fit into its \
             interval of 1m0s",
        ),
        (
            with("", "", "resources {\nmemory_max = 20\n}"),
            "line 7: memory_max 20 in \"resources\" of task \"t\" is less than memory 300",
        ),
        (
            with("", "", "lifecycle {\nhook = \"never\"\n}"),
            "line 7: hook \"never\" in \"lifecycle\" of task \"t\" is not prestart, poststart or poststop",
        ),
        (
            with("", "", "logs {}\nlogs {}"),
            "line 8: only one block \"logs\" is allowed in task \"t\"",
        ),
        (
            "job \"j\" {
group \"g\" {
task \"alloc\" {
driver = \"x\"
}
}
}"
            .to_owned(),
            "line 3: a task cannot be named \"alloc\": the directory that tasks share has that name",
        ),
        (
            "job \"j\" {\ngroup \"g\" {\ntask \"a/b\" {\ndriver = \"x\"\n}\n}\n}".to_owned(),
            "line 3: task name \"a/b\" is empty, too long, or holds a slash or NUL",
        ),
        (
            "job \"j\" {\ngroup \"g\" {\ntask \"t\" {}\n}\n}".to_owned(),
            "line 3: task \"t\" has no attribute \"driver\"",
        ),
        (
            "job \"j\" {\ngroup \"g\" {}\n}".to_owned(),
            "line 2: group \"g\" has no block \"task\"",
        ),
        ("job \"j\" {}".to_owned(), "line 1: job \"j\" has no block \"group\""),
        ("".to_owned(), "line 1: a job file holds exactly one block \"job\""),
    ] {
        assert_eq!(messages(&text), [message], "{text}");
    }
}

#[test]
fn everything_that_is_wrong_is_said_at_once_by_line() {
    let text = with("a = 1", "b = 1", "c = 1");
    assert_eq!(
        messages(&text),
        [
            "line 2: unknown attribute \"a\" in job \"j\"",
            "line 4: unknown attribute \"b\" in group \"g\"",
            "line 7: unknown attribute \"c\" in task \"t\"",
        ]
    );
}

#[test]
fn names_that_must_be_unique_are() {
    let twice = "task \"t\" {\ndriver = \"x\"\n}\n";
    let text = format!("job \"j\" {{\ngroup \"g\" {{\n{twice}{twice}}}\n}}\n");
    assert_eq!(messages(&text), ["line 6: task \"t\" is defined more than once"]);
    let text = with("", "", "leader = true\n}\ntask \"u\" {\ndriver = \"x\"\nleader = true");
    assert_eq!(messages(&text), ["line 3: group \"g\" has more than one leader"]);
    let text = with("", "", "lifecycle {\nhook = \"poststop\"\n}");
    assert_eq!(
        messages(&text),
        ["line 3: group \"g\" has no main task: each has a block \"lifecycle\""]
    );
}

#[test]
fn broken_syntax_names_its_line() {
    let problems = parse("job \"j\" {\n  type = \n}\n").expect_err("an error");
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].line, 2);
}

#[test]
fn deep_nesting_is_refused_and_ends_nothing() {
    let text = format!("job \"j\" {{ x = {}1{} }}", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(parse(&text).expect_err("an error").len(), 1);
}

#[test]
fn plugin_blocks_are_read_by_name() {
    let configs = parse_plugin_configs("plugin \"raw_exec\" {\n config {\n enabled = true\n }\n}\n").expect("valid");
    let Kind::Map(config) = &configs["raw_exec"].kind else {
        panic!("a map")
    };
    assert_eq!(config["enabled"].kind, Kind::Bool(true));
    let problems = parse_plugin_configs("plugin \"a\" {\n args = []\n confg {}\n}\nclient {}\n").expect_err("errors");
    let messages: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        messages,
        [
            "line 2: attribute \"args\" in plugin \"a\" is something that Nomad honours and the embedded agent cannot",
            "line 3: unknown block \"confg\" in plugin \"a\"",
            "line 5: unknown block \"client\" in the file",
        ]
    );
}

#[test]
fn the_examples_are_job_files() {
    for text in [
        include_str!("../../../../docs/examples/hello.nomad.hcl"),
        include_str!("../../../../docs/examples/isolated.nomad.hcl"),
        include_str!("../../../../docs/examples/service.nomad.hcl"),
    ] {
        parse(text).expect("a valid job");
    }
}
