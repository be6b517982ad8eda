"""The commands of ``mimicit``: parse, one call, print. Nothing heavy is imported before a command runs."""
