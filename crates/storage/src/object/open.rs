//! From a URL and options to a bucket of a cloud.
//!
//! Nothing is read from the environment: a host that wants `AWS_…` or `AZURE_…` variables passes
//! them as options, whose names are those of `object_store`'s settings, in any case, with or without prefix.

use std::collections::BTreeMap;

use windlass_core::{ObjectKey, StorageError};

use super::ObjectStorage;

/// Schemes of clouds, whether or not this build speaks to them.
const SCHEMES: [&str; 7] = ["s3", "s3a", "az", "azure", "abfs", "abfss", "gs"];

/// A URL in its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place<'a> {
    /// What is before `@`, or all up to the first `/`.
    bucket: &'a str,
    /// The host that is behind an `@`.
    host: Option<&'a str>,
    prefix: ObjectKey,
}

impl ObjectStorage {
    /// Opens `s3://BUCKET/PREFIX`, `az://CONTAINER/PREFIX` (also `abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX`)
    /// or `gs://BUCKET/PREFIX`, and probes what the service can do.
    ///
    /// Options are `object_store`'s settings (`endpoint`, `region`, `access_key_id`, `account_name`, …) and
    /// `signed_payload`: `true` hashes every S3 upload with SHA-256, which halves its speed. It is the
    /// default over plain HTTP only, where nothing else protects the bytes.
    ///
    /// # Errors
    /// [`windlass_core::StorageErrorKind::Unsupported`] names a scheme or an option that is not known, or the feature that
    /// is missing; `Unavailable` if the service can't be reached within about 30 s; `Denied` if it
    /// refuses the credentials.
    ///
    /// ```no_run
    /// # async fn open() -> Result<(), windlass_core::StorageError> {
    /// let options = [("region".to_owned(), "eu-west-3".to_owned())].into();
    /// let lake = windlass_storage::ObjectStorage::open("s3://lake/models", &options).await?;
    /// # Ok(()) }
    /// ```
    pub async fn open(url: &str, options: &BTreeMap<String, String>) -> Result<Self, StorageError> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(unknown(url));
        };
        if !SCHEMES.contains(&scheme) {
            return Err(unknown(url));
        }
        let place = parse(url, rest)?;
        match scheme {
            "s3" | "s3a" => {
                #[cfg(feature = "s3")]
                return cloud::s3(place, options).await;
                #[cfg(not(feature = "s3"))]
                Err(missing("s3", place, options))
            }
            "az" | "azure" | "abfs" | "abfss" => {
                #[cfg(feature = "azure")]
                return cloud::azure(place, options).await;
                #[cfg(not(feature = "azure"))]
                Err(missing("azure", place, options))
            }
            "gs" => {
                #[cfg(feature = "gcs")]
                return cloud::gcs(place, options).await;
                #[cfg(not(feature = "gcs"))]
                Err(missing("gcs", place, options))
            }
            _ => Err(unknown(url)),
        }
    }
}

fn unknown(url: &str) -> StorageError {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    StorageError::unsupported(format!(
        "no storage has such a URL: write file:///PATH, memory://, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or gs://BUCKET/PREFIX scheme=`{scheme}`"
    ))
}

#[cfg(not(all(feature = "s3", feature = "azure", feature = "gcs")))]
fn missing(feature: &str, place: Place<'_>, _options: &BTreeMap<String, String>) -> StorageError {
    let Place {
        bucket,
        host: _,
        prefix,
    } = place;
    StorageError::unsupported(format!(
        "this program was built without support for such storage: build it with the feature `{feature}` of windlass-storage bucket=`{bucket}` prefix=`{prefix}`"
    ))
}

