//! The schema that the agent parses a block with.

use std::collections::HashMap;

use holdfast_wire::hclspec::{self, Spec, spec::Block};

use super::table::{self, Absent, Kind, Place, Row};
use crate::plugin_name::PluginName;

/// Schema of one block of a plugin of this name.
pub fn of(place: Place, name: PluginName) -> Spec {
    let attributes: HashMap<String, Spec> = table::rows(place, name.profile())
        .map(|row| (row.name.to_owned(), attribute(row, name)))
        .collect();
    Spec {
        block: Some(Block::Object(hclspec::Object { attributes })),
    }
}

fn attribute(row: &Row, name: PluginName) -> Spec {
    let (option, required) = (row.name.to_owned(), row.absent == Absent::Required);
    let block = match row.kind {
        // Both `name { key = "value" }` and `name = { key = "value" }`, the latter for keys that are no identifiers.
        Kind::TextMap => Block::BlockAttrs(hclspec::BlockAttrs {
            name: option,
            r#type: "string".to_owned(),
            required,
        }),
        Kind::Blocks(parts) => Block::BlockList(Box::new(hclspec::BlockList {
            name: option,
            min_items: required.into(),
            max_items: 0,
            nested: Some(Box::new(Spec {
                block: Some(Block::Object(hclspec::Object {
                    attributes: parts
                        .iter()
                        .map(|part| (part.name.to_owned(), optional(part.name, part.kind)))
                        .collect(),
                })),
            })),
        })),
        kind => Block::Attr(hclspec::Attr {
            name: option,
            r#type: kind.hcl().to_owned(),
            required,
        }),
    };
    let written = Spec { block: Some(block) };
    match row.absent.literal(name) {
        None => written,
        Some(value) => Spec {
            block: Some(Block::Default(Box::new(hclspec::Default {
                primary: Some(Box::new(written)),
                default: Some(Box::new(Spec {
                    block: Some(Block::Literal(hclspec::Literal { value })),
                })),
            }))),
        },
    }
}

