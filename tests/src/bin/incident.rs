//! The programs of the incidents in `docs/samples` and `docs/screenshots`, which `cargo xtask samples` and
//! `cargo xtask screenshots` make: a server, and clients that use it well or badly. Each runs until it is killed.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::{Parser, Subcommand};
use socket2::{Domain, Socket, Type};
use tests::option::{self, IP_BIND_ADDRESS_NO_PORT};

#[derive(Parser)]
struct IncidentCli {
    #[command(subcommand)]
    role: IncidentRole,
}

#[derive(Subcommand)]
enum IncidentRole {
    /// Answers each byte with one, and closes connections that are silent for so long, or after so many requests
    Serve {
        address: SocketAddr,
        #[arg(long, default_value_t = 60)]
        idle_seconds: u64,
        #[arg(long, default_value_t = u32::MAX)]
        requests: u32,
    },
    /// Without a pool: one connection for each request, at the second rate after a time
    Call {
        server: SocketAddr,
        #[arg(long)]
        rate: f64,
        #[arg(long)]
        later_rate: f64,
        #[arg(long)]
        after_seconds: u64,
    },
    /// A pool that never closes what the server has closed, and opens a new connection instead
    Leak {
        server: SocketAddr,
        #[arg(long)]
        rate: f64,
    },
    /// Clients with one connection each for twenty requests
    Browse {
        server: SocketAddr,
        /// The first of their addresses
        #[arg(long)]
        from: Ipv4Addr,
        #[arg(long)]
        clients: u32,
    },
}

fn main() -> Result<()> {
    match IncidentCli::parse().role {
        IncidentRole::Serve { address, idle_seconds, requests } => {
            serve(address, Duration::from_secs(idle_seconds), requests)
        }
        IncidentRole::Call { server, rate, later_rate, after_seconds } => {
            let start = Instant::now();
            loop {
                let is_later = start.elapsed() > Duration::from_secs(after_seconds);
                pause(if is_later { later_rate } else { rate });
                // What fails for lack of a port is part of the incident.
                TcpStream::connect(server).and_then(|mut connection| request(&mut connection)).ok();
            }
        }
        IncidentRole::Leak { server, rate } => {
            let mut pool = Vec::new();
            loop {
                pause(rate);
                let mut connection = TcpStream::connect(server)?;
                request(&mut connection)?;
                pool.push(connection);
            }
        }
        IncidentRole::Browse { server, from, clients } => browse(server, from, clients),
    }
}

fn pause(rate: f64) {
    thread::sleep(Duration::from_secs_f64(1.0 / rate));
}

fn request(connection: &mut TcpStream) -> std::io::Result<()> {
    connection.write_all(b"?")?;
    connection.read_exact(&mut [0])
}

fn serve(address: SocketAddr, idle: Duration, requests: u32) -> Result<()> {
    for connection in TcpListener::bind(address)?.incoming() {
        let mut connection = connection?;
        connection.set_read_timeout(Some(idle))?;
        let mut answer =
            move || connection.read_exact(&mut [0]).is_ok() && connection.write_all(b"!").is_ok();
        thread::spawn(move || (0..requests).all(|_| answer()));
    }
    Ok(())
}

fn browse(server: SocketAddr, from: Ipv4Addr, clients: u32) -> Result<()> {
    let client = |number: u32| -> Result<()> {
        let address = Ipv4Addr::from_bits(from.to_bits() + number);
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            // Its port stays free for connections to elsewhere: the clients stand for other hosts.
            option::set(&socket, IP_BIND_ADDRESS_NO_PORT, 1)?;
            socket.bind(&SocketAddr::from((address, 0)).into())?;
            socket.connect(&server.into())?;
            let mut connection = TcpStream::from(socket);
            for _ in 0..20 {
                request(&mut connection)?;
                thread::sleep(Duration::from_millis(200 + 10 * u64::from(number)));
            }
        }
    };
    thread::scope(|scope| {
        let clients = (0..clients).map(|number| scope.spawn(move || client(number)));
        clients
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|client| client.join().expect("a panic is a bug"))
    })
}