fn parse<'a>(url: &str, rest: &'a str) -> Result<Place<'a>, StorageError> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (bucket, host) = match authority.split_once('@') {
        Some((bucket, host)) => (bucket, Some(host)),
        None => (authority, None),
    };
    // Some servers fail each call on a bucket with a shorter name, which S3 doesn't allow either.
    if bucket.len() < 3 {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        return Err(StorageError::unsupported(format!(
            "a bucket or container has a name of at least 3 characters: write {scheme}://NAME/PREFIX name=`{bucket}`"
        )));
    }
    Ok(Place {
        bucket,
        host,
        prefix: ObjectKey::parse(path)?,
    })
}

#[cfg(any(feature = "s3", feature = "azure", feature = "gcs"))]
mod cloud {
    use std::str::FromStr;
    use std::sync::Arc;
    use std::time::Duration;

    use object_store::{ClientOptions, ObjectStore, RetryConfig};

    use super::*;
    use crate::object::Service;

    /// How long a request may stand still. There is no limit on its whole time, which depends on its size.
    const SILENCE: Duration = Duration::from_secs(30);
    const CONNECT: Duration = Duration::from_secs(5);
    /// How long `object_store` tries again by itself; who wants more wraps in [`crate::RetryStorage`].
    const RETRIES: Duration = Duration::from_secs(30);

    fn client() -> ClientOptions {
        ClientOptions::new()
            .with_timeout_disabled()
            .with_read_timeout(SILENCE)
            .with_connect_timeout(CONNECT)
    }

    fn retries() -> RetryConfig {
        RetryConfig {
            max_retries: 6,
            retry_timeout: RETRIES,
            ..RetryConfig::default()
        }
    }

    /// Reads our own options, and hands the others to a builder.
    fn configure<B, K: FromStr>(
        mut builder: B,
        options: &BTreeMap<String, String>,
        own: &[&str],
        set: impl Fn(B, K, String) -> B,
    ) -> Result<B, StorageError> {
        for (name, value) in options {
            let name = name.to_ascii_lowercase();
            if own.contains(&name.as_str()) {
                continue;
            }
            let key = name.parse().map_err(|_| {
                StorageError::unsupported(format!("the storage has no such option option=`{name}`"))
            })?;
            builder = set(builder, key, value.clone());
        }
        Ok(builder)
    }

    fn built<S: ObjectStore>(
        result: object_store::Result<S>,
    ) -> Result<Arc<dyn ObjectStore>, StorageError> {
        result.map(|s| Arc::new(s) as _).map_err(|e| {
            StorageError::unsupported("the options of the storage don't fit together")
                .with_source(e)
        })
    }

