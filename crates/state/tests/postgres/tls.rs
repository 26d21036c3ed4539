//! TLS: asked for, checked, and refused where the certificate isn't the server's.

use std::path::Path;
use std::process::Command;

use windlass_core::ShardSet;
use windlass_core::run_store::{RunStore, StoreErrorKind};
use windlass_state::{PostgresOptions, PostgresStore};

use crate::kit::{Cluster, admin, join, renew};

/// Makes a certificate for 127.0.0.1, which is its own authority.
fn certify(folder: &Path) -> String {
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    let how = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
        -subj /CN=windlass-test -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    let mut openssl = Command::new("openssl");
    openssl.args(how.split_whitespace());
    openssl
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    let made = openssl.output().unwrap();
    assert!(made.status.success(), "{made:?}");
    format!(
        "-c ssl=on -c ssl_key_file={} -c ssl_cert_file={}",
        key.display(),
        certificate.display()
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_spoken_to_by_tls_and_must_be_the_one_it_says() {
    let Some(cluster) = Cluster::prepared("TLS", certify) else {
        return;
    };
    let options = PostgresOptions {
        root_certificate: Some(cluster.folder().join("certificate.pem")),
        ..PostgresOptions::new(format!("{}?sslmode=verify-full", cluster.url()))
    };
    PostgresStore::migrate(&options).await.unwrap();
    let store = join(&options).await;
    assert_eq!(renew(&store).await.held, ShardSet::ALL);
    store.sharing().unwrap().woken().await;
    let client = admin(&cluster.url().parse().unwrap()).await;
    let sql = "SELECT count(*), count(*) FILTER (WHERE ssl) FROM pg_stat_ssl \
        JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'windlass %'";
    let row = client.query_one(sql, &[]).await.unwrap();
    let (all, secure): (i64, i64) = (row.get(0), row.get(1));
    assert!(all >= 3 && all == secure, "{secure} of {all}");
    // Another name than the certificate has, and an authority that nobody knows.
    let misnamed = PostgresOptions {
        url: options.url.replace("127.0.0.1", "localhost"),
        ..options.clone()
    };
    let stranger = PostgresOptions {
        root_certificate: None,
        ..options.clone()
    };
    for options in [misnamed, stranger] {
        let error = PostgresStore::connect(options).await.unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Unavailable);
        let why = windlass_core::error_chain(&error);
        assert!(why.contains("certificate"), "{why}");
    }
    let nothing = PostgresOptions {
        root_certificate: Some(cluster.folder().join("key.pem")),
        ..options
    };
    let error = PostgresStore::connect(nothing).await.unwrap_err();
    assert_eq!(error.kind(), StoreErrorKind::Incompatible, "{error}");
}
