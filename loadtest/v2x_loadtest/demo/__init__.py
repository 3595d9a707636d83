"""The main job, seen working: the whole system on one machine, a simulated crowd of devices, an audit at the end."""
