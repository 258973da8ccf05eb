"""An HTTP server with the API of OpenAI, for one text model (docs/server.md).

app.py          paths, limits, keys            the only file that imports starlette
server.py       sockets and signals            the only file that imports uvicorn
chat.py, completions.py, ...                   from a request to jobs, and from pieces of text to an answer
scheduler.py    one thread that owns the model: it reads prompts and writes answers, side by side
sequence.py     one answer that grows
prefixes.py     states of texts that were read, so that the next request does not read them again
"""
