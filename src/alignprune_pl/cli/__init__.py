"""The commands: compose a configuration, instantiate, run. The only part of the package that imports Hydra."""


def alignprune_train() -> None:
    """The command ``alignprune-train``, equal to ``python scripts/train.py``.

    Raises:
        SystemExit: If what it needs beyond the callback is not installed.
    """
    try:
        from alignprune_pl.cli.train import main
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"error: {error.name} is missing, which the command needs beyond the callback; install it with "
            "pip install 'alignprune-pl[train]'."
        ) from None
    main()
