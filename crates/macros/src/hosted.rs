//! `#[hosted] impl Counter { … }`: the proxy `CounterProxy`, and the list of methods by which a server knows the type.
//!
//! # What is exposed
//! The constructor `new`, and each method with a receiver and a `pub`, but those with `#[hosted(skip)]`. The proxy has the
//! visibility of `new`.

use proc_macro2::{Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{
    Attribute, Error, FnArg, Ident, ImplItem, ImplItemFn, ItemImpl, LitStr, Pat, Path, ReceiverKind, Result,
    ReturnType, Safety, Type, Visibility, parse::Parser, spanned::Spanned,
};

/// What stands in the attribute's brackets.
struct Options {
    name: Option<LitStr>,
    krate: Path,
}

/// A method, or the constructor.
struct Method<'a> {
    function: &'a ImplItemFn,
    arguments: Vec<(Ident, &'a Type)>,
    /// Attributes that the generated code has too.
    cfg: Vec<&'a Attribute>,
    doc: Vec<&'a Attribute>,
}

pub(crate) fn expand(attribute: TokenStream, item: TokenStream, krate: &str) -> TokenStream {
    match expanded(attribute, item.clone(), krate) {
        Ok(tokens) => tokens,
        Err(error) => {
            // The block as it is, so that its methods are there and this is the only error.
            let error = error.into_compile_error();
            let item = without_skips(item.clone()).unwrap_or(item);
            quote!(#item #error)
        }
    }
}

fn without_skips(item: TokenStream) -> Result<TokenStream> {
    let mut block: ItemImpl = syn::parse2(item)?;
    drop(take_skips(&mut block));
    Ok(block.into_token_stream())
}

fn expanded(attribute: TokenStream, item: TokenStream, krate: &str) -> Result<TokenStream> {
    let options = options(attribute, krate)?;
    let mut block: ItemImpl = syn::parse2(item).map_err(|error| {
        Error::new(error.span(), "`#[hosted]` goes on an `impl` block: `impl Counter { … }`")
    })?;
    let target = target(&block)?;
    let skipped = take_skips(&mut block)?;
    let (mut constructor, mut methods) = (None, Vec::new());
    for item in &block.items {
        let ImplItem::Fn(function) = item else { continue };
        let name = &function.sig.ident;
        if skipped.contains(name) || matches!(function.vis, Visibility::Inherited) {
            continue;
        }
        if function.sig.receiver().is_some() {
            methods.push(method(function)?);
        } else if name == "new" {
            constructor = Some(method(function)?);
        }
    }
    let constructor = constructor.ok_or_else(|| {
        let text =
            "a hosted type has a constructor, `pub fn new(…) -> Self`, which `create` calls in the server";
        Error::new(block.self_ty.span(), text)
    })?;
    let generated = generate(&options, &target, &constructor, &methods)?;
    Ok(quote!(#block #generated))
}

fn options(attribute: TokenStream, krate: &str) -> Result<Options> {
    let mut options = Options { name: None, krate: syn::parse_str(krate)? };
    let parser = syn::meta::parser(|meta| {
        if meta.path.is_ident("name") {
            options.name = Some(meta.value()?.parse()?);
        } else if meta.path.is_ident("crate") {
            options.krate = meta.value()?.parse::<LitStr>()?.parse()?;
        } else {
            return Err(meta.error("`#[hosted]` knows `name = \"…\"` and `crate = \"…\"`"));
        }
        Ok(())
    });
    parser.parse2(attribute)?;
    Ok(options)
}

/// The type's name: a plain one.
fn target(block: &ItemImpl) -> Result<Ident> {
    if let Some((path, _)) = &block.trait_ {
        return Err(Error::new(path.span(), "`#[hosted]` goes on the type's own methods, not on a trait's"));
    }
    if !block.generics.params.is_empty() {
        return Err(Error::new(
            block.generics.span(),
            "a hosted type has no parameters: a server must know it by one name. \
             Host a type of its own that holds the generic one",
        ));
    }
    if let Type::Path(path) = &*block.self_ty
        && let Some(last) = path.path.segments.last()
        && path.path.segments.len() == 1
        && last.arguments.is_none()
    {
        return Ok(last.ident.clone());
    }
    Err(Error::new(block.self_ty.span(), "`#[hosted]` goes on a type's plain name: `impl Counter`"))
}

/// Removes `#[hosted(skip)]`, and tells where it was.
fn take_skips(block: &mut ItemImpl) -> Result<Vec<Ident>> {
    let (mut skipped, mut outcome) = (Vec::new(), Ok(()));
    for item in &mut block.items {
        let ImplItem::Fn(function) = item else { continue };
        function.attrs.retain(|attribute| {
            if !attribute.path().is_ident("hosted") {
                return true;
            }
            match attribute.parse_args::<Ident>() {
                Ok(word) if word == "skip" => skipped.push(function.sig.ident.clone()),
                _ => {
                    outcome = Err(Error::new(attribute.span(), "on a method, `#[hosted]` knows `skip` only"))
                }
            }
            false
        });
    }
    outcome.map(|()| skipped)
}

fn method(function: &ImplItemFn) -> Result<Method<'_>> {
    let signature = &function.sig;
    let refuse = |span: Span, text: &str| Err(Error::new(span, text));
    if !signature.generics.params.is_empty() {
        return refuse(
            signature.generics.span(),
            "a hosted method has no parameters: a server must know it by one name and signature. \
             Mark it `#[hosted(skip)]` to leave it out",
        );
    }
    if let Some(word) = &signature.asyncness {
        return refuse(word.span(), "a hosted method is not `async`: it runs on a thread of the server");
    }
    if let Safety::Unsafe(word) = &signature.safety {
        return refuse(word.span(), "a hosted method is not `unsafe`: anybody with a proxy may call it");
    }
    let mut arguments = Vec::new();
    for input in &signature.inputs {
        match input {
            FnArg::Receiver(receiver) => {
                if !matches!(receiver.kind, ReceiverKind::Reference(..)) {
                    let text = "a hosted method takes `&self` or `&mut self`: the object stays in the server";
                    return refuse(receiver.span(), text);
                }
            }
            FnArg::Typed(typed) => {
                let Pat::Ident(pattern) = &*typed.pat else {
                    return refuse(typed.pat.span(), "an argument of a hosted method has a plain name");
                };
                check_type(&typed.ty)?;
                arguments.push((pattern.ident.clone(), &*typed.ty));
            }
        }
    }
    if let ReturnType::Type(_, result) = &signature.output
        && signature.receiver().is_some()
    {
        check_type(result)?;
    }
    let of = |name| function.attrs.iter().filter(move |attribute| attribute.path().is_ident(name)).collect();
    Ok(Method { function, arguments, cfg: of("cfg"), doc: of("doc") })
}

/// Refuses what cannot go to the server and back.
fn check_type(of: &Type) -> Result<()> {
    match of {
        Type::Reference(reference) => {
            let text = "what goes to a server and back is owned: `String`, not `&str`; `Vec<T>`, not `&[T]`";
            return Err(Error::new(reference.span(), text));
        }
        Type::ImplTrait(word) => {
            return Err(Error::new(word.span(), "a hosted method names its types: a server must know them"));
        }
        _ => {}
    }
    match find_self(of.to_token_stream()) {
        Some(span) => Err(Error::new(span, "here `Self` would be the proxy: write the type's name")),
        None => Ok(()),
    }
}

fn find_self(tokens: TokenStream) -> Option<Span> {
    tokens.into_iter().find_map(|token| match token {
        TokenTree::Ident(word) if word == "Self" => Some(word.span()),
        TokenTree::Group(group) => find_self(group.stream()),
        _ => None,
    })
}

fn generate(
    options: &Options,
    target: &Ident,
    constructor: &Method<'_>,
    methods: &[Method<'_>],
) -> Result<TokenStream> {
    let private = {
        let krate = &options.krate;
        quote!(#krate::__private)
    };
    let krate = &options.krate;
    let proxy = format_ident!("{target}Proxy", span = target.span());
    let name = options.name.clone().unwrap_or_else(|| LitStr::new(&target.to_string(), target.span()));
    if name.value().is_empty() {
        return Err(Error::new(name.span(), "a type's name is not empty"));
    }
    let visibility = &constructor.function.vis;
    let doc = format!("A proxy of a [`{target}`] in a manager's server.");
    let (names, types) = split(constructor);
    let make = quote! {
        |job| #private::make::<#target, (#(#types,)*), _>(job, |(#(#names,)*): (#(#types,)*)| #target::new(#(#names),*))
    };
    let arguments = quote!((#(#types,)*));
    let entries = methods.iter().map(|method| {
        let (names, types) = split(method);
        let (cfg, ident, result) = (&method.cfg, &method.function.sig.ident, result(method));
        let text = ident.to_string();
        quote_spanned! { ident.span() =>
            #(#cfg)*
            #private::MethodEntry::new::<(#(#types,)*), #result>(#text, |job| {
                #private::call::<#target, (#(#types,)*), #result>(job, |object: &mut #target, (#(#names,)*): (#(#types,)*)| {
                    object.#ident(#(#names),*)
                })
            })
        }
    });
    let forwards = methods.iter().map(|method| {
        let (names, types) = split(method);
        let (cfg, doc, visibility) = (&method.cfg, &method.doc, &method.function.vis);
        let (ident, result) = (&method.function.sig.ident, result(method));
        let text = ident.to_string();
        // What cannot be encoded is an error at the method that has it.
        let call = quote_spanned! { ident.span() =>
            #private::Instance::call::<(#(#types,)*), #result>(&self.object, #text, &(#(#names,)*))
        };
        quote! {
            #(#cfg)*
            #(#doc)*
            ///
            /// # Errors
            /// If the server is gone, knows no such method, or the method panics there.
            #visibility fn #ident(&self, #(#names: #types),*) -> #krate::Result<#result> {
                #call
            }
        }
    });
    Ok(quote! {
        #[doc = #doc]
        #[derive(Clone, PartialEq, Eq)]
        #[allow(unreachable_pub, dead_code, reason = "as visible as the constructor; not all methods need be called")]
        #visibility struct #proxy {
            object: #private::Instance,
        }

        #[allow(
            unreachable_pub, dead_code, clippy::too_many_arguments, clippy::should_implement_trait,
            clippy::len_without_is_empty, clippy::wrong_self_convention, clippy::double_must_use,
            reason = "the methods are those of the type"
        )]
        impl #proxy {
            #(#forwards)*
        }

        #[automatically_derived]
        impl #krate::Host for #target {
            const NAME: &'static str = #name;
            type Args = #arguments;
            type Proxy = #proxy;
        }

        #[automatically_derived]
        impl #private::HostProxy for #proxy {
            const NAME: &'static str = #name;
            fn of(object: #private::Instance) -> Self {
                #proxy { object }
            }
            fn instance(&self) -> &#private::Instance {
                &self.object
            }
        }

        #[automatically_derived]
        impl ::core::fmt::Debug for #proxy {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                ::core::fmt::Debug::fmt(&self.object, f)
            }
        }

        #[automatically_derived]
        impl #private::serde::Serialize for #proxy {
            fn serialize<S>(&self, serializer: S) -> ::core::result::Result<S::Ok, S::Error>
            where
                S: #private::serde::Serializer,
            {
                #private::Instance::serialize(&self.object, serializer)
            }
        }

        #[automatically_derived]
        impl<'de> #private::serde::Deserialize<'de> for #proxy {
            fn deserialize<D>(deserializer: D) -> ::core::result::Result<Self, D::Error>
            where
                D: #private::serde::Deserializer<'de>,
            {
                #private::deserialize::<Self, D>(deserializer)
            }
        }

        const _: () = {
            #[#private::linkme::distributed_slice(#private::TYPES)]
            #[linkme(crate = #private::linkme)]
            static ENTRY: #private::TypeEntry =
                #private::TypeEntry::new::<#target>(#make, &[#(#entries),*]);
        };
    })
}

/// Names and types of the arguments.
fn split<'a>(method: &'a Method<'_>) -> (Vec<&'a Ident>, Vec<&'a Type>) {
    method.arguments.iter().map(|(name, of)| (name, *of)).unzip()
}

fn result(method: &Method<'_>) -> TokenStream {
    match &method.function.sig.output {
        ReturnType::Default => quote!(()),
        ReturnType::Type(_, result) => result.to_token_stream(),
    }
}
