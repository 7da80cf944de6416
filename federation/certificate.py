"""The TLS certificate of a node, made from its own key, and the contexts that links use: TLS 1.3 alone, no resumption.

Whoever dials checks one thing: that the certificate holds the key that was dialled (`key_of`), and TLS itself checks
that the other side has that key. Names, dates and issuers in certificates say nothing here. A node always makes the
same certificate of the same key.

OpenSSL takes keys from files alone. So the key is written encrypted under a password that exists for that moment, and
what is on the disk for a moment tells nobody anything.
"""

import os
import ssl
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from federation.identity import NodeKey

MAX_CERTIFICATE: Final = 4096  # bytes; ours have some 300
_NOT_BEFORE: Final = datetime(2000, 1, 1, tzinfo=UTC)
_NOT_AFTER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)  # RFC 5280, 4.1.2.5: no well-defined expiry


class CertificateError(ValueError):
    """The other side's certificate does not hold an Ed25519 key."""


def make_certificate(key: NodeKey) -> bytes:
    """The self-signed certificate of `key`, DER. The same bytes each time."""
    private = Ed25519PrivateKey.from_private_bytes(key.seed)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, key.did)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .sign(private, None)
    )
    return certificate.public_bytes(serialization.Encoding.DER)


def key_of(certificate: bytes) -> bytes:
    """The 32 bytes of the Ed25519 key in a certificate (DER). Raises CertificateError."""
    if len(certificate) > MAX_CERTIFICATE:
        raise CertificateError(f"a certificate of {len(certificate):,} bytes; the most is {MAX_CERTIFICATE:,}")
    try:
        public = x509.load_der_x509_certificate(certificate).public_key()
    except Exception as error:  # whatever cryptography makes of foreign bytes
        raise CertificateError(f"the certificate cannot be read: {error}") from None
    if not isinstance(public, Ed25519PublicKey):
        raise CertificateError("the certificate is not of an Ed25519 key")
    return public.public_bytes_raw()


def server_context(key: NodeKey, certificate: bytes) -> ssl.SSLContext:
    """What a node listens with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    _load(context, key, certificate)
    return context


def client_context() -> ssl.SSLContext:
    """What a node dials with. It takes any certificate: whoever dials must compare `key_of` with the key dialled."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _load(context: ssl.SSLContext, key: NodeKey, certificate: bytes) -> None:
    password = os.urandom(32).hex()
    pem = Ed25519PrivateKey.from_private_bytes(key.seed).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(password.encode()),
    )
    with tempfile.TemporaryDirectory(prefix="kosreg-") as directory:
        path = Path(directory) / "node.pem"
        path.touch(0o600)
        path.write_bytes(pem + ssl.DER_cert_to_PEM_cert(certificate).encode())
        context.load_cert_chain(path, password=password)
