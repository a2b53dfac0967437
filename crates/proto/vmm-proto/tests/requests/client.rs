//! A client, and a machine that does whatever it is told.

use ringwall_vmm_proto::{
    Answer, Architecture, BalloonStatistics, Command, Controller, DEFAULT_BODY_BYTES, Decision, Fault, InstanceId,
    Method, Rendered, parse, render,
};

/// An instance, driven as the server drives it.
#[derive(Debug)]
pub(crate) struct Client {
    controller: Controller,
    /// What the machine was told, in order.
    pub(crate) commands: Vec<Command>,
}

impl Client {
    /// A fresh instance.
    pub(crate) fn new() -> Self {
        Self::on(Architecture::X86_64)
    }

    pub(crate) fn on(architecture: Architecture) -> Self {
        let controller = Controller::new(architecture, InstanceId::default(), "0.1.0", DEFAULT_BODY_BYTES);
        Self {
            controller,
            commands: Vec::new(),
        }
    }

    /// An instance with one drive, one interface and a balloon with statistics, that runs.
    pub(crate) fn running() -> Self {
        let mut client = Self::new();
        for (method, path, body) in [
            ("PUT", "/boot-source", r#"{"kernel_image_path":"/k"}"#),
            (
                "PUT",
                "/drives/d",
                r#"{"drive_id":"d","path_on_host":"/d","is_root_device":true}"#,
            ),
            (
                "PUT",
                "/network-interfaces/n",
                r#"{"iface_id":"n","host_dev_name":"tap0"}"#,
            ),
            (
                "PUT",
                "/balloon",
                r#"{"amount_mib":8,"deflate_on_oom":true,"stats_polling_interval_s":1}"#,
            ),
            ("PUT", "/actions", r#"{"action_type":"InstanceStart"}"#),
        ] {
            assert_eq!(client.send(method, path, body).status, 204, "{method} {path}");
        }
        client
    }

    /// The same, paused.
    pub(crate) fn paused() -> Self {
        let mut client = Self::running();
        assert_eq!(client.send("PATCH", "/vm", r#"{"state":"Paused"}"#).status, 204);
        client
    }

    /// Sends a request.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &str) -> Rendered {
        self.send_bytes(method, path, body.as_bytes())
    }

    pub(crate) fn send_bytes(&mut self, method: &str, path: &str, body: &[u8]) -> Rendered {
        render(&self.outcome(method, path, body))
    }

    pub(crate) fn controller(&mut self) -> &mut Controller {
        &mut self.controller
    }

    fn outcome(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer, Fault> {
        let request = parse(Method::parse(method).unwrap(), path, body)?;
        match self.controller.decide(request.action)? {
            Decision::Answered(answer) => Ok(answer),
            Decision::Perform(command) => {
                self.controller.settle(&command);
                let answer = match command {
                    Command::ReadBalloonStatistics => Answer::BalloonStatistics(Box::new(BalloonStatistics {
                        target_pages: 2048,
                        target_mib: 8,
                        free_memory: Some(1),
                        ..BalloonStatistics::default()
                    })),
                    _ => Answer::Empty,
                };
                self.commands.push(command);
                Ok(answer)
            }
        }
    }
}
