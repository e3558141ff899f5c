//! The `tcptrace` command.
use tcptrace::kernel::*;
fn main() -> anyhow::Result<()> {
    env_logger::init();
    let t0 = std::time::Instant::now();
    let bytes = std::fs::read(btf::VMLINUX)?;
    let types = btf::KernelTypes::parse(&bytes)?;
    eprintln!("btf {:?}", t0.elapsed());
    let mut o = Options::default();
    if std::env::args().any(|a| a == "--learn") {
        o.kallsyms = tcptrace::kernel::Hook::Off;
    }
    let mut tracer = Tracer::start(&types, &o)?;
    eprintln!("tracing {:?} {:?}", t0.elapsed(), tracer.hooks());
    for _ in 0..200 {
        std::thread::sleep(std::time::Duration::from_millis(100));
        tracer.drain(100000, |seen| {
            let r = seen.raw;
            println!(
                "{} c={} o={:x} k={} {}->{} fl={} {}:{} {}:{} ns={} a0={} a1={:x} {:?}",
                r.ts_ns,
                r.cookie,
                r.object & 0xffffff,
                r.kind,
                r.old,
                r.new,
                r.flags,
                tcptrace::model::Addr(r.saddr),
                r.sport,
                tcptrace::model::Addr(r.daddr),
                r.dport,
                r.netns,
                r.arg0 as i64,
                r.arg1,
                seen.task.map(|t| (t.tgid, String::from_utf8_lossy(&t.comm).to_string()))
            );
        });
    }
    eprintln!("{:?}", tracer.losses());
    Ok(())
}
