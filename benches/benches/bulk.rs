//! Work on many at once, timed. Without `--bench`, as `cargo test` runs it, each is done once.

use criterion::{Criterion, Throughput};
use tidegate_benches::bulk::Bulk;
use tidegate_benches::piece::timed;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("bulk");
    for bulk in Bulk::ALL {
        group.throughput(Throughput::Elements(bulk.size()));
        group.bench_function(bulk.to_string(), |bencher| {
            let mut piece = bulk.piece().expect("the piece is made ready");
            bencher.iter_custom(|operations| timed(&mut *piece, operations, bulk.at_once()).expect("the work is right"));
            piece.stop().expect("the piece stops in order");
        });
    }
    group.finish();
    criterion.final_summary();
}
