//! Who the plugin is and how it is configured.

use std::sync::Arc;

use holdfast_wire::nomad_base::base_plugin_server::BasePlugin;
use holdfast_wire::nomad_base::{
    ConfigSchemaRequest, ConfigSchemaResponse, PluginInfoRequest, PluginInfoResponse, PluginType, SetConfigRequest,
    SetConfigResponse,
};
use tonic::{Request, Response, Status};

use crate::driver::Driver;
use crate::failure::Failure;
use crate::options::spec;
use crate::options::table::Place;

/// The version of the agent's driver interface; it knows no other.
const API_VERSION: &str = "v0.1.0";

/// With the built-in's version or a later one the plugin takes its place (contract, P-9).
const PLUGIN_VERSION: &str = "0.1.0";

/// The service.
#[derive(Debug)]
pub struct Base(pub Arc<Driver>);

#[tonic::async_trait]
impl BasePlugin for Base {
    async fn plugin_info(&self, _: Request<PluginInfoRequest>) -> Result<Response<PluginInfoResponse>, Status> {
        Ok(Response::new(PluginInfoResponse {
            r#type: PluginType::Driver as i32,
            plugin_api_versions: vec![API_VERSION.to_owned()],
            plugin_version: PLUGIN_VERSION.to_owned(),
            name: self.0.name().to_string(),
        }))
    }

    async fn config_schema(&self, _: Request<ConfigSchemaRequest>) -> Result<Response<ConfigSchemaResponse>, Status> {
        Ok(Response::new(ConfigSchemaResponse {
            spec: Some(spec::of(Place::Plugin, self.0.name())),
        }))
    }

    async fn set_config(&self, request: Request<SetConfigRequest>) -> Result<Response<SetConfigResponse>, Status> {
        self.0
            .configure(request.into_inner())
            .map_err(|e| Failure::Final(format!("SetConfig failed: {e}")))?;
        Ok(Response::new(SetConfigResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use holdfast_goplugin::services::Shutdown;

    use super::*;
    use crate::plugin_name::PluginName;

    fn base() -> Base {
        Base(Driver::new(PluginName::RawExec, Shutdown::new()).unwrap())
    }

    #[tokio::test]
    async fn the_plugin_takes_the_built_ins_place_p9() {
        let info = base()
            .plugin_info(Request::new(PluginInfoRequest {}))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(info.r#type(), PluginType::Driver);
        assert_eq!(info.plugin_api_versions, ["v0.1.0"]);
        assert_eq!(
            (info.plugin_version.as_str(), info.name.as_str()),
            ("0.1.0", "raw_exec")
        );
    }

    #[tokio::test]
    async fn an_empty_set_config_is_fine_p4() {
        let base = base();
        for nomad_config in [None, Some(Default::default())] {
            let request = SetConfigRequest {
                nomad_config,
                ..SetConfigRequest::default()
            };
            base.set_config(Request::new(request)).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_the_operator_wrote_wrong_is_refused_in_one_line() {
        let refused = async |blob: &[u8]| {
            let request = SetConfigRequest {
                msgpack_config: blob.to_vec(),
                ..SetConfigRequest::default()
            };
            base()
                .set_config(Request::new(request))
                .await
                .unwrap_err()
                .message()
                .to_owned()
        };
        assert_eq!(
            refused(b"\x81\xa4nope\x01").await,
            "SetConfig failed: unknown option \"nope\""
        );
        assert_eq!(
            refused(b"\x81\xb0denied_host_uids\xa39-1").await,
            "SetConfig failed: unable to start validator: invalid range deniedHostUIDs \"9-1\": lower bound cannot be \
             greater than upper bound"
        );
    }
}
