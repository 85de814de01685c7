//! The name of the test that one stands in.

/// The path of the enclosing function without the crate's name, as a test harness names it: `lock::survivor_…`.
///
/// Taken from the type of an item inside the function, so it does not depend on how the harness names threads.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        $crate::name::enclosing(here)
    }};
}

/// The path of the function that `item` is declared in, as [`test_name!`](crate::test_name!) gives it.
#[doc(hidden)]
pub fn enclosing<F>(_item: F) -> &'static str {
    let path = std::any::type_name::<F>();
    let mut path = path.rsplit_once("::").map_or(path, |(outer, _)| outer);
    while let Some(outer) = path.strip_suffix("::{{closure}}") {
        path = outer;
    }
    path.split_once("::").map_or(path, |(_, inner)| inner)
}

/// The path of `function` itself, without the crate's name.
pub(crate) fn of<F>(_function: &F) -> &'static str {
    let path = std::any::type_name::<F>();
    path.split_once("::").map_or(path, |(_, inner)| inner)
}
