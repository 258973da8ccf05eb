"""The report: one HTML page about a packed file, or about cells of the laboratory (docs/report.md).

    sources.py   what there is: a packed file, and the JSON of other commands
    verdict.py   the first screen: what this is, and what it costs and gives
    one file for each kind of plot: tensor_map.py, proxies.py, levels.py, sizes.py, positions.py, frontier.py
    svg.py       drawing; plot.py what every plot has: a picture, its description, its numbers as a table
    page.py      all of it -> HTML

Nothing is measured here. What is not there is left out, and the page names the command that makes it.
"""
