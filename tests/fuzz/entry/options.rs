//! Blobs of options, of the plugin block and of a task's `config` block.

use holdfast_driver::options::{PluginOptions, TaskOptions};
use holdfast_driver::plugin_name::PluginName;

/// A refusal is one line; what is taken once is taken again in the same way.
pub fn run(data: &[u8]) {
    for name in PluginName::ALL {
        match PluginOptions::decode(data, name) {
            Ok(options) => {
                let again = PluginOptions::decode(data, name).expect("as before");
                assert_eq!(format!("{options:?}"), format!("{again:?}"));
                // Tasks under an operator's rules as strange as these.
                let _ = TaskOptions::decode(data, name, &options);
            }
            Err(error) => one_line(&error.to_string()),
        }
        let plugin = PluginOptions::decode(&[], name).expect("an empty block is a block");
        match TaskOptions::decode(data, name, &plugin) {
            Ok(options) => assert!(!options.command.is_empty()),
            Err(error) => one_line(&error.to_string()),
        }
    }
}

fn one_line(text: &str) {
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
}
