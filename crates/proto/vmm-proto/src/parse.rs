//! Method, path and body to an [`Action`]: the only place that sees a client's bytes.

use std::fmt;

use serde::Deserialize;

use crate::action::Action;
use crate::balloon::WireBalloon;
use crate::boot_source::WireBootSource;
use crate::cpu::WireCpuConfig;
use crate::drive::{WireDrive, WireDriveUpdate};
use crate::entropy::WireEntropy;
use crate::error::RequestError;
use crate::json;
use crate::logger::WireLogger;
use crate::machine::{WireMachine, WireMachineUpdate};
use crate::metrics::WireMetrics;
use crate::mmds::WireMmdsConfig;
use crate::name::ResourceId;
use crate::network::{WireInterface, WireInterfaceUpdate};
use crate::serial::WireSerial;
use crate::snapshot::{WireCreate, WireLoad};
use crate::vsock::WireVsock;

/// A method that some path has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Asks.
    Get,
    /// Sets.
    Put,
    /// Changes.
    Patch,
}

impl Method {
    /// Reads a method; no path has any other.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "GET" => Some(Self::Get),
            "PUT" => Some(Self::Put),
            "PATCH" => Some(Self::Patch),
            _ => None,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
        })
    }
}

/// A request that can be understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What it asks for.
    pub action: Action,
    /// What in it clients shouldn't use any more; the answer has a `Deprecation` field then.
    pub deprecation: Option<&'static str>,
}

impl From<Action> for Request {
    fn from(action: Action) -> Self {
        Self {
            action,
            deprecation: None,
        }
    }
}

impl Request {
    fn noting(action: Action, is_deprecated: bool, text: &'static str) -> Self {
        Self {
            action,
            deprecation: is_deprecated.then_some(text),
        }
    }
}

#[derive(Debug, Deserialize)]
enum WireActionType {
    InstanceStart,
    FlushMetrics,
    SendCtrlAltDel,
}

/// The body of PUT /actions.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct WireAction {
    action_type: WireActionType,
}

#[derive(Debug, Deserialize)]
enum WireVmState {
    Paused,
    Resumed,
}

/// The body of PATCH /vm.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct WireVm {
    state: WireVmState,
}

/// Reads a request. `path` is the request target: absolute or a whole `http` URI; a query is ignored. An empty body is none.
///
/// # Errors
/// All are the client's fault.
pub fn parse(method: Method, path: &str, body: &[u8]) -> Result<Request, RequestError> {
    let path = absolute_path(path);
    match method {
        Method::Get if !body.is_empty() => return Err(RequestError::BodyOnGet),
        Method::Put | Method::Patch if body.is_empty() => return Err(RequestError::EmptyBody { method }),
        Method::Get | Method::Put | Method::Patch => {}
    }
    let mut segments = path.trim_start_matches('/').split_terminator('/');
    let place = (segments.next().unwrap_or(""), segments.next(), segments.next());
    let request = match method {
        Method::Get => get(place).map(Request::from),
        Method::Put => put(place, body)?,
        Method::Patch => patch(place, body)?,
    };
    request.ok_or_else(|| RequestError::Unknown {
        method,
        path: path.to_owned(),
    })
}

/// The path of a request target without scheme, authority and query (RFC 9112 §3.2).
fn absolute_path(target: &str) -> &str {
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.find('/').and_then(|at| rest.get(at..)).unwrap_or("/"),
        None => target,
    };
    path.split(['?', '#']).next().unwrap_or(path)
}

/// The first segments of a path; a fourth doesn't matter, because no path has even three.
type Place<'a> = (&'a str, Option<&'a str>, Option<&'a str>);

fn get(place: Place<'_>) -> Option<Action> {
    Some(match place {
        ("", None, _) => Action::DescribeInstance,
        ("version", None, _) => Action::DescribeVersion,
        ("machine-config", None, _) => Action::DescribeMachine,
        ("balloon", None, _) => Action::DescribeBalloon,
        ("balloon", Some("statistics"), None) => Action::DescribeBalloonStatistics,
        ("vm", Some("config"), None) => Action::DescribeConfig,
        ("mmds", None, _) => Action::ReadMmds,
        _ => return None,
    })
}