    fn flag(options: &BTreeMap<String, String>, name: &str) -> Result<Option<bool>, StorageError> {
        let value = options.iter().find(|(k, _)| k.eq_ignore_ascii_case(name));
        match value.map(|(_, v)| v.as_str()) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(StorageError::unsupported(format!(
                "the option must be `true` or `false` option=`{name}`"
            ))),
        }
    }

    /// Refuses plain HTTP that nobody asked for, before a request fails without a word about it.
    fn check_http(options: &BTreeMap<String, String>) -> Result<bool, StorageError> {
        let plain = options
            .iter()
            .any(|(k, v)| k.to_ascii_lowercase().ends_with("endpoint") && v.starts_with("http://"));
        let allowed = ["allow_http", "aws_allow_http", "azure_allow_http"]
            .into_iter()
            .try_fold(false, |any, name| {
                Ok::<_, StorageError>(any || flag(options, name)?.unwrap_or(false))
            })?;
        if plain && !allowed {
            return Err(StorageError::unsupported(
                "the endpoint is plain HTTP, which anybody on the way can read and change: use https, or set the option allow_http to true",
            ));
        }
        Ok(plain)
    }

    #[cfg(feature = "s3")]
    pub(super) async fn s3(
        place: Place<'_>,
        options: &BTreeMap<String, String>,
    ) -> Result<ObjectStorage, StorageError> {
        use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
        let plain = check_http(options)?;
        let signed = flag(options, "signed_payload")?.unwrap_or(plain);
        let builder = AmazonS3Builder::new()
            .with_client_options(client())
            .with_retry(retries())
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_unsigned_payload(!signed)
            .with_bucket_name(place.bucket);
        let set = |b: AmazonS3Builder, k: AmazonS3ConfigKey, v: String| b.with_config(k, v);
        let builder = configure(builder, options, &["signed_payload"], set)?;
        ObjectStorage::probed(built(builder.build())?, Service::S3, place.prefix).await
    }

    #[cfg(feature = "azure")]
    pub(super) async fn azure(
        place: Place<'_>,
        options: &BTreeMap<String, String>,
    ) -> Result<ObjectStorage, StorageError> {
        use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
        check_http(options)?;
        let mut builder = MicrosoftAzureBuilder::new()
            .with_client_options(client())
            .with_retry(retries())
            .with_container_name(place.bucket);
        if let Some(account) = place.host.and_then(|h| h.split('.').next()) {
            builder = builder.with_account(account);
        }
        let set = |b: MicrosoftAzureBuilder, k: AzureConfigKey, v: String| b.with_config(k, v);
        let builder = configure(builder, options, &[], set)?;
        ObjectStorage::probed(built(builder.build())?, Service::Azure, place.prefix).await
    }

    #[cfg(feature = "gcs")]
    pub(super) async fn gcs(
        place: Place<'_>,
        options: &BTreeMap<String, String>,
    ) -> Result<ObjectStorage, StorageError> {
        use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
        check_http(options)?;
        let builder = GoogleCloudStorageBuilder::new()
            .with_client_options(client())
            .with_retry(retries())
            .with_bucket_name(place.bucket);
        let set = |b: GoogleCloudStorageBuilder, k: GoogleConfigKey, v: String| b.with_config(k, v);
        let builder = configure(builder, options, &[], set)?;
        ObjectStorage::probed(built(builder.build())?, Service::Gcs, place.prefix).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_falls_into_its_parts() {
        for (url, bucket, host, prefix) in [
            ("s3://lake", "lake", None, ""),
            ("s3://lake/", "lake", None, ""),
            ("s3://lake/a/b/", "lake", None, "a/b"),
            (
                "abfss://raw@acc.dfs.core.windows.net/x",
                "raw",
                Some("acc.dfs.core.windows.net"),
                "x",
            ),
        ] {
            let place = parse(url, url.split_once("://").unwrap().1).unwrap();
            assert_eq!(
                (place.bucket, place.host, place.prefix.as_str()),
                (bucket, host, prefix)
            );
        }
        assert!(parse("s3://ab/x", "ab/x").is_err());
        assert!(parse("s3:///x", "/x").is_err());
        assert!(parse("s3://lake/../x", "lake/../x").is_err());
    }

    #[tokio::test]
    async fn an_unknown_scheme_and_a_missing_feature_are_named() {
        let options = BTreeMap::new();
        let e = ObjectStorage::open("ftp://lake", &options)
            .await
            .unwrap_err();
        assert!(e.to_string().contains("scheme=`ftp`"), "{e}");
        #[cfg(not(feature = "s3"))]
        {
            let e = ObjectStorage::open("s3://lake", &options)
                .await
                .unwrap_err();
            assert!(e.to_string().contains("feature `s3`"), "{e}");
        }
        #[cfg(feature = "s3")]
        {
            let with = |k: &str, v: &str| BTreeMap::from([(k.to_owned(), v.to_owned())]);
            let e = ObjectStorage::open("s3://lake", &with("bukket", "x"))
                .await
                .unwrap_err();
            assert!(e.to_string().contains("option=`bukket`"), "{e}");
            let plain = with("endpoint", "http://127.0.0.1:1");
            let e = ObjectStorage::open("s3://lake", &plain).await.unwrap_err();
            assert!(e.to_string().contains("allow_http"), "{e}");
        }
    }
}
