//! As pool.c, in Rust.
use std::io::Read;
use std::net::TcpStream;

#[inline(never)]
fn open_connection(port: u16) -> TcpStream {
    std::hint::black_box(TcpStream::connect(("127.0.0.1", port)).expect("a connection"))
}

#[inline(never)]
fn release_to_pool(connection: TcpStream) {
    drop(connection);
    std::hint::black_box(());
}

#[inline(never)]
fn handle_request(port: u16) {
    release_to_pool(open_connection(port));
    std::hint::black_box(());
}

#[inline(never)]
fn expire_session(port: u16) {
    drop(open_connection(port));
    std::hint::black_box(());
}

#[inline(never)]
fn forget_session(port: u16) {
    std::mem::forget(open_connection(port));
    std::hint::black_box(());
}

fn main() {
    let ports: Vec<u16> = std::env::args().skip(1).map(|port| port.parse().expect("a port")).collect();
    (0..20).for_each(|_| handle_request(ports[0]));
    (0..5).for_each(|_| expire_session(ports[0]));
    (0..3).for_each(|_| forget_session(ports[1]));
    println!("done");
    // Until its standard input is closed.
    std::io::stdin().read_to_end(&mut Vec::new()).expect("a pipe");
}
