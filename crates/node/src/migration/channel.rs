//! The connection between the two sides: TLS 1.3, in which each knows the other's key.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, DistinguishedName, ServerConfig, ServerConnection,
    SignatureScheme, StreamOwned,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::Answer;
use super::ticket::{Fingerprint, Secret, Ticket};
use super::{MigrationError, message};

/// How long a stranger has to show who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the other side may be silent that was asked something. It says that it is at work where that takes long.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// When, how often and how many times it is looked whether a silent other side is still there.
const KEEP_ALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);

/// Either end of a connection.
trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// A connection to somebody who is who is meant.
#[expect(missing_debug_implementations, reason = "holds keys")]
pub struct Channel {
    stream: Box<dyn Stream>,
    socket: TcpStream,
    peer: String,
}

impl Channel {
    /// Connects to a target, and shows it the ticket.
    ///
    /// # Errors
    /// It cannot be reached, or is another.
    pub fn connect(address: &str, ticket: &Ticket) -> Result<Channel, MigrationError> {
        let failed = |source| MigrationError::Address { doing: "reach", address: address.to_owned(), source };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        let mut connected = None;
        for one in address.to_socket_addrs().map_err(failed)? {
            match TcpStream::connect_timeout(&one, HANDSHAKE) {
                Ok(stream) => {
                    connected = Some(stream);
                    break;
                }
                Err(error) => last = error,
            }
        }
        let socket = connected.ok_or(last).map_err(failed)?;
        prepare(&socket).map_err(failed)?;
        let provider = Arc::new(ring::default_provider());
        let known = Known { fingerprint: ticket.target, provider: Arc::clone(&provider) };
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(known))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                ticket.source.key()?,
            )));
        // No name is asked for: the key says who it is.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let connection = ClientConnection::new(Arc::new(config), name)?;
        let mut stream = StreamOwned::new(connection, socket.try_clone().map_err(failed)?);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock).map_err(MigrationError::Stranger)?;
        }
        let mut channel = Channel { stream: Box::new(stream), socket, peer: address.to_owned() };
        // A target that does not want this key says nothing but that, after the handshake.
        message::read::<Answer>(&mut channel.stream).map_err(MigrationError::Stranger)?;
        channel.patience(PATIENCE)?;
        Ok(channel)
    }

    /// Takes the next connection of one who shows the ticket. Those of others are closed.
    ///
    /// # Errors
    /// The listener fails.
    pub fn accept(
        listener: &TcpListener,
        target: &Secret,
        source: Fingerprint,
    ) -> Result<Channel, MigrationError> {
        let failed =
            |source| MigrationError::Address { doing: "listen at", address: "the port".to_owned(), source };
        let provider = Arc::new(ring::default_provider());
        let known = Known { fingerprint: source, provider: Arc::clone(&provider) };
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(Arc::new(known))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(target.key()?)));
        let config = Arc::new(config);
        loop {
            let (socket, address) = listener.accept().map_err(failed)?;
            match greet(Arc::clone(&config), socket) {
                Ok((stream, socket)) => {
                    let mut channel = Channel { stream, socket, peer: address.ip().to_string() };
                    channel.socket.set_read_timeout(None).map_err(failed)?;
                    channel.say(&Answer::Working, &[])?;
                    return Ok(channel);
                }
                Err(error) => tracing::warn!(%address, %error, "a stranger was turned away"),
            }
        }
    }

    /// The other side, as people write it.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Says something.
    ///
    /// # Errors
    /// The connection broke.
    pub fn say(&mut self, document: &impl Serialize, body: &[u8]) -> Result<(), MigrationError> {
        message::write(&mut self.stream, document, body).map_err(|source| self.broken(source))
    }

    /// Hears something.
    ///
    /// # Errors
    /// The connection broke, or it makes no sense.
    pub fn hear<T: DeserializeOwned>(&mut self) -> Result<(T, Vec<u8>), MigrationError> {
        message::read(&mut self.stream).map_err(|source| self.broken(source))
    }

    /// How long the other side is waited for.
    pub(super) fn patience(&self, patience: Duration) -> Result<(), MigrationError> {
        self.socket.set_read_timeout(Some(patience)).map_err(|source| self.broken(source))
    }

    fn broken(&self, source: io::Error) -> MigrationError {
        MigrationError::Broken { peer: self.peer.clone(), source }
    }
}

/// Does what comes before the first word.
fn greet(config: Arc<ServerConfig>, socket: TcpStream) -> io::Result<(Box<dyn Stream>, TcpStream)> {
    prepare(&socket)?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, socket.try_clone()?);
    let until = std::time::Instant::now() + HANDSHAKE;
    while stream.conn.is_handshaking() {
        if std::time::Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok((Box::new(stream), socket))
}

fn prepare(socket: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(HANDSHAKE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let (idle, interval, count) = KEEP_ALIVE;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, idle)?;
    sockopt::set_tcp_keepintvl(socket, interval)?;
    sockopt::set_tcp_keepcnt(socket, count)?;
    Ok(())
}

/// The one whose key is known.
#[derive(Debug)]
struct Known {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl Known {
    fn is(&self, key: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if Fingerprint::of(key) == self.fingerprint {
            Ok(())
        } else {
            Err(rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure))
        }
    }
}

/// What rustls asks of either side alike: that only the known key's owner can have signed, by TLS 1.3.
macro_rules! by_the_known_key {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            Err(rustls::Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            key: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            let key = SubjectPublicKeyInfoDer::from(key.as_ref());
            let schemes = &self.provider.signature_verification_algorithms;
            verify_tls13_signature_with_raw_key(message, &key, signature, schemes)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }

        fn requires_raw_public_keys(&self) -> bool {
            true
        }
    };
}

impl ServerCertVerifier for Known {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.is(key).map(|()| ServerCertVerified::assertion())
    }

    by_the_known_key!();
}

impl ClientCertVerifier for Known {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.is(key).map(|()| ClientCertVerified::assertion())
    }

    by_the_known_key!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migration::message::Request;

    #[test]
    fn only_those_who_know_each_other_speak() {
        let (target, source) = (Secret::new().unwrap(), Secret::new().unwrap());
        let ticket = Ticket { target: target.fingerprint().unwrap(), source: source.clone() };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let known = source.fingerprint().unwrap();
        let waiting = std::thread::spawn(move || {
            let mut channel = Channel::accept(&listener, &target, known).unwrap();
            let (request, body) = channel.hear::<Request>().unwrap();
            assert!(matches!(request, Request::GoOn) && body == b"body");
            channel.say(&Answer::Ready, &[]).unwrap();
        });

        let other = Secret::new().unwrap();
        let wrong_target = Ticket { target: other.fingerprint().unwrap(), source };
        let refused = Channel::connect(&address, &wrong_target).err().unwrap();
        assert!(matches!(refused, MigrationError::Stranger(_)), "{refused:?}");
        let wrong_source = Ticket { source: other, ..ticket.clone() };
        let refused = Channel::connect(&address, &wrong_source).err().unwrap();
        assert!(matches!(refused, MigrationError::Stranger(_)), "{refused:?}");
        // Somebody who does not speak TLS at all.
        TcpStream::connect(&address).unwrap().write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();

        let mut channel = Channel::connect(&address, &ticket).unwrap();
        channel.say(&Request::GoOn, b"body").unwrap();
        assert!(matches!(channel.hear::<Answer>().unwrap().0, Answer::Ready));
        waiting.join().unwrap();
    }
}
