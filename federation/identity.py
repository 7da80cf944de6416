"""Who a node is: its Ed25519 key, the committed next key, how keys are written, and the two files that keep them.

A key file is text: comment lines, the DID, and `ed25519-seed:` with the 32 secret bytes in base64url. The DID is there
so that a damaged seed is noticed: any 32 bytes are some key, and a node that silently became another would lose its
name in every federation. The files are written whole (temporary file, fsync, link, fsync of the directory), never
overwritten, and refused when others may read them.

next.key is made before node.key, so wherever a node.key is, its successor once was. A change of keys makes after.key,
then next.key becomes node.key, and after.key becomes next.key: two renames, each of which leaves a pair that can be
used, and which may be done again (`finish_change`).
"""

import base64
import binascii
import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from nacl import bindings

SEED_BYTES: Final = 32
KEY_BYTES: Final = 32
NODE_KEY_FILE: Final = "node.key"
NEXT_KEY_FILE: Final = "next.key"
AFTER_KEY_FILE: Final = "after.key"  # during a change of keys
_NEXT: Final = "the key that this node changes to one day; its hash is published, so it cannot be replaced"

_MULTICODEC_ED25519: Final = b"\xed\x01"  # varint of 0xed
_DID_KEY: Final = "did:key:z"
_KIND_DID: Final = "kind:did:"
_KIND_SUFFIX: Final = "#ed25519"
_MAX_DID: Final = 128  # characters; the longest form has 68
_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGIT: Final = {char: value for value, char in enumerate(_ALPHABET)}
_SEED_LINE: Final = "ed25519-seed:"
_MAX_FILE: Final = 4096


class DidError(ValueError):
    """The text names no Ed25519 key in a form that we know."""


class KeyFileError(Exception):
    """A key file cannot be used or made. `detail` says what is wrong, `advice` what to do."""

    title = "The node's key cannot be used"

    def __init__(self, detail: str, advice: str) -> None:
        super().__init__(f"{detail} {advice}")
        self.detail = detail
        self.advice = advice


class NodeKey:
    """An Ed25519 key pair. `public`: 32 bytes, the origin of all that it signs; `did`: the same as text."""

    __slots__ = ("_secret", "did", "kind_did", "public")

    def __init__(self, seed: bytes) -> None:
        """`seed`: the 32 secret bytes of RFC 8032. Raises ValueError for another length."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
        self.public, self._secret = bindings.crypto_sign_seed_keypair(seed)
        self.did = did_of(self.public)
        self.kind_did = kind_did_of(self.public)

    @classmethod
    def generate(cls) -> "NodeKey":
        """A new key from the system's random bytes."""
        return cls(os.urandom(SEED_BYTES))

    @property
    def seed(self) -> bytes:
        """The secret itself: for key files and for signers that insist on holding the key. Never show or log it."""
        return self._secret[:SEED_BYTES]

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature (RFC 8032, pure Ed25519)."""
        return bindings.crypto_sign(message, self._secret)[:64]

    def derive(self, purpose: str) -> bytes:
        """32 secret bytes that only this key gives for `purpose` (keyed BLAKE2b). Different purposes tell nothing of
        each other or of the key."""
        return hashlib.blake2b(purpose.encode(), key=self.seed, digest_size=32, person=b"kosreg derive 1").digest()

    def __repr__(self) -> str:
        return f"<NodeKey {self.did}>"

    def __reduce__(self) -> str:
        raise TypeError("a node key is not pickled: it would end up where secrets do not belong")


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` (64 bytes) is by `public` over `message`: RFC 8032 as libsodium checks it (no small-order
    keys, no malleable S)."""
    if len(public) != KEY_BYTES or len(signature) != 64:
        return False
    try:
        bindings.crypto_sign_open(signature + message, public)
    except Exception as error:
        if type(error).__name__ == "BadSignatureError":
            return False
        raise
    return True


