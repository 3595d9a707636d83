"""``v2x simulate``: a scene replayed as the devices of the road, each with its own MQTT connection."""

from v2x_loadtest.simulate.build import build_messages
from v2x_loadtest.simulate.options import GantryModel, GnssModel, LinkModel, Options, SensorModel
from v2x_loadtest.simulate.run import Progress, Run, Summary, simulate
from v2x_loadtest.simulate.scale import scaled_zones

__all__ = [
    "GantryModel",
    "GnssModel",
    "LinkModel",
    "Options",
    "Progress",
    "Run",
    "SensorModel",
    "Summary",
    "build_messages",
    "scaled_zones",
    "simulate",
]
