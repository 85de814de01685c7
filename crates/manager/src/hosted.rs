//! What all proxies have in common.

use crate::lease::{Form, Proxy};

pub(crate) mod sealed {
    use super::*;

    pub trait Sealed: Sized {
        #[doc(hidden)]
        #[expect(private_interfaces, reason = "nobody else implements or calls it")]
        fn form() -> Form;
        #[doc(hidden)]
        #[expect(private_interfaces, reason = "nobody else implements or calls it")]
        fn proxy(&self) -> &Proxy;
        #[doc(hidden)]
        #[expect(private_interfaces, reason = "nobody else implements or calls it")]
        fn from_proxy(proxy: Proxy) -> Self;
    }
}

/// A proxy of an object in a manager's server: what can be published, found, compared, and sent.
///
/// Each keeps its object alive. A clone is the same proxy. It implements `Serialize` and `Deserialize`: in parcels (arguments
/// of processes, messages of pipes) and inside of values that the same manager keeps.
pub trait Hosted: sealed::Sealed {
    /// The session with the server that keeps the object.
    fn session(&self) -> crate::Session {
        crate::Session::of(self.proxy().site.clone())
    }

    /// Plain data that stands for this proxy, for what carries no descriptors.
    ///
    /// # Errors
    /// If the server is gone.
    fn ticket(&self) -> crate::Result<crate::Ticket<Self>> {
        crate::Ticket::issue(self.proxy())
    }

    /// Names and signatures of the methods that the object has in its server, where the type is a
    /// [hosted](macro@crate::hosted) one; else none. Python's `get_methods`.
    ///
    /// # Errors
    /// If the server or the object is gone.
    fn methods(&self) -> crate::Result<Vec<(String, String)>> {
        Ok(Vec::new())
    }
}

/// Declares a proxy, with all that proxies have in common.
macro_rules! hosted {
    ($(#[$doc:meta])* $name:ident<$($param:ident),*>, $kind:ident) => {
        $(#[$doc])*
        pub struct $name<$($param),*> {
            pub(crate) proxy: $crate::lease::Proxy,
            types: std::marker::PhantomData<fn($($param),*) -> ($($param,)*)>,
        }

        impl<$($param: 'static),*> $crate::hosted::sealed::Sealed for $name<$($param),*> {
            #[allow(private_interfaces, reason = "nobody else implements or calls it")]
            fn form() -> $crate::lease::Form {
                $crate::lease::Form {
                    kind: $crate::proto::Type::$kind,
                    types: $crate::proto::type_number(&[$(std::any::type_name::<$param>()),*]),
                }
            }
            #[allow(private_interfaces, reason = "nobody else implements or calls it")]
            fn proxy(&self) -> &$crate::lease::Proxy {
                &self.proxy
            }
            #[allow(private_interfaces, reason = "nobody else implements or calls it")]
            fn from_proxy(proxy: $crate::lease::Proxy) -> Self {
                $name { proxy, types: std::marker::PhantomData }
            }
        }

        impl<$($param: 'static),*> $crate::Hosted for $name<$($param),*> {}

        impl<$($param),*> Clone for $name<$($param),*> {
            fn clone(&self) -> Self {
                $name { proxy: self.proxy.clone(), types: std::marker::PhantomData }
            }
        }

        /// Whether both are proxies of one object.
        impl<$($param),*> PartialEq for $name<$($param),*> {
            fn eq(&self, other: &Self) -> bool {
                self.proxy.is_same(&other.proxy)
            }
        }

        impl<$($param),*> Eq for $name<$($param),*> {}

        impl<$($param),*> std::fmt::Debug for $name<$($param),*> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.proxy.fmt(f)
            }
        }

        impl<$($param),*> serde::Serialize for $name<$($param),*> {
            fn serialize<Z: serde::Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
                $crate::lease::serialize(&self.proxy, serializer)
            }
        }

        impl<'de, $($param: 'static),*> serde::Deserialize<'de> for $name<$($param),*> {
            fn deserialize<Z: serde::Deserializer<'de>>(deserializer: Z) -> Result<Self, Z::Error> {
                let form = <Self as $crate::hosted::sealed::Sealed>::form();
                $crate::lease::deserialize(form, deserializer).map($crate::hosted::sealed::Sealed::from_proxy)
            }
        }
    };
}
pub(crate) use hosted;