def did_of(public: bytes) -> str:
    """`did:key:z6Mk…` of 32 bytes."""
    return _DID_KEY + _base58(_MULTICODEC_ED25519 + public)


def kind_did_of(public: bytes) -> str:
    """`kind:did:<base64>#ed25519` of 32 bytes."""
    return f"{_KIND_DID}{base64.b64encode(public).decode()}{_KIND_SUFFIX}"


def parse_did(text: str) -> bytes:
    """The 32-byte public key that `text` names: `did:key:z…` (with or without its `#z…` fragment), or
    `kind:did:…#ed25519` in base64 or base64url, padded or not. Raises DidError for anything else: another key type, a
    second spelling of the same bytes, a wrong length."""
    if len(text) > _MAX_DID:
        raise DidError("too long for a DID of an Ed25519 key")
    if text.startswith(_DID_KEY):
        return _parse_did_key(text)
    if text.startswith(_KIND_DID):
        return _parse_kind_did(text)
    raise DidError("not a DID that kosreg knows: did:key:z6Mk… or kind:did:<base64>#ed25519")


def _parse_did_key(text: str) -> bytes:
    did, hash_sign, fragment = text.partition("#")
    if hash_sign and fragment != did.removeprefix("did:key:"):
        raise DidError("the fragment of a did:key repeats what stands after did:key:")
    number = 0
    for char in did.removeprefix(_DID_KEY):
        if char not in _DIGIT:
            raise DidError(f"{char!r} is no base58btc digit")
        number = number * 58 + _DIGIT[char]
    size = len(_MULTICODEC_ED25519) + KEY_BYTES
    if number.bit_length() > size * 8 or not (data := number.to_bytes(size, "big")).startswith(_MULTICODEC_ED25519):
        raise DidError("this did:key is not of an Ed25519 key (those begin with did:key:z6Mk)")
    public = data[len(_MULTICODEC_ED25519) :]
    if did_of(public) != did:
        raise DidError("not the one spelling of this did:key")
    return public


