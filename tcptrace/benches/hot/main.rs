//! Hot paths: work per record, per second or per frame, one file per path.
//!
//! `cargo bench -p tcptrace --bench hot [-- FILTER]`; the load is the same on every machine.

mod filter;
mod flow;
mod frame;
mod load;
mod recording;

criterion::criterion_group!(hot, flow::bench, recording::bench, filter::bench, frame::bench);
criterion::criterion_main!(hot);
