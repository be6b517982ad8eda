"""Where the tasks of a stage run: processes of this machine, Ray, or the tasks of a batch scheduler."""
