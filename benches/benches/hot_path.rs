//! The hot path in pieces, timed. Without `--bench`, as `cargo test` runs it, each is done once.

use criterion::Criterion;
use tidegate_benches::hot_path::HotPath;
use tidegate_benches::piece::timed;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("hot_path");
    for path in HotPath::ALL {
        group.bench_function(path.name(), |bencher| {
            let mut piece = path.piece().expect("the piece is made ready");
            bencher.iter_custom(|operations| timed(&mut *piece, operations, path.at_once()).expect("the work is right"));
            piece.stop().expect("the piece stops in order");
        });
    }
    group.finish();
    criterion.final_summary();
}
