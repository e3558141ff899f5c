//! What happens to every record, every second or every frame: one file per place where time goes.
//!
//! `cargo bench -p tcptrace --bench hot [-- FILTER]`; the load is the same on every machine.

mod filter;
mod flow;
mod frame;
mod load;
mod recording;

criterion::criterion_group!(hot, flow::bench, recording::bench, filter::bench, frame::bench);
criterion::criterion_main!(hot);
