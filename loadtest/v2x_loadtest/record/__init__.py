"""Making scenes with SUMO: networks of our own, demand, scripted events, true positions, truth by the event rules.

Needs the extra ``record`` (eclipse-sumo, libsumo, pyproj); replaying a scene needs none of this.
"""
