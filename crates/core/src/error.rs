//! The shape that the error of every seam has: a small public kind, a message, a source.

/// Defines an error and its kind, with one constructor a kind for implementors.
macro_rules! seam_error {
    (
        $(#[$doc:meta])* $error:ident,
        $(#[$kdoc:meta])* $kind:ident { $($(#[$vdoc:meta])* $variant:ident, $ctor:ident;)* }
    ) => {
        $(#[$kdoc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $kind { $($(#[$vdoc])* $variant,)* }

        $(#[$doc])*
        ///
        /// The message says what happened, the source why; neither holds a secret.
        #[derive(Debug)]
        pub struct $error {
            kind: $kind,
            message: String,
            source: Option<Box<dyn std::error::Error + Send + Sync>>,
        }

        impl $error {
            /// Returns an error of that kind.
            pub fn new(kind: $kind, message: impl Into<String>) -> Self {
                Self { kind, message: message.into(), source: None }
            }

            $(
                #[doc = concat!("Returns an error of kind [`", stringify!($kind), "::", stringify!($variant), "`].")]
                pub fn $ctor(message: impl Into<String>) -> Self {
                    Self::new($kind::$variant, message)
                }
            )*

            /// Adds the cause.
            #[must_use]
            pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
                self.source = Some(source.into());
                self
            }

            /// Returns what to do about it.
            #[must_use]
            pub const fn kind(&self) -> $kind {
                self.kind
            }
        }

        impl std::fmt::Display for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.message)
            }
        }

        impl std::error::Error for $error {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.source.as_deref().map(|e| e as _)
            }
        }
    };
}
pub(crate) use seam_error;

/// Prints an error with all its causes, one line, `: ` in between.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
