"""Give a packed file to others: `layouts.py` writes its weights for other tools, `card.py` writes a model card next to it."""
