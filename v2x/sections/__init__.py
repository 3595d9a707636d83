"""Sections between gantries: what their passages, and the tracks seen between them, say about the traffic.

``windows`` is the way in: passages and tracks in, link states out. It asks

* ``outliers``: which passages are of the traffic, and why the others are not;
* ``service``: levels and indices by the standards' tables;
* ``sight``: how fast the tracks on a section are, and how much of it anyone sees;
* ``blend``: two speeds and their variances in, one out;
* ``forecast``: the travel time of the next five minutes, and how far off it may be.
"""
