"""What a user could take instead: one small adapter file each. A peer that is not installed is reported as absent."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from v2x_loadtest.bench.peers import faststream, flechtwerk, mq_bridge, telegraf
from v2x_loadtest.bench.peers.adapter import Peer, Place, load_adapter

PEERS: Final[tuple[Peer, ...]] = (mq_bridge.PEER, telegraf.PEER, faststream.PEER, flechtwerk.PEER)

__all__ = ["PEERS", "Peer", "Place", "chosen", "load_adapter"]


def chosen(names: str, adapters: list[Path]) -> list[Peer]:
    """Return the peers of ``names`` (``all``, ``none``, or a list with commas) and those of adapter files."""
    from v2x.errors import ConfigError  # noqa: PLC0415

    known = {peer.name: peer for peer in PEERS}
    if names == "all":
        picked = list(PEERS)
    elif names == "none":
        picked = []
    else:
        unknown = [name for name in names.split(",") if name not in known]
        if unknown:
            raise ConfigError(f"no peer is called {', '.join(unknown)}; there are {', '.join(known)}, all and none")
        picked = [known[name] for name in names.split(",")]
    return picked + [load_adapter(path) for path in adapters]
