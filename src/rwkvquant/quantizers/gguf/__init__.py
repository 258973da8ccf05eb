"""llama.cpp's block types, rounded with error feedback. No codec of packed files: what is written is a GGUF (pipeline/gguf.py).

grids.py    the types and the search for their scales        gptq.py    codes by error feedback and descent
blocks.py   the bytes of a block
"""
