//! A small HTTP server for pages that are polled, such as metrics.
//!
//! Clients must not be able to exhaust the tracer's time or memory. A connection serves one request, has
//! [`REQUEST_TIMEOUT`] in total, and [`HEADER_BYTES`] for its header; [`CONNECTIONS`] may be open, further ones
//! are closed at once. The caller renders the pages, on the same thread.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, sync::Semaphore, task::JoinSet, time::timeout};

/// Most connections open at the same time.
const CONNECTIONS: usize = 16;
/// From the accepted connection to the last byte of the response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for the request header.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
const HEADER_BYTES: usize = 16 << 10;
/// Pause after an error of `accept()`: the missing resource may become available again.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// HTTP status.
    pub status: StatusCode,
    /// Its media type.
    pub content_type: &'static str,
    /// The page.
    pub body: Bytes,
}

impl Page {
    /// A line of text.
    pub fn text(status: StatusCode, line: &'static str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: Bytes::from_static(line.as_bytes()) }
    }

    /// A page for a browser.
    pub fn html(page: &'static str) -> Self {
        let body = Bytes::from_static(page.as_bytes());
        Self { status: StatusCode::OK, content_type: "text/html; charset=utf-8", body }
    }
}

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// The path.
    pub path: &'a str,
    /// Acceptable media types: the values of the header `Accept`; empty without one.
    pub accept: &'a str,
}

/// Serves every connection to `listener`; returns only on an error at the start. `page` renders the requested
/// page.
pub async fn serve(
    listener: TcpListener,
    page: impl Fn(&HttpRequest<'_>) -> Page + 'static,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let page = Arc::new(page);
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    let tasks = tokio::task::LocalSet::new();
    tasks
        .run_until(async {
            let mut open = JoinSet::new();
            loop {
                while open.try_join_next().is_some() {}
                let Ok((stream, peer)) = listener.accept().await else {
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                    continue;
                };
                let Ok(place) = Arc::clone(&free).try_acquire_owned() else {
                    log::debug!("{peer}: too many connections");
                    continue;
                };
                let page = Arc::clone(&page);
                open.spawn_local(async move {
                    answer(stream, peer, &*page).await;
                    drop(place);
                });
            }
        })
        .await
}

/// Serves one request.
async fn answer(stream: TcpStream, peer: SocketAddr, page: &impl Fn(&HttpRequest<'_>) -> Page) {
    let respond = async |request: Request<Incoming>| Ok::<_, Infallible>(respond(&request, page));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service_fn(respond));
    match timeout(REQUEST_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("{peer}: {error}"),
        Err(_) => log::debug!("{peer}: too slow"),
    }
}

fn respond(request: &Request<Incoming>, page: impl Fn(&HttpRequest<'_>) -> Page) -> Response<Full<Bytes>> {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let page = if is_read {
        let all = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let accept = all.collect::<Vec<_>>().join(",");
        page(&HttpRequest { path: request.uri().path(), accept: &accept })
    } else {
        Page::text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n")
    };
    let mut response = Response::new(Full::new(page.body));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(page.content_type));
    if !is_read {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    /// The responses to `clients`, which run one after the other on a separate thread.
    fn answers(clients: Vec<fn(std::net::TcpStream) -> String>) -> Vec<String> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = listener.local_addr().expect("its address");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a loop");
        runtime.block_on(async {
            let asked = tokio::task::spawn_blocking(move || {
                let connect = || std::net::TcpStream::connect(target).expect("a connection");
                clients.into_iter().map(|client| client(connect())).collect()
            });
            tokio::select! {
                _ = serve(listener, |asked| match asked.path {
                    "/metrics" if asked.accept == "text/plain,c/d" => Page::html("other"),
                    "/metrics" => Page { status: StatusCode::OK, content_type: "a/b", body: Bytes::from_static(b"page") },
                    _ => Page::text(StatusCode::NOT_FOUND, "none\n"),
                }) => panic!("the server ended"),
                answers = asked => answers.expect("no panic"),
            }
        })
    }

    fn exchange(mut stream: std::net::TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        // If the server closes the connection with unread data, a response may still precede the error.
        let _ = stream.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn a_path_has_its_page() {
        let all = answers(vec![
            |stream| exchange(stream, "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n"),
            |stream| exchange(stream, "HEAD /metrics HTTP/1.1\r\nhost: a\r\n\r\n"),
            |stream| exchange(stream, "GET /else HTTP/1.1\r\nhost: a\r\n\r\n"),
            |stream| exchange(stream, "POST /metrics HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx"),
            |stream| exchange(stream, "nonsense\r\n\r\n"),
            |stream| {
                exchange(
                    stream,
                    "GET /metrics HTTP/1.1\r\nAccept: text/plain\r\naccept: c/d\r\nhost: a\r\n\r\n",
                )
            },
        ]);
        let begins: Vec<&str> = all.iter().map(|answer| answer.split("\r\n").next().unwrap_or("")).collect();
        let ok = "HTTP/1.1 200 OK";
        let expected = [
            ok,
            ok,
            "HTTP/1.1 404 Not Found",
            "HTTP/1.1 405 Method Not Allowed",
            "HTTP/1.1 400 Bad Request",
            ok,
        ];
        assert!(
            all[5].ends_with("\r\n\r\nother") && all[5].contains("content-type: text/html"),
            "{}",
            all[5]
        );
        assert_eq!(begins, expected);
        assert!(all[0].ends_with("\r\n\r\npage") && all[0].contains("content-type: a/b"), "{}", all[0]);
        assert!(all[1].ends_with("\r\n\r\n") && all[1].contains("content-length: 4"), "{}", all[1]);
    }

    #[test]
    fn a_large_header_is_refused() {
        let all = answers(vec![|stream| {
            let header = "x".repeat(1 << 20);
            let mut stream = stream;
            let _ = stream.write_all(format!("GET /metrics HTTP/1.1\r\nhost: {header}\r\n\r\n").as_bytes());
            exchange_end(stream)
        }]);
        assert!(!all[0].contains("200 OK"), "{}", all[0]);
    }

    #[test]
    fn silent_clients_block_others_only_briefly() {
        // Silent clients use all connections; a further one is refused, and served once they are closed.
        let all = answers(vec![|first| {
            let target = first.peer_addr().expect("its address");
            let connect = || std::net::TcpStream::connect(target).expect("a connection");
            let silent: Vec<_> =
                std::iter::once(first).chain(std::iter::repeat_with(connect).take(CONNECTIONS - 1)).collect();
            let get = "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n";
            let ask = || {
                let mut stream = connect();
                let _ = stream.write_all(get.as_bytes());
                exchange_end(stream)
            };
            let turned_away = ask();
            drop(silent);
            let served = std::iter::repeat_with(ask).take(1_000).find(|answer| !answer.is_empty());
            format!("{turned_away:?} {}", served.unwrap_or_default())
        }]);
        assert!(all[0].starts_with("\"\" HTTP/1.1 200 OK"), "{}", all[0]);
    }

    fn exchange_end(mut stream: std::net::TcpStream) -> String {
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }
}
