//! TLS by rustls: the certificate of the server is always checked, with its name.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio_postgres_rustls::MakeRustlsConnect;
use windlass_core::run_store::StoreError;

use super::PostgresOptions;

/// Returns what makes connections to a server whose certificate the options trust.
pub(super) fn connector(options: &PostgresOptions) -> Result<MakeRustlsConnect, StoreError> {
    // Not the process's default: another library of the host may have set it, or not.
    let provider: Arc<CryptoProvider> = rustls::crypto::aws_lc_rs::default_provider().into();
    let failed = |e| StoreError::incompatible("TLS can't be set up").with_source(e);
    let builder = ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(failed)?;
    let builder = match &options.root_certificate {
        Some(_) => builder.with_root_certificates(roots(options)?),
        None => builder.with_platform_verifier().map_err(failed)?,
    };
    Ok(MakeRustlsConnect::new(builder.with_no_client_auth()))
}

fn roots(options: &PostgresOptions) -> Result<RootCertStore, StoreError> {
    let path = options.root_certificate.clone().unwrap_or_default();
    let wrong = |why: &dyn std::fmt::Display| {
        StoreError::incompatible(format!(
            "the root certificate can't be used: name a PEM file path=`{}` why=`{why}`",
            path.display()
        ))
    };
    let certificates = CertificateDer::pem_file_iter(&path).map_err(|e| wrong(&e))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|e| wrong(&e))?;
        roots.add(certificate).map_err(|e| wrong(&e))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"there is none in it"));
    }
    Ok(roots)
}
