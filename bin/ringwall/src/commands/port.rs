//! `ringwall port ID PORT`: its address, or a port of this machine that leads there.

use std::process::ExitCode;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::PortArgs;
use crate::failure::Failure;
use crate::remote::port::Target;
use crate::remote::wire::Made;
use crate::remote::{Place, Sandbox, Service};
use crate::{remote, ui};

/// Prints the address, or forwards until interrupted.
pub(crate) fn execute(args: &PortArgs) -> Result<ExitCode, Failure> {
    remote::run(async |service| match args.forward {
        None => tell(service, args).await,
        Some(listen) => {
            // First of all: a port in use must not do anything.
            let listener = TcpListener::bind(listen)
                .await
                .map_err(|error| Failure::own(format!("can't listen on {listen}: {error}")))?;
            forward(service, args, listener).await
        }
    })
}

async fn tell(service: &Service, args: &PortArgs) -> Result<ExitCode, Failure> {
    let detail = service.detail(&args.id).await?;
    if matches!(service.place, Place::Own(_)) {
        return Err(Failure::usage("without a server nothing leads to a sandbox's port")
            .hint("start `ringwall serve`, or use --forward"));
    }
    let domain = detail
        .domain
        .ok_or_else(|| Failure::own("the service does not say under what name it serves ports"))?;
    let scheme = service
        .public_url
        .split_once("://")
        .map_or("http", |(scheme, _)| scheme);
    let url = format!("{scheme}://{}-{}.{domain}", args.port, detail.sandbox_id);
    if args.json {
        ui::json(&json!({ "sandboxID": detail.sandbox_id, "port": args.port, "url": url }))?;
    } else {
        ui::line(&url);
    }
    Ok(ExitCode::SUCCESS)
}

async fn forward(service: &mut Service, args: &PortArgs, listener: TcpListener) -> Result<ExitCode, Failure> {
    let sandbox = Sandbox::open(service, &args.id, None).await?;
    let token = match service.place {
        // A running sandbox's end is never moved nearer: this only asks for its token.
        Place::Remote => {
            let path = format!("/v2/sandboxes/{}/connect", remote::encode(&args.id));
            let (_, made): (_, Made) = service.post("a connect", &path, &json!({ "timeout": 0 })).await?;
            made.traffic_access_token
        }
        Place::Served(_) | Place::Own(_) => None,
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::own)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::own)?;
    let address = listener.local_addr().map_err(Failure::own)?;
    ui::line(&address.to_string());
    ui::note(&format!(
        "{address} leads to port {} of {}; interrupt to end",
        args.port, args.id
    ));
    let target = Target::new(service, &sandbox, args.port, token.as_deref());
    tokio::select! {
        () = target.serve(listener) => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}
