//! Several processes at once: start all, then join all.
//!
//! Python: `ps = [Process(target=work, args=(n,)) for n in range(4)]`, `for p in ps: p.start()`, `for p in ps: p.join()`.
//!
//! ```sh
//! cargo run --example several
//! ```
// ci: => all four are joined, and one of two failed

use procession::prelude::*;
use std::error::Error;

fn work(number: u32, letters: String) -> String {
    format!("{number}{letters}")
}

fn reciprocal(n: i32) -> i32 {
    100 / n
}

fn main() -> Result<(), Box<dyn Error>> {
    // `spawn!` is written like the call that it makes, with as many arguments as the function has. All of them run before
    // the first is joined: `collect` starts them.
    let children: Vec<_> = (0..4).map(|n| spawn!(work(n, "ab".to_owned()))).collect::<Result<_, _>>()?;
    println!("{} of them are still at work", active_children().len());
    let values: Vec<String> = children.iter().map(|child| child.join()).collect::<Result<_, _>>()?;
    assert_eq!(values, ["0ab", "1ab", "2ab", "3ab"]);
    // Like Python's, the list forgets what has been joined.
    assert!(active_children().is_empty());

    // A scope joins what was started in it, also on the way out by `?`. A panic in a child is the error of its `join`, with
    // message and place; the others are not concerned.
    let failures = scope(|scope| {
        let pair = [scope.spawn(reciprocal, 5)?, scope.spawn(reciprocal, 0)?];
        let errors: Vec<JoinError> = pair.iter().filter_map(|child| child.join().err()).collect();
        Ok::<_, Box<dyn Error>>(errors)
    })?;
    let [error] = &failures[..] else { return Err(format!("{failures:?}").into()) };
    println!("{error}");
    println!("all four are joined, and one of two failed");
    Ok(())
}
