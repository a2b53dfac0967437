//! One execution: wait for the turn, have a kernel, set the variables, run the code, put the variables back.
//!
//! It runs as a task of its own, so that it can interrupt the kernel when the client hangs up and leave the context
//! usable. Every execution ends with one `end_of_execution`.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::Client;
use crate::context::{Slot, Ticket};
use crate::environment::Snippets;
use crate::event::Event;
use crate::kernel::{Content, Kernel, Reply, Step};

/// How often a kernel is interrupted again that goes on after its client has left.
const INTERRUPT_AGAIN: Duration = Duration::from_secs(2);
/// When such a kernel is killed.
const INTERRUPT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long putting variables back may take.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(10);

/// What to run.
#[derive(Debug)]
pub(crate) struct Cell {
    /// The code.
    pub(crate) code: String,
    /// The code that sets its environment variables.
    pub(crate) environment: Option<Snippets>,
}

/// How a request to the kernel ended.
#[derive(Debug)]
enum End {
    /// The kernel is ready for the next.
    Done(Reply),
    /// There is no kernel any longer.
    Died(String),
    /// The context is being restarted or removed.
    Withdrawn,
}

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The client's code.
    Cell,
    /// Ours, before the client's.
    Prepare,
    /// Ours, after the client's; not interrupted when the client leaves.
    Restore,
}

/// Runs `cell`. `slot` is the context's if the caller has it already.
pub(crate) async fn run(ticket: Ticket, slot: Option<Slot>, cell: Cell, mut client: Client) {
    let mut withdrawn = ticket.withdrawn();
    if let Some(trouble) = run_in_turn(&ticket, slot, cell, &mut client, &mut withdrawn).await {
        client.send(&trouble, None).await;
    }
    // The next in the queue may begin even if this client is slow to read the last line.
    drop(ticket);
    client.send(&Event::EndOfExecution, None).await;
}

async fn run_in_turn(
    ticket: &Ticket,
    slot: Option<Slot>,
    cell: Cell,
    client: &mut Client,
    withdrawn: &mut watch::Receiver<u64>,
) -> Option<Event> {
    let mut turn = pin!(async {
        let mut slot = match slot {
            Some(slot) => slot,
            None => ticket.context().slot().await,
        };
        let started = ticket.context().ensure_kernel(&mut slot).await;
        (slot, started)
    });
    let (mut slot, started) = loop {
        tokio::select! {
            ready = &mut turn => break ready,
            _ = withdrawn.changed() => return Some(withdrawal()),
            () = client.gone() => return None,
            () = client.silence() => client.keep_alive(),
        }
    };
    if let Err(error) = started {
        return Some(Event::trouble("KernelStartError", error.to_string()));
    }
    let end = run_with_environment(slot.as_mut()?, cell, client, withdrawn).await;
    match end {
        End::Done(_) => None,
        End::Died(reason) => {
            *slot = None;
            Some(Event::trouble(
                "KernelDied",
                format!("{reason}; its variables are lost, the next execution starts a new one"),
            ))
        }
        End::Withdrawn => {
            *slot = None;
            Some(withdrawal())
        }
    }
}

fn withdrawal() -> Event {
    Event::trouble("ContextRestarted", "the context was restarted or removed".to_owned())
}

async fn run_with_environment(
    kernel: &mut Kernel,
    cell: Cell,
    client: &mut Client,
    withdrawn: &mut watch::Receiver<u64>,
) -> End {
    let Some(Snippets { set, restore }) = cell.environment else {
        return request(kernel, cell.code, Kind::Cell, client, withdrawn).await;
    };
    let mut end = request(kernel, set, Kind::Prepare, client, withdrawn).await;
    if matches!(end, End::Done(Reply::Ok)) && !client.is_gone() {
        end = request(kernel, cell.code, Kind::Cell, client, withdrawn).await;
    }
    if matches!(end, End::Done(_)) {
        let restored = timeout(
            RESTORE_TIMEOUT,
            request(kernel, restore, Kind::Restore, client, withdrawn),
        )
        .await;
        match restored {
            // An error here means the code broke its own language; its variables stay.
            Ok(End::Done(_)) => {}
            Ok(end) => return end,
            Err(_) => {
                kernel.kill();
                return End::Died("the kernel didn't put its environment back".to_owned());
            }
        }
    }
    end
}

/// Runs one request to its end and passes on what it publishes.
async fn request(
    kernel: &mut Kernel,
    code: String,
    kind: Kind,
    client: &mut Client,
    withdrawn: &mut watch::Receiver<u64>,
) -> End {
    let Some(mut running) = kernel.execute(code, kind != Kind::Cell).await else {
        return End::Died("the kernel takes no requests".to_owned());
    };
    let mut has_error = false;
    // Set when the client has left: when to interrupt again, and when to give up.
    let mut leaving: Option<(Instant, Instant)> = None;
    loop {
        let step = tokio::select! {
            biased;
            _ = withdrawn.changed() => return End::Withdrawn,
            () = client.gone(), if leaving.is_none() && kind != Kind::Restore => {
                kernel.interrupt(false).await;
                leaving = Some((Instant::now() + INTERRUPT_AGAIN, Instant::now() + INTERRUPT_TIMEOUT));
                continue;
            }
            () = sleep_until(leaving.map_or_else(Instant::now, |(again, _)| again)), if leaving.is_some() => {
                let now = Instant::now();
                if let Some((again, limit)) = &mut leaving {
                    *again = now + INTERRUPT_AGAIN;
                    if now >= *limit {
                        kernel.kill();
                        continue;
                    }
                }
                kernel.interrupt(true).await;
                continue;
            }
            () = client.silence(), if leaving.is_none() => {
                client.keep_alive();
                continue;
            }
            step = kernel.next(&mut running) => step,
        };
        let (event, share) = match step {
            Step::Died(reason) => return End::Died(reason),
            Step::Done(reply) => {
                if kind != Kind::Restore
                    && !has_error
                    && let Some(event) = unpublished_error(&reply)
                {
                    client.send(&event, None).await;
                }
                return End::Done(reply);
            }
            Step::Output(content, share) => {
                // The published errors of our own requests aren't passed on, so their replies' must be.
                has_error |= kind == Kind::Cell && matches!(content, Content::Error(_));
                (Event::from_content(content), Some(share))
            }
            Step::Oversized(bytes) => (
                Some(Event::remark(format!(
                    "[an output of {bytes} bytes was dropped: it is too long]\n"
                ))),
                None,
            ),
        };
        let Some(event) = event.filter(|_| kind == Kind::Cell) else {
            continue;
        };
        tokio::select! {
            biased;
            _ = withdrawn.changed() => return End::Withdrawn,
            () = client.send(&event, share) => {}
        }
    }
}

/// The error of a reply, for kernels that don't publish it.
fn unpublished_error(reply: &Reply) -> Option<Event> {
    match reply {
        Reply::Ok => None,
        Reply::Error(error) => Some(Event::from(error.clone())),
        Reply::Aborted => Some(Event::trouble("Aborted", "the kernel didn't run the code".to_owned())),
    }
}
