"""Engines run the tasks of a stage: on processes of this machine, on Ray, or as tasks of a batch scheduler."""
