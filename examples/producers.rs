//! Two producers and three consumers over a queue, and an end without a sentinel: the queue is closed.
//! One consumer is killed with an item in hand, which comes to another one.
//!
//! Python: a `None` in the queue for each consumer. An item that a killed consumer had taken is lost there.
//!
//! ```sh
//! cargo run --release --example producers
//! ```
// ci: => every number was seen

use procession::{Policy, prelude::*};
use std::error::Error;

const EACH: u64 = 20_000;

/// Puts some numbers.
fn produce((numbers, from): (Queue<u64>, u64)) {
    for n in from..from + EACH {
        numbers.put(n).expect("the queue is open until all producers are done");
    }
}

/// Adds up what comes, until the end of the queue.
fn consume((numbers, sums): (Queue<u64>, Queue<u64>)) {
    // A claim is acknowledged when it is dropped: so the sum must be safe elsewhere by then.
    while let Ok(number) = numbers.claim() {
        sums.put(*number).expect("the sums' queue is open");
    }
}

/// Takes one, and works on it for ever.
fn dawdle((numbers, taken): (Queue<u64>, Queue<u64>)) {
    let number = numbers.claim().expect("there are numbers");
    taken.put(*number).expect("the other queue is open");
    loop {
        std::thread::park();
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let numbers = Queue::builder().capacity(1000).policy(Policy::Redeliver).build()?;
    let (sums, taken) = (Queue::unbounded()?, Queue::unbounded()?);

    let slow = Process::spawn(dawdle, (numbers.clone(), taken.clone()))?;
    let producers = [0, EACH].map(|from| Process::spawn(produce, (numbers.clone(), from)));
    let stuck = taken.get()?;
    let consumers = [(); 3].map(|()| Process::spawn(consume, (numbers.clone(), sums.clone())));
    println!("killing the consumer that has {stuck} in hand");
    slow.kill()?;
    for producer in producers {
        producer?.join()?;
    }
    // Consumers get what is there, what comes back from the dead included, and then the end.
    numbers.close()?;
    for consumer in consumers {
        consumer?.join()?;
    }
    sums.close()?;
    let mut total = 0;
    for number in &sums {
        total += number?;
    }
    assert_eq!(total, (0..2 * EACH).sum::<u64>());
    println!("every number was seen: {total} in all");
    Ok(())
}
