//! Where supervision directories lie unless the operator says otherwise.

use std::ffi::OsString;
use std::path::PathBuf;

/// `/var/lib/holdfast` for root, else `$XDG_STATE_HOME/holdfast` (XDG base directory specification), by default
/// `$HOME/.local/state/holdfast`: persistent, because a batch task that ended before a reboot must not run again.
pub fn default_state_dir() -> PathBuf {
    state_dir_of(
        nix::unistd::geteuid().as_raw(),
        std::env::var_os("XDG_STATE_HOME"),
        std::env::var_os("HOME"),
    )
}

fn state_dir_of(uid: u32, xdg_state_home: Option<OsString>, home: Option<OsString>) -> PathBuf {
    // The specification says that relative paths are to be ignored.
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    if uid == 0 {
        return PathBuf::from("/var/lib/holdfast");
    }
    absolute(xdg_state_home)
        .or_else(|| absolute(home).map(|home| home.join(".local/state")))
        .unwrap_or_else(|| PathBuf::from("/var/lib"))
        .join("holdfast")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_uses_var_lib_whatever_its_environment_says() {
        assert_eq!(
            state_dir_of(0, Some("/x".into()), Some("/root".into())),
            PathBuf::from("/var/lib/holdfast")
        );
    }

    #[test]
    fn without_root_the_xdg_specification_decides() {
        let of = |xdg: Option<&str>, home: Option<&str>| state_dir_of(1000, xdg.map(Into::into), home.map(Into::into));
        assert_eq!(of(Some("/x"), Some("/home/u")), PathBuf::from("/x/holdfast"));
        assert_eq!(
            of(None, Some("/home/u")),
            PathBuf::from("/home/u/.local/state/holdfast")
        );
        assert_eq!(
            of(Some("relative"), Some("/home/u")),
            PathBuf::from("/home/u/.local/state/holdfast")
        );
        assert_eq!(of(Some(""), None), PathBuf::from("/var/lib/holdfast"));
    }
}
