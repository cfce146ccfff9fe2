//! What of a layer was left out or done otherwise.

use std::collections::BTreeMap;

/// Kinds of notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Note {
    DeviceNode,
    Attribute,
    AufsFile,
    UndescribedFolder,
    ForeignOwner,
    SetId,
    UserOpaque,
}

impl Note {
    fn text(self) -> &'static str {
        match self {
            Note::DeviceNode => "device nodes are left out",
            Note::Attribute => "extended attributes are left out",
            Note::AufsFile => "files of AUFS's own are left out",
            Note::UndescribedFolder => "folders that the layer does not describe belong to root, with mode 0755",
            Note::ForeignOwner => "without root everything belongs to the user who unpacks",
            Note::SetId => "without root set-user-id and set-group-id bits are left out",
            Note::UserOpaque => "without root opaque folders are marked in user.overlay: mount with userxattr",
        }
    }
}

/// One example and a number for each kind, however many there are.
#[derive(Debug, Default)]
pub(super) struct Notes(BTreeMap<Note, (String, u64)>);

impl Notes {
    pub(super) fn add(&mut self, note: Note, culprit: impl FnOnce() -> String) {
        self.0.entry(note).or_insert_with(|| (culprit(), 0)).1 += 1;
    }

    /// One line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let line = |(note, (first, count)): (&Note, &(String, u64))| match count {
            1 => format!("{}: {first:?}", note.text()),
            count => format!("{}: {first:?} and {} more", note.text(), count - 1),
        };
        self.0.iter().map(line).collect()
    }
}
