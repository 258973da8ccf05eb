"""A packed file on its way to others: `layouts.py` writes it for other tools, `card.py` what publishers put beside it."""