fn optional(name: &str, kind: Kind) -> Spec {
    Spec {
        block: Some(Block::Attr(hclspec::Attr {
            name: name.to_owned(),
            r#type: kind.hcl().to_owned(),
            required: false,
        })),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn attributes(place: Place, name: PluginName) -> HashMap<String, Spec> {
        match of(place, name).block {
            Some(Block::Object(object)) => object.attributes,
            other => panic!("{other:?}"),
        }
    }

    /// `Spec { attr: Attr { name, type, required } }` in protocol buffers' wire format, written by hand.
    fn attr_bytes(name: &str, kind: &str, required: bool) -> Vec<u8> {
        let mut attr = Vec::new();
        for (tag, text) in [(0x0a, name), (0x12, kind)] {
            attr.push(tag);
            attr.push(u8::try_from(text.len()).unwrap());
            attr.extend_from_slice(text.as_bytes());
        }
        if required {
            attr.extend_from_slice(&[0x18, 1]);
        }
        let mut spec = vec![0x1a, u8::try_from(attr.len()).unwrap()];
        spec.extend(attr);
        spec
    }

    #[test]
    fn the_task_schema_has_the_built_ins_options() {
        let found = attributes(Place::Task, PluginName::RawExec);
        let expected = [
            ("command", "string", true),
            ("args", "list(string)", false),
            ("cgroup_v2_override", "string", false),
            ("cgroup_v1_override", "list(map(string))", false),
            ("oom_score_adj", "number", false),
            ("work_dir", "string", false),
            ("denied_envvars", "list(string)", false),
        ];
        for (name, kind, required) in expected {
            assert_eq!(found[name].encode_to_vec(), attr_bytes(name, kind, required), "{name}");
        }
    }

    #[test]
    fn the_plugin_schema_has_the_built_ins_options_and_defaults() {
        let found = attributes(Place::Plugin, PluginName::RawExec);
        for (name, kind) in [
            ("denied_host_uids", "string"),
            ("denied_host_gids", "string"),
            ("denied_envvars", "list(string)"),
        ] {
            assert_eq!(found[name].encode_to_vec(), attr_bytes(name, kind, false), "{name}");
        }
        let enabled = attr_bytes("enabled", "bool", false);
        let mut default = vec![0x0a, u8::try_from(enabled.len()).unwrap()];
        default.extend(enabled);
        default.extend_from_slice(b"\x12\x09\x52\x07\x0a\x05false");
        let mut expected = vec![0x4a, u8::try_from(default.len()).unwrap()];
        expected.extend(default);
        assert_eq!(found["enabled"].encode_to_vec(), expected);
    }
    /// What is in front of a literal: `Spec { default: Default { primary, default: Spec { literal } } }`.
    fn default_bytes(primary: &[u8], literal: &str) -> Vec<u8> {
        fn field(tag: u8, content: &[u8]) -> Vec<u8> {
            let mut bytes = vec![tag];
            prost::encoding::encode_varint(content.len() as u64, &mut bytes);
            bytes.extend_from_slice(content);
            bytes
        }
        let literal = field(0x52, &field(0x0a, literal.as_bytes()));
        field(0x4a, &[field(0x0a, primary), field(0x12, &literal)].concat())
    }

    #[test]
    fn the_schemas_of_exec_have_the_built_ins_options_and_defaults() {
        let found = attributes(Place::Task, PluginName::Exec);
        let expected = [
            ("command", "string", true),
            ("args", "list(string)", false),
            ("pid_mode", "string", false),
            ("ipc_mode", "string", false),
            ("cap_add", "list(string)", false),
            ("cap_drop", "list(string)", false),
            ("work_dir", "string", false),
        ];
        for (name, kind, required) in expected {
            assert_eq!(found[name].encode_to_vec(), attr_bytes(name, kind, required), "{name}");
        }
        let found = attributes(Place::Plugin, PluginName::Exec);
        for name in ["denied_host_uids", "denied_host_gids"] {
            assert_eq!(found[name].encode_to_vec(), attr_bytes(name, "string", false), "{name}");
        }
        let capabilities = "[\"AUDIT_WRITE\",\"CHOWN\",\"DAC_OVERRIDE\",\"FOWNER\",\"FSETID\",\"KILL\",\"MKNOD\",\
                            \"NET_BIND_SERVICE\",\"SETFCAP\",\"SETGID\",\"SETPCAP\",\"SETUID\",\"SYS_CHROOT\"]";
        let expected = [
            ("no_pivot_root", "bool", "false"),
            ("default_pid_mode", "string", "\"private\""),
            ("default_ipc_mode", "string", "\"private\""),
            ("allow_caps", "list(string)", capabilities),
        ];
        for (name, kind, literal) in expected {
            let primary = attr_bytes(name, kind, false);
            assert_eq!(found[name].encode_to_vec(), default_bytes(&primary, literal), "{name}");
        }
        assert!(!found.contains_key("enabled"), "whoever configures it has it");
    }

    #[test]
    fn a_block_list_names_its_parts() {
        for name in PluginName::ALL {
            let found = attributes(Place::Task, name);
            let Some(Block::BlockList(list)) = &found["devices"].block else {
                panic!("{:?}", found["devices"]);
            };
            assert_eq!((list.name.as_str(), list.min_items, list.max_items), ("devices", 0, 0));
            let Some(Block::Object(device)) = list.nested.as_ref().and_then(|nested| nested.block.as_ref()) else {
                panic!("{list:?}");
            };
            // As the docker driver names them.
            for part in ["host_path", "container_path", "cgroup_permissions"] {
                assert_eq!(
                    device.attributes[part].encode_to_vec(),
                    attr_bytes(part, "string", false)
                );
            }
        }
    }
}
