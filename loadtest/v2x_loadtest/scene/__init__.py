"""Recorded traffic scenes: what was on the road, where the devices stand, and what truly happened.

A scene holds traffic and truth, never sensor output: sensing happens at replay. Reading one needs numpy only.
"""

from v2x_loadtest.scene.model import (
    Device,
    Fault,
    Objects,
    Passages,
    Scene,
    SignalPhase,
    SignalPlan,
    Spell,
    Thing,
    Trajectories,
    TruthEvent,
    Vehicles,
)
from v2x_loadtest.scene.store import load_scene, save_scene

__all__ = [
    "Device",
    "Fault",
    "Objects",
    "Passages",
    "Scene",
    "SignalPhase",
    "SignalPlan",
    "Spell",
    "Thing",
    "Trajectories",
    "TruthEvent",
    "Vehicles",
    "load_scene",
    "save_scene",
]