def _parse_kind_did(text: str) -> bytes:
    if not text.endswith(_KIND_SUFFIX):
        raise DidError("a kind:did ends with #ed25519")
    body = text[len(_KIND_DID) : -len(_KIND_SUFFIX)]
    digits = body.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        public = base64.b64decode(digits + "=" * (-len(digits) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise DidError("the key in this kind:did is neither base64 nor base64url") from None
    if len(public) != KEY_BYTES or len(body) - len(body.rstrip("=")) > 1:
        raise DidError("the key in this kind:did does not have 32 bytes")
    if base64.b64encode(public).decode().rstrip("=") != digits:
        raise DidError("not the one spelling of this kind:did")
    return public


def _base58(data: bytes) -> str:
    """base58btc (the alphabet of Bitcoin). `data` does not begin with a zero byte here, so no leading ones are
    needed."""
    number = int.from_bytes(data, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


def load_or_create(directory: Path) -> tuple[NodeKey, NodeKey]:
    """(node key, next key) of the data directory `directory`, which exists; both are made where there is no node.key
    yet.

    Raises KeyFileError where a file is damaged, readable by others, cannot be read or written, or where next.key is
    lost.
    """
    node_path, next_path = directory / NODE_KEY_FILE, directory / NEXT_KEY_FILE
    if not node_path.exists():
        if not next_path.exists():
            _write(next_path, NodeKey.generate(), _NEXT)
        _write(node_path, NodeKey.generate(), "the key of this node; who reads it can sign as this node")
    if not next_path.exists() and (directory / AFTER_KEY_FILE).exists():
        finish_change(directory)  # it was cut off between its two renames
    if not next_path.exists():
        raise KeyFileError(
            f"{next_path} is missing, but {node_path} is there.",
            "Put it back from a backup: other nodes may know its hash, so a new one would not do. "
            "If it is lost for good, move node.key away too: the node then starts with a new identity.",
        )
    return load(node_path), load(next_path)


def begin_change(directory: Path) -> NodeKey:
    """The key that is to come after next.key, in after.key. Raises KeyFileError."""
    return create(directory / AFTER_KEY_FILE, _NEXT)


def finish_change(directory: Path) -> None:
    """next.key becomes node.key, which is gone for good, and after.key becomes next.key. Does what is left of it where
    it was cut off; nothing where there is no after.key. Raises KeyFileError."""
    after, following = directory / AFTER_KEY_FILE, directory / NEXT_KEY_FILE
    if not after.exists():
        return
    try:
        if following.exists():
            following.replace(directory / NODE_KEY_FILE)
            _sync(directory)
        after.replace(following)
        _sync(directory)
    except OSError as error:
        raise KeyFileError(
            f"The key files in {directory} cannot be renamed ({error.strerror}).",
            "Make it writable for the user who runs the node, and start the node: it goes on from there.",
        ) from error


def drop_change(directory: Path) -> None:
    """Forget a change of keys that was begun and not committed. Raises KeyFileError."""
    try:
        (directory / AFTER_KEY_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise KeyFileError(
            f"{directory / AFTER_KEY_FILE} cannot be removed ({error.strerror}).", "Remove it: it was never used."
        ) from error


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create(path: Path, what: str) -> NodeKey:
    """The key in the file at `path`, made where there is none. `what`: what it is, for the file's first line. Raises
    KeyFileError."""
    if not path.exists():
        _write(path, NodeKey.generate(), what)
    return load(path)


def load(path: Path) -> NodeKey:
    """The key in the file at `path`. Raises KeyFileError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise KeyFileError(
            f"{path} cannot be read ({error.strerror}).", "Run the node as the user who owns the file."
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise KeyFileError(
            f"{path} is secret, but others on this machine may read or change it (mode {stat.S_IMODE(mode):04o}).",
            f"If nobody did, run: chmod 600 {path}",
        )
    try:
        return _parse_key_file(content)
    except ValueError as error:
        raise KeyFileError(
            f"{path} is damaged: {error}.",
            "Put it back from a backup. If there is none, move node.key and next.key away: "
            "the node then starts with a new identity.",
        ) from None


def _parse_key_file(content: bytes) -> NodeKey:
    if len(content) > _MAX_FILE:
        raise ValueError("it is too long for a key file")
    lines = [line.strip() for line in content.decode("ascii", "replace").splitlines()]
    seeds = [line.removeprefix(_SEED_LINE) for line in lines if line.startswith(_SEED_LINE)]
    dids = [line for line in lines if line.startswith(_DID_KEY)]
    if len(seeds) != 1 or len(dids) != 1:
        raise ValueError(f"it must hold one line that begins with {_SEED_LINE} and one with {_DID_KEY}")
    try:
        seed = base64.b64decode(seeds[0] + "=" * (-len(seeds[0]) % 4), altchars=b"-_", validate=True)
        key = NodeKey(seed)
    except ValueError:
        raise ValueError("the seed is not 32 bytes in base64url") from None
    if _b64url(seed) != seeds[0]:  # the last letter has two bits that say nothing
        raise ValueError("the seed is not in the one spelling of base64url")
    if key.did != dids[0]:
        raise ValueError("seed and DID do not belong together")
    return key


def _b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _write(path: Path, key: NodeKey, what: str) -> None:
    text = f"# SECRET: {what}. Keep a backup, show it to nobody.\n{key.did}\n{_SEED_LINE}{_b64url(key.seed)}\n"
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "wb") as file:
                file.write(text.encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)  # unlike rename, never replaces a key that another process made meanwhile
            except FileExistsError:
                pass
        finally:
            temporary.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        raise KeyFileError(
            f"{path} cannot be written ({error.strerror}).",
            f"Make {path.parent} writable for the user who runs the node.",
        ) from error
