//! A client of the host's socket, until its first line has said which port of the guest it wants: `CONNECT <port>\n`.

use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// Longest line, in bytes; the longest useful one has 19.
const LINE_BYTES: usize = 32;

/// What has become of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Greeting {
    /// There is no whole line yet.
    Waiting,
    /// It wants this port.
    Port(u32),
    /// It is gone, or said something else.
    Refused,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    socket: OwnedFd,
    line: Vec<u8>,
}

impl Client {
    /// Takes an accepted socket that does not block.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Client {
            socket,
            line: Vec::new(),
        }
    }

    /// Its socket.
    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Its socket, from which no byte behind the line has been taken.
    pub(super) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Reads what there is of the line.
    pub(super) fn read(&mut self) -> Greeting {
        let mut room = [0; LINE_BYTES];
        loop {
            // Looked at before it is taken: what follows the line belongs to the guest.
            let seen = match recv(&self.socket, &mut room, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Greeting::Refused,
                Ok((count, _)) => room.get(..count).unwrap_or_default(),
                Err(Errno::AGAIN) => return Greeting::Waiting,
                Err(Errno::INTR) => continue,
                Err(_) => return Greeting::Refused,
            };
            let end = seen.iter().position(|&byte| byte == b'\n');
            let wanted = end.map_or(seen.len(), |end| end.saturating_add(1));
            let Ok((taken, _)) = recv(
                &self.socket,
                room.get_mut(..wanted).unwrap_or_default(),
                RecvFlags::DONTWAIT,
            ) else {
                return Greeting::Refused;
            };
            if self.line.len().saturating_add(taken) > LINE_BYTES {
                return Greeting::Refused;
            }
            self.line.extend_from_slice(room.get(..taken).unwrap_or_default());
            if self.line.last() == Some(&b'\n') {
                return parse(&self.line).map_or(Greeting::Refused, Greeting::Port);
            }
        }
    }
}

/// Reads the line. Firecracker takes the word in any case, and any white space.
fn parse(line: &[u8]) -> Option<u32> {
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let (word, port) = (words.next()?, words.next()?);
    if !word.eq_ignore_ascii_case("connect")
        || words.next().is_some()
        || !port.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    port.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    #[test]
    fn lines() {
        assert_eq!(parse(b"CONNECT 52\n"), Some(52));
        assert_eq!(parse(b"connect 4294967295\r\n"), Some(u32::MAX));
        let bad: [&[u8]; 9] = [
            b"CONNECT 4294967296\n",
            b"CONNECT -1\n",
            b"CONNECT +1\n",
            b"CONNECT\n",
            b"CONNECT 1 2\n",
            b"CONECT 1\n",
            b"\n",
            b"CONNECT \xff\n",
            b"GET / HTTP/1.1\n",
        ];
        for line in bad {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_line_may_come_byte_by_byte_and_nothing_behind_it_is_taken() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client::new(ours.into());
        for byte in b"CONNECT 1024" {
            theirs.write_all(&[*byte]).unwrap();
            assert_eq!(client.read(), Greeting::Waiting);
        }
        theirs.write_all(b"\nand more\n").unwrap();
        assert_eq!(client.read(), Greeting::Port(1024));
        drop(theirs);
        let mut rest = String::new();
        UnixStream::from(client.into_socket())
            .read_to_string(&mut rest)
            .unwrap();
        assert_eq!(rest, "and more\n");
    }

    #[test]
    fn a_line_has_an_end() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut client = Client::new(ours.into());
        theirs.write_all(&[b' '; 31]).unwrap();
        assert_eq!(client.read(), Greeting::Waiting);
        theirs.write_all(b"  ").unwrap();
        assert_eq!(client.read(), Greeting::Refused);

        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(Client::new(ours.into()).read(), Greeting::Refused);
    }
}
