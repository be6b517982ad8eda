"""What a run is, and the command lines and files that say it. No torch here."""
