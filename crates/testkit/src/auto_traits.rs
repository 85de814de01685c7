//! What may go to another thread, and what may be used from several: facts that a change of a private field alters without
//! a word. The macros fail to compile where they do not hold.

/// Each of the types is `Send` and `Sync`.
#[macro_export]
macro_rules! send_and_sync {
    ($($type:ty),+ $(,)?) => {{
        fn holds<T: ?Sized + Send + Sync>() {}
        $(holds::<$type>();)+
    }};
}

/// Each of the types is `Send`: it may move to another thread.
#[macro_export]
macro_rules! send {
    ($($type:ty),+ $(,)?) => {{
        fn holds<T: ?Sized + Send>() {}
        $(holds::<$type>();)+
    }};
}

/// None of the types is `Send`: each belongs to the thread that made it.
///
/// ```compile_fail
/// procession_testkit::not_send!(String);
/// ```
#[macro_export]
macro_rules! not_send {
    ($($type:ty),+ $(,)?) => {$({
        // Two blanket impls fit a type that is `Send`, so that the call below is ambiguous.
        trait Fits<A> {
            fn fits() {}
        }
        struct BySend;
        impl<T: ?Sized> Fits<()> for T {}
        impl<T: ?Sized + Send> Fits<BySend> for T {}
        <$type as Fits<_>>::fits();
    })+};
}
