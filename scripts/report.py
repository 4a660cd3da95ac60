"""Draw a finished run's report, or compare several runs; after an installation also ``alignprune-report``.

python scripts/report.py outputs/DATE/TIME
python scripts/report.py outputs/DATE/TIME outputs/DATE/OTHER_TIME --output comparison.html
"""

from alignprune_pl.cli.report import main

if __name__ == "__main__":
    main()
