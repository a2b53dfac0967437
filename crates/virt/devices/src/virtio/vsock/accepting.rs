//! Clients of the host's socket: accepted, heard, and made connections.

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::client::{Client, Greeting};
use super::connection::Connection;
use super::metrics::add;
use super::muxer::{END_PORT, FIRST_PORT, LISTENER, MOST_CONNECTIONS, Muxer};
use super::packet::Ports;

/// Most clients that have not said yet what they want; one more, and the oldest goes.
pub(super) const MOST_CLIENTS: usize = 128;
/// Clients accepted in one turn.
const MOST_ACCEPTS: usize = 32;

impl Muxer {
    /// A client wants to be accepted.
    pub(super) fn accept(&mut self) {
        for _ in 0..MOST_ACCEPTS {
            match accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => {
                    let id = self.take_id();
                    if self.poller.add(id, &socket).is_err() {
                        add(&self.metrics.clients_dropped, 1);
                        continue;
                    }
                    self.clients.insert(id, Client::new(socket));
                    self.deadlines.set(id, self.timeouts.greeting);
                    if self.clients.len() > MOST_CLIENTS
                        && let Some(&oldest) = self.clients.keys().next()
                    {
                        self.drop_client(oldest);
                    }
                }
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => {
                    // No descriptors, or no memory. The listener stays readable, so it must not be waited on for a while.
                    self.poller.remove(&self.listener);
                    self.deadlines.set(LISTENER, self.timeouts.retry);
                    return;
                }
            }
        }
    }

    /// A client has said something.
    pub(super) fn hear(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let guest = match client.read() {
            Greeting::Waiting => return,
            Greeting::Refused => return self.drop_client(id),
            Greeting::Port(guest) => guest,
        };
        let Some(host) = self.free_port(guest) else {
            return self.drop_client(id);
        };
        if let Some(client) = self.clients.remove(&id) {
            self.insert(id, Connection::requested(Ports { host, guest }, client.into_socket()));
        }
    }

    pub(super) fn drop_client(&mut self, id: u64) {
        if let Some(client) = self.clients.remove(&id) {
            self.poller.remove(client.socket());
            self.deadlines.clear(id);
            add(&self.metrics.clients_dropped, 1);
        }
    }

    /// A port of the host's that has no connection with the guest's port; none if there are too many connections.
    fn free_port(&mut self, guest: u32) -> Option<u32> {
        if self.connections.len() >= MOST_CONNECTIONS {
            add(&self.metrics.refused, 1);
            return None;
        }
        for _ in 0..=MOST_CONNECTIONS {
            let host = self.next_port;
            self.next_port = host
                .checked_add(1)
                .filter(|&port| port < END_PORT)
                .unwrap_or(FIRST_PORT);
            if !self.by_ports.contains_key(&Ports { host, guest }) {
                return Some(host);
            }
        }
        None
    }
}
