"""The domain of a connected-vehicle pilot zone, pure: no sockets, no asyncio, no clock of its own."""
