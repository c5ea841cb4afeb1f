"""``python -m wardround`` is the command `wardround`."""

from wardround.cli.main import main

__all__: list[str] = []

main()
