//! What happens to a pool is told to `tracing`. In a process of its own, since the global subscriber is set once.

use procession_pool::Pool;
use procession_testkit::{isolated, watchdog};
use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex},
    time::Duration,
};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// Level, message, the span's name, fields.
type Seen = (String, String, String, BTreeMap<String, String>);

#[derive(Clone, Default)]
struct Recorder {
    seen: Arc<Mutex<Vec<Seen>>>,
    pool: Arc<Mutex<Option<Arc<Pool>>>>,
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        assert_eq!(event.metadata().target(), "procession_pool");
        // A subscriber may use the very pool that it is told of.
        if let Some(pool) = &*self.pool.lock().unwrap() {
            let _ = pool.stats();
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.0.remove("message").unwrap_or_default();
        let span = context.event_span(event).map_or("", |span| span.name());
        let level = event.metadata().level().to_string();
        self.seen.lock().unwrap().push((level, message, span.to_owned(), fields.0));
    }
}

fn same(n: u64) -> u64 {
    n
}

fn die_at_3(n: u64) -> u64 {
    if n == 3 {
        std::process::abort();
    }
    n
}

fn hang(_: u64) {
    loop {
        std::thread::park();
    }
}

#[test]
fn starts_ends_losses_retries_limits_and_the_end_of_a_pool_are_told_in_their_order_and_to_a_subscriber_that_uses_it()
 {
    isolated!({
        let _watchdog = watchdog!();
        let recorder = Recorder::default();
        tracing_subscriber::registry().with(recorder.clone()).with(LevelFilter::INFO).init();
        let pool = Arc::new(Pool::builder().workers(1).build().unwrap());
        *recorder.pool.lock().unwrap() = Some(pool.clone());
        pool.map(same, 0..10).unwrap();
        assert_eq!(
            pool.tasks(die_at_3, 0..5).retry(1).collect_results().iter().filter(|r| r.is_err()).count(),
            1
        );
        assert!(pool.tasks(die_at_3, [3]).retry(9).quarantine(2).collect().is_err());
        assert!(pool.tasks(hang, [0]).deadline(Duration::from_millis(20)).collect().is_err());
        recorder.pool.lock().unwrap().take();
        Arc::into_inner(pool).unwrap().join();
        let seen = recorder.seen.lock().unwrap();
        let told: Vec<String> =
            seen.iter().map(|(level, message, ..)| format!("{level} {message}")).collect();
        let death = ["WARN worker ended", "INFO worker replaced"];
        let count = |what: &str| told.iter().filter(|told| *told == what).count();
        assert_eq!(told[0], "INFO worker started", "{told:#?}");
        assert_eq!((count("WARN task retried"), count("WARN task lost")), (2, 1), "{told:#?}");
        assert_eq!((count("ERROR task quarantined"), count("WARN task timed out")), (1, 1), "{told:#?}");
        assert_eq!((count(death[0]), count("INFO worker ended")), (4, 2), "{told:#?}");
        assert_eq!(count(death[1]), 5, "{told:#?}");
        assert_eq!((count("INFO pool closed"), count("INFO pool terminated")), (1, 0), "{told:#?}");
        for (_, message, span, fields) in seen.iter() {
            assert_eq!(message.starts_with("worker"), span == "worker", "{message} {span}");
            assert_eq!(message.starts_with("worker"), fields.contains_key("name"), "{message} {fields:?}");
        }
        let lost = seen.iter().find(|(_, message, ..)| message == "task lost").unwrap();
        assert_eq!((lost.3["item"].as_str(), lost.3["attempt"].as_str()), ("3", "2"));
        assert!(lost.3["error"].contains("SIGABRT"), "{lost:?}");
    });
}
