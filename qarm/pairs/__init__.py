"""Stage 2: item-item pairs from behaviour (User2Item, Swing, ItemCF) and behaviour vectors.

All miners stream rows through a numba kernel inside ``mapInArrow``. Swing and ItemCF share one
layout: each user's capped list is shipped to the blocks of items that it touches, and a block
scores its triggers completely, so that neither pair counts nor all scored pairs are ever shuffled.
See README.md in this folder.
"""
