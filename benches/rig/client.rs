//! A Redis client that sends one request and waits for its reply.

use std::net::Ipv4Addr;

use bytes::BytesMut;
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::types::BytesFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Failure;

/// A connection to a server of ours: what it sends is trusted.
pub(crate) struct Client {
    stream: TcpStream,
    input: BytesMut,
    output: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(port: u16) -> Result<Self, Failure> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, input: BytesMut::with_capacity(4096), output: Vec::with_capacity(512) })
    }

    /// # Errors
    /// An error reply is an error here.
    pub(crate) async fn call(&mut self, arguments: &[&[u8]]) -> Result<BytesFrame, Failure> {
        self.output.clear();
        encode(arguments, &mut self.output);
        self.stream.write_all(&self.output).await?;
        loop {
            if let Some((frame, _, _)) = decode_bytes_mut(&mut self.input)? {
                return match frame {
                    BytesFrame::Error(text) => {
                        let command = arguments.first().copied().unwrap_or_default();
                        Err(format!("{}: {text}", String::from_utf8_lossy(command)).into())
                    }
                    frame => Ok(frame),
                };
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err("the server closed the connection".into());
            }
        }
    }
}

impl Client {
    /// Sends requests in one write and waits for all replies, errors among them.
    pub(crate) async fn pipeline(&mut self, requests: &[u8], count: u32) -> Result<(), Failure> {
        self.stream.write_all(requests).await?;
        for _ in 0..count {
            while decode_bytes_mut(&mut self.input)?.is_none() {
                if self.stream.read_buf(&mut self.input).await? == 0 {
                    return Err("the server closed the connection".into());
                }
            }
        }
        Ok(())
    }
}

/// Appends the request in its form with lengths.
pub(crate) fn encode(arguments: &[&[u8]], output: &mut Vec<u8>) {
    output.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        output.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        output.extend_from_slice(argument);
        output.extend_from_slice(b"\r\n");
    }
}
