"""List the labels that a finished run takes for wrong; after an installation also ``alignprune-audit``.

python scripts/audit.py outputs/DATE/TIME
python scripts/audit.py outputs/DATE/TIME --output issues.parquet --all
"""

from alignprune_pl.cli.audit import main

if __name__ == "__main__":
    main()
