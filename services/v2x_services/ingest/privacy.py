"""Ingest's secret: one key file of 32 bytes, from which the key of pseudonyms and that of sealed dead letters come.

The file holds 64 hex digits and must be readable by its owner only. It is made at the first start. Losing it means that
sealed payloads stay closed, and that vehicles get new pseudonyms from then on.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from v2x.errors import ConfigError
from v2x.pseudonym import KEY_BYTES, Pseudonyms

KEY_NAME: Final = "ingest.key"
_NONCE: Final = 12
_OTHERS: Final = 0o077


class Keys:
    """What is derived from the key file."""

    def __init__(self, master: bytes) -> None:
        self.pseudonyms = Pseudonyms(_derive(master, b"pseudonym"))
        self._box = AESGCM(_derive(master, b"seal"))

    @classmethod
    def load(cls, key_file: Path | None, state_dir: Path) -> Keys:
        """Read the key file, or make ``state_dir/ingest.key`` where none is named; ConfigError says what is wrong."""
        path = key_file or state_dir / KEY_NAME
        if not path.exists():
            _make(path)
        try:
            if path.stat().st_mode & _OTHERS:
                msg = f"key file {path} can be read by others: chmod 600 it (and make a new key if it was read)"
                raise ConfigError(msg)
            master = bytes.fromhex(path.read_text("ascii").strip())
        except (OSError, ValueError) as e:
            msg = f"key file {path} cannot be read: {e}"
            raise ConfigError(msg) from e
        if len(master) != KEY_BYTES:
            msg = f"key file {path} holds {len(master)} bytes; {KEY_BYTES} ({2 * KEY_BYTES} hex digits) are needed"
            raise ConfigError(msg)
        return cls(master)

    def seal(self, payload: bytes) -> bytes:
        """Return nonce (12 bytes) and AES-GCM ciphertext."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._box.encrypt(nonce, payload, None)

    def unseal(self, sealed: bytes) -> bytes:
        """Return what was sealed; ConfigError if it was with another key."""
        try:
            return self._box.decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
        except (InvalidTag, ValueError) as e:
            raise ConfigError("this payload was sealed with another key: give the key_file of the ingest it was") from e


def load_keys(key_file: Path) -> Keys:
    """Return the keys of an existing key file."""
    if not key_file.exists():
        msg = f"key file {key_file} does not exist"
        raise ConfigError(msg)
    return Keys.load(key_file, key_file.parent)


def unseal(keys: Keys, sealed: bytes) -> bytes:
    """Return the payload of a sealed dead letter."""
    return keys.unseal(sealed)


def _derive(master: bytes, purpose: bytes) -> bytes:
    return blake2b(b"", digest_size=KEY_BYTES, key=master, person=purpose).digest()


def _make(path: Path) -> None:
    """Write a new key under its name in one step: of two processes that start at once, one makes it for both."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(KEY_BYTES) + "\n")
        with suppress(FileExistsError):
            os.link(draft, path)
        draft.unlink()
    except OSError as e:
        msg = f"key file {path} cannot be made: {e}; name one with the setting key_file"
        raise ConfigError(msg) from e
