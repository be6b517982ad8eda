"""``python -m mimicit`` is the command ``mimicit``."""

from mimicit.cli import main

if __name__ == "__main__":
    main(prog_name="mimicit")
