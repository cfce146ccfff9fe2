//! What an image says about the process that is to run in it.

use serde::Deserialize;

/// The part of an image's configuration (image-spec, config.md) that a task takes over where its job says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Variables, in the image's order.
    pub env: Vec<(String, String)>,
    /// Command and first arguments.
    pub entrypoint: Vec<String>,
    /// More arguments, or the command if there is no entry point.
    pub cmd: Vec<String>,
    /// `user`, `uid`, `user:group` or `uid:gid`, by the image's own `/etc/passwd`.
    pub user: Option<String>,
    /// In the image.
    pub work_dir: Option<String>,
}

/// The blob.
#[derive(Debug, Deserialize)]
pub(super) struct ConfigBlob {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
    pub config: Option<ConfigObject>,
    pub rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
pub(super) struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    pub diff_ids: Vec<super::Digest>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ConfigObject {
    #[serde(rename = "Env")]
    env: Option<Vec<String>>,
    #[serde(rename = "Entrypoint")]
    entrypoint: Option<Vec<String>>,
    #[serde(rename = "Cmd")]
    cmd: Option<Vec<String>>,
    #[serde(rename = "User")]
    user: Option<String>,
    #[serde(rename = "WorkingDir")]
    work_dir: Option<String>,
}

impl From<ConfigObject> for ImageConfig {
    fn from(object: ConfigObject) -> ImageConfig {
        let ConfigObject {
            env,
            entrypoint,
            cmd,
            user,
            work_dir,
        } = object;
        ImageConfig {
            env: env
                .unwrap_or_default()
                .iter()
                .filter_map(|variable| variable.split_once('='))
                .filter(|(name, _)| !name.is_empty())
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            entrypoint: entrypoint.unwrap_or_default(),
            cmd: cmd.unwrap_or_default(),
            user: user.filter(|user| !user.is_empty()),
            work_dir: work_dir.filter(|folder| !folder.is_empty()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_null_or_empty_is_not_said() {
        let blob: ConfigBlob = serde_json::from_str(
            r#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]},
                "config":{"Env":["PATH=/bin:/sbin","EMPTY=","A=b=c","nothing","=odd"],"Entrypoint":null,"Cmd":["sh"],"User":"","WorkingDir":"/w"}}"#,
        )
        .unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            ImageConfig::from(blob.config.unwrap()),
            ImageConfig {
                env: vec![pair("PATH", "/bin:/sbin"), pair("EMPTY", ""), pair("A", "b=c")],
                entrypoint: Vec::new(),
                cmd: vec!["sh".to_owned()],
                user: None,
                work_dir: Some("/w".to_owned()),
            }
        );
    }
}
