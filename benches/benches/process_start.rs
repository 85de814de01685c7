//! Starting a process that runs a function. One iteration starts it, takes its result and reaps it. Fork is not here:
//! it wants a program with one thread, and criterion may have more; `cargo xtask bench --only process` has it.

use criterion::{Criterion, criterion_group, criterion_main};
use procession_benches::peers::{c_fork_server, posix_spawn};
use procession_benches::scenario::Entry;
use procession_process::{Context, StartMethod};

fn start(c: &mut Criterion) {
    let mut group = c.benchmark_group("process_start");
    group.sample_size(30);
    for (name, method) in [("forkserver", StartMethod::ForkServer), ("spawn", StartMethod::Spawn)] {
        let context = Context::new(method);
        group.bench_function(name, |b| {
            b.iter(|| context.spawn(|n: u64| n + 1, 1).expect("it starts").join().expect("it ends well"));
        });
    }
    let rivals: [(&str, Entry); 2] =
        [("c_fork_server", c_fork_server::start()), ("posix_spawn", posix_spawn::start())];
    for (name, entry) in rivals {
        if let Ok(mut entrant) = entry {
            group.bench_function(name, |b| b.iter_custom(|n| entrant.run(n).expect("the rival runs")));
        }
    }
    group.finish();
}

criterion_group!(benches, start);
criterion_main!(benches);
