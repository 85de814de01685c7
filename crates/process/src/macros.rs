//! Calls that read like calls.

/// Starts a process that runs a function on several arguments.
///
/// The function is named by its path; what it is given is evaluated and encoded here. It gives what
/// [`Process::spawn`](crate::Process::spawn) gives.
///
/// ```no_run
/// use procession_process::spawn;
///
/// fn area(width: u32, height: u32) -> u32 {
///     width * height
/// }
///
/// let child = spawn!(area(3, 4))?;
/// assert_eq!(child.join()?, 12);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[macro_export]
macro_rules! spawn {
    ($($path:ident)::+ ($($argument:expr),* $(,)?)) => {
        $crate::spawn!(@name ($($path)::+) [$($argument),*] [a b c d e f g h i j k l] [])
    };
    (@name ($($path:ident)::+) [] [$($free:ident)*] [$(($name:ident $argument:expr))*]) => {
        $crate::Process::spawn(|($($name,)*)| $($path)::+($($name),*), ($($argument,)*))
    };
    (@name $path:tt [$argument:expr $(, $rest:expr)*] [$name:ident $($free:ident)*] [$($done:tt)*]) => {
        $crate::spawn!(@name $path [$($rest),*] [$($free)*] [$($done)* ($name $argument)])
    };
}
