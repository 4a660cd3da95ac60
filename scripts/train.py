"""Train a classifier on data with wrong labels, pruned each epoch; after an installation also ``alignprune-train``.

python scripts/train.py
python scripts/train.py dataset=cifar100 noise=sym40 pruning=seta score=loss pruning.ratio=0.3 seed=1
python scripts/train.py pruning=none pruning._target_=my_file.MyPolicy +pruning.my_parameter=3
"""

from alignprune_pl.cli.train import main

if __name__ == "__main__":
    main()
