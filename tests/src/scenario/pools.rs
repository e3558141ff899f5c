//! A proxy without a pool to its upstream: what `doctor` says a pool would save, against what it saves.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::recording::TempFolder;
use crate::clock::{soon, wait_for};
use crate::doctor::Doctor;
use crate::kernel;
use crate::lab::{Lab, Skip, run_to_end};
use crate::process::{KillOnDrop, StartChild as _};

const PROXY: u16 = 8_080;
const UPSTREAM: u16 = 8_081;
const REQUESTS: u64 = 800;
const CLIENTS: u64 = 6;

/// nginx as a proxy makes a connection for each request; with the pool that the finding asks for, the rate falls as it says.
pub fn nginx_without_keepalive(lab: &Lab) -> Result<()> {
    for (program, package) in [("nginx", "nginx"), ("ab", "apache2-utils")] {
        let shown = Command::new(program).arg("-V").finish();
        shown.map_err(|_| Skip(format!("needs {program}: package {package}")))?;
    }
    let (folder, upstream_folder) = (TempFolder::new()?, TempFolder::new()?);
    let answer = format!("server {{ listen 127.0.0.1:{UPSTREAM}; return 200 'done'; }}");
    let _upstream = start_nginx(&upstream_folder.path, &answer, UPSTREAM)?;

    let doctor = Doctor::start(lab)?;
    let proxy = start_nginx(&folder.path, &proxying("", ""), PROXY)?;
    let before = connects_of_the_load()?;
    let pid = proxy.id();
    let report = doctor.finish()?;
    drop(proxy);
    let found = report.finding("pool_too_small")?;
    let (opened, saved, idle) = (found.number("opened")?, found.number("saved")?, found.number("idle")?);
    ensure!(opened == REQUESTS, "{opened} connections to the upstream: {found:#?}");
    ensure!(found.number("closed_here")? + found.number("closed_there")? == opened, "{found:#?}");
    let who = found.first()?;
    ensure!((who.comm.as_deref(), who.pid) == (Some("nginx"), Some(pid)), "{who:?}, not {pid}");
    ensure!(found.fix[0].starts_with(&format!("nginx: keepalive {idle};")), "{:?}", found.fix);

    let keepalive = format!("keepalive {idle};");
    let version = "proxy_http_version 1.1; proxy_set_header Connection '';";
    let _proxy = start_nginx(&folder.path, &proxying(&keepalive, version), PROXY)?;
    let after = connects_of_the_load()?;
    println!(
        "   pools: {before} connects before, {after} with {idle} idle ones; {saved} of {opened} were to be saved"
    );
    // Those of the load itself are in both.
    ensure!(after + saved <= before + opened / 20, "{after} instead of {before}, {saved} were to be saved");
    Ok(())
}

fn proxying(keepalive: &str, version: &str) -> String {
    format!(
        "upstream backend {{ server 127.0.0.1:{UPSTREAM}; {keepalive} }}\n\
         server {{ listen 127.0.0.1:{PROXY}; location / {{ proxy_pass http://backend; {version} }} }}"
    )
}

/// One process, in the foreground.
fn start_nginx(folder: &Path, servers: &str, port: u16) -> Result<KillOnDrop> {
    let config = folder.join("nginx.conf");
    let text = format!(
        "daemon off; master_process off; error_log stderr; pid {0}/pid;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f;\n\
         uwsgi_temp_path {0}/u; scgi_temp_path {0}/s; keepalive_requests 100000;\n{servers}\n}}\n",
        folder.display()
    );
    fs::write(&config, text)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(&config);
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).start();
    let mut nginx = KillOnDrop(started.context("start nginx")?);
    wait_for("nginx to listen", soon(), || {
        ensure!(nginx.try_wait()?.is_none(), "nginx ended");
        Ok(TcpStream::connect(("127.0.0.1", port)).ok().map(drop))
    })?;
    Ok(nginx)
}

/// Connects in this namespace during [`REQUESTS`] requests to the proxy.
fn connects_of_the_load() -> Result<u64> {
    let before = kernel::counter("ActiveOpens")?;
    let mut ab = Command::new("ab");
    ab.args(["-q", "-k", "-n", &REQUESTS.to_string(), "-c", &CLIENTS.to_string()]);
    ab.arg(format!("http://127.0.0.1:{PROXY}/"));
    let output = run_to_end(ab)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let done = text.lines().find_map(|line| line.strip_prefix("Complete requests:")).context("ab's count")?;
    ensure!(output.status.success() && done.trim().parse() == Ok(REQUESTS), "ab: {text}");
    Ok(kernel::counter("ActiveOpens")? - before)
}
