//! The expected bytes and messages are those that Nomad 1.11 itself produced for the same schema and the same block.

use super::*;
use crate::jobfile;
use holdfast_wire::hclspec::{Attr, Block, BlockAttrs, BlockList, Default, Literal, Object};

fn spec(block: SpecKind) -> Spec {
    Spec { block: Some(block) }
}

fn attr(name: &str, r#type: &str, required: bool) -> Spec {
    spec(SpecKind::Attr(Attr {
        name: name.to_owned(),
        r#type: r#type.to_owned(),
        required,
    }))
}

fn default(primary: Spec, literal: &str) -> Spec {
    let default = spec(SpecKind::Literal(Literal {
        value: literal.to_owned(),
    }));
    spec(SpecKind::Default(Box::new(Default {
        primary: Some(Box::new(primary)),
        default: Some(Box::new(default)),
    })))
}

fn object(attributes: Vec<(&str, Spec)>) -> Spec {
    let attributes = attributes
        .into_iter()
        .map(|(name, spec)| (name.to_owned(), spec))
        .collect();
    spec(SpecKind::Object(Object { attributes }))
}

fn schema() -> Spec {
    let mount = object(vec![
        ("source", attr("source", "string", true)),
        ("ro", attr("ro", "bool", false)),
    ]);
    let limit = object(vec![("soft", attr("soft", "number", false))]);
    object(vec![
        ("command", attr("command", "string", true)),
        ("args", attr("args", "list(string)", false)),
        (
            "cgroup_v1_override",
            attr("cgroup_v1_override", "list(map(string))", false),
        ),
        ("oom_score_adj", attr("oom_score_adj", "number", false)),
        ("flag", default(attr("flag", "bool", false), "true")),
        ("mode", default(attr("mode", "string", false), "\"private\"")),
        ("sizes", attr("sizes", "list(number)", false)),
        ("labels", attr("labels", "map(string)", false)),
        (
            "mount",
            spec(SpecKind::BlockList(Box::new(BlockList {
                name: "mount".to_owned(),
                min_items: 0,
                max_items: 0,
                nested: Some(Box::new(mount)),
            }))),
        ),
        (
            "limit",
            spec(SpecKind::BlockValue(Box::new(Block {
                name: "limit".to_owned(),
                required: false,
                nested: Some(Box::new(limit)),
            }))),
        ),
        (
            "ulimit",
            spec(SpecKind::BlockAttrs(BlockAttrs {
                name: "ulimit".to_owned(),
                r#type: "string".to_owned(),
                required: false,
            })),
        ),
    ])
}

fn encoded(config: &str) -> Result<String, String> {
    let text =
        format!("job \"j\" {{\ngroup \"g\" {{\ntask \"t\" {{\ndriver = \"d\"\nconfig {{\n{config}\n}}\n}}\n}}\n}}");
    let job = jobfile::parse(&text).expect("a valid job");
    let variables = Variables {
        environment: BTreeMap::from([
            ("NOMAD_TASK_DIR".to_owned(), "/t/local".to_owned()),
            ("X".to_owned(), "y".to_owned()),
        ]),
        node: BTreeMap::from([("node.unique.name".to_owned(), "box".to_owned())]),
    };
    match encode(&schema(), &job.groups[0].tasks[0].config, &variables) {
        Ok(bytes) => Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
        Err(error) => Err(error.to_string()),
    }
}

const ARGS: &str = "8ba461726773";
const CGROUP: &str = "b26367726f75705f76315f6f76657272696465";
const COMMAND: &str = "a7636f6d6d616e64";
const FLAG: &str = "a4666c6167";
const LABELS: &str = "a66c6162656c73";
const LIMIT: &str = "a56c696d6974";
const MODE: &str = "a46d6f6465";
const MOUNT: &str = "a56d6f756e74";
const OOM: &str = "ad6f6f6d5f73636f72655f61646a";
const SIZES: &str = "a573697a6573";
const ULIMIT: &str = "a6756c696d6974";

/// The whole map, with the values that differ from `command = "a"` alone put in by name.
fn wanted(changes: &[(&str, &str)]) -> String {
    let values = [
        (ARGS, "c0"),
        (CGROUP, "c0"),
        (COMMAND, "a161"),
        (FLAG, "c3"),
        (LABELS, "c0"),
        (LIMIT, "c0"),
        (MODE, "a770726976617465"),
        (MOUNT, "90"),
        (OOM, "c0"),
        (SIZES, "c0"),
        (ULIMIT, "c0"),
    ];
    let value = |key: &str, value: &str| {
        let change = changes.iter().find(|(changed, _)| *changed == key);
        format!("{key}{}", change.map_or(value, |(_, value)| value))
    };
    values.iter().map(|(key, default)| value(key, default)).collect()
}