fn put(place: Place<'_>, body: &[u8]) -> Result<Option<Request>, RequestError> {
    Ok(Some(match place {
        ("actions", None, _) => match json::read::<WireAction>(body)?.action_type {
            WireActionType::InstanceStart => Action::Start,
            WireActionType::FlushMetrics => Action::FlushMetrics,
            WireActionType::SendCtrlAltDel => Action::SendCtrlAltDel,
        }
        .into(),
        ("boot-source", None, _) => Action::SetBootSource(json::read::<WireBootSource>(body)?.try_into()?).into(),
        ("machine-config", None, _) => {
            let wire: WireMachine = json::read(body)?;
            let deprecated = wire.is_deprecated();
            Request::noting(
                Action::SetMachine(wire.try_into()?),
                deprecated,
                "cpu_template is deprecated",
            )
        }
        ("cpu-config", None, _) => Action::SetCpuTemplate(json::read::<WireCpuConfig>(body)?.try_into()?).into(),
        ("drives", id, None) => {
            let id = ResourceId::from_path(id.unwrap_or(""))?;
            let wire: WireDrive = json::read(body)?;
            same_id(&id, &wire.drive_id)?;
            Action::InsertDrive(wire.check(id)?).into()
        }
        ("network-interfaces", id, None) => {
            let id = ResourceId::from_path(id.unwrap_or(""))?;
            let wire: WireInterface = json::read(body)?;
            same_id(&id, &wire.iface_id)?;
            Action::InsertNetworkInterface(wire.check(id)?).into()
        }
        ("vsock", None, _) => {
            let wire: WireVsock = json::read(body)?;
            let deprecated = wire.is_deprecated();
            Request::noting(Action::SetVsock(wire.try_into()?), deprecated, "vsock_id is deprecated")
        }
        ("entropy", None, _) => Action::SetEntropy(json::read::<WireEntropy>(body)?.try_into()?).into(),
        ("balloon", None, _) => Action::SetBalloon(json::read::<WireBalloon>(body)?.try_into()?).into(),
        ("serial", None, _) => Action::SetSerial(json::read::<WireSerial>(body)?.try_into()?).into(),
        ("logger", None, _) => Action::SetLogger(json::read::<WireLogger>(body)?.try_into()?).into(),
        ("metrics", None, _) => Action::SetMetrics(json::read::<WireMetrics>(body)?.try_into()?).into(),
        ("mmds", None, _) => Action::PutMmds(json::read(body)?).into(),
        ("mmds", Some("config"), None) => {
            let wire: WireMmdsConfig = json::read(body)?;
            let deprecated = wire.is_deprecated();
            let config = wire.check(|id| ResourceId::from_body("network_interfaces", id))?;
            Request::noting(Action::SetMmdsConfig(config), deprecated, "V1 is deprecated; use V2")
        }
        ("snapshot", Some("create"), None) => {
            Action::CreateSnapshot(json::read::<WireCreate>(body)?.try_into()?).into()
        }
        ("snapshot", Some("load"), None) => {
            let wire: WireLoad = json::read(body)?;
            let deprecated = wire.is_deprecated();
            let text = "mem_file_path and enable_diff_snapshots are deprecated";
            Request::noting(Action::LoadSnapshot(wire.try_into()?), deprecated, text)
        }
        _ => return Ok(None),
    }))
}

fn patch(place: Place<'_>, body: &[u8]) -> Result<Option<Request>, RequestError> {
    Ok(Some(match place {
        ("vm", None, _) => match json::read::<WireVm>(body)?.state {
            WireVmState::Paused => Action::Pause,
            WireVmState::Resumed => Action::Resume,
        }
        .into(),
        ("machine-config", None, _) => {
            let wire: WireMachineUpdate = json::read(body)?;
            if wire.is_empty() {
                return Err(RequestError::EmptyBody { method: Method::Patch });
            }
            let deprecated = wire.is_deprecated();
            Request::noting(
                Action::UpdateMachine(wire.try_into()?),
                deprecated,
                "cpu_template is deprecated",
            )
        }
        ("drives", id, None) => {
            let id = ResourceId::from_path(id.unwrap_or(""))?;
            let wire: WireDriveUpdate = json::read(body)?;
            same_id(&id, &wire.drive_id)?;
            Action::UpdateDrive(wire.check(id)?).into()
        }
        ("network-interfaces", id, None) => {
            let id = ResourceId::from_path(id.unwrap_or(""))?;
            let wire: WireInterfaceUpdate = json::read(body)?;
            same_id(&id, &wire.iface_id)?;
            Action::UpdateNetworkInterface(wire.check(id)?).into()
        }
        ("balloon", None, _) => Action::UpdateBalloon(json::read(body)?).into(),
        ("balloon", Some("statistics"), None) => Action::UpdateBalloonStatistics(json::read(body)?).into(),
        ("mmds", None, _) => Action::PatchMmds(json::read(body)?).into(),
        _ => return Ok(None),
    }))
}

fn same_id(path: &ResourceId, body: &str) -> Result<(), RequestError> {
    if path.as_str() == body {
        return Ok(());
    }
    Err(RequestError::IdMismatch {
        path: path.to_string(),
        body: body.to_owned(),
    })
}
