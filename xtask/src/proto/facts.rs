//! What of a protocol must never change: names, numbers and types, one fact each.

use std::collections::BTreeMap;

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    ServiceDescriptorProto,
};

/// By what a peer knows it, and what it is. A field goes by its number, a call and a message by its name.
pub type Facts = BTreeMap<String, String>;

/// Everything that a peer may rely on.
pub fn of(set: &FileDescriptorSet) -> Facts {
    let mut facts = Facts::new();
    for file in &set.file {
        of_file(file, &mut facts);
    }
    facts
}

/// What of `released` is not in `present` as it was. Additions are none of it.
pub fn broken(released: &Facts, present: &Facts) -> Vec<String> {
    let differs = |(what, was): (&String, &String)| match present.get(what) {
        Some(is) if is == was => None,
        Some(is) => Some(format!("{what} was {was:?} and is {is:?}")),
        None => Some(format!("{what} ({was}) is gone")),
    };
    released.iter().filter_map(differs).collect()
}

fn of_file(file: &FileDescriptorProto, facts: &mut Facts) {
    let package = format!(".{}", file.package());
    facts.insert(format!("syntax of {}", file.name()), file.syntax().to_owned());
    for message in &file.message_type {
        of_message(&package, message, facts);
    }
    for of in &file.enum_type {
        of_enum(&package, of, facts);
    }
    for service in &file.service {
        of_service(&package, service, facts);
    }
}

fn of_message(scope: &str, message: &DescriptorProto, facts: &mut Facts) {
    let name = format!("{scope}.{}", message.name());
    facts.insert(format!("message {name}"), "a message".to_owned());
    for field in &message.field {
        facts.insert(format!("field {} of {name}", field.number()), of_field(message, field));
    }
    for nested in &message.nested_type {
        of_message(&name, nested, facts);
    }
    for of in &message.enum_type {
        of_enum(&name, of, facts);
    }
}

fn of_field(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let label = match field.label() {
        Label::Repeated => "repeated ",
        Label::Required => "required ",
        Label::Optional if field.proto3_optional() => "optional ",
        Label::Optional => "",
    };
    let of_type = match field.r#type() {
        Type::Message | Type::Enum | Type::Group => field.type_name().to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_ascii_lowercase(),
    };
    // An optional field has a oneof of its own, which is nobody's business.
    let group = field
        .oneof_index
        .filter(|_| !field.proto3_optional())
        .and_then(|index| message.oneof_decl.get(usize::try_from(index).ok()?))
        .map(|group| format!(", one of {}", group.name()));
    format!("{label}{of_type} {}{}", field.name(), group.unwrap_or_default())
}

fn of_enum(scope: &str, of: &EnumDescriptorProto, facts: &mut Facts) {
    let name = format!("{scope}.{}", of.name());
    facts.insert(format!("enum {name}"), "an enum".to_owned());
    for value in &of.value {
        facts.insert(format!("value {} of {name}", value.number()), value.name().to_owned());
    }
}

fn of_service(scope: &str, service: &ServiceDescriptorProto, facts: &mut Facts) {
    let name = format!("{scope}.{}", service.name());
    facts.insert(format!("service {name}"), "a service".to_owned());
    for method in &service.method {
        let stream = |streams: bool| if streams { "stream " } else { "" };
        let signature = format!(
            "({}{}) returns ({}{})",
            stream(method.client_streaming()),
            method.input_type(),
            stream(method.server_streaming()),
            method.output_type()
        );
        facts.insert(format!("call {name}/{}", method.name()), signature);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const RELEASED: &str = r#"
        syntax = "proto3";
        package p;
        service S {
          rpc Do(A) returns (stream B);
        }
        message A {
          string name = 1;
          repeated uint32 numbers = 2;
          optional bool sure = 3;
          oneof either { int32 this = 4; B that = 5; }
          enum Kind { KIND_NONE = 0; KIND_SOME = 1; }
          Kind kind = 6;
        }
        message B {}
    "#;

    fn facts(proto: &str) -> Facts {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("p.proto"), proto).unwrap();
        let set = protox::compile(["p.proto"], [folder.path()]).unwrap();
        of(&FileDescriptorSet { file: set.file })
    }

    /// What is broken when the text of the released protocol is changed in one place.
    fn after(from: &str, to: &str) -> String {
        assert_eq!(RELEASED.matches(from).count(), 1, "{from:?} is in one place");
        broken(&facts(RELEASED), &facts(&RELEASED.replace(from, to))).join("; ")
    }

    #[test]
    fn additions_break_nothing() {
        assert_eq!(after("message B {}", "message B { string new = 1; } message C {}"), "");
        assert_eq!(after("KIND_SOME = 1;", "KIND_SOME = 1; KIND_NEW = 2;"), "");
        assert_eq!(
            after(
                "returns (stream B);",
                "returns (stream B); rpc More(stream A) returns (B);"
            ),
            ""
        );
        assert_eq!(
            after("string name = 1;", "// A comment.\n string name = 1; bytes new = 100;"),
            ""
        );
    }

    #[test]
    fn a_field_that_is_gone_renamed_renumbered_or_of_another_type_is_found() {
        assert_eq!(after("string name = 1;", ""), "field 1 of .p.A (string name) is gone");
        assert_eq!(
            after("string name = 1;", "reserved 1;"),
            "field 1 of .p.A (string name) is gone",
            "also one that is reserved"
        );
        assert_eq!(
            after("string name = 1;", "string name = 7;"),
            "field 1 of .p.A (string name) is gone"
        );
        for (to, is) in [
            ("string title = 1;", "string title"),
            ("bytes name = 1;", "bytes name"),
            ("repeated string name = 1;", "repeated string name"),
            ("optional string name = 1;", "optional string name"),
        ] {
            let expected = format!("field 1 of .p.A was \"string name\" and is {is:?}");
            assert_eq!(after("string name = 1;", to), expected);
        }
        assert!(after("optional bool sure", "bool sure").starts_with("field 3 of .p.A was"));
        assert!(after("B that = 5;", "A that = 5;").contains("\".p.B that, one of either\""));
        assert!(
            after(
                "oneof either { int32 this = 4; B that = 5; }",
                "int32 this = 4; B that = 5;"
            )
            .contains("field 4")
        );
    }

    #[test]
    fn two_fields_that_change_places_are_found() {
        let changed = RELEASED
            .replace("name = 1;", "name = 9;")
            .replace("numbers = 2;", "numbers = 1;");
        let found = broken(&facts(RELEASED), &facts(&changed.replace("name = 9;", "name = 2;")));
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_call_that_is_renamed_or_takes_or_gives_another_thing_is_found() {
        assert_eq!(
            after("rpc Do(", "rpc Make("),
            "call .p.S/Do ((.p.A) returns (stream .p.B)) is gone"
        );
        assert!(after("returns (stream B)", "returns (B)").starts_with("call .p.S/Do was"));
        assert!(after("rpc Do(A)", "rpc Do(B)").starts_with("call .p.S/Do was"));
        assert!(after("service S", "service T").contains("service .p.S (a service) is gone"));
    }

    #[test]
    fn an_enum_value_a_message_and_a_package_that_change_are_found() {
        assert_eq!(
            after("KIND_SOME = 1;", "KIND_OTHER = 1;"),
            "value 1 of .p.A.Kind was \"KIND_SOME\" and is \"KIND_OTHER\""
        );
        assert!(after("KIND_SOME = 1;", "KIND_SOME = 2;").contains("value 1 of .p.A.Kind (KIND_SOME) is gone"));
        assert!(!after("package p;", "package q;").is_empty());
    }
}