#[test]
fn the_encoding_is_byte_for_byte_nomads() {
    let table: &[(&str, &[(&str, &str)])] = &[
        (r#"command = "/bin/sh""#, &[(COMMAND, "a72f62696e2f7368")]),
        (
            "command = \"/bin/sh\"\nargs = [\"-c\", \"echo\"]\noom_score_adj = 0",
            &[(ARGS, "92a22d63a46563686f"), (COMMAND, "a72f62696e2f7368"), (OOM, "00")],
        ),
        (
            "command = \"a\"\noom_score_adj = 500\nflag = false\nmode = \"host\"",
            &[(FLAG, "c2"), (MODE, "a4686f7374"), (OOM, "cd01f4")],
        ),
        ("command = \"a\"\noom_score_adj = -1", &[(OOM, "ff")]),
        ("command = \"a\"\noom_score_adj = -200", &[(OOM, "d1ff38")]),
        ("command = \"a\"\noom_score_adj = 70000", &[(OOM, "ce00011170")]),
        (
            "command = \"a\"\noom_score_adj = 5000000000",
            &[(OOM, "cf000000012a05f200")],
        ),
        ("command = \"a\"\noom_score_adj = -70000", &[(OOM, "d2fffeee90")]),
        ("command = \"a\"\noom_score_adj = 0.5", &[(OOM, "cb3fe0000000000000")]),
        ("command = \"a\"\noom_score_adj = 0.1", &[(OOM, "a3302e31")]),
        (
            "command = \"a\"\noom_score_adj = 1e30",
            &[(OOM, "bf31303030303030303030303030303030303030303030303030303030303030")],
        ),
        ("command = \"a\"\noom_score_adj = \"12\"", &[(OOM, "0c")]),
        (
            "command = 7\nargs = [1, true, \"x\", 2.5]",
            &[(ARGS, "94a131a474727565a178a3322e35"), (COMMAND, "a137")],
        ),
        ("command = \"a\"\nflag = \"true\"", &[]),
        ("command = \"a\"\nflag = \"1\"", &[]),
        ("command = \"a\"\nargs = []", &[(ARGS, "90")]),
        ("command = \"a\"\nargs = null", &[]),
        ("command = \"a\"\nargs = [\"x\", null]", &[(ARGS, "92a178c0")]),
        (
            "command = \"a\"\ncgroup_v1_override = [{ pids = \"a/b\", cpu = \"c\" }]",
            &[(CGROUP, "9182a3637075a163a470696473a3612f62")],
        ),
        (
            "command = \"a\"\ncgroup_v1_override {\npids = \"a/b\"\ncpu = \"c\"\n}",
            &[(CGROUP, "9182a3637075a163a470696473a3612f62")],
        ),
        (
            "command = \"a\"\nsizes = [1, 300, -5, 1.25]\nlabels = { b = \"2\", a = 1 }",
            &[
                (LABELS, "82a161a131a162a132"),
                (SIZES, "9401cd012cfbcb3ff4000000000000"),
            ],
        ),
        (
            "command = \"a\"\nmount {\nsource = \"/x\"\n}\nmount {\nsource = \"/y\"\nro = true\n}\n\
             limit {\nsoft = 3\n}\nulimit {\nnofile = \"1:2\"\ncore = 0\n}",
            &[
                (LIMIT, "81a4736f667403"),
                (MOUNT, "9282a2726fc0a6736f75726365a22f7882a2726fc3a6736f75726365a22f79"),
                (ULIMIT, "82a4636f7265a130a66e6f66696c65a3313a32"),
            ],
        ),
        (
            r#"command = "${NOMAD_TASK_DIR}/x ${env["X"]} $$${y}""#,
            &[(COMMAND, "b12f742f6c6f63616c2f78207920247b797d")],
        ),
        (
            r#"command = "héllo wörld this is a string longer than thirty-two bytes""#,
            &[(
                COMMAND,
                "d93b68c3a96c6c6f2077c3b6726c642074686973206973206120737472696e67206c6f6e676572207468616e20746869\
                 7274792d74776f206279746573",
            )],
        ),
        ("command = null", &[(COMMAND, "c0")]),
    ];
    for (config, changes) in table {
        assert_eq!(encoded(config), Ok(wanted(changes)), "{config}");
    }
}

#[test]
fn what_does_not_fit_the_schema_is_refused_in_nomads_words_with_its_line() {
    let type_of = |name: &str, reason: &str| {
        format!("line 6: Incorrect attribute value type: Inappropriate value for attribute {name:?}: {reason}")
    };
    for (config, message) in [
        (
            "args = []",
            "line 5: Missing required argument: The argument \"command\" is required, but no definition was found."
                .to_owned(),
        ),
        (
            "comand = \"b\"",
            "line 6: Invalid label: No argument or block type is named \"comand\".".to_owned(),
        ),
        (
            "command = [\"a\"]",
            type_of("command", "string required, but have tuple."),
        ),
        (
            "args = \"x\"\ncommand = \"a\"",
            type_of("args", "list of string required, but have string."),
        ),
        (
            "args = [[\"x\"]]\ncommand = \"a\"",
            type_of("args", "element 0: string required, but have tuple."),
        ),
        (
            "args = { a = \"x\" }\ncommand = \"a\"",
            type_of("args", "list of string required."),
        ),
        (
            "oom_score_adj = \"x\"\ncommand = \"a\"",
            type_of("oom_score_adj", "a number is required."),
        ),
        (
            "oom_score_adj = true\ncommand = \"a\"",
            type_of("oom_score_adj", "number required, but have bool."),
        ),
        (
            "oom_score_adj = [1]\ncommand = \"a\"",
            type_of("oom_score_adj", "number required, but have tuple."),
        ),
        (
            "flag = \"yes\"\ncommand = \"a\"",
            type_of("flag", "a bool is required."),
        ),
        (
            "flag = 1\ncommand = \"a\"",
            type_of("flag", "bool required, but have number."),
        ),
        (
            "labels = \"x\"\ncommand = \"a\"",
            type_of("labels", "map of string required, but have string."),
        ),
        (
            "labels = { a = [\"x\"] }\ncommand = \"a\"",
            type_of("labels", "element \"a\": string required, but have tuple."),
        ),
        (
            "cgroup_v1_override = [\"x\"]\ncommand = \"a\"",
            type_of(
                "cgroup_v1_override",
                "element 0: map of string required, but have string.",
            ),
        ),
        (
            "cgroup_v1_override = { pids = \"a\" }\ncommand = \"a\"",
            type_of("cgroup_v1_override", "list of map of string required."),
        ),
        (
            "command = \"${NOPE}\"",
            "line 6: Unknown variable: There is no variable named \"NOPE\".".to_owned(),
        ),
        (
            "command = \"$${NOPE}\"",
            "line 6: Unknown variable: There is no variable named \"NOPE\".".to_owned(),
        ),
        (
            "command = \"a\"\nlimit {\nsoft = 3\n}\nlimit {\nsoft = 4\n}",
            "line 10: Duplicate limit block: Only one block of type \"limit\" is allowed.".to_owned(),
        ),
        (
            "command = \"a\"\nlimit {\nhard = 3\n}",
            "line 8: Invalid label: No argument or block type is named \"hard\".".to_owned(),
        ),
        (
            "command = \"a\"\nmount {\nro = true\n}",
            "line 7: Missing required argument: The argument \"source\" is required, but no definition was found."
                .to_owned(),
        ),
    ] {
        assert_eq!(encoded(config), Err(message), "{config}");
    }
}

#[test]
fn a_schema_that_is_not_understood_is_the_plugins_fault() {
    let job = jobfile::parse("job \"j\" {\ngroup \"g\" {\ntask \"t\" {\ndriver = \"d\"\n}\n}\n}").expect("a valid job");
    let variables = Variables {
        environment: BTreeMap::new(),
        node: BTreeMap::new(),
    };
    for (schema, message) in [
        (attr("x", "tuple", false), "type \"tuple\" is not understood"),
        (attr("x", "list(any)", false), "type \"any\" is not understood"),
        (
            default(attr("x", "bool", false), "${"),
            "literal \"${\" is not understood",
        ),
        (
            Spec { block: None },
            "it uses a kind of block that the embedded agent does not know",
        ),
    ] {
        let result = encode(&object(vec![("x", schema)]), &job.groups[0].tasks[0].config, &variables);
        assert_eq!(result, Err(SchemaError::Schema(message.to_owned())));
    }
}
