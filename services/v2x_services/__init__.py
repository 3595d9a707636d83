"""Services: thin asyncio shells over the pure core."""
