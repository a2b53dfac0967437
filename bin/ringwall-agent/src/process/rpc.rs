//! The methods of `process.Process`.

use std::rc::Rc;

use http::Request;
use http_body_util::BodyExt as _;
use ringwall_agent_proto::process::{
    Empty, Event, ListResponse, ProcessInfo, SelectRequest, SendInputRequest, SendSignalRequest, Signal, StartRequest,
    StreamInputRequest, UpdateRequest,
};
use ringwall_agent_proto::{Code, Decoder, RpcError};
use rustix::io::Errno;

use super::live::Process;
use super::start;
use crate::agent::Agent;
use crate::body::{Body, Reply};
use crate::rpc::stream::{EventStream, FrameSender};
use crate::rpc::{self, CallOptions};
use crate::shared_body::SharedBody;
use crate::users;

/// Answers a method by name.
pub(crate) async fn call(agent: Rc<Agent>, method: &str, request: Request<SharedBody>) -> Reply {
    match method {
        "Start" => server_stream(&agent, request, start_process).await,
        "Connect" => server_stream(&agent, request, connect).await,
        "List" => rpc::unary(request, async |_: Empty| Ok(list(&agent))).await,
        "Update" => rpc::unary(request, async |update| resize(&agent, update)).await,
        "SendInput" => rpc::unary(request, async |input| send_input(&agent, input).await).await,
        "CloseStdin" => rpc::unary(request, async |which| close_stdin(&agent, which).await).await,
        "SendSignal" => rpc::unary(request, async |signal| send_signal(&agent, signal)).await,
        "StreamInput" => stream_input(&agent, request).await,
        _ => rpc::no_such_method(method),
    }
}

/// What a streaming method is given besides its message.
struct Opened {
    headers: http::HeaderMap,
    options: CallOptions,
    listener: FrameSender,
}

/// Answers with a stream of events, or with one that says why there are none.
async fn server_stream<Req: serde::de::DeserializeOwned>(
    agent: &Rc<Agent>,
    request: Request<SharedBody>,
    open: impl AsyncFnOnce(&Rc<Agent>, Req, Opened) -> Result<(), RpcError>,
) -> Reply {
    if let Some(reply) = rpc::refuse_unless_stream(request.headers()) {
        return reply;
    }
    let headers = request.headers().clone();
    let opened = async {
        let options = CallOptions::of(&headers)?;
        let message = rpc::stream_request(request).await?;
        let (listener, stream) = EventStream::new(options, Event::Keepalive {}.into_frame());
        let opened = Opened {
            headers,
            options,
            listener,
        };
        open(agent, message, opened).await?;
        Ok(stream)
    };
    match opened.await {
        Ok(stream) => rpc::stream_reply(Body::Events(stream)),
        Err(error) => rpc::stream_error(error),
    }
}

async fn start_process(agent: &Rc<Agent>, request: StartRequest, opened: Opened) -> Result<(), RpcError> {
    let user = users::of_headers(agent, &opened.headers)
        .map_err(|error| RpcError::new(Code::Unauthenticated, error.to_string()))?;
    // The call's timeout is the process's: it is killed when it passes.
    start::start(agent, request, &user, opened.options.deadline, opened.listener).await
}

/// Joins a running process. The timeout here ends only the stream.
async fn connect(agent: &Rc<Agent>, request: SelectRequest, opened: Opened) -> Result<(), RpcError> {
    let process = agent.processes.find(request.process.as_ref())?;
    process.listen(opened.listener);
    Ok(())
}

fn list(agent: &Agent) -> ListResponse {
    let info = |process: Rc<Process>| ProcessInfo {
        config: process.config.clone(),
        pid: process.pid,
        tag: process.tag.clone(),
    };
    ListResponse {
        processes: agent.processes.all().into_iter().map(info).collect(),
    }
}

fn resize(agent: &Agent, request: UpdateRequest) -> Result<Empty, RpcError> {
    let process = agent.processes.find(request.process.as_ref())?;
    if let Some(size) = request.pty.and_then(|pty| pty.size) {
        process.resize(size)?;
    }
    Ok(Empty {})
}

async fn send_input(agent: &Agent, request: SendInputRequest) -> Result<Empty, RpcError> {
    let process = agent.processes.find(request.process.as_ref())?;
    let input = request.input.unwrap_or_default();
    process.input.lock().await.write(&input).await?;
    Ok(Empty {})
}

async fn close_stdin(agent: &Agent, request: SelectRequest) -> Result<Empty, RpcError> {
    let process = agent.processes.find(request.process.as_ref())?;
    process.input.lock().await.close()?;
    Ok(Empty {})
}

fn send_signal(agent: &Agent, request: SendSignalRequest) -> Result<Empty, RpcError> {
    let process = agent.processes.find(request.process.as_ref())?;
    let signal = match request.signal {
        Signal::Terminate => rustix::process::Signal::TERM,
        Signal::Kill => rustix::process::Signal::KILL,
        Signal::Unspecified => return Err(RpcError::new(Code::InvalidArgument, "the request names no signal")),
    };
    process
        .signal_group(signal.as_raw())
        .map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::SRCH) => RpcError::new(Code::NotFound, format!("process with pid {} has ended", process.pid)),
            _ => RpcError::new(Code::Internal, format!("cannot signal the process: {error}")),
        })?;
    Ok(Empty {})
}

/// Input as a stream of messages, the first of which says for which process.
async fn stream_input(agent: &Agent, request: Request<SharedBody>) -> Reply {
    if let Some(reply) = rpc::refuse_unless_stream(request.headers()) {
        return reply;
    }
    let done = async {
        let options = CallOptions::of(request.headers())?;
        rpc::within(options.deadline, read_inputs(agent, request.into_body())).await
    };
    match done.await {
        Ok(()) => rpc::stream_single(&Empty {}),
        Err(error) => rpc::stream_error(error),
    }
}

async fn read_inputs(agent: &Agent, mut body: SharedBody) -> Result<(), RpcError> {
    let invalid = |message| RpcError::new(Code::InvalidArgument, message);
    let mut decoder = Decoder::new();
    let mut target: Option<Rc<Process>> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| RpcError::new(Code::Canceled, "the request ended before it was complete"))?;
        let Ok(piece) = frame.into_data() else { continue };
        decoder.push(&piece);
        // Each is written before more is read: the process's pace becomes the client's.
        while let Some(envelope) = decoder.next().map_err(rpc::framing)? {
            let message: StreamInputRequest = rpc::parse(&envelope.payload)?;
            match (message.start, message.data, &target) {
                (Some(start), _, None) => target = Some(agent.processes.find(start.process.as_ref())?),
                (Some(_), _, Some(_)) => return Err(invalid("the stream has started already")),
                (None, Some(data), Some(process)) => {
                    let input = data.input.unwrap_or_default();
                    process.input.lock().await.write(&input).await?;
                }
                (None, Some(_), None) => return Err(invalid("the first message must be a start")),
                (None, None, _) => {}
            }
        }
    }
    decoder.finish().map_err(rpc::framing)
}
